"""An album: what belongs to it, what its labels mean, and scenes that stand on its photographs."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from embervlm.world import album as albums
from embervlm.world import dataset
from embervlm.world.album import AlbumError, Window, album, build, digest, shown_in, view_of
from embervlm.world.compose import compose
from embervlm.world.scenes import sample_scene


def write(path: Path, width: int = 120, height: int = 100, level: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (level, 200, 255 - level)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty photographs, five of them facades and one in a folder below."""
    root = tmp_path / "album"
    for i in range(19):
        write(root / f"{i:02d}.png", level=10 * i)
    write(root / "below" / "quay.JPG")
    labels = [f"{i:02d}.png,facade" for i in range(5)] + ["below/quay.JPG,harbour"]
    (root / "labels.csv").write_text("file,environment\n" + "\n".join(labels) + "\n")
    return root


def test_every_picture_belongs_to_it_and_the_labels_say_where_some_are(folder: Path) -> None:
    found = album(str(folder))
    assert len(found) == 20
    assert found["00.png"].environment == "facade"
    assert found["below/quay.JPG"].environment == "harbour"
    assert found["18.png"].environment is None
    assert found["00.png"].pixels().shape == (100, 120, 3)


def test_no_photograph_of_training_is_in_validation_or_test(folder: Path) -> None:
    sides = {split: {p.name for p in shown_in(str(folder), split)} for split in ("train", "validation", "test")}
    assert not sides["train"] & sides["validation"]
    assert sides["validation"] == sides["test"]
    assert len(sides["train"]) == 17
    assert len(sides["test"]) == 3


def test_its_digest_follows_pictures_and_labels(folder: Path, tmp_path: Path) -> None:
    before = digest(folder)
    albums.album.cache_clear()
    assert digest(folder) == before
    (folder / "labels.csv").write_text("file,environment\n00.png,roof\n")
    albums.album.cache_clear()
    other = digest(folder)
    write(folder / "00.png", level=255)
    albums.album.cache_clear()
    assert len({before, other, digest(folder)}) == 3


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ("file,environment\n99.png,facade\n", r"labels\.csv:2: .*99\.png: no such picture"),
        ("file,environment\nlabels.csv,facade\n", r"labels\.csv:2: 'labels\.csv' is no photograph"),
        ("file,environment\n00.png,facade\n00.png,harbour\n", r"labels\.csv:3: '00\.png' shows another"),
        ("file,environment\n00.png,facade\n01.png,palace\n", r"labels\.csv:3: environment 'palace' is not one of"),
        ("file,place\n00.png,facade\n", r"labels\.csv:1: expected the columns file and environment"),
    ],
)
def test_a_wrong_label_is_named_with_its_line(folder: Path, labels: str, told: str) -> None:
    (folder / "labels.csv").write_text(labels)
    with pytest.raises(AlbumError, match=told):
        album(str(folder))


def test_what_is_no_album_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(AlbumError, match="no such folder"):
        album(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(AlbumError, match=r"0 photographs .* at least 2"):
        album(str(tmp_path / "empty"))
    write(folder / "small.png", 400, 80)
    with pytest.raises(AlbumError, match=r"small\.png: 400×80 pixels .* at least 96"):
        album(str(folder))
    (folder / "small.png").write_bytes(b"no picture")
    with pytest.raises(AlbumError, match=r"small\.png: no picture.*take it out of the album"):
        album(str(folder))


def test_a_photograph_that_breaks_off_is_named(folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (100, 100, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "cut.png")
    whole = (folder / "cut.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AlbumError, match=r"cut\.png.*take it out of the album"):
        album(str(folder))["cut.png"].pixels()


def test_views_repeat_and_know_what_the_labels_say(folder: Path) -> None:
    records = list(build("train", 40, 3, 32, str(folder)))
    assert [r.image for r in build("train", 10, 3, 32, str(folder), start=30)] == [r.image for r in records[30:]]
    for record in records:
        place = album(str(folder))[record.tags["picture"]["background"].removeprefix("album/")].environment
        assert record.tags.get("scene", {}).get("environment") == place
        assert record.response == ("a photograph" if place is None else f"a photograph of a {place}")
        assert Image.open(io.BytesIO(record.image)).size == (32, 32)
    with pytest.raises(ValueError, match="split: unknown 'all'"):
        build("all", 1, 0, 32, str(folder))


@given(
    width=st.integers(96, 300),
    height=st.integers(96, 300),
    left=st.floats(0, 1),
    top=st.floats(0, 1),
    side=st.floats(0.55, 1),
    mirrored=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_a_window_shows_what_lies_in_it(
    width: int, height: int, left: float, top: float, side: float, mirrored: bool
) -> None:
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, :, 0] = np.linspace(0, 255, width)[None]
    pixels[:, :, 1] = np.linspace(0, 255, height)[:, None]
    seen = view_of(pixels, Window("any", left, top, side, mirrored), 48).astype(int)
    assert seen.shape == (48, 48, 3)
    across = seen[24, :, 0][::-1] if mirrored else seen[24, :, 0]
    assert (np.diff(across) >= -1).all()
    assert (np.diff(seen[:, 24, 1]) >= -1).all()
    shown = side * min(width, height) / width * 255
    assert abs((across[-1] - across[0]) - shown) < 12


def test_scenes_stand_on_its_photographs_where_one_shows_the_place(folder: Path, material_folder: Path) -> None:
    def backgrounds(environment: str, split: str) -> set[str]:
        scenes = [sample_scene(i, environment=environment) for i in range(24)]
        return {
            compose(s, 32, split, 1.0, str(material_folder), str(folder))[1]["background"].split("/")[0] for s in scenes
        }

    kept_back = {p.environment for p in shown_in(str(folder), "test")}
    assert backgrounds("facade", "train") == {"album"}  # no panorama shows one
    assert backgrounds("warehouse", "train") == {"warehouse"}  # the album has none
    assert backgrounds("roof", "train") == {"painted"}
    assert backgrounds("facade", "test") == ({"album"} if "facade" in kept_back else {"painted"})


def test_without_an_album_no_picture_changes(folder: Path, material_folder: Path) -> None:
    def made(own: str | None) -> list[bytes | None]:
        # the album's places only, so that nothing else may change
        arguments = ("train", "caption", 12, 0, 32)
        found = dataset.build(*arguments, photographs=1.0, material=str(material_folder), own=own)
        return [r.image for r in found if r.tags["scene"]["environment"] not in ("facade", "harbour")]

    assert made(None) == made(str(folder))
