"""Descriptions tell every ability that counts and nothing that is not so."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from embervlm.fleet import Fleet, default_fleet
from embervlm.world.abilities import HAS, HAS_PLACE, LACKS, PAYLOAD_RANGE, Wording
from embervlm.world.fleets import pool
from embervlm.world.ontology import SIZE_KG
from embervlm.world.robots import (
    ARCHETYPES,
    WORD_LIMIT,
    abilities,
    default_known,
    held_out,
    lacks,
    sample_robot,
)
from embervlm.world.words import WEIGHT_RANGE


def says(entries: tuple[str, ...], wording: Wording) -> bool:
    """Whether an entry is one of the phrases (a load stands for any number)."""
    for phrase in (*wording.train, *wording.test):
        head, _, tail = phrase.partition("{kg}")
        if any(e == phrase or ("{kg}" in phrase and e.startswith(head) and e.endswith(tail)) for e in entries):
            return True
    return False


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**31), st.booleans(), st.booleans())
def test_a_description_tells_the_profile(seed: int, unseen: bool, unseen_words: bool) -> None:
    known = sample_robot(random.Random(seed), unseen, unseen_words)
    robot = known.robot
    told = {key for key, wording in HAS.items() if says(robot.capabilities, wording)}
    told |= {key for key, wording in HAS_PLACE.items() if says(robot.environments, wording)}
    assert told == set(abilities(known.profile))
    denied = {key for key, wording in LACKS.items() if says(robot.limitations, wording)}
    assert denied <= set(lacks(known.profile))
    texts = (robot.name, *robot.capabilities, *robot.limitations, *robot.environments)
    assert sum(len(text.split()) for text in texts) <= WORD_LIMIT
    assert Fleet([robot])[0] == robot


def test_numbers_of_a_load_leave_no_doubt() -> None:
    for level, (low, high) in PAYLOAD_RANGE.items():
        sizes = [size for size, kg in SIZE_KG.items() if kg <= level]
        too_heavy = [size for size, kg in SIZE_KG.items() if kg > level]
        assert all(WEIGHT_RANGE[size][1] <= low for size in sizes)
        assert all(WEIGHT_RANGE[size][0] > high for size in too_heavy)


def test_every_ability_has_many_wordings_and_some_for_the_test_split() -> None:
    for key, wording in HAS.items():
        assert len(set(wording.train)) >= 8, key
        assert wording.test, key
        assert not set(wording.train) & set(wording.test), key
    phrases = [p for wording in HAS.values() for p in (*wording.train, *wording.test)]
    assert len(set(phrases)) == len(phrases)
    assert len(ARCHETYPES) >= 20


def test_the_default_five_keep_their_texts() -> None:
    assert Fleet(k.robot for k in default_known()) == default_fleet()


def test_pools_hold_apart_what_only_the_test_split_may_see() -> None:
    train, test = pool(4, "train"), pool(4, "test")
    seen = {known.robot for fleet in train for known in fleet.robots}
    assert len(seen) >= 600
    for known in (k for fleet in train for k in fleet.robots):
        assert not held_out(known.profile)
        assert not ARCHETYPES[known.archetype].test_only
    assert 0.4 < sum(fleet.unseen for fleet in test) / len(test) < 0.6
    for fleet in test:
        assert 4 <= len(fleet.robots) <= 8
        new = [k for k in fleet.robots if held_out(k.profile) or ARCHETYPES[k.archetype].test_only]
        assert bool(new) == fleet.unseen
        if not fleet.unseen:
            assert all(k.robot in seen for k in fleet.robots)
    for fleet in pool(4, "validation"):
        assert not any(held_out(k.profile) for k in fleet.robots)
