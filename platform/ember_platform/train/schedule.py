"""The learning rate and the random numbers of a step, as pure functions of the step.

Nothing here has state, so a run that resumes at step n continues exactly as one that was never interrupted.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence


def learning_rate(
    step: int, total: int, peak: float, warmup_ratio: float, min_ratio: float, restarts: Sequence[int] = ()
) -> float:
    """Linear warm-up to `peak`, then a cosine down to `peak * min_ratio` at the last step.

    With restarts that is done anew from each of them to the next (Loshchilov and Hutter, 2017).

    Args:
        step: optimizer steps done before this one, 0 for the first.
        total: optimizer steps of the phase.
        peak: the highest rate.
        warmup_ratio: share of the steps that warm up, 0 to 1.
        min_ratio: the last rate as a share of the peak.
        restarts: steps that begin anew, ascending, between 0 and `total`.
    """
    begun = max((start for start in restarts if start <= step), default=0)
    step, total = step - begun, min((start for start in restarts if start > step), default=total) - begun
    warmup = round(total * warmup_ratio)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    done = min(1.0, (step - warmup) / max(1, total - 1 - warmup))
    return peak * (min_ratio + (1 - min_ratio) * 0.5 * (1 + math.cos(math.pi * done)))


def step_seed(seed: int, stage: int, phase: int, step: int, place: int) -> int:
    """A 63-bit seed for everything random in one micro-batch of a step (dropout, scheduled sampling).

    `place` is the micro-batch's in the global batch, so that it does not matter which worker runs it.
    """
    text = f"{seed}/{stage}/{phase}/{step}/{place}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def seed_step(seed: int, stage: int, phase: int, step: int, place: int) -> None:
    """Set the generators of torch (all devices), numpy and Python for one micro-batch of a step."""
    import numpy as np
    import torch

    value = step_seed(seed, stage, phase, step, place)
    torch.manual_seed(value)
    random.seed(value)
    np.random.seed(value % 2**32)  # noqa: NPY002  libraries that a model is made of draw from the global generator
