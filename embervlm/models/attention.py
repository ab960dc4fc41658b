"""Attention for short sequences on a CPU, as one of transformers' attention implementations.

Our sequences are short (tens of queries, a few hundred keys) and mostly masked. PyTorch's fused CPU kernel is made
for long ones: with a gradient, and in bf16 with or without one, it takes longer here than plain matrix products
(`benchmarks/attention.py` measures by how much). Elsewhere the fused kernel is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv

if TYPE_CHECKING:
    from embervlm.models.cache import FleetView
    from embervlm.models.writing import WritingAdapters

NAME = "embervlm"
_recorded: ContextVar[list[Tensor] | None] = ContextVar("recorded", default=None)


@contextmanager
def recorded_attention() -> Iterator[list[Tensor]]:
    """Collect the weights of every layer that runs inside, in order: (B, H, Q, K) float32. Costs time; for looking."""
    weights: list[Tensor] = []
    token = _recorded.set(weights)
    try:
        yield weights
    finally:
        _recorded.reset(token)


def recording() -> bool:
    """Whether attention weights are being collected; only whole masks give them."""
    return _recorded.get() is not None


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    view: FleetView | None = None,
    writer: WritingAdapters | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention with a boolean mask.

    Args:
        query: (B, H, Q, d). key, value: (B, K heads, K, d).
        attention_mask: (B, 1, Q, K) True where a query may attend.
        view: what selection tokens see beside key and value, which are then their own; in place of a mask.
        writer: the adapters of tokens that are being written.

    Returns:
        (B, Q, H, d) and None in place of the weights.
    """
    if view is not None:
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        own = view.attend(int(module.layer_idx), query.to(value.dtype) * scale, key, value)  # type: ignore[arg-type]
        return own.transpose(1, 2).contiguous(), None
    asked = query
    if writer is not None:
        query = writer.queries(int(module.layer_idx), asked)  # type: ignore[arg-type]
    groups = getattr(module, "num_key_value_groups", 1)
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    record = _recorded.get()
    if record is not None:
        seen = query.float() @ key.float().transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        if attention_mask is not None:
            seen = seen.masked_fill(~attention_mask, -1e4)
        record.append(seen.softmax(dim=-1).detach())
    if query.device.type == "cpu" and (query.requires_grad or value.dtype == torch.bfloat16):
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        dtype = value.dtype
        scores = (query.to(dtype) * scale) @ key.to(dtype).transpose(2, 3)
        if attention_mask is not None:
            scores.masked_fill_(~attention_mask, -1e4)
        weights = F.dropout(scores.softmax(dim=-1), dropout, module.training)
        output = weights.to(dtype) @ value
    else:
        output = F.scaled_dot_product_attention(
            query,
            key.to(query.dtype),
            value.to(query.dtype),
            attn_mask=attention_mask,
            dropout_p=dropout,
            scale=scaling,
        )
    if writer is not None:
        output = writer.found(int(module.layer_idx), asked, output)  # type: ignore[arg-type]
    return output.transpose(1, 2).contiguous(), None


def register() -> str:
    """Make the implementation known to transformers (once) and return its name."""
    AttentionInterface.register(NAME, attention)
    return NAME
