"""Scenes keep to their environment, their facts are independent, and twins differ in what decides."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embervlm.world.ontology import COLORS, ENVIRONMENTS, KINDS, Need
from embervlm.world.scenes import DRY_KINDS, FACTS, sample_scene, twin, variants, visible_facts

seeds = st.integers(0, 2**31)


@settings(max_examples=150, deadline=None)
@given(seeds, st.sampled_from([None, *ENVIRONMENTS]))
def test_a_scene_is_possible_and_repeatable(seed: int, environment: str | None) -> None:
    scene = sample_scene(seed, environment)
    assert scene == sample_scene(seed, environment)
    place = ENVIRONMENTS[scene.environment]
    assert scene.site in place.sites
    assert scene.access in place.accesses
    assert scene.terrain in place.terrains
    assert scene.weather == "calm" or not place.indoor
    assert scene.hazard == "none" or place.fire
    assert scene.target.kind in KINDS
    assert scene.target.color in COLORS
    if scene.site == "underwater":
        assert (scene.access, scene.hazard) == ("open", "none")
        assert scene.target.kind not in DRY_KINDS
    assert 1 <= len(scene.others) <= 4
    for other in scene.others:
        assert other.size == "small"
        assert other.kind != scene.target.kind
        assert abs(other.x - scene.target.x) > 0.1


def test_wrong_wishes_are_named() -> None:
    with pytest.raises(ValueError, match="environment: unknown 'moon'"):
        sample_scene(0, "moon")
    with pytest.raises(ValueError, match="kind: unknown"):
        sample_scene(0, kind="unicorn")
    with pytest.raises(ValueError, match="color: unknown"):
        sample_scene(0, color="mauve")
    with pytest.raises(ValueError, match="site: 'underwater' cannot be in 'roof'"):
        sample_scene(0, "roof", site="underwater")
    with pytest.raises(ValueError, match="mood: unknown fact"):
        sample_scene(0, mood="sad")


def test_no_fact_can_be_guessed_from_another() -> None:
    rng = random.Random(7)
    scenes = [sample_scene(rng, "construction site", "crate") for _ in range(4000)]
    dry = [visible_facts(s) for s in scenes if s.site != "underwater"]
    for first in FACTS:
        values = Counter(f[first] for f in dry)
        for second in FACTS:
            if first == second:
                continue
            overall = Counter(f[second] for f in dry)
            for value, count in values.items():
                part = Counter(f[second] for f in dry if f[first] == value)
                for other in overall:
                    assert abs(part[other] / count - overall[other] / len(dry)) < 0.08


@settings(max_examples=60, deadline=None)
@given(seeds)
def test_a_twin_keeps_what_a_text_can_say(seed: int) -> None:
    scene = sample_scene(seed)
    need = Need("inspect", stated=frozenset({"site"}))
    other = twin(scene, need, seed, lambda s: s.access != scene.access)
    if other is None:
        assert scene.site == "underwater"
        return
    assert other.access != scene.access
    assert other.site == scene.site
    assert (other.environment, other.others, other.light) == (scene.environment, scene.others, scene.light)
    assert (other.target.kind, other.target.color) == (scene.target.kind, scene.target.color)
    changed = [f for f in FACTS if visible_facts(scene)[f] != visible_facts(other)[f]]
    assert 1 <= len(changed) <= 2


def test_variants_are_all_different() -> None:
    scene = sample_scene(11, "rubble", "crate")
    found = list(variants(scene))
    assert len(set(found)) == len(found) > 20
    assert scene not in found
