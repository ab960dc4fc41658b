"""What the eight figures of stage 3, robot selection, and its training curves are drawn from.

Shape legend: S, E evaluations or steps during training, N robots, L layers, R records, C task types, M mini-batches,
I parts of the model, K kinds of keyword.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from embervlm.monitoring.data.base import Array, FigureData, Names, array, names, number, text

#: The task types that the figures are made for; others may be there too.
TASK_TYPES = ("inspect", "transport", "navigate", "survey", "rescue")
#: Kinds of part whose importance is ranked.
PART_KINDS = ("attention", "ffn", "adapter")


class _Stage3(FigureData):
    home: ClassVar[str] = "stage3"


@dataclass(frozen=True, eq=False)
class LayerAccuracy(_Stage3):
    """How well a robot could be selected from each layer, over training.

    Attributes:
        steps: (S,) training steps.
        robots: (N,) names.
        layers: (L,) layer numbers; 0 is the input of the first layer.
        accuracy: (S, N, L) share of right decisions about that robot read at that layer; NaN where it never occurs.
        method: how a layer is read ("selection head applied to the layer", "linear probe"), for the title.
    """

    name: ClassVar[str] = "layer_accuracy_3d_surface"
    along: ClassVar[tuple[str, ...]] = ("S",)

    steps: Array = array("S", dtype="int", low=0, increasing=True)
    robots: Names = names("N")
    layers: Array = array("L", dtype="int", low=0, increasing=True)
    accuracy: Array = array("S", "N", "L", low=0, high=1, missing=True)
    method: str = text()


@dataclass(frozen=True, eq=False)
class RobotPerformance(_Stage3):
    """Right answers per robot at each checkpoint.

    Attributes:
        steps: (S,) training steps of the checkpoints.
        robots: (N,) names.
        correct: (S, N) tasks of that robot answered rightly.
        total: (S, N) tasks of that robot; 0 where there was none.
        metric: what "right" means, for the axis.
    """

    name: ClassVar[str] = "robot_performance_lines"
    along: ClassVar[tuple[str, ...]] = ("S",)

    steps: Array = array("S", dtype="int", low=0, increasing=True)
    robots: Names = names("N")
    correct: Array = array("S", "N", dtype="int", low=0)
    total: Array = array("S", "N", dtype="int", low=0)
    metric: str = text("accuracy")

    def check(self) -> None:
        if (self.correct > self.total).any():
            self.fail("correct", "more right answers than tasks")


@dataclass(frozen=True, eq=False)
class LayerBudget(_Stage3):
    """How much each part of the model matters, measured on several mini-batches.

    Attributes:
        parts: (I,) short names ("layer 0", "fusion 1"); a name may occur once per kind.
        kinds: (I,) attention, ffn or adapter.
        importance: (M, I) importance of each part on each mini-batch, not negative, one unit for all.
        method: what importance is ("Fisher information", "|gradient × weight|").
        step: training step of the model.
    """

    name: ClassVar[str] = "layer_budget_ranks"

    parts: Names = names("I", blank=True)
    kinds: Names = names("I", allowed=PART_KINDS)
    importance: Array = array("M", "I", low=0)
    method: str = text()
    step: int = number(0, dtype="int", low=0)

    def check(self) -> None:
        if len(set(zip(self.kinds, self.parts, strict=True))) < len(self.parts):
            self.fail("parts", "a part occurs twice within a kind")


@dataclass(frozen=True, eq=False)
class ConfusionEvolution(_Stage3):
    """Which robot is chosen for which, over training.

    Attributes:
        steps: (S,) training steps.
        robots: (N,) names, of rows and columns alike.
        counts: (S, N, N) tasks; row: the robot that should have been chosen, column: the one that was.
        truth: how the row is found where several robots can do a task, for the caption.
    """

    name: ClassVar[str] = "confusion_evolution"
    along: ClassVar[tuple[str, ...]] = ("S",)

    steps: Array = array("S", dtype="int", low=0, increasing=True)
    robots: Names = names("N")
    counts: Array = array("S", "N", "N", dtype="int", low=0)
    truth: str = text("")


@dataclass(frozen=True, eq=False)
class Calibration(_Stage3):
    """Single decisions with the confidence they were made with.

    Attributes:
        confidence: (R,) 0 to 1.
        correct: (R,) whether the decision was right.
        step: training step of the model.
    """

    name: ClassVar[str] = "confidence_calibration"

    confidence: Array = array("R", low=0, high=1)
    correct: Array = array("R", dtype="bool")
    step: int = number(0, dtype="int", low=0)


@dataclass(frozen=True, eq=False)
class RobotRadar(_Stage3):
    """One-vs-rest figures of each robot.

    Attributes:
        robots: (N,) names.
        precision, recall, f1: (N,) 0 to 1; NaN where they do not exist (never sent, never labelled).
        confidence: (N,) mean confidence of the decisions for this robot, 0 to 1.
        support: (N,) tasks that this robot is labelled for.
        step: training step of the model.
    """

    name: ClassVar[str] = "robot_radar_chart"

    robots: Names = names("N")
    precision: Array = array("N", low=0, high=1, missing=True)
    recall: Array = array("N", low=0, high=1, missing=True)
    f1: Array = array("N", low=0, high=1, missing=True)
    confidence: Array = array("N", low=0, high=1, missing=True)
    support: Array = array("N", dtype="int", low=0)
    step: int = number(0, dtype="int", low=0)


@dataclass(frozen=True, eq=False)
class TaskRobot(_Stage3):
    """Right decisions by task type and robot.

    Attributes:
        robots: (N,) names.
        tasks: (C,) task types.
        correct, total: (N, C) right decisions and all decisions; a total of 0 stays blank in the figure.
        step: training step of the model.
    """

    name: ClassVar[str] = "task_robot_heatmap"

    robots: Names = names("N")
    tasks: Names = names("C")
    correct: Array = array("N", "C", dtype="int", low=0)
    total: Array = array("N", "C", dtype="int", low=0)
    step: int = number(0, dtype="int", low=0)

    def check(self) -> None:
        if (self.correct > self.total).any():
            self.fail("correct", "more right decisions than decisions")


@dataclass(frozen=True, eq=False)
class ReasoningQuality(_Stage3):
    """Chains of thought of single records, and what they say about the task.

    Attributes:
        step_counts: (R,) reasoning steps written.
        coherence: (R,) coherence of the chain, 0 to 1.
        correct: (R,) whether the selection was right.
        keywords: (K,) kinds of fact that a chain must take from task and scene ("category", "terrain", …).
        keyword_correct, keyword_total: (K,) how often it stands there rightly, of how many.
        coherence_means: what coherence is measured as, for the axis.
        step: training step of the model.
    """

    name: ClassVar[str] = "reasoning_quality"

    step_counts: Array = array("R", dtype="int", low=0)
    coherence: Array = array("R", low=0, high=1)
    correct: Array = array("R", dtype="bool")
    keywords: Names = names("K")
    keyword_correct: Array = array("K", dtype="int", low=0)
    keyword_total: Array = array("K", dtype="int", low=1)
    coherence_means: str = text("coherence")
    step: int = number(0, dtype="int", low=0)

    def check(self) -> None:
        if (self.keyword_correct > self.keyword_total).any():
            self.fail("keyword_correct", "more right ones than there are")


@dataclass(frozen=True, eq=False)
class TrainingCurves(_Stage3):
    """Losses of every step and validation metrics of every evaluation (folder training_curves/).

    Attributes:
        steps: (S,) optimizer steps.
        losses: (K,) names of the loss terms, "loss" among them.
        values: (S, K) their values; NaN where a step had none.
        evaluations: (E,) steps of the evaluations.
        metrics: (M,) names of validation metrics, 0 to 1 each.
        scores: (E, M) their values.
    """

    name: ClassVar[str] = "training_curves"

    steps: Array = array("S", dtype="int", low=0, increasing=True)
    losses: Names = names("K")
    values: Array = array("S", "K", missing=True)
    evaluations: Array = array("E", dtype="int", low=0, increasing=True)
    metrics: Names = names("M")
    scores: Array = array("E", "M", missing=True)

    def check(self) -> None:
        if "loss" not in self.losses:
            self.fail("losses", f"'loss' is not among {', '.join(self.losses)}")
