"""Fetching photographs: pinned, checked, done once, and a clear word where it cannot be done. No test fetches any."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from embervlm.cli import main
from embervlm.gathering import panoramas
from embervlm.gathering.panoramas import develop, install, sky_of, unpacked
from embervlm.world import material
from embervlm.world.material import MaterialError, load


def radiance(height: int = 32) -> np.ndarray:
    """A bright sky over dark ground."""
    light = np.full((height, 2 * height, 3), 0.08, np.float32)
    light[: height // 2] = (0.5, 0.7, 1.1)
    return light


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of two panoramas, and the module told to expect it."""
    path = tmp_path / "assets.tgz"
    with tarfile.open(path, "w:gz") as opened:
        for name in ("park", "hall"):
            text = f"export default 'data:application/exr;base64,{base64.b64encode(name.encode()).decode()}'\n"
            member = tarfile.TarInfo(f"package/hdri/{name}.exr.js")
            member.size = len(text)
            opened.addfile(member, io.BytesIO(text.encode()))
    monkeypatch.setattr(panoramas, "SKIES", {"park": "joined", "hall": "none"})
    monkeypatch.setattr(panoramas, "ARCHIVE_SHA512", hashlib.sha512(path.read_bytes()).hexdigest())
    monkeypatch.setattr(panoramas, "read_exr", lambda content, name: radiance())
    return path


def test_panoramas_are_developed_once(archive: Path, tmp_path: Path) -> None:
    said: list[str] = []
    folder = install(tmp_path / "material", archive, said.append)
    found = load(folder)
    assert sorted(found) == ["hall", "park"]
    assert found["park"].pixels.shape == (32, 64, 3)
    assert found["park"].sky[:8].min() == 255
    assert not found["park"].sky[24:].any()
    assert not found["hall"].sky.any()
    # complete, so the archive is not even looked at
    before = material.digest(folder)
    install(folder, tmp_path / "gone.tgz", said.append)
    assert "is complete" in said[-1]
    assert material.digest(folder) == before


def test_a_damaged_picture_is_named_and_made_again(archive: Path, tmp_path: Path) -> None:
    folder = install(tmp_path / "material", archive)
    (folder / "hall.png").write_bytes(b"no picture")
    with pytest.raises(MaterialError, match=r"hall\.png: missing or changed"):
        load(folder)
    install(folder, archive)
    assert "hall" in load(folder)


def test_another_archive_is_refused(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.tgz"
    other.write_bytes(archive.read_bytes() + b" ")
    assert main(["material", "--folder", str(tmp_path / "m"), "--archive", str(other)]) == 2
    assert "its sha512 is" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


def test_without_npm_or_network_it_says_what_to_do(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    monkeypatch.setenv("PATH", str(tools))
    with pytest.raises(MaterialError, match=r"npm is not installed.*--archive"):
        install(tmp_path / "m")
    npm = tools / "npm"
    npm.write_text("#!/bin/sh\necho 'npm error network is unreachable' >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(tools), "/bin", "/usr/bin"]))
    with pytest.raises(MaterialError, match=r"network is unreachable.*is the registry reachable.*--archive"):
        install(tmp_path / "m")


def test_missing_material_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(MaterialError, match="make material"):
        load(tmp_path)


def test_rings_around_a_lamp_are_filled() -> None:
    light = radiance()
    light[4:7, 30:33] = 4000.0
    light[3, 29:34] = light[7, 29:34] = (-3.0, 0.0, -1.0)
    picture, luma = develop(light)
    # around the lamp nothing is darker than the sky
    assert picture[2:9, 28:35].min() >= picture[:3].min()
    assert float(luma[5, 31]) > 1000 * float(luma[20, 31])
    assert np.isfinite(develop(np.full((4, 8, 3), np.nan, np.float32))[1]).all()


def test_sky_is_told_from_what_stands_before_it() -> None:
    light = radiance(64)
    light[20:40, 50:70] = 0.03  # a house
    picture, luma = develop(light)
    sky = sky_of(picture, luma, "joined")
    assert sky[:15].min() == 255
    assert not sky[25:, 55:65].any()
    assert not sky_of(picture, luma, "none").any()
    luma[:10, :30] *= 2  # light between trees
    assert np.array_equal(sky_of(picture, luma, "bright") > 0, luma > 1)


def test_a_module_without_a_file_is_named() -> None:
    with pytest.raises(MaterialError, match="park: no base64"):
        unpacked("export default 1", "park")


def test_exr_files_are_read() -> None:
    opened = pytest.importorskip("OpenEXR", reason="only with the extra `material`")
    header = {"compression": opened.ZIP_COMPRESSION, "type": opened.scanlineimage}
    with pytest.raises(MaterialError, match="park: no EXR picture"):
        panoramas.read_exr(b"nothing", "park")
    import tempfile

    with tempfile.NamedTemporaryFile(suffix=".exr") as file:
        opened.File(header, {"RGB": np.full((4, 8, 3), 0.5, np.float16)}).write(file.name)
        assert panoramas.read_exr(Path(file.name).read_bytes(), "park").mean() == pytest.approx(0.5)
