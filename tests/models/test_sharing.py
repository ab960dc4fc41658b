"""Robots that are read once for all samples, and norms and rotations in one: the same numbers as the plain way."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention, Qwen3RMSNorm, apply_rotary_pos_emb

from embervlm import EmberVLM, Fleet, Robot
from embervlm.fleet import default_fleet
from embervlm.models import modeling
from embervlm.models.fused import FusedAttention, FusedRMSNorm
from tests.models.fakes import TASK, tiny

FLEETS = [list(default_fleet()), [default_fleet()[2], Robot("Mole", ("digs",))], list(default_fleet())[3:0:-1]]
TASKS = [TASK, "carry a crate over the bridge", "look"]


@contextmanager
def plainly(model: EmberVLM) -> Iterator[None]:
    """Selection tokens look through a mask at joined keys; norms and rotations are transformers'."""
    fused = [module for module in model.modules() if isinstance(module, FusedAttention)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling, "recording", lambda: True)
        patch.setattr("embervlm.models.fused.by_hand", lambda x: False)
        for module in fused:
            module.__class__ = Qwen3Attention
        yield
        for module in fused:
            module.__class__ = FusedAttention


def results(model: EmberVLM, chain: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Outputs and gradients of three samples with fleets of different sizes, which share robots."""
    processor = model.processor
    inputs = processor.texts(TASKS) | processor.robots([Fleet(robots) for robots in FLEETS])
    if chain:
        pieces = [processor.pieces([("words", task), ("mention", i)]) for i, task in enumerate(TASKS[::-1])]
        inputs |= processor.generated(pieces, start="<|reasoning_start|>")
    output = model(**inputs, select=True, select_reasoned=chain)
    names = ("scores", "reasons", "text_hidden", "reasoned_scores")
    found = {name: value for name in names if (value := getattr(output, name)) is not None}
    there = output.context.robot_mask
    found = {k: v if k == "text_hidden" else v[there] for k, v in found.items()}
    loss = sum((v * torch.linspace(-1, 1, v.numel()).view_as(v)).sum() for v in found.values())
    model.zero_grad()
    loss.backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return {k: v.detach() for k, v in found.items()}, gradients


@pytest.mark.parametrize("chain", [False, True])
@pytest.mark.parametrize("model_type", ["qwen3", "llama", "gpt2", "bert"])
def test_shared_robots_give_the_numbers_and_gradients_of_joined_ones(model_type: str, chain: bool) -> None:
    model = tiny(model_type)
    found, gradients = results(model, chain)
    with plainly(model):
        expected, plain = results(model, chain)
    assert float(expected["scores"].std()) > 1e-3
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert gradients.keys() == plain.keys()
    whole, difference = (torch.stack([g.norm() for g in gs]) for gs in (plain.values(), _apart(gradients, plain)))
    assert float(difference.norm() / whole.norm()) < 1e-5
    assert bool((difference <= 1e-4 * whole + 1e-5 * whole.max()).all())


def _apart(found: dict[str, Tensor], expected: dict[str, Tensor]) -> list[Tensor]:
    return [found[name] - value for name, value in expected.items()]


def test_autocast_changes_no_more_than_rounding() -> None:
    model = tiny()
    with torch.autocast("cpu", torch.bfloat16):
        found, gradients = results(model, chain=True)
        with plainly(model):
            expected, plain = results(model, chain=True)
    torch.testing.assert_close(found["scores"], expected["scores"], atol=0.1, rtol=0.05)
    whole, difference = (torch.cat([g.flatten() for g in gs]) for gs in (plain.values(), _apart(gradients, plain)))
    assert float(difference.norm() / whole.norm()) < 0.05


def test_without_a_gradient_a_batch_scores_as_its_samples_do() -> None:
    model = tiny()
    requests = [{"task": task, "fleet": robots} for task, robots in zip(TASKS, FLEETS, strict=True)]
    together = model.score_many(requests)
    for request, scores in zip(requests, together, strict=True):
        assert scores.tolist() == pytest.approx(model.score_many([request])[0].tolist(), abs=1e-4)


@given(st.integers(0, 2**31 - 1), st.integers(1, 4), st.integers(1, 6))
def test_a_rotated_norm_gives_transformers_numbers_and_gradients(seed: int, samples: int, tokens: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    theirs, ours = Qwen3RMSNorm(8, eps=1e-6), FusedRMSNorm(8, eps=1e-6)
    with torch.no_grad():
        theirs.weight.copy_(torch.randn(8, generator=generator))
        ours.weight.copy_(theirs.weight)
    angles = torch.randn(samples, tokens, 4, generator=generator).repeat(1, 1, 2)
    rotation = angles.cos(), angles.sin()
    x = torch.randn(samples, tokens, 3, 8, generator=generator, requires_grad=True)
    y = copy.deepcopy(x)
    expected, _ = apply_rotary_pos_emb(theirs(x).transpose(1, 2), x.transpose(1, 2), *rotation)
    found = ours(y, rotation)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(ours(y.detach(), rotation), expected, msg="without a gradient")
    weights = torch.randn(expected.shape, generator=generator)
    (expected * weights).sum().backward()
    (found * weights).sum().backward()
    torch.testing.assert_close(y.grad, x.grad, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, atol=1e-4, rtol=1e-4)
