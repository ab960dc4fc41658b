"""Task texts say what the need asks, stay true to the scene, and come in many forms; chains read back."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embervlm.world.chains import chain, need_texts, parse_chain, plan, ranked
from embervlm.world.language import action, normalised, task_text
from embervlm.world.ontology import KINDS, Need
from embervlm.world.oracle import requirements, surplus
from embervlm.world.robots import ARCHETYPES, sample_profile
from embervlm.world.scenes import sample_scene, visible_facts
from embervlm.world.tasks import sample_need, split_of
from embervlm.world.wordings import ENDURING, FAST, FRAMES, REASONS, VERBS
from embervlm.world.words import KIND_WORDS, PLACE_PHRASES, STATED

seeds = st.integers(0, 2**31)


def test_test_only_wordings_are_never_wordings_of_train() -> None:
    tables = [*VERBS.values(), *KIND_WORDS.values(), *PLACE_PHRASES.values(), FRAMES, FAST, ENDURING, REASONS]
    tables += [wording for values in STATED.values() for wording in values.values()]
    for wording in tables:
        assert wording.test
        assert not set(wording.train) & set(wording.test)
    assert set(KIND_WORDS) == set(KINDS)
    assert all(kind == wording.train[0] for kind, wording in KIND_WORDS.items())
    for wording in VERBS.values():
        assert all(phrase.count("{o}") == 1 for phrase in (*wording.train, *wording.test))
    assert all(phrase.count("{t}") == 1 for phrase in (*FRAMES.train, *FRAMES.test))


@settings(max_examples=100, deadline=None)
@given(seeds, st.booleans())
def test_a_text_is_clean_and_repeatable(seed: int, unseen: bool) -> None:
    rng = random.Random(seed)
    need, kind = sample_need(rng)
    scene = sample_scene(rng, kind=kind)
    text = task_text(random.Random(seed), scene, need, unseen)
    assert text == task_text(random.Random(seed), scene, need, unseen)
    assert text.unseen is unseen
    assert "{" not in text.text
    assert "  " not in text.text
    assert text.text.strip() == text.text
    assert normalised(text.text.upper() + " !") == normalised(text.text)
    assert split_of(text.text) in ("train", "validation", "test")


def test_what_is_stated_is_said() -> None:
    scene = sample_scene(4, "construction site", "crate", site="high", access="stairs", size="medium")
    need = Need("transport", carries=True, stated=frozenset({"site", "access", "size"}))
    for seed in range(40):
        text = task_text(random.Random(seed), scene, need).text.lower()
        if len(text.split()) > 25 or any(w not in text for w in ("kg", "kilo")):
            continue
        assert any(p in text for p in STATED["site"]["high"].train)
        assert any(p in text for p in STATED["access"]["stairs"].train)


def test_a_need_without_words_is_an_error() -> None:
    with pytest.raises(ValueError, match="no wording for 'survey hand'"):
        task_text(random.Random(0), sample_scene(0), Need("survey", hands=2))
    assert action(Need("transport", carries=True, hands=1)) == "transport grab"


@settings(max_examples=100, deadline=None)
@given(seeds)
def test_a_chain_reads_back_as_the_oracle_saw_it(seed: int) -> None:
    rng = random.Random(seed)
    need, kind = sample_need(rng)
    scene = sample_scene(rng, kind=kind)
    fleet = {f"R-{i}": sample_profile(rng, rng.choice(sorted(ARCHETYPES))) for i in range(6)}
    best = ranked(fleet, scene, need)
    if not best:
        return
    steps = chain(rng, fleet, scene, need)
    read = parse_chain(steps)
    assert read["decision"] == read["able"] == best
    assert read["requirements"] == requirements(scene, need)
    assert len(need_texts(scene, need)) == len(read["requirements"])
    assert read["environment"]["environment"] == scene.environment
    assert read["environment"]["site"] == visible_facts(scene)["site"]
    # The best is the one with the least to spare, and the order of the fleet plays no part.
    spare = [surplus(fleet[name], scene, need) for name in best]
    assert spare == sorted(spare)
    assert ranked(dict(reversed(fleet.items())), scene, need) == best
    assert plan(fleet, scene, need)[0]["robot"] == best[0]


def test_a_broken_chain_is_read_as_far_as_it_goes() -> None:
    assert parse_chain("") == {}
    assert parse_chain(["send [A", "able: nobody", "needs: wings."]) == {"requirements": {}}
    assert parse_chain("send [A] and [B].")["decision"] == ["A", "B"]
    assert parse_chain("place: roof, storm, day. the crate is high up.")["environment"] == {
        "environment": "roof",
        "weather": "storm",
        "light": "day",
        "site": "high",
    }


def test_stated_facts_leave_the_rest_of_the_need_alone() -> None:
    need = Need("inspect", hands=2)
    assert action(replace(need, stated=frozenset({"site"}))) == action(need) == "inspect hand"
