"""Each stage: what trains, that every trained part gets a gradient, that its loss falls, and what its batch holds."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from embervlm.data.schema import Record
from embervlm.stages import STAGES, get_stage
from embervlm.stages.losses import info_nce, reason_loss, selection_losses
from embervlm.stages.trusting import Scored, calibrate
from embervlm.world.dataset import build
from tests.models.fakes import tiny

KIND_OF = {0: "caption", 1: "caption", 2: "instruction", 3: "selection", 4: "reasoning"}


@pytest.fixture(scope="module")
def records() -> dict[str, list[Record]]:
    return {kind: list(build("train", kind, 8, 0, 64, fleets=4)) for kind in set(KIND_OF.values())}


@pytest.mark.parametrize(("number", "phase"), [(n, p) for n in STAGES for p in get_stage(n).phases])
def test_every_trained_part_gets_a_gradient_and_nothing_else(
    number: int, phase: str, records: dict[str, list[Record]]
) -> None:
    model = tiny()
    stage = get_stage(number)
    # Zero at the start, and until their first step nothing below them has a gradient.
    for last in (model.reasoning.reasoning_down, model.reasoning.answer_score):
        torch.nn.init.normal_(last.weight, std=0.02)
    module = stage.module(model)
    stage.prepare(model, phase)
    batch = stage.collate(model.processor, records[KIND_OF[number]], seed=1)
    module(batch, 0.5)["loss"].backward()
    for part in stage.trained(model, phase):
        parameters = [part] if isinstance(part, torch.nn.Parameter) else list(part.parameters())
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters), type(part)
    frozen = [n for n, p in model.named_parameters() if not p.requires_grad and p.grad is not None]
    assert not frozen
    assert any(p.requires_grad for p in model.vision.parameters()) == (number == 0 or phase == "joint")


@pytest.mark.parametrize("number", STAGES)
def test_the_loss_falls_on_a_few_records(number: int, records: dict[str, list[Record]]) -> None:
    model = tiny()
    stage = get_stage(number)
    module = stage.module(model)
    stage.prepare(model, stage.phases[-1])
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=3e-3)
    batch = stage.collate(model.processor, records[KIND_OF[number]], seed=1)
    losses = []
    for _ in range(12):
        loss = module(batch, 0.0)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("number", STAGES)
def test_validation_metrics_are_measured(number: int, records: dict[str, list[Record]]) -> None:
    model = tiny()
    stage = get_stage(number)
    metrics = stage.evaluate(stage.module(model), model.processor, records[KIND_OF[number]][:4], batch_size=2)
    assert stage.metric in stage.judged
    assert set(stage.judged) <= set(metrics)  # each may be the one that a configuration names
    assert all(0 <= value <= (math.inf if name.endswith("_loss") else 1) for name, value in metrics.items())


@pytest.mark.parametrize("number", STAGES)
def test_a_batch_is_a_function_of_records_and_seed(number: int, records: dict[str, list[Record]]) -> None:
    model = tiny()
    stage = get_stage(number)
    one, two = (stage.collate(model.processor, records[KIND_OF[number]], seed=3) for _ in range(2))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[k], two[k]) for k in one if isinstance(one[k], torch.Tensor))


def test_no_tag_reaches_the_model(records: dict[str, list[Record]]) -> None:
    """Scenes, requirements and slices are targets or are not in the batch: inputs do not change with them."""
    model = tiny()
    for number in (1, 2, 3, 4):
        stage = get_stage(number)
        known = records[KIND_OF[number]]
        blind = [Record(**{**r.__dict__, "tags": {}}) for r in known]
        one, two = stage.collate(model.processor, known, None), stage.collate(model.processor, blind, None)
        inputs = [k for k in one if k != "reason_labels" and isinstance(one[k], torch.Tensor)]
        differing = [k for k in inputs if k != "chain_draws" and not torch.equal(one[k], two[k])]
        assert not differing


@pytest.mark.parametrize("number", [3, 4])
def test_of_a_bare_picture_only_the_name_of_the_place_is_learned(number: int, records: dict[str, list[Record]]) -> None:
    stage, processor = get_stage(number), tiny().processor
    shown = [r for r in records[stage.kind] if r.reasoning][:8]
    bare = [dataclasses.replace(r, tags=r.tags | {"picture": {"bare": True}}) for r in shown]
    batch = stage.collate(processor, bare, seed=1)
    rows = batch["chain_labels"]
    learned = [processor.tokenizer.decode(row[row >= 0].tolist()).strip(" ,") for row in rows]
    assert learned
    assert set(learned) <= {r.tags["scene"]["environment"] for r in bare}
    if number == 4:
        assert bool((batch["step_ends"] == -1).all()), "nothing for the validator"
    usual = stage.collate(processor, shown, seed=1)["chain_labels"]
    assert int((usual >= 0).sum()) > 5 * int((rows >= 0).sum())


def test_labels_and_chains_do_not_reach_the_direct_scores(records: dict[str, list[Record]]) -> None:
    model = tiny()
    stage = get_stage(3)
    known = records["selection"][:2]
    wrong = [Record(**{**r.__dict__, "labels": [r.robots[0]["name"]], "reasoning": r.reasoning[::-1]}) for r in known]
    found = [stage.evaluate(stage.module(model), model.processor, group) for group in (known, known)]
    assert found[0] == found[1]
    from embervlm.stages.selection import score_records

    before, _ = score_records(model, model.processor, known, 2)
    after, _ = score_records(model, model.processor, wrong, 2)
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_ranking_and_team_loss_have_known_values() -> None:
    scores = torch.tensor([[2.0, 0.0, 9.0]])
    mask = torch.tensor([[True, True, False]])
    ranking, team = selection_losses(scores, torch.tensor([[1.0, 0.0, 0.0]]), mask)
    assert float(ranking) == pytest.approx(np.log1p(np.exp(-2.0)), abs=1e-5)
    assert float(team) == pytest.approx((np.log1p(np.exp(-2.0)) + np.log(2)) / 2, abs=1e-5)


def test_reasons_that_a_record_does_not_give_cost_nothing() -> None:
    reasons = torch.randn(1, 2, 2, 3, requires_grad=True)
    unknown = torch.full((1, 2, 2, 3), -1.0)
    assert float(reason_loss(reasons, unknown, torch.ones(1, 2, dtype=torch.bool))) == 0


def test_info_nce_of_perfect_pairs_is_small_and_of_swapped_ones_large() -> None:
    unit = torch.eye(4)
    scale = torch.tensor(np.log(50.0))
    right = info_nce(unit, unit, scale, unit, unit, 0)
    wrong = info_nce(unit, unit.flip(0), scale, unit, unit.flip(0), 0)
    assert float(right["loss"]) < 1e-3 < 10 < float(wrong["loss"])
    assert float(right["acc_i2t"]) == 1
    assert float(wrong["acc_i2t"]) == 0


def test_calibration_recovers_a_known_temperature() -> None:
    model = tiny()
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (3000, 4))
    labels = (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(float)
    # Two modes whose scores are on different scales: each gets its own, and a mode that was not measured the joint one.
    calibrate(model, {"picture": Scored(list(3 * logits), list(labels)), "text": Scored(list(logits), list(labels))})
    for mode, scale in (("picture", 3.0), ("picture_reasoned", 3.0), ("text", 1.0)):
        found = model.log_odds(scale * logits, mode)
        assert np.abs(found - logits).mean() < 0.15, mode
    assert 1 < model.config.score_temperature < 3
    calibrate(model, {"text": Scored(list(logits), list(labels))})
    assert set(model.config.calibration) == {"text"}
    assert np.abs(model.log_odds(logits, "picture") - logits).mean() < 0.15


def test_an_unknown_stage_or_loss_is_named() -> None:
    with pytest.raises(ValueError, match="0, 1, 2, 3, 4"):
        get_stage(7)
    with pytest.raises(ValueError, match=r"stages.1.losses.contrast.*contrastive"):
        get_stage(1, {"contrast": 1.0})
