"""Batches as bytes: tensors travel as plain numpy memory, everything else by pickle.

Torch's own pickling writes each tensor through a file format of its own; this takes a copy and no more.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
import torch


class _Packer(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if type(value) is torch.Tensor and value.device.type == "cpu" and value.layout == torch.strided:
            plain = value.detach().contiguous()
            raw = plain.reshape(-1).view(torch.uint8).numpy() if plain.numel() else np.zeros(0, np.uint8)
            return _tensor, (raw, str(plain.dtype).removeprefix("torch."), tuple(plain.shape))
        return NotImplemented


def _tensor(raw: np.ndarray, dtype: str, shape: tuple[int, ...]) -> torch.Tensor:
    kind = getattr(torch, dtype)
    return torch.from_numpy(raw).view(kind).reshape(shape) if raw.size else torch.empty(shape, dtype=kind)


def pack(value: Any) -> bytes:
    """Any picklable value, CPU tensors of every dtype included."""
    sink = io.BytesIO()
    _Packer(sink, protocol=5).dump(value)
    return sink.getvalue()


def unpack(content: Any) -> Any:
    """The inverse of `pack`, from bytes or a buffer of our own making; tensors may be written to."""
    return pickle.loads(content)
