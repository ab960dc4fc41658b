"""What the five figures of stage 2, instruction tuning, are drawn from.

Shape legend: S, E evaluations during training, R records, T token positions, C categories.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from embervlm.monitoring.data.base import Array, FigureData, Names, array, names, number, text

#: The instruction types that the figure is made for; others may be there too.
INSTRUCTION_TYPES = ("describe", "explain", "analyze", "compare")


class _Stage2(FigureData):
    home: ClassVar[str] = "stage2"


@dataclass(frozen=True, eq=False)
class InstructionComplexity(_Stage2):
    """Scores of single answers, asked with the picture and without it.

    Attributes:
        categories: (C,) instruction types, from simple to complex.
        category: (R,) each record's place in `categories`.
        with_vision, without_vision: (R,) score of the answer, 0 to 1 (0 or 1 where it is right or wrong).
        metric: what the score is, for the axis ("share answered exactly").
        step: training step of the model.
    """

    name: ClassVar[str] = "instruction_complexity_bars"

    categories: Names = names("C")
    category: Array = array("R", dtype="int", below="C")
    with_vision: Array = array("R", low=0, high=1)
    without_vision: Array = array("R", low=0, high=1)
    metric: str = text()
    step: int = number(0, dtype="int", low=0)


@dataclass(frozen=True, eq=False)
class TokenProbability(_Stage2):
    """How sure the model is of each token of an answer.

    Attributes:
        truth: (R, T) probability of the ground-truth token, given the ground-truth tokens before it; NaN after its end.
        generated: (R, T) probability of the token that the model wrote itself; NaN after its end.
        step: training step of the model.
    """

    name: ClassVar[str] = "token_probability_sequence"

    truth: Array = array("R", "T", low=0, high=1.0001, missing=True)
    generated: Array = array("R", "T", low=0, high=1.0001, missing=True)
    step: int = number(0, dtype="int", low=0)

    def check(self) -> None:
        for name in ("truth", "generated"):
            if not np.isfinite(getattr(self, name)).any():
                self.fail(name, "no probability at all")


@dataclass(frozen=True, eq=False)
class DistillationGap(_Stage2):
    """What still separates the student from its teacher.

    Attributes:
        steps: (S,) steps at which the divergence was measured.
        divergence: (S,) mean KL(teacher ‖ student) per answer token, nats.
        evaluations: (E,) steps at which the student was evaluated.
        accuracy: (E,) the student's validation accuracy, 0 to 1.
        teacher: the teacher's name.
    """

    name: ClassVar[str] = "distillation_gap"

    steps: Array = array("S", dtype="int", low=0, increasing=True)
    divergence: Array = array("S", low=0)
    evaluations: Array = array("E", dtype="int", low=0, increasing=True)
    accuracy: Array = array("E", low=0, high=1)
    teacher: str = text()


@dataclass(frozen=True, eq=False)
class ResponseLengths(_Stage2):
    """How long answers are, by task.

    Attributes:
        tasks: (C,) names (captioning, VQA, complex reasoning).
        task: (R,) each record's place in `tasks`.
        generated, target: (R,) length of the model's answer and of the reference.
        unit: what a length counts ("tokens", "words").
        step: training step of the model.
    """

    name: ClassVar[str] = "response_length_violin"

    tasks: Names = names("C")
    task: Array = array("R", dtype="int", below="C")
    generated: Array = array("R", dtype="int", low=0)
    target: Array = array("R", dtype="int", low=0)
    unit: str = text("tokens")
    step: int = number(0, dtype="int", low=0)


@dataclass(frozen=True, eq=False)
class PerplexityByPosition(_Stage2):
    """Perplexity at each position of the answer, over training.

    Attributes:
        steps: (S,) training steps.
        perplexity: (S, T) exp of the mean negative log-likelihood of the tokens at a position; NaN where no answer
            is that long.
    """

    name: ClassVar[str] = "perplexity_heatmap"
    along: ClassVar[tuple[str, ...]] = ("S",)

    steps: Array = array("S", dtype="int", low=0, increasing=True)
    perplexity: Array = array("S", "T", low=0.9999, missing=True)
