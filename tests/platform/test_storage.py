"""Local paths: complete or absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from ember_platform import storage


def test_write_read_list_digest_delete(tmp_path: Path) -> None:
    path = storage.join(str(tmp_path), "a", "b.txt")
    assert not storage.exists(path)
    assert storage.list_files(storage.join(str(tmp_path), "a")) == []
    storage.write_bytes(path, b"one")
    storage.write_bytes(path, b"two")
    assert storage.read_bytes(path) == b"two"
    assert storage.list_files(str(tmp_path)) == [path]
    assert storage.digest(path) == storage.digest_bytes(b"two")
    storage.delete(path)
    storage.delete(path)
    assert storage.list_files(str(tmp_path)) == []


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = str(tmp_path / "a.txt")
    storage.write_bytes(path, b"one")
    with pytest.raises(TypeError):
        storage.write_bytes(path, "no bytes")  # type: ignore[arg-type]
    assert storage.read_bytes(path) == b"one"
    assert len(list(tmp_path.iterdir())) == 1
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(storage.StorageError, match=r"file/x: cannot be written"):
        storage.write_bytes(str(tmp_path / "file" / "x"), b"one")


def test_paths_that_are_none() -> None:
    with pytest.raises(storage.StorageError, match="expected a local path or s3://bucket/prefix"):
        storage.resolve("ftp://host/x")
    with pytest.raises(storage.StorageError, match="cannot be read"):
        storage.read_bytes("/nowhere/at/all")
