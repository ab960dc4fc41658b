"""Kinds of requirement read from words alone: what they are, and what they do to a score."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from embervlm import EmberVLMConfig
from embervlm.data.schema import Record
from embervlm.models.config import NAMED_KINDS
from embervlm.models.heads import KindReader, Words, both
from embervlm.stages import get_stage
from embervlm.stages.losses import words_loss
from embervlm.stages.selection import asked_labels, lacking_labels
from embervlm.world.ontology import REQUIREMENTS
from tests.models.fakes import tiny

ODDS = st.floats(-40, 40)


@settings(deadline=None)
@given(ODDS, ODDS)
def test_both_is_the_conjunction_of_independent_things(first: float, second: float) -> None:
    a, b = torch.tensor(first, dtype=torch.float64), torch.tensor(second, dtype=torch.float64)
    found = torch.sigmoid(both(a, b))
    torch.testing.assert_close(found, torch.sigmoid(a) * torch.sigmoid(b), rtol=1e-9, atol=1e-30)


def test_a_reader_does_not_see_padding() -> None:
    torch.manual_seed(0)
    reader = KindReader(16, 5, inner=8)
    hidden = torch.randn(2, 7, 16)
    mask = torch.arange(7)[None, :] < torch.tensor([[4], [7]])
    whole = reader(hidden, mask)
    torch.testing.assert_close(reader(hidden[:1, :4], mask[:1, :4]), whole[:1])
    assert not torch.allclose(reader(hidden[:1], mask[1:]), whole[:1])


def test_a_robot_that_lacks_what_is_asked_for_scores_lower() -> None:
    model = tiny("bert")
    count, width = model.config.word_kinds, model.language.width
    asks = torch.full((1, count), -9.0)
    lacks = torch.full((1, 3, count), -9.0)
    asks[0, 1] = lacks[0, 0, 1] = lacks[0, 1, 2] = 9.0  # the first lacks what is asked for, the second something else
    same = torch.ones(1, 3, width)
    with torch.no_grad():
        scores, reasons = model.selection(same, Words(same, torch.ones(1, width), asks, lacks))
    assert float(scores[0, 0]) < float(scores[0, 1]) - 1
    assert float(scores[0, 1]) == pytest.approx(float(scores[0, 2]), abs=1e-2)
    assert float(reasons[0, 0, 1, 1]) > 5
    assert float(reasons[0, 0, 0, 1]) > float(reasons[0, 0, 0, 2])


def record(**tags: object) -> Record:
    robots = [{"name": name, "capabilities": [], "limitations": [], "environments": []} for name in ("a", "b")]
    return Record(
        id="1",
        source="s",
        kind="selection",
        split="train",
        image=None,
        instruction="x",
        response="",
        robots=robots,
        labels=["a"],
        tags=tags,
    )


def test_what_free_words_ask_for_is_learned_where_a_record_says_it() -> None:
    labels = asked_labels([record(asks=["kg", "high"]), record()])
    assert {NAMED_KINDS[i] for i in labels[0].nonzero()[:, 0].tolist()} == {"kg", "high"}
    assert bool((labels[1] == -1).all())
    asks = torch.zeros(2, len(NAMED_KINDS) + 3, requires_grad=True)
    loss = words_loss(asks, labels)
    loss.backward()
    assert float(loss) == pytest.approx(len(NAMED_KINDS) * 0.6931, rel=1e-3)
    assert asks.grad is not None
    assert float(asks.grad[1].abs().sum() + asks.grad[0, -3:].abs().sum()) == 0
    assert float(words_loss(asks, labels[1:].expand(2, -1))) == 0


def test_what_robots_lack_is_learned_where_their_words_say_it() -> None:
    told = {"a": {"lacks": ["high"], "unsure": ["long", "kg"]}, "b": {"lacks": [], "unsure": []}}
    labels = lacking_labels([record(told=told), record()], 3)
    assert labels.shape == (2, 3, len(NAMED_KINDS))
    assert {NAMED_KINDS[i] for i in (labels[0, 0] == 1).nonzero()[:, 0].tolist()} == {"high"}
    assert {NAMED_KINDS[i] for i in (labels[0, 0] == -1).nonzero()[:, 0].tolist()} == {"long", "kg"}
    assert bool((labels[0, 1] == 0).all())
    assert bool((labels[0, 2] == -1).all() and (labels[1] == -1).all())
    assert float(words_loss(torch.zeros(2, 3, len(NAMED_KINDS) + 1), labels)) == pytest.approx(
        (len(NAMED_KINDS) - 1) * 0.6931, rel=1e-3
    )


def test_stage_3_trains_the_readers_on_words_alone() -> None:
    model, stage = tiny("bert"), get_stage(3)
    stage.prepare(model, "main")
    told = {name: {"lacks": ["high"], "unsure": []} for name in ("a", "b")}
    batch = stage.collate(model.processor, [record(asks=["kg"], told=told), record()], 0)
    losses = stage.module(model)(batch)
    losses["loss"].backward()
    assert {"asking_loss", "lacking_loss"} <= losses.keys()
    for reader in (model.asking, model.lacking):
        assert reader is not None
        assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in reader.parameters())
    assert "asking_loss" not in get_stage(3).module(tiny())(batch)


def test_there_are_kinds_for_all_that_has_a_name() -> None:
    with pytest.raises(ValueError, match="word_kinds: 5 is not enough"):
        EmberVLMConfig(word_kinds=5)
    assert EmberVLMConfig(word_kinds=len(REQUIREMENTS) + len(NAMED_KINDS)).word_kinds > 0


def test_lowest_layers_of_a_pretrained_text_side_stay() -> None:
    model, stage = tiny("bert"), get_stage(3)
    stage.prepare(model, "main")
    with pytest.raises(ValueError, match="the text side is new"):
        model.freeze_lowest(1)
    model.config.language = "a sentence encoder"
    with pytest.raises(ValueError, match="3 of 2 layers"):
        model.freeze_lowest(3)
    model.freeze_lowest(0)
    assert all(p.requires_grad for p in model.language.parameters())
    model.freeze_lowest(1)
    assert not any(p.requires_grad for p in model.language.layers[0].parameters())
    assert all(p.requires_grad for p in model.language.layers[1].parameters())
    assert not model.language.decoder.get_input_embeddings().weight.requires_grad
