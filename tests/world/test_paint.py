"""The painter draws every fact of a scene, the same way every time."""

from __future__ import annotations

import io
import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from embervlm.world.ontology import (
    ACCESSES,
    COLORS,
    ENVIRONMENTS,
    HAZARDS,
    KINDS,
    LIGHTS,
    SITES,
    SIZES,
    TERRAINS,
    WEATHERS,
    Scene,
    Thing,
)
from embervlm.world.paint import contact_sheet, paint, paint_bytes
from embervlm.world.paint.site import _BY_PLACE
from embervlm.world.paint.things import COLOUR_RGB, SHAPES

BASE = Scene(
    seed=5,
    environment="construction site",
    weather="calm",
    light="day",
    terrain="flat",
    access="open",
    site="ground",
    hazard="none",
    target=Thing("crate", "red", "medium", 0.5, 0.3),
    others=(Thing("barrel", "blue", "small", 0.2, 0.4), Thing("dog", "brown", "large", 0.8, 0.7)),
)

things = st.builds(
    Thing,
    st.sampled_from(list(KINDS)),
    st.sampled_from(COLORS),
    st.sampled_from(SIZES),
    st.floats(0, 1),
    st.floats(0, 1),
)


def pixels(scene: Scene, size: int = 64) -> np.ndarray:
    return np.asarray(paint(scene, size), np.float32)


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    place = ENVIRONMENTS[draw(st.sampled_from(list(ENVIRONMENTS)))]
    return Scene(
        seed=draw(st.integers(0, 2**63)),
        environment=place.name,
        weather=draw(st.sampled_from(WEATHERS)),
        light=draw(st.sampled_from(LIGHTS)),
        terrain=draw(st.sampled_from(place.terrains)),
        access=draw(st.sampled_from(place.accesses)),
        site=draw(st.sampled_from(place.sites)),
        hazard=draw(st.sampled_from(HAZARDS if place.fire else ("none",))),
        target=draw(things),
        others=tuple(draw(st.lists(things, max_size=4))),
        camera_height=draw(st.floats(0.5, 4)),
        camera_yaw=draw(st.floats(-0.5, 0.5)),
    )


def test_every_word_of_the_ontology_has_a_shape() -> None:
    assert set(SHAPES) == set(KINDS)
    assert set(COLOUR_RGB) == set(COLORS)
    assert set(_BY_PLACE) == set(ENVIRONMENTS)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(scenes(), st.sampled_from([16, 33, 64]))
def test_any_scene_can_be_drawn_and_equal_scenes_give_equal_bytes(scene: Scene, size: int) -> None:
    first = paint_bytes(scene, size)
    assert first == paint_bytes(replace(scene), size)
    picture = Image.open(io.BytesIO(first))
    assert picture.size == (size, size)
    assert picture.mode == "RGB"


@pytest.mark.parametrize("environment", list(ENVIRONMENTS))
def test_every_allowed_combination_of_place_and_facts(environment: str) -> None:
    place = ENVIRONMENTS[environment]
    combinations = itertools.product(
        place.sites, place.accesses, place.terrains, ("none", "fire") if place.fire else ("none",)
    )
    for i, (site, access, terrain, hazard) in enumerate(combinations):
        scene = replace(
            BASE,
            seed=i,
            environment=environment,
            site=site,
            access=access,
            terrain=terrain,
            hazard=hazard,
            weather=WEATHERS[i % len(WEATHERS)],
            light=LIGHTS[i % len(LIGHTS)],
        )
        assert pixels(scene, 48).std() > 5, scene


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("weather", WEATHERS),
        ("light", LIGHTS),
        ("terrain", TERRAINS),
        ("access", ACCESSES),
        ("site", SITES),
        ("hazard", HAZARDS),
        ("environment", tuple(ENVIRONMENTS)),
    ],
)
def test_changing_one_fact_changes_the_picture(field: str, values: tuple[str, ...]) -> None:
    drawn = {value: pixels(replace(BASE, **{field: value})) for value in values}
    for a, b in itertools.combinations(values, 2):
        changed = np.abs(drawn[a] - drawn[b]).mean()
        assert changed > 3, f"{field}: {a} and {b} differ by {changed:.1f} of 255 only"


