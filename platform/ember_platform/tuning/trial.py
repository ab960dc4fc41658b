"""One trial: the stage's training by `run_stage`, watched epoch by epoch.

The training is the one of every run, in a folder of the trial's own. Its checkpoints hold the history, and from there
the trial takes each epoch's validation; so a trial whose process died goes on where its training stood and tells the
epochs before again. It is stopped between two steps by all its workers together, which leaves no worker behind.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from ray import tune

from ember_platform import storage
from ember_platform.config import ConfigError, RunConfig
from ember_platform.train import folders
from ember_platform.train.checkpoint import HISTORY
from ember_platform.train.stage_run import last_checkpoint, run_stage
from ember_platform.tuning.ledger import PACE, Ledger
from ember_platform.tuning.placement import alone
from ember_platform.tuning.space import Objective, Params, apply, overrides

STOP = "stop"
_POLL_LOCAL, _POLL_REMOTE = 0.5, 3.0
#: Longest wait for the workers of a stopped trial; after it Ray ends them with the trial's process.
_STOP_SECONDS = 120.0


@dataclass(frozen=True)
class Setup:
    """What all trials of a sweep share.

    Attributes:
        base: the configuration that parameters are laid over.
        stage: that is trained.
        objectives: of the sweep, the first deciding.
        folder: of the sweep.
        data_dir: folder with the manifest. data_digest: of the stage's part of it.
        parent: model folder that every trial starts from; None: each begins with a new model.
        parent_digest: of that folder.
        threads: of each worker.
        features: folder with what the frozen encoder saw in the training pictures; None: as the configuration says.
        observers: of every trial (see `run_stage`); for tests.
    """

    base: RunConfig
    stage: int
    objectives: list[Objective]
    folder: str
    data_dir: str
    data_digest: str
    parent: str | None
    parent_digest: str | None
    threads: int
    features: str | None = None
    observers: list[Any] = field(default_factory=list)

    def config(self, number: int, params: Params) -> RunConfig:
        """A trial's configuration.

        Raises:
            ConfigError: the parameters do not go together.
        """
        settings = [
            f"name={json.dumps(f'{self.base.name}-{number:03d}')}",
            f"output_dir={json.dumps(Ledger(self.folder).trial_dir(number))}",
            f"cluster.threads_per_worker={self.threads}",
            # Weights from the middle of a training are for a run's figures; a sweep would keep them of every trial.
            "figures.snapshots=0",
            # A lost machine is survived; what fails twice is the trial's own fault, and there are others to train.
            f"cluster.max_failures={min(1, max(0, self.base.cluster.max_failures))}",
        ]
        return apply(self.base, [*settings, *overrides(params, self.base)])


class Pace:
    """Observer of a trial's steps: writes down how far they came, and ends the training where that is asked for."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.every = 1.0 if storage.is_local(folder) else 5.0
        self.told, self.looked, self.pace = 0.0, 0.0, dict[str, float]()

    def __call__(self, info: Any, row: Mapping[str, Any]) -> None:
        """After a step, on every rank.

        Raises:
            TrainingError: the trial is to stop; on all ranks at the same step.
        """
        from ember_platform.train import collectives
        from ember_platform.train.loop import TrainingError

        asked = 0.0
        if collectives.rank() == 0:
            now = time.time()
            if now - self.looked >= self.every:
                self.looked = now
                asked = float(storage.exists(storage.join(self.folder, STOP)))
            self.note(now, info.samples, row["step"], bool(asked))
        if collectives.mean_over_ranks({"stop": asked})["stop"]:
            raise TrainingError(f"stopped after step {row['step']}")

    def note(self, now: float, samples: int, step: int, last: bool) -> None:
        """Write the pace, at most every few seconds. Steps that a resumed trial repeats are counted: they were paid."""
        if not self.pace:
            before = folders.read_json(storage.join(self.folder, PACE)) or {}
            self.pace = {"first_step": now, "steps": 0, "samples": 0, **before}
        self.pace |= {
            "steps": self.pace["steps"] + 1,
            "samples": self.pace["samples"] + samples,
            "step": step,
            "at": now,
        }
        if last or now - self.told >= self.every:
            self.told = now
            folders.write_json(storage.join(self.folder, PACE), self.pace)


