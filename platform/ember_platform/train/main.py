"""What both training jobs do: parse, plan, run, print; errors that a user can act on as one line."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType

from ember_platform import storage
from ember_platform.config import ConfigError, load_config
from ember_platform.data.manifest import DataError
from ember_platform.storage import StorageError
from ember_platform.train import flags, folders
from ember_platform.train.faults import TrainingError
from ember_platform.train.folds import check_folds, fold_config, run_folds, table
from ember_platform.train.pipeline import closing_lines, run_pipeline
from ember_platform.train.plan import PlanError, first_model, plan_lines, wanted_stages
from ember_platform.train.stage_run import last_checkpoint
from embervlm.data.readers.base import ReaderError

#: Faults of configuration, data or cluster: their message is meant for the user, a traceback would bury it.
_TOLD = (ConfigError, DataError, PlanError, ReaderError, StorageError, TrainingError)


def main(made: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> int:
    """Run a training job; returns its exit code: 0 all done, 1 with problems, 2 could not be done, 130 interrupted."""
    request: flags.Request | None = None

    def work() -> int:
        nonlocal request
        request = flags.parse(made, arguments)
        if request.dry_run:
            numbers = wanted_stages(request.config, request.stages, request.resume_from)
            start = first_model(request.config, numbers, request.resume_from)
            print("\n".join(plan_lines(request.config, numbers, start)))
            return 0
        outcome = run_pipeline(request.config, request.stages, resume_from=request.resume_from, say=_say)
        print("\n".join(closing_lines(request.config, outcome)), flush=True)
        return 1 if outcome.problems else 0

    return _job(work, lambda: _where_it_stands(request))


def folds(made: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> int:
    """Run the cross-validation job; exit codes as `main`."""

    def work() -> int:
        request = flags.parse(made, arguments)
        config = request.config
        check_folds(config)
        if request.dry_run:
            numbers = wanted_stages(config, request.stages, request.resume_from)
            start = first_model(config, numbers, request.resume_from)
            lines = plan_lines(fold_config(config, 0), numbers, start)
            print("\n".join([f"{config.data.robot_folds} folds; the first:", *lines]))
            return 0
        content = run_folds(config, request.resume_from, say=_say)
        print(f"{content['samples']} records in {config.data.robot_folds} folds, percent, ± deviation over folds")
        print(f"{table(content)}\n→ {storage.join(config.output_dir, folders.METRICS)}", flush=True)
        return 0

    return _job(work, lambda: "interrupted; the same command goes on with the fold that was at work")


def words(made: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> int:
    """Run the job that trains readers of words; exit codes as `main`."""
    from ember_platform.train.words import NAME, shown, train_words

    def work() -> int:
        given = made.parse_intermixed_args(arguments)
        left = [f"output_dir={storage.absolute(given.output_dir)}"] if given.output_dir else []
        config = load_config(given.config, [*left, *given.overrides])
        content = train_words(config, say=_say)
        for name, figures in (("the model", content["metrics"]), ("baselines", content["baselines"])):
            print(f"{name}, first choice on the test split: {', '.join(map(shown, figures.items()))}")
        print(f"→ {storage.join(config.output_dir, NAME, folders.FINAL)}", flush=True)
        return 0

    return _job(
        work,
        lambda: "interrupted: no model is left, its tracking run is closed as killed; the same command begins again",
    )


def _job(work: Callable[[], int], interrupted: Callable[[], str]) -> int:
    """Do a job's work; a fault that a user can act on is one line, an interrupt says where the job stands."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return work()
    except _TOLD as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        print(interrupted(), file=sys.stderr, flush=True)
        return 130


def _interrupt(number: int, frame: FrameType | None) -> None:
    """SIGTERM (`ray job stop`) as Ctrl-C: the last checkpoint stays, the tracking run is closed."""
    raise KeyboardInterrupt


def _say(line: str) -> None:
    print(line, flush=True)


def _where_it_stands(request: flags.Request | None) -> str:
    """What an interrupted run leaves."""
    if request is None:
        return "interrupted before anything was done"
    found = [
        kept
        for stage in wanted_stages(request.config, request.stages, request.resume_from)
        if (kept := last_checkpoint(folders.stage_dir(request.config.output_dir, stage))) is not None
    ]
    return f"interrupted; the same command goes on from {found[-1] if found else 'the beginning'}"
