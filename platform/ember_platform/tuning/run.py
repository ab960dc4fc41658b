"""A sweep from its beginning, or from where it was killed, to its winner."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from ember_platform import storage
from ember_platform.config import RunConfig
from ember_platform.data.manifest import Manifest
from ember_platform.mlflow_store import code_revision, with_store
from ember_platform.train.plan import PlanError
from ember_platform.tuning import placement
from ember_platform.tuning.ledger import FAILED, FINISHED, Ledger, Record, best_of
from ember_platform.tuning.space import SweepConfig, apply
from ember_platform.tuning.trial import Setup, Trial
from ember_platform.tuning.watch import Watch

Say = Callable[[str], None]


@dataclass
class SweepOutcome:
    """What a sweep came to. `problems` happened after the trials; none of them is lost by it."""

    folder: str
    records: list[Record]
    best: Record | None
    complete: bool
    files: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def folder_of(base: RunConfig, name: str) -> str:
    """Where a sweep leaves everything."""
    return storage.join(base.output_dir, "tune", name)


def run_sweep(
    sweep: SweepConfig,
    base: RunConfig,
    name: str,
    *,
    resume: bool = False,
    resume_from: str | None = None,
    say: Say = print,
    observers: list[Any] | None = None,
    register: bool = True,
) -> SweepOutcome:
    """Run every trial that is not over, then crown the best.

    Args:
        sweep, base: as `space.load_sweep` gives them.
        name: of the sweep; its folder is `<output_dir>/tune/<name>`.
        resume: go on with a sweep that is there.
        resume_from: model folder that every trial starts from; None: the model of the stage before, in `output_dir`.
        say: takes lines of progress.
        observers: of every trial's training (see `run_stage`); for tests.
        register: register the winner's model, and let the gate decide.

    Raises:
        PlanError, DataError: something that can be known before any trial starts is wrong.
        LedgerError: the folder holds another sweep, or none to resume.
    """
    base = with_store(base)
    setup, identity, ledger = _prepare(sweep, _of_trials(sweep, base), name, resume_from, say, observers)
    known = _begin(ledger, sweep, base, name, identity, resume, say)
    trials_at_once, setup = _place(sweep, setup)
    open_numbers = [r.number for r in known if not r.over]
    fresh = [n for n in range(sweep.trials) if n not in {r.number for r in known}]
    say(
        f"sweep {name}: {len(known) - len(open_numbers)} trials are over, {len(open_numbers)} go on, {len(fresh)} "
        f"begin; {trials_at_once} at once, {setup.threads} threads a worker"
    )
    watch = Watch(sweep, base, ledger, name, known, say)
    try:
        if open_numbers or fresh:
            _fit(sweep, setup, ledger, watch, [*open_numbers, *fresh], trials_at_once)
        watch.tidy()
    except BaseException as error:
        watch.close("KILLED")
        if not ended_for_memory(error):
            raise
    else:
        return _end(sweep, base, setup, name, ledger, watch, register, say)
    # Only now, when nothing holds on to the trials' processes and their memory any more.
    fewer = after_memory(ledger, [*open_numbers, *fresh], trials_at_once, say)
    sweep = sweep.model_copy(update={"concurrent": fewer})
    return run_sweep(
        sweep, base, name, resume=True, resume_from=resume_from, say=say, observers=observers, register=register
    )


def ended_for_memory(error: BaseException | None) -> bool:
    """Whether a sweep ended because Ray ended a trial's process for lack of memory on its node.

    Ray Tune knows failed actors and failed tasks; this error is neither to it, and it gives up.
    """
    from ray.exceptions import OutOfMemoryError

    while isinstance(error, Exception):  # who interrupts a sweep means it, whatever it was busy with
        if isinstance(error, OutOfMemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False


def after_memory(ledger: Ledger, numbers: list[int], at_once: int, say: Say) -> int:
    """Trials at once from now on. What was alone and still had too little memory has failed; the others go on.

    Args:
        numbers: of the trials that were to run, in their order.
    """
    running = {record.number: record for record in ledger.records() if not record.over}
    if at_once > 1:
        names = ", ".join(record.name for record in running.values())
        say(f"the node ran out of memory with {at_once} trials at once ({names}): they go on, {at_once - 1} at once")
        return at_once - 1
    # One at a time they run in order, so that it was the first that is not over.
    alone = next((running[number] for number in numbers if number in running), None)
    if alone is not None:
        reason = "Ray ended its process for lack of memory on the node, and no other trial was there"
        ledger.put(replace(alone, status=FAILED, fault="out of memory", reason=reason))
        say(f"trial {alone.name} failed: out of memory: {reason}")
    return 1


def _end(
    sweep: SweepConfig,
    base: RunConfig,
    setup: Setup,
    name: str,
    ledger: Ledger,
    watch: Watch,
    register: bool,
    say: Say,
) -> SweepOutcome:
    """What the trials came to, once Ray Tune is done with them."""
    records = ledger.records()
    complete = len(records) >= sweep.trials and all(record.over for record in records)
    outcome = SweepOutcome(ledger.folder, records, best_of(records, sweep.objectives[0]), complete)
    _close(outcome, sweep, base, setup, name, say, register)
    say(watch.close("FINISHED" if complete else "KILLED"))
    return outcome


def _of_trials(sweep: SweepConfig, base: RunConfig) -> RunConfig:
    """The configuration with the workers of a trial; what the sweep finds is trained with the base's."""
    if sweep.workers is None:
        return base
    return apply(base, [f"cluster.num_workers={sweep.workers}", "cluster.min_workers=null"])


