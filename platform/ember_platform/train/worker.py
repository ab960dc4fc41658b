"""What runs in a Ray Train worker: one stage, all its phases."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import queue
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ember_platform import storage
from ember_platform.config import RunConfig
from ember_platform.train.folders import fetched, publish, stage_dir

#: When this process began to import; start-up is measured from there.
_BORN = time.time()


@dataclass
class Order:
    """What the driver asks a stage's workers for.

    `data_dir` has the manifest, `parent` is the model folder to start from, `resume` a checkpoint of the same stage
    given by the user (one of the run's own comes first), `observers` are called after each step on every rank,
    `shares` is what the global batch is cut into (`shares`; None: as many as there are workers), `features` the folder
    with what the frozen encoder saw in the pictures, `sent` the time of submission. `alone` is for a process that is no
    worker of Ray Train's: it trains by itself, and keeps what reads its data for the next order.
    """

    config: RunConfig
    stage: int
    digest: str
    data_dir: str
    parent: str
    resume: str | None = None
    tracking_run: str | None = None
    observers: list[Callable[..., None]] = field(default_factory=list)
    shares: int | None = None
    features: str | None = None
    alone: bool = False
    sent: float = field(default_factory=time.time)


def entry(config: dict[str, Any]) -> dict[str, Any]:
    """`run`, as Ray Train calls it."""
    return run(config["order"])


def run(order: Order) -> dict[str, Any]:
    """Train a stage as one of its workers.

    Returns:
        Of rank 0: `state` (a `RunState` as a mapping), the `phases`' names, `startup` (seconds per part, from
        submission to the first step).

    Raises:
        TrainingError: trying again would not help; the traceback of its cause is in this worker's log.
    """
    clock = _Clock(order.sent)
    # DeepSpeed brings its own compilers and profilers to import; none of that belongs into a step.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import ray.train
    import torch

    from ember_platform.train.faults import TrainingError, told, transient

    # The loop prints every checkpoint's metrics itself.
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    context: Any = _Alone() if order.alone else ray.train.get_context()
    torch.set_num_threads(_threads(order.config, context.get_local_world_size()))
    clock.mark("imports")
    try:
        worker = _Worker(order, context, clock)
        state = worker.train()
    except TrainingError:
        traceback.print_exc()
        raise
    except Exception as error:
        if transient(error):
            raise
        traceback.print_exc()
        raise TrainingError(f"stage {order.stage}, rank {context.get_world_rank()}: {told(error)}") from error
    return {"state": asdict(state), "phases": list(worker.stage.phases), "startup": clock.parts}


def _threads(config: RunConfig, local_workers: int) -> int:
    from ember_platform.train.setup import threads_of

    return threads_of(config, local_workers)


class _Alone:
    """The place of a process that has no others beside it."""

    def get_world_rank(self) -> int:
        return 0

    def get_local_rank(self) -> int:
        return 0

    def get_world_size(self) -> int:
        return 1

    def get_local_world_size(self) -> int:
        return 1


class _Clock:
    """Seconds from submission to the first step, part by part: of what a stage does in each phase the first counts."""

    def __init__(self, sent: float) -> None:
        self.last = time.time()
        born = max(sent, _BORN)  # a process that is used again was there before
        self.parts = {"worker_start": born - sent, "train_function": self.last - born}

    def mark(self, name: str) -> None:
        if name not in self.parts:
            now = time.time()
            self.parts[name] = now - self.last
            self.last = now


class _Worker:
    """One rank's model, engine and hooks, made into the loop's `Job`."""

    def __init__(self, order: Order, context: Any, clock: _Clock) -> None:
        import torch

        from ember_platform.data.manifest import Manifest
        from ember_platform.train.precision import resolve_precision
        from ember_platform.train.setup import device_of, load_model, stage_of

        self.order, self.clock, self.config = order, clock, order.config
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self.local_world = context.get_local_world_size()
        self.hosted = (order.shares or self.world) // self.world  # shares of the global batch that this worker runs
        self.settings = self.config.stage(order.stage)
        self.folder = stage_dir(self.config.output_dir, order.stage)
        self.stage = stage_of(self.config, order.stage)
        device = device_of(self.config)
        self.device = torch.device(device, context.get_local_rank()) if device == "cuda" else torch.device(device)
        self.precision = resolve_precision(self.settings.precision, device, f"stages.{order.stage}.precision")
        self.manifest = Manifest.load(order.data_dir)
        with fetched(order.parent) as folder:
            self.model, self.processor = load_model(folder)
        self.model.to(self.device)
        self.module = self.stage.module(self.model)
        # ZeRO-3 takes the weights apart, so validation and saving have a whole model of their own.
        partitioned = self.settings.zero_stage == 3
        self.whole = copy.deepcopy(self.module) if partitioned and self.rank == 0 else self.module
        self.backend: Any = None
        self.steps: Any = None
        clock.mark("model")

    # ------------------------------------------------------------- the loop's parts

    def train(self) -> Any:
        """Run the loop: from the run's newest whole checkpoint, the one that was asked for, or the start."""
        from ember_platform.train import resume
        from ember_platform.train.loop import train

        log = _Log(self.order) if self.rank == 0 else None
        try:
            with contextlib.ExitStack() as stack:
                found = stack.enter_context(resume.newest(self.folder, self.say))
                if found is None and self.order.resume is not None:
                    found = stack.enter_context(resume.given(self.order.resume))
                return train(self.job(log), found)[0]
        finally:
            if self.steps is not None:
                self.steps.close()
            if log is not None:
                log.close()

    def job(self, log: _Log | None) -> Any:
        from ember_platform.data.order import restart_steps
        from ember_platform.data.reader import plan_of
        from ember_platform.train.loop import Job, PhasePlan

        self.plans = [plan_of(self.config, self.stage, phase, self.manifest) for phase in self.stage.phases]
        self.clock.mark("order")
        return Job(
            number=self.stage.number,
            digest=self.order.digest,
            seed=self.config.seed,
            folder=self.folder,
            settings=self.settings,
            phases=[
                PhasePlan(name, plan.steps, restarts)
                for name, plan, restarts in zip(
                    self.stage.phases, self.plans, restart_steps(self.plans, self.settings.restarts), strict=True
                )
            ],
            batches=self.batches,
            ids=self.ids,
            engine=self.engine,
            prepare=self.prepare,
            validate=self.validate,
            metric=self.stage.metric,
            mode=self.stage.mode,
            snapshot_model=self.snapshot_model,
            report=self.report,
            observers=[*self.order.observers, self._first_step, self._snapshot],
            log=log.put if log is not None else lambda row: None,
            say=self.say,
            together=self.together,
            patience=self.config.cluster.storage_patience,
        )

    @staticmethod
    def say(line: str) -> None:
        """Print a line, now."""
        print(line, flush=True)

    def prepare(self, phase: int) -> None:
        """Set what trains; with ZeRO-3 a frozen encoder is fused while its weights are whole, not in the first step."""
        self.stage.prepare(self.model, self.stage.phases[phase])
        self.model.freeze_lowest(self.settings.pretrained_frozen)
        vision = self.model.vision
        if self.settings.zero_stage == 3 and not any(p.requires_grad for p in vision.parameters()):
            with self.backend.whole() if self.backend is not None else contextlib.nullcontext():
                vision.hold_copy()

    def together(self, phase: int) -> int:
        """Shares that have one forward and backward pass, as their loss needs them all."""
        return self.hosted if self.stage.phases[phase] in self.stage.exchanges else 1

    def engine(self, phase: int) -> Any:
        from ember_platform.train.engine import Engine, EngineSettings

        settings = self.settings
        passes = settings.gradient_accumulation * self.hosted // self.together(phase)
        self.clock.mark("before_engine")
        self.backend = Engine(
            self.module,
            EngineSettings(
                micro_batch=max(1, settings.batch_size // self.world // passes),
                accumulation=passes,
                weight_decay=settings.weight_decay,
                clip=settings.clip,
                precision=self.precision,
                zero_stage=settings.zero_stage,
                optimizer=settings.optimizer,
                pretrained_rate=settings.pretrained_rate,
            ),
            self.device,
            self.model.pretrained_parameters(),
        )
        self.clock.mark("engine")
        return self.backend

    def batches(self, phase: int, start: int) -> Iterator[tuple[Any, list[Any]]]:
        from ember_platform.data.reader import batches

        self.steps = batches(
            self.config,
            self.stage,
            self.stage.phases[phase],
            self.manifest,
            self.processor,
            rank=self.rank,
            world_size=self.world,
            start_step=start,
            plan=self.plans[phase],
            micro_batches=self.settings.gradient_accumulation * self.hosted,
            features=self.order.features if self.stage.phases[phase] not in self.stage.trains_vision else None,
            keep=self.order.alone,
        )
        for item in self.steps:
            self.clock.mark("first_batch")
            yield item

    def _first_step(self, info: Any, row: Any) -> None:
        self.clock.mark("first_step")

    def _snapshot(self, info: Any, row: Any) -> None:
        """Keep the weights now and then, for figures that show training's course."""
        figures = self.config.figures
        if not figures.enabled or self.stage.number == 0:
            return
        from ember_platform.figures import snapshot_folder, snapshot_steps
        from ember_platform.train.loop import last_phase

        last = row["phase"] == last_phase([plan.steps for plan in self.plans])
        if row["phase_step"] not in snapshot_steps(info.steps, figures.snapshots, last):
            return
        write = self.snapshot_model()
        if self.rank == 0:
            with tempfile.TemporaryDirectory(prefix="embervlm-snapshot-") as temporary:
                local = Path(temporary, "model")
                write(local)
                publish(local, snapshot_folder(stage_dir(self.config.output_dir, self.stage.number), row["step"]))

    def ids(self, indices: Any) -> list[str]:
        from ember_platform.data.rows import Rows

        return [r.id for r in Rows(self.manifest.paths(self.stage.number, "train")).take(indices)]

    # --------------------------------------------------------- validation, saving

    def validate(self) -> dict[str, float]:
        """Rank 0 measures with all the cores that its neighbours leave while they wait."""
        import torch

        from ember_platform.train import collectives
        from ember_platform.train.engine import autocast
        from ember_platform.train.setup import split_records

        self._make_whole()
        metrics: dict[str, float] = {}
        if self.rank == 0:
            threads = torch.get_num_threads()
            torch.set_num_threads(threads * self.local_world)
            try:
                records = split_records(
                    self.manifest, self.stage.number, "validation", self.settings.eval_samples, self.config.seed
                )
                self.whole.eval()
                with autocast(self.device.type, self.precision == "bf16"):
                    metrics = self.stage.evaluate(
                        self.whole, self.processor, records, batch_size=self.config.evaluation.batch_size
                    )
            finally:
                torch.set_num_threads(threads)
        shared: dict[str, float] = collectives.from_rank_zero(metrics)
        return shared

    def _make_whole(self) -> None:
        """Bring the whole model up to date: every rank's statistics averaged, partitioned weights gathered."""
        from ember_platform.train import collectives

        collectives.average_buffers(self.module)
        if self.settings.zero_stage < 3:
            return
        with self.backend.whole():
            if self.rank == 0:
                self.whole.load_state_dict(self.module.state_dict())

    def snapshot_model(self) -> Callable[[Path], None]:
        """Copy the model; what is returned writes the copy as a `from_pretrained` folder (rank 0's does)."""
        self._make_whole()
        if self.rank != 0:
            return lambda folder: None
        model, processor = self.whole.model, self.processor
        copies: dict[tuple[int, Any], Any] = {}  # tied weights stay one
        state = {}
        for name, value in model.state_dict().items():
            place = (value.data_ptr() or id(value), value.shape)
            if place not in copies:
                copies[place] = value.detach().to("cpu", copy=True)
            state[name] = copies[place]

        def write(folder: Path) -> None:
            model.save_pretrained(folder, state_dict=dict(state))  # it empties the mapping that it is given
            processor.save_pretrained(folder)

        return write

    def report(self, metrics: dict[str, float], path: str | None, name: str) -> None:
        """Tell Ray the metrics and, where there is one, the checkpoint that is complete."""
        import ray.train

        if self.order.alone:
            return
        if path is None:
            ray.train.report(metrics)
            return
        filesystem, inside = storage.resolve(path)
        ray.train.report(
            metrics,
            checkpoint=ray.train.Checkpoint(inside, filesystem),
            checkpoint_dir_name=name,
            checkpoint_upload_mode=ray.train.CheckpointUploadMode.NO_UPLOAD,
        )


class _Log:
    """Rows to the tracker, from a thread: its server may be slow, and no step waits for it."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.rows: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self.thread.start()

    def put(self, row: dict[str, Any]) -> None:
        """Log a row of the history, soon."""
        self.rows.put(dict(row))

    def close(self) -> None:
        """Send what is left and end the stage's runs; at most a minute is given to a server that does not answer."""
        self.rows.put(None)
        self.thread.join(timeout=60)

    def _work(self) -> None:
        from ember_platform.tracking import Tracker
        from embervlm.stages import get_stage

        phases = get_stage(self.order.stage).phases
        tracker = Tracker(self.order.config, parent_run_id=self.order.tracking_run)
        settings = self.order.config.stage(self.order.stage).model_dump(mode="json")
        open_phase = -1
        while (row := self.rows.get()) is not None:
            if row["phase"] != open_phase:
                if open_phase >= 0:
                    tracker.end_stage()
                open_phase = row["phase"]
                tracker.start_stage(self.order.stage, phases[open_phase], settings)
            numbers = {k: v for k, v in row.items() if k not in ("step", "phase", "phase_step")}
            tracker.log_metrics(numbers, step=row["step"])
        if open_phase >= 0:
            tracker.end_stage()
