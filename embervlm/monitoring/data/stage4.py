"""What the six figures of stage 4, reasoning, and its attention maps are drawn from.

Shape legend: S evaluations during training, N robots, R records, C task categories, M metrics, Q reasoning steps,
V nodes and E links of the attention flow, I queries of an attention map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from embervlm.monitoring.data.base import FREE, Array, Arrays, FigureData, Names, array, arrays, names, number, text

#: The four reasoning steps as the figures write them.
REASONING_STEPS = ("Task Analysis", "Environment", "Capability", "Decision")
#: The columns of the attention flow.
FLOW = ("Visual tokens", "Fusion", "Reasoning", "Selection")


class _Stage4(FigureData):
    home: ClassVar[str] = "stage4"


@dataclass(frozen=True, eq=False)
class PhaseComparison(_Stage4):
    """The same metrics after phase 1 (frozen backbone) and after phase 2 (joint fine-tuning).

    Attributes:
        metrics: (M,) names: Robot Accuracy, Reasoning Coherence, ECE, Latency.
        units: (M,) "" for shares from 0 to 1, else the unit ("ms").
        better: (M,) "higher" or "lower".
        values: (2, M) row 0: phase 1, row 1: phase 2; NaN where it was not measured.
        low, high: (2, M) ends of 95% intervals; NaN where there is none.
    """

    name: ClassVar[str] = "phase_comparison_bars"

    metrics: Names = names("M")
    units: Names = names("M", blank=True)
    better: Names = names("M", allowed=("higher", "lower"))
    values: Array = array("2", "M", low=0, missing=True)
    low: Array = array("2", "M", missing=True)
    high: Array = array("2", "M", missing=True)

    def check(self) -> None:
        for low, value, high in zip(self.low.flat, self.values.flat, self.high.flat, strict=True):
            if np.isnan(low) != np.isnan(high) or low > value or high < value:
                self.fail("low", f"interval {low:g} to {high:g} does not hold its value {value:g}")


@dataclass(frozen=True, eq=False)
class StepImportance(_Stage4):
    """How much each reasoning step matters for the selection, over training.

    Attributes:
        steps: (S,) training steps.
        reasoning: (Q,) names of the reasoning steps in order.
        importance: (S, Q) contribution of each step; may be negative where a step hurts.
        method: how it is measured ("share of changed selections when the step is removed"), for the axis.
    """

    name: ClassVar[str] = "reasoning_step_importance_3d"
    along: ClassVar[tuple[str, ...]] = ("S",)

    steps: Array = array("S", dtype="int", low=0, increasing=True)
    reasoning: Names = names("Q")
    importance: Array = array("S", "Q")
    method: str = text()


@dataclass(frozen=True, eq=False)
class ChainAgainstDirect(_Stage4):
    """The same tasks answered directly and after a reasoning chain.

    Attributes:
        robots: (N,) names.
        robot: (R,) the robot that each task is counted for, a place in `robots`.
        direct, chain: (R,) whether the answer was right without and with the chain.
        step: training step of the model.
    """

    name: ClassVar[str] = "cot_vs_direct_accuracy"

    robots: Names = names("N")
    robot: Array = array("R", dtype="int", below="N")
    direct: Array = array("R", dtype="bool")
    chain: Array = array("R", dtype="bool")
    step: int = number(0, dtype="int", low=0)


@dataclass(frozen=True, eq=False)
class AttentionFlow(_Stage4):
    """How much attention flows from what is seen to what is selected.

    Attributes:
        nodes: (V,) names, distinct.
        column: (V,) which part a node belongs to: 0 visual tokens, 1 fusion, 2 reasoning, 3 selection.
        start, end: (E,) the two nodes of a link, places in `nodes`; a link leads to a later column.
        strength: (E,) attention that flows along it, not negative.
        method: how it is measured ("attention rollout over all layers, mean of 256 tasks").
        step: training step of the model.
    """

    name: ClassVar[str] = "attention_flow_sankey"

    nodes: Names = names("V")
    column: Array = array("V", dtype="int", low=0, high=3)
    start: Array = array("E", dtype="int", below="V")
    end: Array = array("E", dtype="int", below="V")
    strength: Array = array("E", low=0)
    method: str = text()
    step: int = number(0, dtype="int", low=0)

    def check(self) -> None:
        wrong = np.flatnonzero(self.column[self.start] >= self.column[self.end])
        if wrong.size:
            first, last = self.nodes[self.start[wrong[0]]], self.nodes[self.end[wrong[0]]]
            self.fail("end", f"the link {first} → {last} does not lead to a later column")
        if not self.strength.sum() > 0:
            self.fail("strength", "nothing flows")


@dataclass(frozen=True, eq=False)
class ReasoningConsistency(_Stage4):
    """Does the chain agree with the selection, by where it first mentions the robot?

    Attributes:
        tasks: (C,) task categories.
        score: (C, 2) mean consistency, 0 to 1; column 0: the selected robot is first mentioned early in the chain,
            column 1: late. NaN where there is no such chain.
        count: (C, 2) chains.
        boundary: what early and late mean ("before or after the median place, at 61% of the chain").
        step: training step of the model.
    """

    name: ClassVar[str] = "reasoning_consistency_heatmap"

    tasks: Names = names("C")
    score: Array = array("C", "2", low=0, high=1, missing=True)
    count: Array = array("C", "2", dtype="int", low=0)
    boundary: str = text()
    step: int = number(0, dtype="int", low=0)

    def check(self) -> None:
        if (np.isnan(self.score) != (self.count == 0)).any():
            self.fail("score", "must be NaN exactly where the count is 0")


@dataclass(frozen=True, eq=False)
class ReasoningDashboard(_Stage4):
    """Chains of single records in figures.

    Attributes:
        coherence, consistency: (R,) 0 to 1.
        step_counts: (R,) reasoning steps written.
        step: training step of the model.
    """

    name: ClassVar[str] = "reasoning_quality_dashboard"

    coherence: Array = array("R", low=0, high=1)
    consistency: Array = array("R", low=0, high=1)
    step_counts: Array = array("R", dtype="int", low=0)
    step: int = number(0, dtype="int", low=0)


@dataclass(frozen=True, eq=False)
class AttentionMaps(_Stage4):
    """Where in the picture each query looks (folder attention_maps/).

    Attributes:
        images: a tuple with one picture (height, width, 3) of bytes.
        queries: (I,) what looks: the reasoning steps and the robots' selection tokens.
        attention: I arrays (rows, columns) over the grid of visual tokens, not negative.
        task: the task's words.
        step: training step of the model.
    """

    name: ClassVar[str] = "attention_maps"

    images: Arrays = arrays("1", FREE, FREE, "3", dtype="byte")
    queries: Names = names("I")
    attention: Arrays = arrays("I", "rows", "columns", dtype="single", low=0)
    task: str = text()
    step: int = number(0, dtype="int", low=0)
