"""What a trained model is worth, by suite: `run_suite`. Each has its baselines, and an interval at every figure."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

from embervlm.evaluation.asking import Asker
from embervlm.evaluation.metrics import MetricError
from embervlm.evaluation.suites.fleets import fleets, no_data
from embervlm.evaluation.suites.photos import photos, read_photos
from embervlm.evaluation.suites.public_tasks import public_tasks, tasks_of
from embervlm.evaluation.suites.result import Options, SuiteResult
from embervlm.evaluation.suites.world import counterfactual, world

__all__ = ["SUITES", "Options", "SuiteResult", "check", "run_suite"]

#: Every suite by the name that `embervlm evaluate --suite` takes.
SUITES: MappingProxyType[str, Callable[[Asker, Options], SuiteResult]] = MappingProxyType(
    {
        "world": world,
        "public-tasks": public_tasks,
        "fleets": fleets,
        "counterfactual": counterfactual,
        "photos": photos,
    }
)

#: What the suites that need `data` refuse before anything is asked.
CHECKS: MappingProxyType[str, Callable[[Options], object]] = MappingProxyType(
    {"public-tasks": tasks_of, "fleets": no_data, "photos": lambda options: read_photos(options.data)}
)


def check(name: str, options: Options) -> None:
    """Refuse what no model is needed to refuse.

    Raises:
        MetricError: an unknown suite, a limit below 1, or no data where the suite has none of its own.
    """
    if name not in SUITES:
        raise MetricError(f"--suite: {name!r} is unknown; there are {', '.join(SUITES)}")
    if options.limit is not None and options.limit < 1:
        raise MetricError(f"--limit: {options.limit} is not a number of records from 1")
    if name in CHECKS:
        CHECKS[name](options)


def run_suite(name: str, asker: Asker, options: Options | None = None) -> SuiteResult:
    """Measure a model on a suite.

    Raises:
        MetricError, ReaderError, OSError: as `check`, and material that cannot be used; the message names it.
    """
    options = options or Options()
    check(name, options)
    return SUITES[name](asker, options)
