"""Convolutions laid out as the processor's own kernels want them, with the GELU behind them in the same operation.

oneDNN copies a convolution's weights into the layout of its kernel, and PyTorch has it do so at every call: for one
picture that copying is a good part of the encoder's time. Here it is done once, as PyTorch's compiler does when it
freezes a model. For processes that answer for long: packing takes a pass, and the weights stand in memory once more.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this PyTorch has the operations, and this processor the kernels: bf16 on a CPU with oneDNN."""
    if device.type != "cpu" or dtype != torch.bfloat16 or not torch.backends.mkldnn.is_available():
        return False
    operations: Any = torch.ops.mkldnn
    needed = ("_convolution_pointwise", "_is_mkldnn_bf16_supported")
    return all(hasattr(operations, name) for name in needed) and bool(operations._is_mkldnn_bf16_supported())


class PackedConv2d(nn.Module):
    """A convolution that no longer trains: weights in oneDNN's layout, and GELU where it follows.

    Args:
        layer: with zero padding; its weights are not kept.
        shape: (B, C, H, W) of the inputs to pack for; others work too, and may take longer.
        gelu: apply the exact GELU to what comes out.
    """

    def __init__(self, layer: nn.Conv2d, shape: torch.Size, gelu: bool) -> None:
        super().__init__()
        geometry = (layer.padding, layer.stride, layer.dilation, layer.groups)
        pack: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
        self._weight = pack(layer.weight.detach().to_mkldnn(), *geometry, tuple(shape))
        self._bias = None if layer.bias is None else layer.bias.detach()
        self._rest: tuple[Any, ...] = (*geometry, "gelu" if gelu else "none", [], "none")

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C', H', W')."""
        return torch.ops.mkldnn._convolution_pointwise(x, self._weight, self._bias, *self._rest)


@torch.no_grad()
def pack_convolutions(model: nn.Module, example: Tensor) -> None:
    """Replace every convolution of `model` in place; it is for answering only from then on, and has no weights to save.

    A GELU is taken into the convolution before it where a block calls them `conv1` and `act` or `act1`, as RepViT does.

    Args:
        example: (B, 3, S, S) pictures as they will come, in the model's precision and memory format.
    """
    shapes: dict[nn.Module, torch.Size] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        shapes[module] = inputs[0].shape

    hooks = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, nn.Conv2d)]
    model(example)
    for hook in hooks:
        hook.remove()
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if not isinstance(layer, nn.Conv2d) or layer.padding_mode != "zeros" or layer not in shapes:
                continue
            act = next((a for a in ("act", "act1") if isinstance(getattr(parent, a, None), nn.GELU)), None)
            gelu = name == "conv1" and act is not None and getattr(parent, act).approximate == "none"
            setattr(parent, name, PackedConv2d(layer, shapes[layer], gelu))
            if gelu and act is not None:
                setattr(parent, act, nn.Identity())
