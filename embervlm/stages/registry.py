"""All stages by number."""

from __future__ import annotations

from collections.abc import Mapping

from embervlm.stages.alignment import Alignment
from embervlm.stages.base import Stage
from embervlm.stages.instruction import Instruction
from embervlm.stages.reasoning import Reasoning
from embervlm.stages.selection import RobotSelection
from embervlm.stages.vision_warmup import VisionWarmup

STAGES: dict[int, type[Stage]] = {
    cls.number: cls for cls in (VisionWarmup, Alignment, Instruction, RobotSelection, Reasoning)
}


def get_stage(
    number: int, losses: Mapping[str, float] | None = None, best: str | None = None, mixup: float = 0.0
) -> Stage:
    """The stage of a number, with some of its loss terms' weights set.

    Args:
        number: of the stage.
        losses: loss term → its weight; not named: the stage's own.
        best: validation metric by which the best checkpoint is kept; None: the stage's own.
        mixup: share of stage 0's training photographs that are blended with another, 0 to 1.

    Raises:
        ValueError: there is no such stage, term or metric (the message lists those there are), or pictures are to be
            blended where no teacher says what they show.
    """
    if number not in STAGES:
        raise ValueError(f"stage: {number!r} is not one of {', '.join(map(str, sorted(STAGES)))}")
    stage = STAGES[number]()
    for name in losses or {}:
        if name not in stage.weights:
            known = ", ".join(stage.weights) or "none"
            raise ValueError(f"stages.{number}.losses.{name}: not a term of this stage's loss; there are {known}")
    stage.weights = {**stage.weights, **(losses or {})}
    if best is not None:
        if best not in stage.judged:
            known = ", ".join(stage.judged)
            raise ValueError(
                f"stages.{number}.best: {best!r} is no metric of this stage's validation; there are {known}"
            )
        stage.metric = best
    if mixup and not (stage.weights.get("teacher") or stage.weights.get("classes")):
        raise ValueError(
            f"stages.{number}.mixup: only a teacher knows what blended pictures show; use it in stage 0 with "
            "losses.teacher or losses.classes above 0, or set it to 0"
        )
    stage.mixup = mixup
    return stage