def _prepare(
    sweep: SweepConfig, base: RunConfig, name: str, resume_from: str | None, say: Say, observers: list[Any] | None
) -> tuple[Setup, dict[str, Any], Ledger]:
    """Cluster, data and parent, and what the trials' comparability rests on."""
    from ember_platform.data.ingest import prepare
    from ember_platform.data.rayed import ensure_ray
    from ember_platform.train.pipeline import content_digest
    from ember_platform.train.plan import check, first_model

    start = first_model(base, [sweep.stage], resume_from)
    if start.resume is not None:
        raise PlanError(
            f"--resume_from {resume_from}: trials start from a model, and this is a checkpoint of one stage"
        )
    of_model = [p for p in sweep.space if p == "preset" or p.startswith("model.")]
    if start.parent is not None and of_model:
        raise PlanError(
            f"space.{of_model[0]}: every trial starts from {start.parent}, whose shape is settled; sweep the model "
            "with a configuration whose first stage this is"
        )
    ensure_ray(base)
    check(base, [sweep.stage])
    manifest = prepare(base, say=say)
    ledger = Ledger(folder_of(base, name))
    parent = start.parent
    if parent is None and not of_model:
        parent = _new_model(base, manifest.dir, storage.join(ledger.folder, "begin"))
    trained, encoded = _features(sweep, base, manifest, parent, ledger.folder, say)
    setup = Setup(
        base=trained,
        stage=sweep.stage,
        objectives=list(sweep.objectives),
        folder=ledger.folder,
        data_dir=manifest.dir,
        data_digest=manifest.stage_digest(sweep.stage),
        parent=parent,
        parent_digest=content_digest(parent) if parent is not None else None,
        threads=1,
        features=encoded,
        observers=list(observers or []),
    )
    settings = sweep.model_dump(mode="json", exclude={"trials", "concurrent", "config"})
    if not sweep.scheduler.restarts:
        del settings["scheduler"]["restarts"]  # as before there was such a field
    identity = {
        **settings,
        "settings": base.stage_digest(sweep.stage),
        "data": setup.data_digest,
        "parent": setup.parent_digest,
    }
    return setup, identity, ledger


def _features(
    sweep: SweepConfig, base: RunConfig, manifest: Manifest, parent: str | None, folder: str, say: Say
) -> tuple[RunConfig, str | None]:
    """The features of the training pictures, made once for all trials, and the configuration that trials then have.

    Whether they are used is settled here: trials of which some read features and some encode anew would differ by more
    than their parameters. Where the encoder or the precision is swept, each trial settles it for itself.
    """
    from ember_platform.train import features

    swept = [name for name in sweep.space if name == f"stages.{sweep.stage}.precision"]
    if parent is None or swept:
        return base, None
    shared = base.model_copy(update={"output_dir": storage.join(folder, "shared")})
    found = features.prepare(shared, sweep.stage, manifest, parent, trainings=sweep.trials, say=say)
    settled = base.data.model_copy(update={"feature_cache": "on" if found else "off"})
    return base.model_copy(update={"data": settled}), found


def _new_model(base: RunConfig, data_dir: str, folder: str) -> str:
    """An untrained model, made by a task on the cluster."""
    import ray

    from ember_platform.train.models import ModelDesk

    desk: Any = ray.remote(ModelDesk).options(num_cpus=0.1).remote(base, data_dir)
    made: str = ray.get(desk.begin.remote(folder))
    ray.kill(desk)
    return made


def _begin(
    ledger: Ledger, sweep: SweepConfig, base: RunConfig, name: str, identity: dict[str, Any], resume: bool, say: Say
) -> list[Record]:
    """Write the sweep's header; what is known of its trials."""
    header = {
        "name": name,
        "stage": sweep.stage,
        # A text: the order of parameters matters, and JSON files are sorted.
        "sweep": sweep.model_dump_json(exclude_unset=True),
        "epochs": base.stage(sweep.stage).epochs,
        "identity": identity,
        "code_revision": code_revision(),
        "tracking": base.tracking.mlflow_uri,
        "began": time.time(),
    }
    ledger.begin(header, resume)
    known = ledger.records()
    if resume and len(known) > sweep.trials:
        say(f"sweep {name}: --trials {sweep.trials}, and {len(known)} were begun; all of them stay")
    return known


