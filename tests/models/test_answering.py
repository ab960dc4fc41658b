"""What the endpoint relies on: kept fleets, text a token at a time, lower precision, where the model looked."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from embervlm import EmberVLM, Fleet, Robot
from embervlm.fleet import default_fleet
from embervlm.models.config import SPECIAL_TOKENS
from tests.models.fakes import TASK, tiny

SMALL = Fleet([Robot("Crane", ("lifts steel",)), Robot("Boat", ("floats", "tows barges"), ("no land",), ("harbour",))])


@pytest.fixture(scope="module")
def model() -> EmberVLM:
    return tiny()


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (64, 64, 3), dtype=np.uint8)


def test_mixed_fleets_answer_as_each_alone(model: EmberVLM) -> None:
    requests = [
        {"image": picture(), "task": TASK, "fleet": None},
        {"image": None, "task": "tow the barge", "fleet": SMALL},
        {"image": picture(1), "task": "look", "fleet": default_fleet()},
    ]
    together = model.select_many(requests)
    for request, answer in zip(requests, together, strict=True):
        alone = model.select_many([request])[0]
        np.testing.assert_allclose(answer["scores"], alone["scores"], atol=1e-4)


def test_a_fleet_is_read_once_and_the_least_asked_leaves(model: EmberVLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "fleet_cache_size", 2)
    reads = []
    original = model.read_robots
    monkeypatch.setattr(model, "read_robots", lambda ids, mask: reads.append(len(ids)) or original(ids, mask))
    model.__dict__.pop("_fleet_cache", None)
    third = Fleet([Robot("Mole", ("digs",))])
    for fleet in (None, SMALL, None, third, None):
        model.select_many([{"task": TASK, "fleet": fleet}])
    assert reads == [5, 2, 1]
    assert not model.knows_fleet(SMALL)
    assert model.knows_fleet(default_fleet())


def test_answering_again_does_not_fuse_the_encoder_again(model: EmberVLM) -> None:
    model.select_robots(picture(), TASK)
    fused = model.vision.inference_copy()
    model.select_robots(picture(1), TASK)
    assert model.vision.inference_copy() is fused
    with torch.no_grad():
        next(model.vision.backbone.parameters()).mul_(1.5)
    assert model.vision.inference_copy() is not fused
    with torch.no_grad():
        next(model.vision.backbone.parameters()).div_(1.5)


def test_token_by_token_gives_the_same_answer(model: EmberVLM) -> None:
    requests = [{"image": picture(), "task": TASK}, {"task": "look", "fleet": SMALL}]
    whole = model.select_many(requests, reasoning=True, max_new_tokens=12)
    steps, tokens = model.reason(requests, max_new_tokens=12), []
    answers = None
    while answers is None:
        try:
            token, mention = next(steps)
            assert token.shape == mention.shape == (2,)
            tokens.append(token)
        except StopIteration as end:
            answers = end.value
    assert 1 <= len(tokens) <= 12
    for one, other in zip(whole, answers, strict=True):
        np.testing.assert_array_equal(one["scores"], other["scores"])
        assert one["steps"] == other["steps"]


def test_a_text_that_nobody_wants_any_more_ends(model: EmberVLM) -> None:
    steps = model.reason([{"task": TASK}, {"task": "look"}], max_new_tokens=30)
    next(steps)
    steps.send(torch.tensor([True, False]))
    token, _ = next(steps)
    assert token[0] == model.config.token_ids["pad"]
    with pytest.raises(StopIteration):
        steps.send(torch.tensor([True, True]))


@pytest.mark.parametrize("reasoning", [False, True])
def test_where_it_looked_is_a_distribution_over_the_picture(model: EmberVLM, reasoning: bool) -> None:
    requests = [{"image": picture(), "task": TASK}, {"task": "look", "fleet": SMALL}]
    answers = model.select_many(requests, reasoning=reasoning, attention=True, max_new_tokens=4)
    side = model.config.image_size // 32
    assert answers[0]["attention"].shape == (5, side, side)
    np.testing.assert_allclose(answers[0]["attention"].sum((1, 2)), 1, rtol=1e-4)
    assert answers[1]["attention"] is None
    plain = model.select_many(requests, reasoning=reasoning, max_new_tokens=4)
    np.testing.assert_allclose(plain[0]["scores"], answers[0]["scores"], atol=1e-5)


def test_bf16_answers_nearly_the_same_in_float32(model: EmberVLM) -> None:
    expected = model.select_many([{"image": picture(), "task": TASK}])[0]["scores"]
    narrow = tiny().answer_in(torch.bfloat16)
    narrow.load_state_dict(model.state_dict())
    scores = narrow.select_many([{"image": picture(), "task": TASK}], reasoning=False)[0]["scores"]
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, atol=0.15)
    assert narrow.select_many([{"image": picture(), "task": TASK}], reasoning=True, max_new_tokens=3)[0]["robots"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.sampled_from([*SPECIAL_TOKENS, "<|eos|>", "<|pad|>", "<|bos|>", "＜｜robot｜＞"]), st.text(max_size=8)
        ),
        max_size=6,
    )
)
def test_special_tokens_in_a_text_are_plain_text(model: EmberVLM, pieces: list[str]) -> None:
    ids = model.processor.words("".join(pieces))
    assert not set(ids) & set(model.config.token_ids.values())
