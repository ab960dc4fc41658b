"""The decoder's fused norms: the same numbers under the same names."""

from __future__ import annotations

import copy

import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from embervlm.models.config import EmberVLMConfig
from embervlm.models.fused import FusedRMSNorm, fuse
from embervlm.models.language import LanguageModel


@given(st.integers(0, 2**31 - 1), st.floats(1e-3, 1e3))
def test_a_fused_norm_gives_what_transformers_gives(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    theirs = Qwen3RMSNorm(24, eps=1e-6)
    with torch.no_grad():
        theirs.weight.copy_(torch.randn(24, generator=generator))
    ours = torch.nn.ModuleDict({"norm": copy.deepcopy(theirs)})
    fuse(ours)
    assert isinstance(ours["norm"], FusedRMSNorm)
    x = torch.randn(3, 5, 24, generator=generator) * scale
    torch.testing.assert_close(ours["norm"](x), theirs(x))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = ours["norm"](x)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), theirs(x), rtol=0.01, atol=1e-3)


def test_every_norm_of_a_layer_is_fused_and_the_last_is_not() -> None:
    model = LanguageModel(EmberVLMConfig.preset("embervlm-nano"))
    fused = {name for name, module in model.named_modules() if isinstance(module, FusedRMSNorm)}
    assert len(fused) == 4 * len(model.decoder.get_decoder().layers), "before and after attention, of queries and keys"
    assert not isinstance(model.decoder.get_decoder().norm, FusedRMSNorm)
    assert all(f"{name}.weight" in model.state_dict() for name in fused), "the names of the weights stay"
