"""A decoder's norms and rotary positions with fewer passes over memory than transformers takes, same mathematics.

On a CPU an operation on activations costs what reading and writing them costs. transformers writes a norm as six
operations and a rotation as nine, autograd as many again, most of them in float32; with a gradient these here take
a third of it. Shape legend: B batch, T tokens, H heads, d width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention

#: Cosines and sines of rotary positions: (B, T, d) float32, the second half of the last dimension equal to the first.
Rotation = tuple[Tensor, Tensor]


def _rotated(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """(B, T, H, d) with its halves (a, b) turned: (a·cos - b·sin, b·cos + a·sin). Turned back by -sin."""
    half = x.shape[-1] // 2
    cosine, sine = cosine[:, :, None], sine[:, :, None]
    turned = x * cosine
    turned[..., :half].addcmul_(x[..., half:], sine[..., :half], value=-1)
    turned[..., half:].addcmul_(x[..., :half], sine[..., half:])
    return turned


class _Norm(torch.autograd.Function):
    """x · weight / rms(x) in float32, rounded once at the end; behind it, where given, the rotation."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype, *rotation: Tensor) -> Tensor:
        """(…, width) → the same; with a rotation (B, T, H, d) → (B, H, T, d)."""
        wide = x.to(weight.dtype)
        inverse = (
            torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        )
        ctx.save_for_backward(x, weight, inverse, *rotation)
        normed = (wide * inverse).mul_(weight)
        if not rotation:
            return normed.to(dtype)
        turned = _rotated(normed, *rotation).transpose(1, 2)
        return torch.empty(turned.shape, dtype=dtype, device=x.device).copy_(turned)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Of x̂ = x / rms(x): dx = (g·w - x̂ · mean(g·w·x̂)) / rms(x), dw = Σ g·x̂."""
        x, weight, inverse, *rotation = ctx.saved_tensors
        if rotation:
            cosine, sine = rotation
            grad = grad.transpose(1, 2).to(weight.dtype, memory_format=torch.contiguous_format)
            grad = _rotated(grad, cosine, -sine)
        else:
            grad = grad.to(weight.dtype)
        unit = x * inverse
        product = grad * unit
        with torch.autocast(x.device.type, enabled=False):
            share = (product @ weight).div_(-x.shape[-1])[..., None]
        dx = (grad * weight).addcmul_(unit, share).mul_(inverse).to(x.dtype)
        dweight = product.flatten(0, -2).sum(dim=0) if ctx.needs_input_grad[1] else None
        return dx, dweight, None, None, *(None for _ in rotation)


class FusedRMSNorm(nn.RMSNorm):
    """A decoder layer's RMSNorm (arXiv:1910.07467) in the precision of the products that follow.

    transformers hands fp32 on, which autocast then converts once for every product.
    """

    def forward(self, x: Tensor, rotation: Rotation | None = None) -> Tensor:
        """(…, width) → (…, width); bf16 or fp16 where autocast is on, else of the input's precision.

        With a rotation (B, T, H, d) → (B, H, T, d), rotated.
        """
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        if by_hand(x):
            assert self.eps is not None
            return _Norm.apply(x, self.weight, self.eps, dtype, *(rotation or ()))
        normed = super().forward(x.to(self.weight.dtype))
        if rotation is not None:
            normed = _rotated(normed, *rotation).transpose(1, 2)
        return normed.to(dtype)


def by_hand(x: Tensor) -> bool:
    """Whether passes over memory count: on a CPU, with a gradient. A GPU has one kernel for a norm already."""
    return torch.is_grad_enabled() and x.requires_grad and x.device.type == "cpu"


class FusedAttention(Qwen3Attention):
    """Qwen3's attention, the norms of queries and keys and their rotation in one."""

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: Rotation,
        attention_mask: Tensor | None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """As transformers' own, (B, T, D) → (B, T, D)."""
        if not by_hand(hidden_states):
            return super().forward(hidden_states, position_embeddings, attention_mask, past_key_values, **kwargs)
        heads = (*hidden_states.shape[:-1], -1, self.head_dim)
        query = self.q_norm(self.q_proj(hidden_states).view(heads), position_embeddings)
        key = self.k_norm(self.k_proj(hidden_states).view(heads), position_embeddings)
        value = self.v_proj(hidden_states).view(heads).transpose(1, 2)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attend: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]
        dropout = self.attention_dropout if self.training else 0.0
        output, weights = attend(
            self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs
        )
        return self.o_proj(output.flatten(2)), weights


def fuse(layers: nn.Module) -> None:
    """Replace what can be replaced below `layers`; the weights keep their names and values."""
    for parent in layers.modules():
        for name, child in parent.named_children():
            epsilon = getattr(child, "variance_epsilon", None)
            if epsilon is not None and type(child).__name__.endswith("RMSNorm"):
                weight = child.weight
                assert isinstance(weight, nn.Parameter)
                fused = FusedRMSNorm(weight.shape[-1], eps=epsilon)
                fused.weight = weight
                setattr(parent, name, fused)
            if type(child) is Qwen3Attention:
                child.__class__ = FusedAttention  # only `forward` differs