def test_every_pair_of_kinds_looks_different() -> None:
    drawn = {kind: pixels(replace(BASE, target=replace(BASE.target, kind=kind, size="large"))) for kind in KINDS}
    for a, b in itertools.combinations(drawn, 2):
        assert np.abs(drawn[a] - drawn[b]).mean() > 1, f"{a} looks like {b}"


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("kind", ["crate", "worker", "pallet", "sensor"])
def test_a_larger_target_covers_more_of_the_picture(site: str, kind: str) -> None:
    areas = []
    for size in SIZES:
        tinted = [
            pixels(replace(BASE, site=site, others=(), target=Thing(kind, color, size, 0.5, 0.3)), 128)
            for color in ("red", "blue")
        ]
        areas.append(float((np.abs(tinted[0] - tinted[1]).max(axis=2) > 25).mean()))
    assert areas[0] * 1.6 < areas[1] < areas[2] / 1.6, areas


def test_the_target_does_not_reach_out_of_the_picture_or_the_water() -> None:
    for kind in KINDS:
        tinted = [
            pixels(replace(BASE, site="underwater", others=(), target=Thing(kind, color, "large", 0.5, 0.3)), 96)
            for color in ("red", "blue")
        ]
        rows = np.nonzero((np.abs(tinted[0] - tinted[1]).max(axis=2) > 60).any(axis=1))[0]
        assert rows.size == 0 or rows[0] >= 0.31 * 96, f"{kind} sticks out of the water"


def test_two_seeds_never_give_the_same_picture() -> None:
    drawn = {paint_bytes(replace(BASE, seed=seed), 48) for seed in range(20)}
    assert len(drawn) == 20


def test_brightness_tells_the_light_and_no_fact_that_decides() -> None:
    """Over random scenes of one light, the mean brightness of any two values of a fact stays close."""
    for field, values in (("site", SITES), ("access", ACCESSES), ("terrain", TERRAINS)):
        means = []
        for value in values:
            drawn = [pixels(replace(BASE, seed=seed, **{field: value}), 32).mean() for seed in range(24)]
            means.append(float(np.mean(drawn)))
        assert max(means) - min(means) < 8, (field, means)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"target": replace(BASE.target, kind="unicorn")}, ["target", "kind", "unicorn"]),
        ({"target": replace(BASE.target, color="mauve")}, ["target", "color", "mauve"]),
        ({"target": replace(BASE.target, size="huge")}, ["target", "size", "huge"]),
        ({"others": (replace(BASE.target, kind="unicorn"),)}, ["others[0]", "unicorn"]),
        ({"environment": "moon"}, ["environment", "moon", "warehouse"]),
        ({"weather": "hail"}, ["weather", "hail", "storm"]),
        ({"access": "lift"}, ["access", "lift", "stairs"]),
    ],
)
def test_an_unknown_value_is_named(change: dict[str, object], words: list[str]) -> None:
    with pytest.raises(ValueError, match=r"scene\.") as caught:
        paint(replace(BASE, **change), 32)  # type: ignore[arg-type]
    for word in words:
        assert word in str(caught.value)


def test_a_picture_must_have_room() -> None:
    with pytest.raises(ValueError, match="size 4"):
        paint(BASE, 4)


def test_contact_sheet() -> None:
    pictures = [paint(replace(BASE, seed=i), 32) for i in range(5)]
    sheet = contact_sheet(pictures, columns=3)
    assert sheet.size == (3 * 34, 2 * 34)
    assert sheet.crop((34, 34, 66, 66)).tobytes() == pictures[4].tobytes()
    assert sheet.getpixel((33, 33)) == sheet.getpixel((80, 50)) == (255, 255, 255)
    with pytest.raises(ValueError, match="at least one picture"):
        contact_sheet([], 3)
