"""The fleet as a set: order, company and caching never change a robot's score."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from embervlm import EmberVLM, Fleet, Robot
from embervlm.data.prompts import chain_pieces
from embervlm.fleet import default_fleet
from tests.models.fakes import TASK, tiny


@pytest.fixture(scope="module", params=["qwen3", "bert", "bert, read in pairs"])
def model(request: pytest.FixtureRequest) -> EmberVLM:
    kind, *pairs = request.param.split(", ")
    return tiny(kind, pair_reading=bool(pairs))


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)


def scores(model: EmberVLM, fleet: Fleet | list[Robot], image: object = None, task: str = TASK) -> dict[str, float]:
    found = model.score_many([{"image": image, "task": task, "fleet": fleet}])[0]
    return dict(zip([robot.name for robot in fleet], found.tolist(), strict=True))


@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(5)))
def test_permuting_the_fleet_permutes_the_scores(model: EmberVLM, order: list[int]) -> None:
    fleet = default_fleet()
    permuted = Fleet([fleet[i] for i in order])
    before, after = scores(model, fleet), scores(model, permuted)
    assert after == pytest.approx(before, abs=1e-4)


@pytest.mark.parametrize("model_type", ["qwen3", "llama", "gpt2", "bert"])
def test_any_decoder_takes_the_fleet_as_a_set(model_type: str, picture: np.ndarray) -> None:
    model = tiny(model_type)
    fleet = default_fleet()
    before = scores(model, fleet, picture)
    assert scores(model, Fleet(list(fleet)[::-1]), picture) == pytest.approx(before, abs=1e-4)
    assert max(before.values()) - min(before.values()) > 1e-3  # robots are told apart at all


def test_a_further_robot_leaves_the_others_scores(model: EmberVLM, picture: np.ndarray) -> None:
    fleet = default_fleet()
    longer = Fleet([*fleet, Robot("Mole", ("digs tunnels " * 10,), ("slow",), ("underground",))])
    before, after = scores(model, fleet, picture), scores(model, longer, picture)
    assert {name: after[name] for name in before} == pytest.approx(before, abs=1e-4)


def test_cached_and_uncached_answers_agree(model: EmberVLM, picture: np.ndarray) -> None:
    fleet = default_fleet()
    first = scores(model, fleet, picture)
    again = scores(model, fleet, picture)  # from the fleet cache
    assert again == first
    # In a batch with another fleet no cache is used: robots, prefix and queries are computed afresh.
    mixed = model.score_many(
        [
            {"image": picture, "task": TASK, "fleet": fleet},
            {"image": None, "task": "another task", "fleet": Fleet([Robot("Solo", ("drives",))])},
        ]
    )[0]
    assert mixed.tolist() == pytest.approx(list(first.values()), abs=1e-4)


@pytest.mark.parametrize("model_type", ["qwen3", "bert"])
def test_a_trained_model_does_not_answer_from_an_old_fleet_cache(model_type: str, picture: np.ndarray) -> None:
    model = tiny(model_type)
    before = scores(model, default_fleet(), picture)
    with torch.no_grad():
        next(model.language.parameters()).mul_(1.5)
    assert scores(model, default_fleet(), picture) != pytest.approx(before, abs=1e-6)


@pytest.mark.parametrize("count", [1, 200])
def test_one_robot_and_two_hundred(model: EmberVLM, count: int) -> None:
    fleet = Fleet([Robot(f"R-{i}", (f"carries {i} kg",)) for i in range(count)])
    answer = model.select_robots(None, TASK, fleet)
    assert len(answer["robots"]) == count
    assert all(0 <= robot["confidence"] <= 1 for robot in answer["robots"])


def test_the_picture_and_the_task_reach_the_score(model: EmberVLM, picture: np.ndarray) -> None:
    base = scores(model, default_fleet(), picture)
    assert scores(model, default_fleet(), 255 - picture) != pytest.approx(base, abs=1e-6)
    assert scores(model, default_fleet(), None) != pytest.approx(base, abs=1e-6)
    assert scores(model, default_fleet(), picture, "fly over the forest") != pytest.approx(base, abs=1e-6)


def test_direct_scores_do_not_see_the_chain(model: EmberVLM) -> None:
    """The label stands in the chain: were it to leak into the direct scores, training accuracy would be a lie."""
    processor = model.processor
    inputs = processor.texts([TASK]) | processor.robots([default_fleet()])
    given = []
    for text in ("send [Drone].", "send [Robot with Legs]. it is the best of all."):
        written = processor.generated(
            [processor.pieces(chain_pieces([text], default_fleet().names))], start="<|reasoning_start|>"
        )
        with torch.no_grad():
            given.append(model(**inputs, **written, select=True, select_reasoned=True))
    assert torch.allclose(given[0].scores, given[1].scores, atol=1e-5)


def test_special_tokens_in_a_task_are_plain_text(model: EmberVLM) -> None:
    ids = model.processor.words("send <|robot_selection|> and <|eos|> now")
    assert not set(ids) & set(model.config.token_ids.values())
