"""One stage's data, all of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from embervlm.monitoring.data import DistillationGap, FigureStore
from embervlm.monitoring.measuring import stage1, stage2, stage3, stage4
from embervlm.monitoring.measuring.moments import Moment, StageRun

Measure = Callable[[FigureStore, StageRun], float | None]
#: What measures each stage. Some meet, on their way, the metric of what the stage started from, and return it.
_MEASURES: dict[int, Measure] = {1: stage1.measure, 2: stage2.measure, 3: stage3.measure, 4: stage4.measure}


def measure_stage(store: FigureStore, run: StageRun) -> dict[str, Any]:
    """Write the data of a stage's figures, those of an earlier measurement being replaced.

    Returns:
        `metric`, and its value `before` and `after` the stage on the same validation records: what the stage gained.

    Raises:
        FigureDataError, MetricError: what was measured is no figure data, a number does not exist.
    """
    # Without a teacher of the run's own, the gap is of a training for that figure alone, which writes it itself.
    store.clear(f"stage{run.number}", keep=() if run.teacher else (DistillationGap,))
    before = _MEASURES[run.number](store, run)
    definition = run.definition
    gained: dict[str, Any] = {"metric": definition.metric, "samples": len(run.validation)}
    # Training itself evaluated the product on these records.
    when, metrics = run.evaluations()
    known = metrics[definition.metric][when == run.product.step] if definition.metric in metrics else np.zeros(0)
    gained["before"] = _metric(run, run.moments[0]) if before is None or not np.isfinite(before) else before
    gained["after"] = float(known[-1]) if known.size and np.isfinite(known[-1]) else _metric(run, run.product)
    return gained


def _metric(run: StageRun, moment: Moment) -> float:
    """The stage's metric of one of its models on its validation records."""
    model, processor = run.opened(moment)
    module = run.definition.module(model)
    module.eval()
    return run.definition.evaluate(module, processor, run.validation)[run.definition.metric]
