"""MLflow and Weights & Biases behind one small interface. It never stops a training run.

One parent run per pipeline, one child per stage and phase. Metrics are buffered and sent in batches. An operation
that fails is logged, counted and, for metrics, kept for the next attempt, which waits longer after every failure;
`finish` says what could not be stored. Use it from one process at a time per run: the driver, or rank 0.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

from ember_platform import storage
from ember_platform.config import RunConfig
from ember_platform.mlflow_store import code_revision, experiment_id, open_store, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)
T = TypeVar("T")

#: Values kept while the server does not answer; the oldest leave first, and are counted.
BUFFER = 50_000
#: What MLflow takes at once.
_METRICS_AT_ONCE, _PARAMS_AT_ONCE, _PARAM_LENGTH = 1000, 100, 6000
_FLUSH_VALUES, _FLUSH_SECONDS = 500, 5.0
_FIRST_WAIT, _LONGEST_WAIT = 5.0, 300.0


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested mappings as dotted keys with text values: `{"a": {"b": 1}}` → `{"a.b": "1"}`. Lists stay one value."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat


@contextmanager
def _local_file(path: str) -> Iterator[Path]:
    """A file as a local one: itself where it is local, else a copy under its own name that is removed again."""
    if storage.is_local(path):
        yield Path(storage.resolve(path)[1])
        return
    with TemporaryDirectory(prefix="embervlm-file-") as temporary:
        local = Path(temporary, path.rsplit("/", 1)[-1])
        local.write_bytes(storage.read_bytes(path))
        yield local


class Tracker:
    """Where a run tells what it does.

    Args:
        config: where to (`tracking`, `output_dir`) and what is run.
        parent_run_id: the pipeline's run, where another process started it: a worker's children then belong to it.
        clock: seconds; for tests.
    """

    def __init__(
        self, config: RunConfig, parent_run_id: str | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.config = config
        self.parent_run_id = parent_run_id
        self.run_id: str | None = parent_run_id
        #: How often each operation failed, and how many values were given up.
        self.failures: Counter[str] = Counter()
        self.last_error = ""
        self._clock = clock
        self._client_made: MlflowClient | None = None
        self._buffer: deque[tuple[str, str, float, int, int]] = deque()  # run, key, value, milliseconds, step
        self._last_flush = clock()
        self._closed_until = 0.0
        self._wait = _FIRST_WAIT
        self._wandb_run: Any = None
        self._group = config.name

    # ------------------------------------------------------------------ runs

    def start_pipeline(self, params: Mapping[str, Any] | None = None) -> str | None:
        """Open the pipeline's run with the flattened configuration; its id, or None where no server takes it.

        A run of the same configuration that was never closed is an interrupted one: it is taken up again.
        """

        def start(client: MlflowClient) -> str:
            experiment, digest = experiment_id(self.config, client), self.config.digest()
            query = f"attributes.status = 'RUNNING' and tags.pipeline_digest = '{digest}'"
            for found in client.search_runs([experiment], filter_string=query, max_results=1):
                return str(found.info.run_id)
            tags = {"code_revision": code_revision(), "pipeline_digest": digest}
            return str(client.create_run(experiment, tags=tags, run_name=self.config.name).info.run_id)

        self.parent_run_id = self.run_id = self._try("start a run", start)
        self.log_params({**self.config.model_dump(mode="json"), **(params or {})})
        return self.run_id

    def start_stage(self, stage: int, phase: str = "main", params: Mapping[str, Any] | None = None) -> str | None:
        """Open the run of a stage's phase below the pipeline's run, or take up the one that was interrupted."""
        self.flush()
        parent = self.parent_run_id
        name = f"stage{stage}" if phase == "main" else f"stage{stage}-{phase}"

        def start(client: MlflowClient) -> str:
            experiment = experiment_id(self.config, client)
            if parent:
                query = f"tags.`mlflow.parentRunId` = '{parent}' and tags.stage = '{stage}' and tags.phase = '{phase}'"
                for found in client.search_runs([experiment], filter_string=query, max_results=1):
                    client.update_run(found.info.run_id, status="RUNNING")
                    return str(found.info.run_id)
            tags = {"stage": str(stage), "phase": phase, **({"mlflow.parentRunId": parent} if parent else {})}
            return str(client.create_run(experiment, tags=tags, run_name=name).info.run_id)

        self.run_id = self._try("start a run", start)
        self.log_params({"stage": stage, "phase": phase, **(params or {})})
        self._start_wandb(name, params)
        return self.run_id

    def end_stage(self, status: str = "FINISHED") -> None:
        """Close the stage's run (`FINISHED`, `FAILED` or `KILLED`) and return to the pipeline's."""
        self.flush(force=True)
        self._end_run(status)
        self._end_wandb(status)
        self.run_id = self.parent_run_id

    @contextmanager
    def ending(self, say: Callable[[str], None]) -> Iterator[None]:
        """Close the runs where the work within ends by an error, as failed, or by an interrupt, as killed."""
        try:
            yield
        except BaseException as error:
            say(self.finish("KILLED" if isinstance(error, KeyboardInterrupt | SystemExit) else "FAILED"))
            raise

    def finish(self, status: str = "FINISHED") -> str:
        """Send what is left, close every open run, and say in one sentence how the tracking went."""
        if self.run_id != self.parent_run_id:
            self.end_stage(status)
        self.flush(force=True)
        self._end_run(status)
        self._end_wandb(status)
        lost = len(self._buffer)
        if lost:
            self.failures["metric values not stored"] += lost
            self._buffer.clear()
        if not set(self.failures) - {"log metrics"}:  # those were sent again, successfully
            return f"tracking: everything is in {self._where()}"
        counts = ", ".join(f"{name}: {count}" for name, count in sorted(self.failures.items()))
        message = f"tracking: not everything could be stored in {self._where()} ({counts}); last: {self.last_error}"
        logger.warning(message)
        return message

    # --------------------------------------------------------------- logging

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Parameters of the present run, nested mappings flattened; one that was logged before keeps its value."""
        run_id = self.run_id
        if run_id is None:
            return
        flat = {key: value[:_PARAM_LENGTH] for key, value in flatten(params).items()}

        def send(client: MlflowClient) -> None:
            from mlflow.entities import Param

            known = client.get_run(run_id).data.params
            new = [Param(key, value) for key, value in flat.items() if key not in known]
            for start in range(0, len(new), _PARAMS_AT_ONCE):
                client.log_batch(run_id, params=new[start : start + _PARAMS_AT_ONCE])

        self._try("log parameters", send)

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Numbers of the present run at a step. Sent in batches; a number that is not finite is counted, not sent."""
        finite = {key: float(value) for key, value in metrics.items() if math.isfinite(value)}
        self.failures.update(
            {"metric values not finite": len(metrics) - len(finite)} if len(finite) < len(metrics) else {}
        )
        if self._wandb_run is not None:
            self._guard("log to W&B", lambda: self._wandb_run.log(finite, step=step))
        if self.run_id is None:
            return
        now = int(time.time() * 1000)
        self._buffer.extend((self.run_id, key, value, now, step) for key, value in finite.items())
        while len(self._buffer) > BUFFER:
            self._buffer.popleft()
            self.failures["metric values not stored"] += 1
        if len(self._buffer) >= _FLUSH_VALUES or self._clock() - self._last_flush >= _FLUSH_SECONDS:
            self.flush()

    def log_measured(self, metrics: Mapping[str, Any], step: int) -> None:
        """The figures of a `metrics.json`, as `test_*`, and its baselines, as `baseline_*`."""
        for prefix, part in (("test", "metrics"), ("baseline", "baselines")):
            self.log_metrics({f"{prefix}_{name}": value for name, value in metrics[part].items()}, step=step)

    def log_dataset(self, name: str, digest: str, source: str, context: str = "train") -> None:
        """Note which data the present run reads: the manifest's place and digest (`context`: train, test, …)."""
        run_id = self.run_id
        if run_id is None:
            return

        def send(client: MlflowClient) -> None:
            from mlflow.data.dataset_source_registry import resolve_dataset_source
            from mlflow.data.meta_dataset import MetaDataset
            from mlflow.entities import DatasetInput, InputTag

            # MLflow keeps 36 characters of a digest; the full one is a parameter.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a local folder has two readings there, both the same
                origin = resolve_dataset_source(source)
            dataset = MetaDataset(origin, name=name, digest=digest[:36])  # type: ignore[abstract]
            tags = [InputTag("mlflow.data.context", context)]
            client.log_inputs(run_id, datasets=[DatasetInput(dataset._to_mlflow_entity(), tags)])

        self._try("log a dataset", send)
        self.log_params({f"data.{context}.digest": digest})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Tags of the present run."""
        run_id = self.run_id
        if run_id is None:
            return

        def send(client: MlflowClient) -> None:
            for key, value in tags.items():
                client.set_tag(run_id, key, value)

        self._try("set tags", send)

    def log_artifact(self, path: str | Path, folder: str | None = None) -> None:
        """A file, or everything below a folder, as an artifact of the present run."""
        run_id = self.run_id
        if run_id is None:
            return

        def send(client: MlflowClient) -> None:
            if Path(path).is_dir():
                client.log_artifacts(run_id, str(path), folder)
            else:
                client.log_artifact(run_id, str(path), folder)

        self._try("log an artifact", send)

    def log_figures(self, figures: Iterable[tuple[str, str, str]]) -> None:
        """Pictures of the present run: MLflow artifacts, and images in a W&B run of each group.

        Args:
            figures: group ("stage1_align"), key ("stage1/similarity_3d") and path of each PNG.
        """
        groups: dict[str, dict[str, str]] = {}
        for group, key, path in figures:
            groups.setdefault(group, {})[key] = path
        for group, images in groups.items():
            with ExitStack() as opened:
                local = {key: opened.enter_context(_local_file(path)) for key, path in images.items()}
                for key, file in local.items():
                    self.log_artifact(file, f"figures/{key.partition('/')[0]}")
                self._start_wandb("figures", {}, group)
                if self._wandb_run is not None:
                    self._guard("log figures to W&B", functools.partial(self._log_images, local))
                self._end_wandb("FINISHED")

    def _log_images(self, images: Mapping[str, Path]) -> None:
        import wandb

        self._wandb_run.log({key: wandb.Image(str(path)) for key, path in images.items()})

    def flush(self, force: bool = False) -> None:
        """Send the buffered metrics. After a failure nothing is sent for a while, unless forced."""
        self._last_flush = self._clock()
        while self._buffer:
            run_id = self._buffer[0][0]
            batch: list[tuple[str, str, float, int, int]] = []
            for entry in self._buffer:
                if entry[0] != run_id or len(batch) == _METRICS_AT_ONCE:
                    break
                batch.append(entry)

            def send(client: MlflowClient, run_id: str = run_id, batch: list[Any] = batch) -> bool:
                from mlflow.entities import Metric

                client.log_batch(run_id, metrics=[Metric(key, value, at, step) for _, key, value, at, step in batch])
                return True

            if not self._try("log metrics", send, force):
                return
            for _ in batch:
                self._buffer.popleft()

    # ---------------------------------------------------------------- inside

    def _client(self) -> MlflowClient:
        if self._client_made is None:
            self._client_made = open_store(self.config)
        return self._client_made

    def _try(self, what: str, action: Callable[[MlflowClient], T], force: bool = False) -> T | None:
        """Run an MLflow operation; a failure is counted, and closes the door for a growing while."""
        if self._clock() < self._closed_until and not force:
            if what != "log metrics":  # those stay in the buffer
                self.failures[what] += 1
            return None
        before = self.failures[what]
        result = self._guard(what, lambda: action(self._client()))
        if self.failures[what] > before:
            self._closed_until = self._clock() + self._wait
            self._wait = min(2 * self._wait, _LONGEST_WAIT)
        else:
            self._closed_until, self._wait = 0.0, _FIRST_WAIT
        return result

    def _guard(self, what: str, action: Callable[[], T]) -> T | None:
        """Run anything whose failure must not stop training: it is logged in full once, and always counted."""
        try:
            return action()
        except Exception as error:
            self.failures[what] += 1
            self.last_error = f"{what}: {type(error).__name__}: {error}"
            if self.failures[what] == 1:
                logger.exception("tracking: could not %s; training goes on", what)
            return None

    def _end_run(self, status: str) -> None:
        run_id = self.run_id
        if run_id is not None:
            self._try("close a run", lambda client: client.set_terminated(run_id, status), force=True)

    def _where(self) -> str:
        try:
            return tracking_uri(self.config)
        except RuntimeError as error:
            return str(error)

    # -------------------------------------------------------------------- W&B

    def wandb_mode(self) -> str:
        """`online`, `offline` or `disabled`: auto is online only where there is a key."""
        tracking = self.config.tracking
        if tracking.wandb_project is None:
            return "disabled"
        if tracking.wandb_mode == "auto":
            return "online" if os.environ.get("WANDB_API_KEY") else "offline"
        return tracking.wandb_mode

    def _start_wandb(self, name: str, params: Mapping[str, Any] | None, group: str | None = None) -> None:
        self._end_wandb("FINISHED")
        mode = self.wandb_mode()
        if mode == "disabled":
            return

        def start() -> Any:
            import wandb  # slow to import, and rarely used

            local = storage.resolve(self.config.output_dir)[1] if storage.is_local(self.config.output_dir) else None
            if local:
                Path(local).mkdir(parents=True, exist_ok=True)
            return wandb.init(
                project=self.config.tracking.wandb_project,
                mode=mode,  # type: ignore[arg-type]
                dir=local,
                name=name,
                group=group or f"{self._group}-{(self.parent_run_id or 'alone')[:8]}",
                job_type=name,
                config={**self.config.model_dump(mode="json"), **(params or {})},
                reinit="create_new",
                settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
            )

        self._wandb_run = self._guard("start W&B", start)

    def _end_wandb(self, status: str) -> None:
        run, self._wandb_run = self._wandb_run, None
        if run is not None:
            self._guard("close W&B", lambda: run.finish(exit_code=0 if status == "FINISHED" else 1))
