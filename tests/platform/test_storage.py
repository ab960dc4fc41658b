"""Local paths: complete or absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from ember_platform import storage
from ember_platform.config import DataConfig, RunConfig, TrackingConfig
from ember_platform.mlflow_store import tracking_uri

TRACKED = TrackingConfig(mlflow_uri="sqlite:///runs.db")


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


def test_what_is_local_is_told_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_s3", lambda bucket: pytest.fail("asked the network"))
    assert not storage.is_local("s3://bucket/prefix")
    assert storage.is_local("outputs")
    assert storage.is_local("/outputs")
    assert storage.is_local("file:///outputs")


def test_relative_paths_count_from_where_the_user_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(storage.ROOT_VARIABLE, raising=False)
    (tmp_path / "copy").mkdir()
    monkeypatch.chdir(tmp_path / "copy")
    assert storage.absolute("outputs") == str(tmp_path / "copy" / "outputs")
    monkeypatch.setenv(storage.ROOT_VARIABLE, str(tmp_path / "user"))
    assert storage.absolute("../outputs/./x") == str(tmp_path / "outputs" / "x")
    assert storage.absolute("/outputs") == "/outputs"
    assert storage.absolute("s3://bucket/x") == "s3://bucket/x"
    assert storage.absolute("~/x") == str(Path.home() / "x")
    storage.write_bytes("out/a", b"one")
    assert (tmp_path / "user" / "out" / "a").read_bytes() == b"one"
    config = RunConfig(output_dir="runs", data=DataConfig(robot_data="robots.json"), tracking=TRACKED)
    assert config.output_dir == str(tmp_path / "user" / "runs")
    assert config.data.robot_data == str(tmp_path / "user" / "robots.json")
    assert tracking_uri(config) == f"sqlite:///{tmp_path}/user/runs.db"
