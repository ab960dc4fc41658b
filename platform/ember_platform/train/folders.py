"""Model folders and the files beside them, wherever they are kept."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyarrow import fs

from ember_platform import storage

FINAL, DONE, RUN, HISTORY, METRICS = "final", "done.json", "run.json", "history.parquet", "metrics.json"


def stage_dir(output_dir: str, stage: int) -> str:
    """Where a stage leaves everything."""
    return storage.join(output_dir, f"stage{stage}")


@contextlib.contextmanager
def fetched(path: str) -> Iterator[Path]:
    """A folder as a local one: itself where it is local, else a copy that is removed again."""
    filesystem, inside = storage.resolve(path)
    if storage.is_local(path):
        yield Path(inside)
        return
    with tempfile.TemporaryDirectory(prefix="embervlm-folder-") as temporary:
        fs.copy_files(inside, temporary, source_filesystem=filesystem, destination_filesystem=fs.LocalFileSystem())
        yield Path(temporary)


def publish(local: Path, path: str) -> None:
    """Put a local folder at a path; where that is local, it is there in full or as it was before.

    Raises:
        StorageError: it cannot be written.
    """
    filesystem, inside = storage.resolve(path)
    try:
        if not storage.is_local(path):
            fs.copy_files(str(local), inside, source_filesystem=fs.LocalFileSystem(), destination_filesystem=filesystem)
            return
        target = Path(inside)
        target.parent.mkdir(parents=True, exist_ok=True)
        draft, old = (target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.{end}") for end in ("new", "old"))
        shutil.copytree(local, draft)
        if target.exists():
            target.rename(old)
        draft.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise storage.StorageError(f"{path}: cannot be written: {error}") from error


def remove(path: str) -> None:
    """Remove a folder and everything in it; nothing happens where there is none.

    Raises:
        StorageError: it is there and cannot be removed.
    """
    filesystem, inside = storage.resolve(path)
    try:
        if filesystem.get_file_info(inside).type == fs.FileType.Directory:
            filesystem.delete_dir(inside)
    except OSError as error:
        raise storage.StorageError(f"{path}: cannot be removed: {error}") from error


def move_aside(path: str, name: str) -> None:
    """Rename a folder within its parent (on object storage: copy, then delete)."""
    filesystem, inside = storage.resolve(path)
    target = f"{os.path.dirname(inside)}/{name}"
    if filesystem.get_file_info(target).type != fs.FileType.NotFound:
        filesystem.delete_dir(target)
    filesystem.move(inside, target)


def read_json(path: str) -> dict[str, Any] | None:
    """A JSON mapping, or None where there is no such file or it is damaged (it is then as if it were not there)."""
    if not storage.exists(path):
        return None
    try:
        content = json.loads(storage.read_bytes(path))
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def write_json(path: str, content: dict[str, Any]) -> None:
    """Write a JSON mapping at once."""
    storage.write_bytes(path, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())
