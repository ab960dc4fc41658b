"""An encoder whose convolutions are packed says what it says without that."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from embervlm import EmberVLMConfig
from embervlm.models.packing import PackedConv2d, can_pack
from embervlm.models.vision import VisionEncoder

CPU = torch.device("cpu")
needs_kernels = pytest.mark.skipif(not can_pack(CPU, torch.bfloat16), reason="no oneDNN bf16 kernels here")


@pytest.fixture(scope="module")
def encoder() -> VisionEncoder:
    torch.manual_seed(0)
    encoder = VisionEncoder(EmberVLMConfig.preset("embervlm-nano")).eval()
    for layer in encoder.modules():
        if isinstance(layer, nn.BatchNorm2d):  # as if trained: folding them in must change the weights
            layer.running_mean.normal_(std=0.1)
            layer.running_var.uniform_(0.5, 1.5)
    return encoder


def answer(encoder: VisionEncoder, pictures: torch.Tensor, dtype: torch.dtype, packed: bool) -> torch.Tensor:
    encoder.compute_dtype, encoder.packed = dtype, packed
    with torch.inference_mode():
        return encoder(pictures)


@needs_kernels
@pytest.mark.parametrize("count", [1, 3])
def test_packed_features_are_as_near_to_float32_as_others(encoder: VisionEncoder, count: int) -> None:
    pictures = torch.randint(0, 255, (count, 3, 128, 128), dtype=torch.uint8)
    exact = answer(encoder, pictures, torch.float32, packed=False)
    narrow = answer(encoder, pictures, torch.bfloat16, packed=False)
    packed = answer(encoder, pictures, torch.bfloat16, packed=True)
    assert packed.shape == exact.shape
    assert packed.dtype == torch.float32
    error, allowed = (packed - exact).abs().mean(), (narrow - exact).abs().mean()
    assert 0 < error < 1.5 * allowed


@needs_kernels
def test_every_convolution_is_packed_and_no_gelu_is_left_or_done_twice(encoder: VisionEncoder) -> None:
    answer(encoder, torch.zeros(1, 3, 128, 128, dtype=torch.uint8), torch.bfloat16, packed=True)
    copy, plain = encoder.inference_copy(), encoder.backbone
    kinds = [type(m) for m in copy.modules()]
    assert nn.Conv2d not in kinds
    assert nn.GELU not in kinds
    blocks = [m for m in plain.modules() if isinstance(m, nn.GELU)]
    assert len([m for m in copy.modules() if isinstance(m, PackedConv2d) and "gelu" in m._rest]) == len(blocks)
    assert any(isinstance(m, nn.Conv2d) for m in plain.modules())  # what trains and is saved is as it was


def test_where_it_cannot_be_packed_it_answers_unpacked(encoder: VisionEncoder) -> None:
    pictures = torch.randint(0, 255, (1, 3, 128, 128), dtype=torch.uint8)
    plain = answer(encoder, pictures, torch.float32, packed=False)
    assert torch.equal(answer(encoder, pictures, torch.float32, packed=True), plain)
    assert not can_pack(torch.device("meta"), torch.bfloat16)
