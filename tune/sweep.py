"""Sweep stage 3 or 4: Optuna's TPE and ASHA over the fields that a search space names.

    ray job submit --runtime-env cluster/runtime_env.yaml -- python tune/sweep.py --space tune/stage3.yaml --trials 16

It leaves `<output_dir>/tune/<name>/`: a folder per trial, best.yaml (which jobs/train_stage.py takes), dashboard.html
(live: python tune/dashboard.py). A sweep that was killed goes on with `--resume`; no finished trial runs again.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from ember_platform.config import ConfigError
from ember_platform.data.manifest import DataError
from ember_platform.storage import StorageError, absolute
from ember_platform.train.plan import PlanError
from ember_platform.tuning.ledger import LedgerError
from ember_platform.tuning.run import closing_lines, run_sweep
from ember_platform.tuning.space import load_sweep
from embervlm.data.readers.base import ReaderError

#: Faults that the user can act on; a traceback would bury the message.
_TOLD = (ConfigError, DataError, LedgerError, PlanError, ReaderError, StorageError)
#: flag → field of the search space.
_FIELDS = {
    "trials": "trials",
    "epochs": "epochs",
    "concurrent": "concurrent",
    "workers": "workers",
    "seed": "search.seed",
}


def parser() -> argparse.ArgumentParser:
    """The command line's arguments."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--space", required=True, help="YAML file of the search space, such as tune/stage3.yaml")
    made.add_argument("--name", help="of the sweep and its folder (default: the file's)")
    made.add_argument("--config", help="base configuration (default: the one that the search space names)")
    made.add_argument("--trials", type=int, help="trials in all")
    made.add_argument("--epochs", type=int, help="epochs of a full training")
    made.add_argument("--concurrent", help="trials at once at most, or auto")
    made.add_argument("--workers", type=int, help="training workers of a trial")
    made.add_argument("--seed", type=int, help="of the search")
    made.add_argument("--resume", action="store_true", help="go on with a sweep that was killed, or add trials to it")
    made.add_argument("--resume_from", help="model folder that every trial starts from (default: the stage before)")
    made.add_argument("--output_dir", help="where everything is left")
    made.add_argument("--no-register", action="store_true", help="leave the winner out of the model registry")
    made.add_argument("overrides", nargs="*", metavar="field=value", help="fields of the base configuration, dotted")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job; 0 all done, 1 with problems, 2 could not be done, 130 interrupted."""
    signal.signal(signal.SIGTERM, _interrupt)
    given = parser().parse_intermixed_args(arguments)
    changes = [f"{field}={getattr(given, flag)}" for flag, field in _FIELDS.items() if getattr(given, flag) is not None]
    output = [f"output_dir={given.output_dir}"] if given.output_dir else []
    try:
        sweep, base = load_sweep(given.space, changes, [*output, *given.overrides], given.config)
        outcome = run_sweep(
            sweep,
            base,
            given.name or Path(given.space).stem,
            resume=given.resume,
            resume_from=absolute(given.resume_from) if given.resume_from else None,
            say=_say,
            register=not given.no_register,
        )
    except _TOLD as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command with --resume goes on", file=sys.stderr, flush=True)
        return 130
    _say("\n".join(closing_lines(outcome, sweep)))
    if not outcome.complete:
        return 130
    return 1 if outcome.problems else 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    """SIGTERM (`ray job stop`) as Ctrl-C."""
    raise KeyboardInterrupt


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