def _place(sweep: SweepConfig, setup: Setup) -> tuple[int, Setup]:
    """Trials at once, and each worker's share of the cores."""
    import ray

    nodes = max(1, sum(1 for node in ray.nodes() if node.get("Alive")))
    cores = len(os.sched_getaffinity(0)) * nodes
    at_once = min(placement.room(setup.base, ray.cluster_resources(), sweep.concurrent, cores), sweep.trials)
    return at_once, replace(setup, threads=placement.threads(setup.base, cores, at_once))


def _fit(sweep: SweepConfig, setup: Setup, ledger: Ledger, watch: Watch, numbers: list[int], at_once: int) -> None:
    """Ray Tune over the trials with these numbers."""
    # Reports differ: a failed trial has no value, a trial's last epoch is not compared by.
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
    os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
    from ray import tune
    from ray.tune.schedulers import FIFOScheduler

    from ember_platform.tuning.rungs import Rungs
    from ember_platform.tuning.search import LedgerSearch

    filesystem, inside = storage.resolve(ledger.folder)
    epochs = setup.base.stage(sweep.stage).epochs
    scheduler: Any = FIFOScheduler()
    if sweep.scheduler.method == "asha":
        scheduler = Rungs(sweep.scheduler, _mode(sweep), epochs, list(watch.records.values()))
    trainable = tune.with_resources(tune.with_parameters(Trial, setup=setup), placement.process(setup.base))
    tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=LedgerSearch(numbers, watch.open_trial),
            scheduler=scheduler,
            num_samples=len(numbers),
            max_concurrent_trials=at_once,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: f"{trial.config['number']:03d}-{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name="tensorboard",
            storage_path=inside,
            storage_filesystem=None if storage.is_local(ledger.folder) else filesystem,
            callbacks=[watch],
            # Checkpoints are the training's own; Tune would ask the trial for one at its end.
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            verbose=0,
        ),
    ).fit()


def _mode(sweep: SweepConfig) -> str:
    """Whether more is better in `value` (see `trial.epochs`)."""
    return sweep.objectives[0].mode


def _close(
    outcome: SweepOutcome, sweep: SweepConfig, base: RunConfig, setup: Setup, name: str, say: Say, register: bool
) -> None:
    """What a sweep leaves: the winner's configuration, its model in the registry, the dashboard."""
    from ember_platform.tuning.dashboard import write_page
    from ember_platform.tuning.winner import register_winner, write_best

    if outcome.complete and outcome.best is None:
        outcome.problems.append("no trial finished; the reasons are in the table of the dashboard")
    if outcome.complete and outcome.best is not None:
        outcome.files["best"] = write_best(outcome, sweep, base, name)
        if register:
            try:
                register_winner(outcome, sweep, setup, name, say)
            except Exception as error:  # noqa: BLE001  the sweep is done, and its result is kept
                outcome.problems.append(f"registering the winner: {type(error).__name__}: {error}")
    try:
        outcome.files["dashboard"] = write_page(outcome.folder)
    except Exception as error:  # noqa: BLE001  likewise
        outcome.problems.append(f"drawing the dashboard: {type(error).__name__}: {error}")
    for problem in outcome.problems:
        say(f"problem: {problem}")


def closing_lines(outcome: SweepOutcome, sweep: SweepConfig) -> list[str]:
    """What a sweep prints at its end."""
    counts = {status: sum(r.status == status for r in outcome.records) for status in ("finished", "stopped", "failed")}
    spent = sum(len(r.epochs) for r in outcome.records)
    shown = ", ".join(f"{count} {status}" for status, count in counts.items())
    lines = ["", f"{len(outcome.records)} trials: {shown}; {spent} epochs"]
    lines += [f"  trial {r.name} failed: {r.fault}: {r.reason}" for r in outcome.records if r.status == "failed"]
    if outcome.best is not None:
        best, objective = outcome.best, sweep.objectives[0]
        lines.append(f"best: trial {best.name}, {objective.metric} {best.objective(objective):.4f}")
        lines += [f"  {key} = {value}" for key, value in best.params.items()]
        first = next((r for r in outcome.records if r.number == 0 and r.status == FINISHED), None)
        if first is not None and first is not best:
            lines.append(f"  (the defaults: {objective.metric} {first.objective(objective):.4f})")
    lines += [f"  {what:<9} {path}" for what, path in outcome.files.items()]
    lines += [f"  registry  {alias} = {uri}" for alias, uri in outcome.versions.items()]
    if not outcome.complete:
        lines.append("interrupted; the same command with --resume goes on")
    return lines
