"""Measuring what the figures are drawn from, on the models that a run left, outside its training.

    measure_stage(FigureStore("outputs"), StageRun(number=3, moments=[Moment(0, …), Moment(157, …), …], …))
    measure_across(FigureStore("outputs"), [StageRun(…), …])

Training itself only keeps its history and a few snapshots of the weights; everything else is measured here, on records
that no stage trains on. What cannot be measured is noted with its reason, which the report then shows.
"""

from embervlm.monitoring.measuring.across import measure_across
from embervlm.monitoring.measuring.moments import Moment, StageRun
from embervlm.monitoring.measuring.stages import measure_stage

__all__ = ["Moment", "StageRun", "measure_across", "measure_stage"]