class Trial(tune.Trainable):
    """A trial as Ray Tune drives it: a step is an epoch."""

    def setup(self, config: dict[str, Any], setup: Setup | None = None) -> None:
        """Begin training in a thread."""
        import psutil

        assert setup is not None
        self.shared = setup
        self._begin(config, time.time() - psutil.Process().create_time())

    def _begin(self, config: dict[str, Any], process: float) -> None:
        self.process = process
        self.began = time.time()
        self.number, self.params, self.run = config["number"], config["params"], config.get("run")
        self.folder = Ledger(self.shared.folder).trial_dir(self.number)
        self.poll = _POLL_LOCAL if storage.is_local(self.folder) else _POLL_REMOTE
        self.reported = 0
        self.fault: tuple[str, str] | None = None
        self.result: dict[str, Any] | None = None
        self.thread = threading.Thread(target=self._train, name="training", daemon=True)
        self.thread.start()

    def step(self) -> dict[str, Any]:
        """Wait for the next epoch's validation; the last comes with the trial's figures.

        A failure is a report too, with `fault` and `reason`: it is a result of the sweep, and nothing of Tune's to
        try again.
        """
        total = self.shared.base.stage(self.shared.stage).epochs
        while True:
            ended = not self.thread.is_alive()
            rows = epochs(self.history(), self.shared)
            held = self.result is not None or len(rows) >= total  # the last is told with the trial's figures
            if self.reported < len(rows) - held:
                self.reported += 1
                return self.report(rows[self.reported - 1])
            if ended and self.fault is not None:
                fault, reason = self.fault
                return {"fault": fault, "reason": reason, "started": self.began, "done": True}
            if ended and self.result is not None:
                return {**self.report(rows[-1], last=True), **self.result, "done": True}
            time.sleep(self.poll)

    def report(self, row: dict[str, Any], last: bool = False) -> dict[str, Any]:
        """An epoch for Tune. The last has no `epoch`, by which the scheduler compares: there is nothing to stop."""
        shown = {key: row[key] for key in ("step", "value", "metrics")}
        return {**shown, ("last_epoch" if last else "epoch"): row["epoch"], "started": self.began}

    def history(self) -> list[dict[str, Any]]:
        """The rows of the newest checkpoint, or of the stage where it is over."""
        folder = folders.stage_dir(self.folder, self.shared.stage)
        try:
            newest = storage.join(folder, HISTORY) if self.result is not None else None
            if newest is None and (found := last_checkpoint(folder)) is not None:
                newest = storage.join(found, HISTORY)
            if newest is None:
                return []
            return list(pq.read_table(pa.BufferReader(storage.read_bytes(newest))).to_pylist())
        except (OSError, pa.ArrowException):
            return []  # it is being written; the next look finds it whole

    def cleanup(self) -> None:
        """End the training, where it is not over, and wait until its workers are gone."""
        if self.thread.is_alive():
            storage.write_bytes(storage.join(self.folder, STOP), b"")
            self.thread.join(timeout=_STOP_SECONDS)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial in this process, unless the one before does not end."""
        self.cleanup()
        if self.thread.is_alive():
            return False
        self._begin(new_config, 0.0)  # the process of the trial before, used again
        return True

    def _train(self) -> None:
        try:
            self.result = train(self.shared, self.number, self.params, self.run, self.process)
        except BaseException as error:  # noqa: BLE001  it crosses to the thread that reports it
            self.fault = classify(error)  # and not the error, which holds on to the model


def train(setup: Setup, number: int, params: Params, run: str | None, process: float = 0.0) -> dict[str, Any]:
    """Train a trial to its end and measure what its epochs do not tell.

    Returns:
        `figures` of the best model, its folder (`model`), `startup` seconds by part.
    """
    from ember_platform.train.pipeline import content_digest, digest_of

    config = setup.config(number, params)
    storage.delete(storage.join(config.output_dir, STOP))
    parent, parent_digest = setup.parent, setup.parent_digest
    if parent is None:
        from ember_platform.train.models import ModelDesk

        parent = ModelDesk(config, setup.data_dir).begin(storage.join(config.output_dir, "begin"))
        parent_digest = content_digest(parent)
    result = run_stage(
        config,
        setup.stage,
        digest=digest_of(config.stage_digest(setup.stage), setup.data_digest, str(parent_digest)),
        parent=parent,
        data_dir=setup.data_dir,
        tracking_run=run,
        observers=[Pace(config.output_dir), *setup.observers],
        seen=setup.features,
        here=alone(config),
    )
    figures = dict(result.state.best.metrics)
    missing = [o.metric for o in setup.objectives if o.metric not in figures]
    if missing:
        from ember_platform.tuning.measured import measure

        figures |= measure(config, setup.stage, result.best, setup.data_dir, missing)
    return {"figures": figures, "model": result.best, "startup": {**result.startup, "process": process}}


def epochs(rows: list[dict[str, Any]], setup: Setup) -> list[dict[str, Any]]:
    """The validations in a history, each with `value`: the first objective of the best model of its phase so far."""
    from ember_platform.train.setup import stage_of

    stage = stage_of(setup.base, setup.stage)
    sign = 1.0 if stage.mode == "max" else -1.0
    found: list[dict[str, Any]] = []
    best: dict[str, float] = {}
    phase = None
    for row in rows:
        metrics = {key[4:]: value for key, value in row.items() if key.startswith("val_") and value is not None}
        if not metrics:
            continue
        if row["phase"] != phase:
            phase, best = row["phase"], {}
        if not best or sign * metrics[stage.metric] > sign * best[stage.metric]:
            best = metrics
        # What is measured only at the end cannot compare epochs; there the stage's own metric does.
        name = setup.objectives[0].metric if setup.objectives[0].metric in best else stage.metric
        found.append({"epoch": len(found) + 1, "step": row["step"], "metrics": metrics, "value": best[name]})
    return found


#: Words in an error → what is at fault. The first that is found counts.
_SIGNS = (
    ("the loss is not a number", "diverged"),
    ("never a number", "diverged"),
    ("out of memory", "out of memory"),
    ("OutOfMemory", "out of memory"),
    ("MemoryError", "out of memory"),
    ("WorkerGroupStartup", "no room"),
)


def classify(error: BaseException | str) -> tuple[str, str]:
    """What is at fault, and the reason in one line."""
    text = error if isinstance(error, str) else str(error) or type(error).__name__
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    reason = lines[0] if lines else "no message"
    if len(lines) > 1 and not isinstance(error, ConfigError):
        reason = f"{reason} … {lines[-1]}"
    if isinstance(error, ConfigError):
        return "configuration", reason
    whole = text if isinstance(error, str) else f"{type(error).__name__}: {text}"
    fault = next((found for sign, found in _SIGNS if sign in whole), "crashed")
    return fault, reason[:500]
