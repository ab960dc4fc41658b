"""Adapters for writing: they change what is written and nothing that is read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from embervlm import EmberVLM, EmberVLMConfig
from embervlm.data.prompts import chain_pieces
from embervlm.fleet import default_fleet
from embervlm.models.modeling import EmberVLMOutput
from embervlm.stages import get_stage
from tests.models.fakes import TASK, start, tiny

NAMES = default_fleet().names
STEPS = [f"task: {TASK}. asks: nothing special.", "place: harbour.", "needed: water.", f"send [{NAMES[0]}]."]


@pytest.fixture
def model() -> EmberVLM:
    return tiny("bert")


def passed(model: EmberVLM) -> EmberVLMOutput:
    """A teacher-forced chain over the default fleet."""
    processor = model.processor
    written = [processor.pieces(chain_pieces(STEPS, NAMES))]
    inputs = processor.texts([TASK]) | processor.robots([default_fleet()])
    inputs |= processor.generated(written, start="<|reasoning_start|>")
    with torch.inference_mode():
        return model(select=True, select_reasoned=True, **inputs)


def silenced(model: EmberVLM) -> EmberVLM:
    """The model with its adapters as they start."""
    assert model.writer is not None
    start(model.writer)
    return model


def test_what_is_read_does_not_pass_through_the_adapters(model: EmberVLM) -> None:
    told, plain = passed(model), passed(silenced(tiny("bert")))
    assert torch.equal(told.scores, plain.scores)
    assert torch.equal(told.context.words.asks, plain.context.words.asks)
    assert not torch.allclose(told.text_hidden, plain.text_hidden, atol=1e-2)


def test_new_adapters_change_nothing() -> None:
    """Those of a new model, beside one of the same weights that has none."""
    config = tiny("bert").config.to_dict()
    with_adapters, without = (EmberVLM(EmberVLMConfig(**config | {"writer_width": width})) for width in (8, 0))
    missing, unexpected = with_adapters.load_state_dict(without.state_dict(), strict=False)
    assert not unexpected
    assert {name.split(".")[0] for name in missing} == {"writer"}
    for made in (with_adapters, without):
        made.eval().processor = tiny("bert").processor
    for name in ("text_hidden", "scores", "reasoned_scores"):
        assert torch.equal(getattr(passed(with_adapters), name), getattr(passed(without), name))


def test_adapters_join_a_saved_model_that_has_none_without_changing_it(tmp_path: Path) -> None:
    config = tiny("bert").config.to_dict()
    EmberVLM(EmberVLMConfig(**config | {"writer_width": 0})).save_pretrained(tmp_path)
    joined, saved = EmberVLM.from_pretrained(tmp_path, writer_width=8), EmberVLM.from_pretrained(tmp_path)
    assert joined.writer is not None
    assert saved.writer is None
    for read in (joined, saved):
        read.eval().processor = tiny("bert").processor
    assert torch.equal(passed(joined).text_hidden, passed(saved).text_hidden)


def test_every_stage_that_writes_trains_them(model: EmberVLM) -> None:
    assert model.writer is not None
    for stage, phase, trained in (
        (0, "main", False),
        (1, "main", True),
        (2, "main", True),
        (3, "main", True),
        (4, "modules", True),
        (4, "joint", True),
    ):
        get_stage(stage).prepare(model, phase)
        assert {p.requires_grad for p in model.writer.parameters()} == {trained}, (stage, phase)
    slow = {id(p) for p in model.pretrained_parameters()}
    assert not slow & {id(p) for p in model.writer.parameters()}, "they learn at the rate of new parts"


def test_adapters_are_there_only_where_they_are_asked_for() -> None:
    assert tiny().writer is None
    assert tiny().writing_parts() == []
    with pytest.raises(ValueError, match="writer_width: -1"):
        EmberVLMConfig(writer_width=-1)
