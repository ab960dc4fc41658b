"""Scenes on photographs: the same picture every time, honest names, and an external test that stays external."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embervlm.data.prompts import UNKNOWN_TASK
from embervlm.data.schema import Record
from embervlm.world.dataset import build
from embervlm.world.material import SKIES, Panorama
from embervlm.world.ontology import ENVIRONMENTS
from embervlm.world.panoramas import HELD_OUT, HELD_OUT_PLACES, PLACES, Shot, perspective, pitch_for, sample_shot
from embervlm.world.photos import write_photos
from embervlm.world.scenes import sample_scene


def test_the_external_test_is_in_no_training() -> None:
    held_out = {place.panorama for place in HELD_OUT_PLACES}
    assert held_out <= set(HELD_OUT)
    assert not {place.panorama for place in PLACES} & set(HELD_OUT)
    assert {"bridge", "lab", "venice", "workshop", "sunset", "night", "esplanade"} == set(HELD_OUT)
    for place in (*PLACES, *HELD_OUT_PLACES):
        assert place.panorama in SKIES
        assert place.environment in ENVIRONMENTS
        assert place.low < place.high


def test_pictures_say_how_they_were_made(material_folder: Path) -> None:
    records = list(build("train", "caption", 60, 3, 48, photographs=1.0, material=str(material_folder)))
    seen = {r.tags["picture"]["background"] for r in records}
    assert "painted" in seen
    assert len(seen) > 3
    assert not seen & set(HELD_OUT)
    for record in records:
        made, place = record.tags["picture"], record.tags["scene"]["environment"]
        shown = {p.panorama for p in PLACES if p.environment == place}
        assert (made["background"] in shown) if shown else (made["background"] == "painted")
        if made["background"] != "painted":
            assert -180 <= made["yaw"] <= 180
            assert 1.3 <= made["camera_height"] <= 2.2
        assert 38 <= made["quality"] <= 92
    again = next(build("train", "caption", 1, 3, 48, start=59, photographs=1.0, material=str(material_folder)))
    assert again.image == records[59].image
    assert again.tags == records[59].tags


def test_none_asked_for_changes_nothing(material_folder: Path) -> None:
    plain = list(build("train", "selection", 8, 5, 48, fleets=4))
    none = list(build("train", "selection", 8, 5, 48, fleets=4, photographs=0.0, material=str(material_folder)))
    assert [r.to_row() for r in plain] == [r.to_row() for r in none]
    assert all("picture" not in r.tags for r in plain)


def test_half_of_them_are_about_half(material_folder: Path) -> None:
    records = build("train", "caption", 240, 4, 16, photographs=0.5, material=str(material_folder))
    backgrounds = [
        r.tags["picture"]["background"]
        for r in records
        if r.tags["scene"]["environment"] in {p.environment for p in PLACES}
    ]
    assert 0.3 < np.mean([b != "painted" for b in backgrounds]) < 0.7


def bare_records(material_folder: Path, share: float, split: str = "train", kind: str = "reasoning") -> list[Record]:
    made = build(split, kind, 160, 4, 32, fleets=4, photographs=0.5, material=str(material_folder), bare=share)
    return list(made)


def test_a_bare_picture_alone_tells_the_place(material_folder: Path) -> None:
    usual, some = bare_records(material_folder, 0.0), bare_records(material_folder, 0.8)
    bare = [(a, b) for a, b in zip(usual, some, strict=True) if b.tags["picture"].get("bare")]
    others = [(a, b) for a, b in zip(usual, some, strict=True) if not b.tags["picture"].get("bare")]
    assert len(bare) > 10
    assert all(a == b for a, b in others), "no other record is made otherwise"
    assert {b.tags["scene"]["environment"] for _, b in bare} <= {p.environment for p in PLACES}
    assert all(a.image != b.image and b.tags["picture"]["background"] != "painted" for a, b in bare)
    assert all(a.reasoning[1:] == b.reasoning[1:] and a.labels == b.labels for a, b in bare)
    assert np.mean([a.reasoning[0] != b.reasoning[0] for a, b in bare]) > 0.8, "another scene's"
    silent = [b.instruction == UNKNOWN_TASK for _, b in bare]
    assert 0.2 < np.mean(silent) < 0.8
    assert some == bare_records(material_folder, 0.8)


@pytest.mark.parametrize(("split", "kind"), [("validation", "reasoning"), ("test", "selection"), ("train", "caption")])
def test_nothing_is_bare_where_it_is_measured_or_named(material_folder: Path, split: str, kind: str) -> None:
    assert bare_records(material_folder, 1.0, split, kind) == bare_records(material_folder, 0.0, split, kind)


def test_bare_pictures_need_photographs() -> None:
    with pytest.raises(ValueError, match="photographs is 0"):
        build("train", "selection", 1, 0, 32, bare=0.5)


def test_a_pair_has_one_background(material_folder: Path) -> None:
    records = list(build("test", "selection", 80, 5, 32, fleets=4, photographs=1.0, material=str(material_folder)))
    pairs = [
        (a, b) for a, b in zip(records[::2], records[1::2], strict=True) if a.tags.get("pair") and b.tags.get("pair")
    ]
    assert len(pairs) > 10
    moved = 0
    for a, b in pairs:
        one, two = a.tags["picture"], b.tags["picture"]
        moved += one != two
        # where the target goes high up the camera looks up; all else stays
        assert {k: v for k, v in one.items() if k != "pitch"} == {k: v for k, v in two.items() if k != "pitch"}
    assert moved < len(pairs)


def test_training_looks_elsewhere_than_the_test() -> None:
    scene = sample_scene(1, environment="warehouse")
    yaws = {
        split: [shot.yaw for i in range(200) if (shot := sample_shot(scene, split, 0.4, random.Random(i))) is not None]
        for split in ("train", "validation", "test")
    }
    assert max(yaws["train"]) < min(yaws["validation"] + yaws["test"])
    assert sample_shot(sample_scene(1, environment="tunnel"), "train", 0.4, random.Random(0)) is None


@pytest.mark.parametrize("horizon", [0.3, 0.5, 0.62])
@pytest.mark.parametrize("view", [60.0, 90.0])
def test_the_horizon_is_where_it_is_asked_for(horizon: float, view: float) -> None:
    pixels = np.zeros((256, 512, 3), np.uint8)
    pixels[:128] = 200
    sky = np.zeros((256, 512), np.uint8)
    sky[:128] = 255
    shot = Shot("any", 30.0, pitch_for(horizon, view), view)
    seen, above = perspective(Panorama("any", pixels, sky), shot, 100)
    for column in (5, 50, 95):
        assert abs(int((seen[:, column, 0] > 100).sum()) - 100 * horizon) <= 1.5
    assert above.mean() == pytest.approx(horizon, abs=0.02)


def test_yaw_turns_clockwise_and_a_low_camera_sees_near_ground() -> None:
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[:, 96] = 255  # a quarter turn to the right of the middle
    pixels[40] = 128
    panorama = Panorama("any", pixels, np.zeros((64, 128), np.uint8))
    seen, _ = perspective(panorama, Shot("any", 90.0, 0.0, 90.0), 64)
    assert abs(int(seen[10, :, 0].argmax()) - 32) <= 1

    def ring(height: float) -> int:
        shot = Shot("any", 0.0, 0.0, 90.0, height)
        return int(perspective(panorama, shot, 64)[0][34:, 32, 0].argmax())

    assert ring(2.4) > ring(1.6) > ring(0.8)


def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"photographs: 1\.5"):
        build("train", "caption", 1, 0, photographs=1.5, material="x")
    with pytest.raises(ValueError, match="make material"):
        build("train", "caption", 1, 0, photographs=0.5)
    with pytest.raises(ValueError, match="make material"):
        list(build("train", "caption", 1, 0, photographs=0.5, material=str(tmp_path)))


def test_the_external_test_has_a_label_for_every_picture(material_folder: Path, tmp_path: Path) -> None:
    named, others = write_photos(material_folder, tmp_path, count=3, size=32)
    with (tmp_path / "labels.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == named == 3 * len(HELD_OUT_PLACES)
    assert others == 6
    for row in rows:
        assert row["environment"] in ENVIRONMENTS
        assert row["panorama"] in HELD_OUT
        assert Image.open(tmp_path / row["file"]).size == (32, 32)
    first = (tmp_path / rows[0]["file"]).read_bytes()
    write_photos(material_folder, tmp_path, count=3, size=32)
    assert (tmp_path / rows[0]["file"]).read_bytes() == first
