"""Gathering the project's album out of packages. No test fetches any."""

from __future__ import annotations

import hashlib
import io
import struct
import tarfile
import zlib
from pathlib import Path

import pytest

from embervlm.cli import main
from embervlm.gathering import album
from embervlm.gathering.album import Listed, listed, members, resources
from embervlm.world.album import AlbumError
from embervlm.world.ontology import ENVIRONMENTS


def qt_resources(files: list[bytes], version: int = 3) -> bytes:
    """A Qt resource file: a root folder with the given files, every second one packed."""
    data, places = b"", []
    for i, content in enumerate(files):
        stored = struct.pack(">I", len(content)) + zlib.compress(content) if i % 2 else content
        places.append(len(data))
        data += struct.pack(">I", len(stored)) + stored
    tail = b"\0" * (8 if version > 1 else 0)
    nodes = struct.pack(">IHII", 0, 2, len(files), 1) + tail
    for i, place in enumerate(places):
        nodes += struct.pack(">IHHHI", 0, i % 2, 0, 0, place) + tail
    header = b"qres" + struct.pack(">4I", version, 20 + len(data), 20, 20)
    return header + data + nodes


def archive(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as opened:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            opened.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one package's archive, and a list that expects three photographs of it, one of another version."""
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("quay", "dog", "gone")}
    rows = [
        Listed("npm", "@any/thing@1.0", f"{name}.jpg", digest, "harbour" if name == "quay" else "")
        for name, digest in digests.items()
    ]
    monkeypatch.setattr(album, "listed", lambda: rows)
    (tmp_path / "archives").mkdir()
    archive(
        tmp_path / "archives" / "any-thing-1.0.tgz",
        {"package/a.jpg": b"quay", "package/b.rcc": qt_resources([b"other", b"dog"]), "package/readme": b""},
    )
    return tmp_path / "archives"


def test_photographs_are_known_by_their_digest(
    package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "album"
    assert main(["album", "--folder", str(folder), "--archives", str(package)]) == 0
    assert "2 of 3 photographs of @any/thing@1.0" in capsys.readouterr().out
    assert (folder / "@any/thing@1.0/quay.jpg").read_bytes() == b"quay"
    assert (folder / "@any/thing@1.0/dog.jpg").read_bytes() == b"dog"
    assert (folder / "labels.csv").read_text() == "file,environment\n@any/thing@1.0/quay.jpg,harbour\n"
    assert not [path for path in folder.rglob("*") if path.name.endswith(".part")]


def test_a_package_without_any_of_them_is_an_error(package: Path, tmp_path: Path) -> None:
    archive(package / "any-thing-1.0.tgz", {"package/a.jpg": b"another"})
    assert main(["album", "--folder", str(tmp_path / "album"), "--archives", str(package)]) == 2
    with pytest.raises(AlbumError, match="none of the 3 photographs"):
        album.gather(tmp_path / "album", package)


def test_what_is_missing_or_broken_is_named(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        AlbumError, match=r"no archive of @any/thing@1\.0 \(any-thing-1\.0_….deb or any-thing-1\.0\.tgz\)"
    ):
        album.gather(tmp_path / "album", tmp_path)
    (package / "any-thing-1.0.tgz").write_bytes(b"no archive")
    with pytest.raises(AlbumError, match=r"any-thing-1\.0\.tgz: cannot be opened.*fetch it again"):
        album.gather(tmp_path / "album", package)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AlbumError, match=r"npm is not installed.*--archives"):
        album.gather(tmp_path / "album")


@pytest.mark.parametrize("version", [1, 2, 3])
def test_qt_resources_are_read(version: int) -> None:
    files = [b"first", b"second" * 50, b"third"]
    assert sorted(resources(qt_resources(files, version))) == sorted(files)


def test_damaged_resources_are_named(tmp_path: Path) -> None:
    broken = archive(tmp_path / "any.tgz", {"a.rcc": qt_resources([b"first"])[:-9]})
    with pytest.raises(AlbumError, match="cannot be opened"):
        list(members(broken))


def test_the_list_names_every_photograph_once_and_only_known_places() -> None:
    rows = listed()
    assert len({row.sha256 for row in rows}) == len(rows) == len({(row.package, row.name) for row in rows})
    assert {row.environment for row in rows} - {""} <= set(ENVIRONMENTS)
    assert {row.registry for row in rows} == {"debian", "npm"}
