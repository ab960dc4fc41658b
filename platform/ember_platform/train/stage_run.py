"""One stage on the cluster: a `TorchTrainer` around the worker, and what it leaves in the output folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ember_platform import storage
from ember_platform.config import RunConfig
from ember_platform.train import folders
from ember_platform.train.checkpoint import HISTORY, MODEL, RunState
from ember_platform.train.loop import TrainingError
from ember_platform.train.worker import Order, entry

#: Times that the controller may fail to start its workers before the stage is given up.
_START_ATTEMPTS = 3
_SNAPSHOT = "checkpoint_manager_snapshot.json"


@dataclass(frozen=True)
class StageResult:
    """What a stage's workers left: the state at the end, the best model's folder, start-up seconds by part."""

    state: RunState
    best: str
    phases: list[str]
    startup: dict[str, float] = field(default_factory=dict)


def run_stage(
    config: RunConfig,
    stage: int,
    *,
    digest: str,
    parent: str,
    data_dir: str | None = None,
    resume: str | None = None,
    tracking_run: str | None = None,
    observers: list[Callable[..., None]] | None = None,
) -> StageResult:
    """Train a stage on the running cluster; an interrupted one goes on from its last checkpoint.

    Args:
        config: of the run.
        stage: 0 to 4.
        digest: of everything that decides its result: settings, data, parent.
        parent: model folder to start from.
        data_dir: folder with the manifest; None for the configuration's.
        resume: a checkpoint of this stage to start from, where the run has none of its own.
        tracking_run: id of the pipeline's tracking run.
        observers: called on every rank after each step (picklable).

    Raises:
        TrainingError: training failed; the message has the cause, and where the last checkpoint is.
    """
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    import ray.train
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    folder = folders.stage_dir(config.output_dir, stage)
    claim(folder, digest)
    order = Order(
        config=config,
        stage=stage,
        digest=digest,
        data_dir=data_dir or config.data.dir,
        parent=parent,
        resume=resume,
        tracking_run=tracking_run,
        observers=list(observers or []),
    )
    filesystem, inside = storage.resolve(config.output_dir)
    trainer = TorchTrainer(
        entry,  # type: ignore[arg-type]
        train_loop_config={"order": order},
        scaling_config=ray.train.ScalingConfig(
            num_workers=config.cluster.num_workers,
            use_gpu=config.cluster.use_gpu,
            resources_per_worker={
                "CPU": config.cluster.cpus_per_worker,
                **({"GPU": 1} if config.cluster.use_gpu else {}),
            },
        ),
        run_config=ray.train.RunConfig(
            name=f"stage{stage}",
            storage_path=inside,
            storage_filesystem=None if storage.is_local(config.output_dir) else filesystem,
            failure_config=ray.train.FailureConfig(
                max_failures=config.cluster.max_failures,
                controller_failure_limit=_START_ATTEMPTS,  # type: ignore[call-arg]
            ),
            checkpoint_config=ray.train.CheckpointConfig(
                num_to_keep=config.stage(stage).keep + 1, checkpoint_score_attribute="keep_order"
            ),
        ),
    )
    try:
        result = trainer.fit()
    except TrainingFailedError as error:
        raise TrainingError(_failed(stage, folder, error)) from error
    value: dict[str, Any] = result.return_value or {}  # type: ignore[attr-defined]
    if value.get("failure"):
        raise TrainingError(value["failure"])
    state = RunState.from_mapping(value["state"])
    if state.best.checkpoint is None or result.checkpoint is None:
        raise TrainingError(f"stage {stage}: no checkpoint was the best; its validation metric was never a number")
    storage.write_bytes(
        storage.join(folder, folders.HISTORY), storage.read_bytes(storage.join(folder, state.name, HISTORY))
    )
    return StageResult(state, storage.join(folder, state.best.checkpoint, MODEL), value["phases"], value["startup"])


def claim(folder: str, digest: str) -> None:
    """Make a stage's folder this run's: Ray resumes whatever it finds under a name, so another run's is moved aside."""
    found = folders.read_json(storage.join(folder, folders.RUN))
    stale = found is not None and found.get("digest") != digest
    orphaned = found is None and storage.exists(storage.join(folder, _SNAPSHOT))
    if stale or orphaned:
        before = str((found or {}).get("digest", "unknown"))[:8]
        name = f"{folder.rstrip('/').rsplit('/', 1)[-1]}.superseded-{before}"
        print(f"{folder}: holds a run with other settings or data; moved to {name}, this one starts anew", flush=True)
        folders.move_aside(folder, name)
    folders.write_json(storage.join(folder, folders.RUN), {"digest": digest})


def last_checkpoint(folder: str) -> str | None:
    """The newest checkpoint in a stage's folder, or None."""
    names = {Path(f).parent.name for f in storage.list_files(folder) if f.endswith("/state.json")}
    names = {name for name in names if name.startswith("checkpoint-")}
    return storage.join(folder, max(names)) if names else None


def _failed(stage: int, folder: str, error: BaseException) -> str:
    """The cause at the bottom of Ray's exceptions, in one message."""
    cause = str(error)
    workers = getattr(error, "worker_failures", None)
    if workers:
        rank, first = min(workers.items())
        cause = f"rank {rank}: {str(first).strip().splitlines()[-1]}"
    kept = last_checkpoint(folder)
    where = f"; the same command goes on from {kept}" if kept else ""
    return f"stage {stage} failed: {cause}{where}"
