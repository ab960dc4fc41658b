"""One stage on the cluster: a `TorchTrainer` around the worker, and what it leaves in the output folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from ember_platform import storage
from ember_platform.config import RunConfig
from ember_platform.data.manifest import Manifest
from ember_platform.train import features, folders
from ember_platform.train.checkpoint import HISTORY, SAMPLES, CheckpointError, RunState, names
from ember_platform.train.faults import TrainingError, told, transient
from ember_platform.train.plan import fitting_workers
from ember_platform.train.resume import best_model
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
    seen: str | None = None,
    here: bool = False,
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
        seen: folder with the features of the training pictures, where they are made before; None: as
            `data.feature_cache` says.
        here: train in this process, which is the only worker (`cluster.num_workers: 1`), instead of in one that Ray
            Train starts for it. A process that trains often so starts once.

    Raises:
        TrainingError: training failed; the message has the cause, and where the last checkpoint is.
    """
    folder = folders.stage_dir(config.output_dir, stage)
    shares = claim(folder, digest, config.cluster.num_workers)
    order = Order(
        config=config,
        stage=stage,
        digest=digest,
        data_dir=data_dir or config.data.dir,
        parent=parent,
        resume=resume,
        tracking_run=tracking_run,
        observers=list(observers or []),
        shares=shares,
        features=seen or features.prepare(config, stage, Manifest.load(data_dir or config.data.dir), parent),
        alone=here,
    )
    value = _alone(order, folder) if here else _fit(order, folder)
    state = RunState.from_mapping(value["state"])
    if state.best.checkpoint is None:
        raise TrainingError(f"stage {stage}: no checkpoint was the best; its validation metric was never a number")
    try:
        best = best_model(folder, state.best.checkpoint, state.name, lambda line: print(line, flush=True))
    except CheckpointError as error:
        raise TrainingError(f"stage {stage}: {error}") from error
    for name in (HISTORY, SAMPLES):
        storage.write_bytes(storage.join(folder, name), storage.read_bytes(storage.join(folder, state.name, name)))
    return StageResult(state, best, value["phases"], value["startup"])


def _alone(order: Order, folder: str) -> dict[str, Any]:
    """Run the stage in this process, again from its last checkpoint after a failure that may go away."""
    deaths, limit = 0, order.config.cluster.max_failures
    while True:
        try:
            return entry({"order": order})
        except TrainingError as error:
            raise TrainingError(_failed(order.stage, folder, error)) from error
        except Exception as error:
            deaths += 1
            if not transient(error) or 0 <= limit < deaths:
                raise TrainingError(_failed(order.stage, folder, error)) from error
            print(f"stage {order.stage}: {told(error)}; going on from the last checkpoint", flush=True)


def _fit(order: Order, folder: str) -> dict[str, Any]:
    """Run the workers to the end of the stage, through whatever can be survived; what rank 0 returned."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    from ray.exceptions import RayActorError
    from ray.train import ControllerError, TrainingFailedError

    wanted, limit, deaths = order.config, order.config.cluster.max_failures, 0
    shares = order.shares or wanted.cluster.num_workers
    while True:
        workers = fitting_workers(wanted, order.stage)
        cluster = wanted.cluster.model_copy(update={"num_workers": workers})
        cut = shares if shares % workers == 0 else None
        order = replace(order, config=wanted.model_copy(update={"cluster": cluster}), shares=cut)
        if workers < wanted.cluster.num_workers:
            print(f"stage {order.stage}: room for {workers} of {wanted.cluster.num_workers} workers", flush=True)
        if cut is None:
            print(
                f"stage {order.stage}: begun by {shares} workers, which {workers} do not divide: the order of samples "
                "stays, but means over a part of a batch now cover other parts, and the losses differ a little",
                flush=True,
            )
        # Ray's own list of checkpoints is not written at once, and a torn one ends every later run of that name.
        storage.delete(storage.join(folder, _SNAPSHOT))
        try:
            return dict(_trainer(order).fit().return_value or {})
        except TrainingFailedError as error:
            cause = error.controller_failure if isinstance(error, ControllerError) else None
            no_room = type(cause).__name__.startswith("WorkerGroupStartup")
            if not no_room or fitting_workers(wanted, order.stage) == workers:
                raise TrainingError(_failed(order.stage, folder, error)) from error
        except RayActorError as error:  # the process from which Ray Train directs the workers
            deaths += 1
            if 0 <= limit < deaths:
                raise TrainingError(_failed(order.stage, folder, error)) from error
            print(f"stage {order.stage}: Ray Train's controller died; going on from the last checkpoint", flush=True)


def _trainer(order: Order) -> Any:
    """Ray Train around the workers of a stage. Checkpoints are written, chosen and removed by the loop, not by Ray."""
    import ray.train
    from ray.train.torch import TorchTrainer

    from ember_platform.train.endurance import Endurance

    config, cluster = order.config, order.config.cluster
    filesystem, inside = storage.resolve(config.output_dir)
    elastic = cluster.min_workers is not None and cluster.min_workers < cluster.num_workers
    return TorchTrainer(
        entry,  # type: ignore[arg-type]
        train_loop_config={"order": order},
        scaling_config=ray.train.ScalingConfig(
            num_workers=cluster.num_workers,
            use_gpu=cluster.use_gpu,
            resources_per_worker={"CPU": cluster.cpus_per_worker, **({"GPU": cluster.gpus} if cluster.gpus else {})},
        ),
        run_config=ray.train.RunConfig(
            name=f"stage{order.stage}",
            storage_path=inside,
            storage_filesystem=None if storage.is_local(config.output_dir) else filesystem,
            failure_config=ray.train.FailureConfig(
                max_failures=-1,  # `Endurance` says when it is enough
                controller_failure_limit=0 if elastic else _START_ATTEMPTS,  # type: ignore[call-arg]
            ),
            callbacks=[Endurance(order.stage, cluster.max_failures)],  # type: ignore[list-item]
        ),
    )


def claim(folder: str, digest: str, workers: int) -> int:
    """Make a stage's folder this run's; another run's is moved aside, so that nobody goes on from it.

    Returns:
        The shares that the global batch is cut into: the number of workers that the run began with.
    """
    found = folders.read_json(storage.join(folder, folders.RUN))
    if found is not None and found.get("digest") == digest:
        return int(found.get("shares", workers))
    if found is not None or storage.exists(storage.join(folder, _SNAPSHOT)) or names(folder):
        before = str((found or {}).get("digest", "unknown"))[:8]
        name = f"{folder.rstrip('/').rsplit('/', 1)[-1]}.superseded-{before}"
        print(f"{folder}: holds a run with other settings or data; moved to {name}, this one starts anew", flush=True)
        folders.move_aside(folder, name)
    folders.write_json(storage.join(folder, folders.RUN), {"digest": digest, "shares": workers})
    return workers


def last_checkpoint(folder: str) -> str | None:
    """The newest complete checkpoint in a stage's folder, or None."""
    found = names(folder)
    return storage.join(folder, found[-1]) if found else None


def _failed(stage: int, folder: str, error: BaseException) -> str:
    """The cause at the bottom of Ray's exceptions, in one message."""
    cause = getattr(error, "controller_failure", error)
    kept = last_checkpoint(folder)
    where = f"; the same command goes on from {kept}" if kept else ""
    return f"{cause}{where}" if isinstance(cause, TrainingError) else f"stage {stage} failed: {cause}{where}"
