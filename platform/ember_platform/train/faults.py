"""Which errors may go away when a stage is started again from its last checkpoint, and which will not.

A worker whose neighbour died, storage or a network that did not answer, memory that another process had: those are
tried again. What the code or the data did wrong (a ValueError in the loss, a shape that does not fit) would be done
wrong again, at the same step; the run stops at once and says where.
"""

from __future__ import annotations

import traceback
from pathlib import Path

import torch

#: Where the exchange between workers is: an error that comes out of there is a neighbour's end, not a fault of its own.
_EXCHANGE = ("/torch/distributed/", "/deepspeed/comm/")
_DEVICE = ("CUDA error", "NCCL", "out of memory")


class TrainingError(RuntimeError):
    """Training that cannot go on and would fail again: not retried. The message names step and records."""


def transient(error: BaseException) -> bool:
    """Whether the same work may succeed when it is tried again."""
    if isinstance(error, TrainingError):
        return False
    cause = getattr(error, "cause", None)  # of a Ray task: what was raised in it
    if type(error).__module__.startswith("ray.") and not isinstance(cause, Exception):
        return True
    if isinstance(cause, Exception):
        return transient(cause)
    if isinstance(error, OSError | EOFError | MemoryError | torch.OutOfMemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    if isinstance(error, torch.distributed.DistError) or any(word in str(error) for word in _DEVICE):
        return True
    frames = traceback.extract_tb(error.__traceback__)
    return any(part in frame.filename.replace("\\", "/") for frame in frames for part in _EXCHANGE)


def told(error: BaseException) -> str:
    """An error in one line: its type, its message, and the innermost line of our code that it came from."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, Exception):
        return told(cause)
    text = " ".join(str(error).split()) or "no message"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/site-packages/" not in frame.filename] or list(frames)
    where = f" ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {text}{where}"
