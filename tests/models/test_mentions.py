"""Mentions of robots in generated text: lists in any order, and no robot twice in a step."""

from __future__ import annotations

import pytest
import torch

from embervlm import EmberVLM, Fleet
from embervlm.data.prompts import chain_pieces, parse_generated
from embervlm.fleet import default_fleet
from embervlm.models.layout import mentioned, spent_mentions
from embervlm.stages.losses import pointer_loss
from tests.models.fakes import tiny

STEPS = ["able: [Drone], [Humanoid] and [Robot with Legs]. [Robot with Wheels] is too slow.", "send [Humanoid]."]
NAMES = default_fleet().names


@pytest.fixture(scope="module")
def model() -> EmberVLM:
    torch.manual_seed(0)
    return tiny().eval()


def test_a_list_ends_where_it_ends(model: EmberVLM) -> None:
    processor = model.processor
    text = processor.generated([processor.pieces(chain_pieces(STEPS, NAMES))], start="<|reasoning_start|>")
    index, end = text["mention_index"][0], text["mention_end"][0]
    places = (index >= 0).nonzero()[:, 0].tolist()
    assert [NAMES[i] for i in index[places]] == [
        *("Drone", "Humanoid", "Robot with Legs"),
        "Robot with Wheels",
        "Humanoid",
    ]
    assert end[places].tolist() == [places[2]] * 3 + [places[3], places[4]]
    assert (end[index < 0] == -1).all()


def test_a_step_spends_its_mentions_and_the_next_begins_anew() -> None:
    index = torch.tensor([[-1, 2, -1, 0, -1, 2, -1]])
    closes = torch.tensor([[False, False, False, False, True, False, False]])
    spent = spent_mentions(index, closes, 3)[0]
    assert spent.int().tolist() == [
        [0, 0, 0],
        [0, 0, 1],
        [0, 0, 1],
        [1, 0, 1],
        [0, 0, 0],
        [0, 0, 1],
        [0, 0, 1],
    ]
    assert mentioned(index, 3)[0].int().sum(1).tolist() == [0, 1, 0, 1, 0, 1, 0]


def test_any_order_of_a_list_costs_the_same(model: EmberVLM) -> None:
    """The first mention of a list may be any of its robots; a robot outside of it costs."""
    processor = model.processor
    inputs = processor.texts(["look"]) | processor.robots([Fleet.of(None)])
    written = [processor.pieces(chain_pieces(["able: [Drone], [Humanoid]."], NAMES))]
    text = processor.generated(written, start="<|reasoning_start|>")
    with torch.no_grad():
        output = model(
            **inputs, **{k: text[k] for k in ("generated_ids", "generated_mask", "mention_index")}, select=True
        )
    place = int((text["mention_index"][0] >= 0).nonzero()[0])

    def cost(favoured: str) -> float:
        # Only the first mention counts here: the labels of the others are taken away.
        labels = torch.full_like(text["labels"], -100)
        labels[0, place] = text["labels"][0, place]
        output.context.scores = torch.zeros(1, len(NAMES))
        output.context.scores[0, NAMES.index(favoured)] = 40.0
        with torch.no_grad():
            loss = pointer_loss(model, output.text_hidden, {**text, "labels": labels}, output.context)
        return float(loss)

    assert cost("Drone") < 0.1
    assert cost("Humanoid") < 0.1
    assert cost("Robot with Wheels") > 1.0


def test_no_robot_is_named_twice_in_a_step(model: EmberVLM) -> None:
    """A model that wants nothing but mentions names every robot once, then repeats because it must."""
    processor = model.processor
    inputs = processor.texts(["look"]) | processor.robots([Fleet.of(None)])
    robot = model.config.token_ids["<|robot|>"]
    count = len(NAMES)
    start = torch.tensor([model.config.token_ids["<|reasoning_start|>"]])
    forced = torch.full((1, count), robot)
    written = model.generate(**inputs, start_ids=start, max_new_tokens=count, forced=forced)
    assert sorted(written.mentions[0].tolist()) == list(range(count))


def test_spaces_around_mentions_are_as_written() -> None:
    parts = ["send", "[A]", ",", "[B]", " and", "[C]", ".", "<|reasoning_end|>", "eos"]
    assert parse_generated(parts)[0] == ["send [A], [B] and [C]."]


@pytest.mark.parametrize("text", ["weight 15 kg.", "two of 3,200 m and 7", "no number at all"])
def test_numbers_come_back_as_they_were(model: EmberVLM, text: str) -> None:
    processor = model.processor
    assert processor.plain(processor.words(text)) == text


def test_the_reasoning_knows_what_was_found_of_the_robots(model: EmberVLM) -> None:
    """A chain's states change with the direct selection tokens, and the direct scores do not change with the chain."""
    processor = model.processor
    inputs = processor.texts(["look"]) | processor.robots([Fleet.of(None)])
    written = processor.generated([processor.pieces(chain_pieces(STEPS, NAMES))], start="<|reasoning_start|>")
    text = {k: written[k] for k in ("generated_ids", "generated_mask", "mention_index")}
    with torch.no_grad():
        judged = model(**inputs, **text, select=True)
        blind = model(**inputs, **text, select=False)
        direct = model(**inputs, select=True)
    assert not torch.allclose(judged.text_hidden, blind.text_hidden, atol=1e-4)
    assert torch.allclose(judged.scores, direct.scores, atol=1e-4)
