"""All stages by number."""

from __future__ import annotations

from embervlm.stages.alignment import Alignment
from embervlm.stages.base import Stage
from embervlm.stages.instruction import Instruction
from embervlm.stages.reasoning import Reasoning
from embervlm.stages.selection import RobotSelection
from embervlm.stages.vision_warmup import VisionWarmup

STAGES: dict[int, type[Stage]] = {
    cls.number: cls for cls in (VisionWarmup, Alignment, Instruction, RobotSelection, Reasoning)
}


def get_stage(number: int) -> Stage:
    """The stage of a number.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    if number not in STAGES:
        raise ValueError(f"stage: {number!r} is not one of {', '.join(map(str, sorted(STAGES)))}")
    return STAGES[number]()
