"""One stage's data, all of it."""

from __future__ import annotations

from typing import Any

from embervlm.monitoring.data import FigureStore
from embervlm.monitoring.measuring import stage1, stage2, stage3, stage4
from embervlm.monitoring.measuring.moments import StageRun

_MEASURES = {1: stage1.measure, 2: stage2.measure, 3: stage3.measure, 4: stage4.measure}


def measure_stage(store: FigureStore, run: StageRun) -> dict[str, Any]:
    """Write the data of a stage's figures, those of an earlier measurement being replaced.

    Returns:
        `metric`, and its value `before` and `after` the stage on the same validation records: what the stage gained.

    Raises:
        FigureDataError, MetricError: what was measured is no figure data, a number does not exist.
    """
    store.clear(f"stage{run.number}")
    _MEASURES[run.number](store, run)
    definition = run.definition
    gained: dict[str, Any] = {"metric": definition.metric, "samples": len(run.validation)}
    for name, moment in (("before", run.moments[0]), ("after", run.product)):
        model, processor = run.opened(moment)
        module = definition.module(model)
        module.eval()
        gained[name] = definition.evaluate(module, processor, run.validation)[definition.metric]
    return gained
