"""RepViT (Wang et al., CVPR 2024, arXiv:2307.09283) through timm, as a source of visual tokens."""

from __future__ import annotations

from typing import Any

import timm
import torch
from safetensors.torch import load_file
from timm.utils import reparameterize_model
from torch import Tensor, nn

from embervlm.models.config import EmberVLMConfig
from embervlm.models.packing import can_pack, pack_convolutions


class VisionEncoder(nn.Module):
    """Pictures (B, 3, S, S) of bytes to visual tokens (B, P, V) with P = (S/32)².

    Pictures arrive as bytes and are normalised here, so that they cross processes at a quarter of the size.

    `freeze()` means eval mode too: batch statistics do not move. A frozen encoder runs as a fused copy (convolutions
    with their batch norms folded in) in channels_last, which is several times faster on a CPU.
    """

    def __init__(self, config: EmberVLMConfig) -> None:
        super().__init__()
        self.backbone: Any = timm.create_model(
            config.vision_name, pretrained=False, num_classes=0, **config.vision_args
        )
        self.width = int(self.backbone.num_features)  # type: ignore[arg-type]
        self.frozen = False
        for name in ("image_mean", "image_std"):
            value = torch.tensor(getattr(config, name)).view(1, 3, 1, 1)
            self.register_buffer(name, value)
        self.image_mean: Tensor
        self.image_std: Tensor
        #: What a fused copy computes in; features come back as float32 whatever it is.
        self.compute_dtype = torch.float32
        #: Whether its convolutions are packed for this processor, where that is possible.
        self.packed = False
        self._size = config.image_size
        self._fused: list[Any] = []  # in a list, so that it is no submodule and is never saved
        self._fused_from: tuple[int, torch.dtype, bool] | None = None
        self._held = False

    def load_weights(self, source: str, config: EmberVLMConfig) -> None:
        """Pretrained weights from the timm hub ("timm") or a safetensors file; an error if they do not fit."""
        if source == "timm":
            donor = timm.create_model(config.vision_name, pretrained=True, num_classes=0, **config.vision_args)
            state = donor.state_dict()
        else:
            state = load_file(source)
        self.backbone.load_state_dict(state)

    def freeze(self, parameters: bool = True, statistics: bool = True) -> None:
        """Stop (or resume) gradients and batch statistics; the latter stay still through any later `train()`."""
        self.frozen, self._held = statistics, False
        self.requires_grad_(not parameters)
        self.train(self.training)

    def train(self, mode: bool = True) -> VisionEncoder:
        """As `nn.Module.train`, but with frozen statistics it stays in eval mode."""
        if mode and not self._held:  # `eval()` before every answer keeps the copy: fusing takes longer than an answer
            self._fused.clear()
        return super().train(mode and not self.frozen)

    def hold_copy(self) -> None:
        """Fuse the backbone now and keep to that copy until the next `freeze`.

        For weights that stand still while ZeRO-3 spreads them over the workers: between their uses they are empty, each
        gathering counts as a change, and a copy made by then would carry DeepSpeed's hooks.
        """
        self._held = False
        self.inference_copy()
        self._held = True

    def inference_copy(self) -> Any:
        """The fused copy of the backbone, made anew where a weight has changed in place since."""
        tensors = (*self.backbone.parameters(), *self.backbone.buffers())
        made_from = (sum(t._version for t in tensors), self.compute_dtype, self.packed)
        if not self._fused or (self._fused_from != made_from and not self._held):
            fused = reparameterize_model(self.backbone.eval(), inplace=False)
            fused = fused.requires_grad_(False).to(self.compute_dtype).to(memory_format=torch.channels_last)
            device = self.image_mean.device
            if self.packed and can_pack(device, self.compute_dtype):
                picture = torch.zeros(1, 3, self._size, self._size, dtype=self.compute_dtype, device=device)
                pack_convolutions(fused, picture.contiguous(memory_format=torch.channels_last))
            self._fused, self._fused_from = [fused], made_from
        return self._fused[0]

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, S, S) → (B, P, V)."""
        scaled = (pixel_values.float() / 255 - self.image_mean) / self.image_std
        pixel_values = scaled.contiguous(memory_format=torch.channels_last)
        trainable = any(p.requires_grad for p in self.backbone.parameters())
        if self.training or (trainable and torch.is_grad_enabled()):
            features = self.backbone.forward_features(pixel_values)
        else:
            with torch.no_grad():
                features = self.inference_copy().forward_features(pixel_values.to(self.compute_dtype))
                if self.compute_dtype != torch.float32:
                    features = features.float()
        return features.flatten(2).transpose(1, 2)
