"""How far stage 4 lets a chain correct an answer: what helps is kept, what does not is turned off, exactly."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from embervlm.models.heads import ReasoningModule
from embervlm.stages.trusting import WEIGHTS, Corrected, choose_weight, finish_reasoned
from tests.evaluation import fakes
from tests.models.fakes import TASK, tiny


def corrected(seed: int, helpful: float, noise: float = 0.0, records: int = 64, robots: int = 4) -> Corrected:
    """Direct scores with errors, of which a correction takes away the share `helpful`, and adds noise."""
    rng = np.random.default_rng(seed)
    labels = [np.eye(robots)[rng.integers(robots)] for _ in range(records)]
    errors = [rng.normal(0, 3, robots) for _ in labels]
    direct = [4 * label - 2 + error for label, error in zip(labels, errors, strict=True)]
    added = [-helpful * error + rng.normal(0, noise, robots) for error in errors]
    return Corrected(direct, added, labels)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([32, 64]))
def test_a_harmful_correction_is_turned_off_and_a_helpful_one_is_kept(seed: int, records: int) -> None:
    harmful = choose_weight({"picture_reasoned": corrected(seed, -0.5, records=records)})
    assert harmful["answer_weight"] == 0
    helpful = choose_weight({"picture_reasoned": corrected(seed, 0.5, records=64)})
    assert helpful["answer_weight"] == 1
    assert helpful["answer_loss_100"] < helpful["answer_loss_0"] - 2 * helpful["answer_loss_error"]


def test_one_that_goes_too_far_counts_by_the_part_that_is_right() -> None:
    found = choose_weight({"picture_reasoned": corrected(0, 2.0)})
    assert found["answer_weight"] == 0.5
    assert min(WEIGHTS, key=lambda weight: found[f"answer_loss_{round(100 * weight)}"]) == 0.5


@pytest.mark.parametrize("shape", ["shift", "stretch"])
def test_what_calibration_would_do_too_is_no_gain(shape: str) -> None:
    """Scores that are all too low and too small: a correction that only mends that is not the chain's merit."""
    plain = corrected(0, 0.0)
    direct = [row / 3 - 1 for row in plain.direct]
    added = [np.ones_like(row) if shape == "shift" else 0.5 * row for row in direct]
    found = choose_weight({"picture_reasoned": Corrected(direct, added, plain.labels)})
    assert found["answer_weight"] == 0
    assert found["answer_loss_100"] == pytest.approx(found["answer_loss_0"], abs=1e-3)


def test_noise_is_hardly_ever_taken_for_help() -> None:
    found = [choose_weight({"picture_reasoned": corrected(seed, 0.0, 0.3)}) for seed in range(40)]
    assert sum(one["answer_weight"] > 0 for one in found) <= 2
    assert sum(one["answer_loss_25"] < one["answer_loss_0"] for one in found) > 5, "the least loss would keep some"


def test_one_weight_serves_all_ways_of_asking() -> None:
    """What helps with a picture and harms more without one is not kept."""
    modes = {"picture_reasoned": corrected(0, 0.2), "text_reasoned": corrected(1, -1.0)}
    assert choose_weight({"picture_reasoned": modes["picture_reasoned"]})["answer_weight"] == 1
    assert choose_weight(modes)["answer_weight"] == 0


def trained_head(module: ReasoningModule) -> ReasoningModule:
    """As if stage 4 had trained it."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in module.answer_score.parameters():
            torch.nn.init.normal_(parameter)
    return module


@given(st.sampled_from(WEIGHTS) | st.floats(0, 1))
def test_folding_gives_the_weight_times_the_correction(weight: float) -> None:
    module = trained_head(ReasoningModule(16))
    tokens, direct = torch.randn(3, 4, 16), 5 * torch.randn(3, 4)
    added = module.answer(tokens, torch.zeros(3, 4))
    module.weigh_answer(weight)
    torch.testing.assert_close(module.answer(tokens, torch.zeros(3, 4)), weight * added, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(module.answer(tokens, direct), direct + weight * added)
    if weight == 0:
        assert torch.equal(module.answer(tokens, direct), direct)


def test_a_weight_changes_the_answers_of_a_model_and_not_its_chains() -> None:
    model = tiny()
    trained_head(model.reasoning)
    asked = [{"image": None, "task": TASK}]
    (before,) = model.select_many(asked, reasoning=True, max_new_tokens=6)
    assert not np.allclose(before["scores"], before["direct_scores"])
    model.reasoning.weigh_answer(0.5)
    (half,) = model.select_many(asked, reasoning=True, max_new_tokens=6)
    middle = (before["scores"] + before["direct_scores"]) / 2
    np.testing.assert_allclose(half["scores"], middle, rtol=1e-5, atol=1e-5)
    model.reasoning.weigh_answer(0.0)
    (without,) = model.select_many(asked, reasoning=True, max_new_tokens=6)
    np.testing.assert_array_equal(without["scores"], without["direct_scores"])
    assert before["reasoning"] == half["reasoning"] == without["reasoning"]


class Chained:
    """Stands for a model: direct scores that are often wrong, and a chain that mends them, or makes them worse."""

    def __init__(self, helpful: float) -> None:
        self.helpful, self.reasoning = helpful, trained_head(ReasoningModule(8))
        self.rng = np.random.default_rng(0)

    def select_many(self, requests: list[dict[str, Any]], reasoning: bool) -> list[dict[str, Any]]:
        assert reasoning
        answers = []
        for one in requests:
            # The only robot that can do it: see the fakes' labels.
            right = fakes.SCENES.get((one["image"] or b"?")[:1], "Crawler")
            truth = np.array([4.0 * (robot["name"] == right) - 2 for robot in one["fleet"]])
            direct = truth + self.rng.normal(0, 3, len(truth))
            answers.append({"direct_scores": direct, "scores": direct + self.helpful * (truth - direct)})
        return answers


@pytest.mark.parametrize(("helpful", "weight"), [(0.5, 1.0), (-0.5, 0.0)])
def test_the_model_is_left_with_the_weight_and_calibrated_on_what_it_gives(helpful: float, weight: float) -> None:
    model = Chained(helpful)
    before = SimpleNamespace(**{k: v.clone() for k, v in model.reasoning.answer_score.named_parameters()})
    records = fakes.selection_records(64, split="validation")
    found, figures = finish_reasoned(model, records)  # type: ignore[arg-type]
    assert figures["answer_weight"] == weight
    assert torch.equal(model.reasoning.answer_score.weight, weight * before.weight)
    assert torch.equal(model.reasoning.answer_score.bias, weight * before.bias)
    assert set(found) == {"picture_reasoned", "text_reasoned"}
    model.rng = np.random.default_rng(0)
    again = model.select_many([{"image": r.image, "fleet": r.robots} for r in records], reasoning=True)
    for row, answer in zip(found["picture_reasoned"].scores, again, strict=True):
        np.testing.assert_allclose(row, answer["scores"] if weight else answer["direct_scores"])
