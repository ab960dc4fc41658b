"""The oracle and its array form agree, and both follow the rules of the ontology."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embervlm.world.board import able_in, cases
from embervlm.world.ontology import ENVIRONMENTS, REQUIREMENTS, Need, Profile
from embervlm.world.oracle import able, requirements, surplus, unmet
from embervlm.world.robots import ARCHETYPES, DEFAULT_PROFILES, sample_profile
from embervlm.world.scenes import sample_scene, with_facts

GROUND = Profile(frozenset({"ground"}))
LOOK = Need("inspect")


def place(**facts: str):
    wanted = {"site": "ground", "access": "open", "terrain": "flat", "weather": "calm", "hazard": "none", **facts}
    return sample_scene(3, "rubble" if wanted["terrain"] != "flat" else "road", "crate", **_allowed(wanted))


def _allowed(wanted: dict[str, str]) -> dict[str, str]:
    return {**wanted, "size": "medium"}


@pytest.mark.parametrize(
    ("facts", "ability", "lacking"),
    [
        ({"site": "high"}, {"height": True}, "height"),
        ({"access": "gap"}, {"gap": True}, "gap"),
        ({"weather": "storm"}, {"weatherproof": True}, "weather"),
        ({"hazard": "fire"}, {"heatproof": True}, "heat"),
    ],
)
def test_one_ability_meets_one_fact(facts: dict[str, str], ability: dict[str, bool], lacking: str) -> None:
    scene = place(**facts)
    assert unmet(GROUND, scene, LOOK) == [lacking]
    assert able(replace(GROUND, **ability), scene, LOOK)


def test_rough_stairs_and_narrow_ways() -> None:
    rubble = sample_scene(
        1, "rubble", "crate", site="ground", access="stairs", terrain="rough", weather="calm", hazard="none"
    )
    assert unmet(GROUND, rubble, LOOK) == ["terrain", "stairs"]
    assert able(Profile(frozenset({"air"})), rubble, LOOK)
    narrow = with_facts(rubble, access="narrow")
    assert unmet(Profile(frozenset({"air"})), narrow, LOOK) == ["clearance"]
    assert unmet(replace(GROUND, terrain="rough", slim=True), narrow, LOOK) == []


def test_underwater_asks_for_water_and_nothing_of_the_land() -> None:
    scene = sample_scene(1, "harbour", "crate", site="underwater", weather="storm", size="large")
    swimmer = Profile(frozenset({"water"}))
    assert able(swimmer, scene, LOOK)
    assert unmet(Profile(frozenset({"ground", "air"}), payload_kg=60), scene, LOOK) == ["medium"]
    assert unmet(swimmer, scene, Need("transport", carries=True, hands=1)) == ["payload", "manipulation"]
    assert requirements(scene, Need("transport", carries=True)) == {"medium": "water", "payload": "60 kg"}


def test_a_robot_is_judged_in_its_best_medium() -> None:
    both = Profile(frozenset({"ground", "air"}))
    scene = sample_scene(
        1, "rubble", "crate", site="high", access="stairs", terrain="rough", weather="calm", hazard="none"
    )
    assert able(both, scene, LOOK)


def test_every_requirement_occurs() -> None:
    rng = random.Random(0)
    need = Need("transport", carries=True, hands=2, fast=True, enduring=True)
    seen = {kind for _ in range(300) for kind in requirements(sample_scene(rng), need)}
    assert seen == set(REQUIREMENTS)


profiles = st.builds(
    lambda seed, archetype: sample_profile(random.Random(seed), archetype),
    st.integers(0, 10**6),
    st.sampled_from(sorted(ARCHETYPES)),
)


@settings(max_examples=40, deadline=None)
@given(profiles, st.sampled_from(sorted(ENVIRONMENTS)), st.booleans(), st.booleans())
def test_arrays_agree_with_the_oracle(profile: Profile, environment: str, dry: bool, carries: bool) -> None:
    need = Need("transport", carries=carries)
    expected = [able(profile, case, need) for case in cases(environment, dry, carries)]
    assert able_in(profile, environment, dry, carries).tolist() == expected


@settings(max_examples=60, deadline=None)
@given(profiles, st.integers(0, 10**6))
def test_requirements_cover_what_is_unmet(profile: Profile, seed: int) -> None:
    scene = sample_scene(seed)
    need = Need("transport", carries=True, hands=1, fast=True)
    lacking = unmet(profile, scene, need)
    assert set(lacking) <= set(requirements(scene, need))
    assert lacking == [kind for kind in REQUIREMENTS if kind in lacking]
    assert surplus(profile, scene, need) >= 0


def test_the_default_five_do_what_their_texts_say() -> None:
    roof = sample_scene(2, "roof", "antenna", site="high", access="open", terrain="flat", weather="calm")
    assert [n for n, p in DEFAULT_PROFILES.items() if able(p, roof, LOOK)] == ["Drone"]
    quay = sample_scene(2, "harbour", "anchor", site="underwater")
    assert [n for n, p in DEFAULT_PROFILES.items() if able(p, quay, LOOK)] == ["Underwater Robot"]
    stairs = sample_scene(2, "stairwell", "crate", site="ground", access="stairs", terrain="flat", size="medium")
    carriers = [n for n, p in DEFAULT_PROFILES.items() if able(p, stairs, Need("transport", carries=True))]
    assert carriers == ["Humanoid", "Robot with Legs"]
    floor = sample_scene(2, "warehouse", "pallet", site="ground", access="open", terrain="flat", size="large")
    assert [n for n, p in DEFAULT_PROFILES.items() if able(p, floor, Need("transport", carries=True))] == [
        "Robot with Wheels"
    ]
