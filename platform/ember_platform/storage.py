"""Local paths and `s3://bucket/prefix` as one small thing, over `pyarrow.fs`.

A path is a string; a write is complete or absent. Credentials and endpoint of S3 come from the usual
environment (AWS_ACCESS_KEY_ID, AWS_PROFILE, AWS_ENDPOINT_URL, …).
"""

from __future__ import annotations

import functools
import hashlib
import os
import uuid
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

_CHUNK = 1 << 20


class StorageError(OSError):
    """Storage that cannot be used. The message names the path and what was tried."""


@functools.lru_cache(maxsize=32)
def _s3(bucket: str) -> fs.FileSystem:
    """One client per bucket; its endpoint from AWS_ENDPOINT_URL where that is set."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        scheme, _, host = endpoint.rpartition("://")
        return fs.S3FileSystem(endpoint_override=host, scheme=scheme or "https", region=os.environ.get("AWS_REGION"))
    return fs.FileSystem.from_uri(f"s3://{bucket}")[0]


def resolve(path: str) -> tuple[fs.FileSystem, str]:
    """The file system of a path, and the path inside it.

    Raises:
        StorageError: a scheme that is neither `s3` nor `file`, or no bucket.
    """
    scheme, separator, rest = str(path).partition("://")
    if not separator:
        return fs.LocalFileSystem(), os.path.abspath(path)
    if scheme == "file":
        return fs.LocalFileSystem(), rest
    if scheme != "s3" or not rest.split("/")[0]:
        raise StorageError(f"{path}: expected a local path or s3://bucket/prefix")
    return _s3(rest.split("/")[0]), rest.rstrip("/")


def is_local(path: str) -> bool:
    """Whether the path is on this machine's file system."""
    return isinstance(resolve(path)[0], fs.LocalFileSystem)


def join(base: str, *parts: str) -> str:
    """`base/part/part`, for local paths and URLs alike."""
    return "/".join([str(base).rstrip("/"), *parts])


def exists(path: str) -> bool:
    """Whether there is a file or folder at the path."""
    filesystem, inside = resolve(path)
    return bool(filesystem.get_file_info(inside).type != fs.FileType.NotFound)


def open_input(path: str) -> pa.NativeFile:
    """A seekable file to read; memory-mapped where it is local.

    Raises:
        StorageError: there is no such file, or it cannot be read.
    """
    filesystem, inside = resolve(path)
    try:
        if isinstance(filesystem, fs.LocalFileSystem):
            return pa.memory_map(inside, "r")
        return filesystem.open_input_file(inside)
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"{path}: cannot be opened: {error}") from error


def read_bytes(path: str) -> bytes:
    """The whole file.

    Raises:
        StorageError: there is no such file, or it cannot be read.
    """
    filesystem, inside = resolve(path)
    try:
        with filesystem.open_input_stream(inside) as file:
            return bytes(file.read())
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"{path}: cannot be read: {error}") from error


def write_bytes(path: str, content: bytes | pa.Buffer) -> None:
    """Write a file at once: afterwards it is there in full, or, where that failed, as it was before.

    Raises:
        StorageError: the folder cannot be made or the file cannot be written.
    """
    filesystem, inside = resolve(path)
    try:
        if isinstance(filesystem, fs.LocalFileSystem):
            _write_local(Path(inside), content)
        else:
            with filesystem.open_output_stream(inside) as file:
                file.write(content)
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"{path}: cannot be written: {error}") from error


def _write_local(target: Path, content: bytes | pa.Buffer) -> None:
    """Beside the target, flushed to disk, then renamed over it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def list_files(path: str) -> list[str]:
    """Every file below a folder, sorted, as paths that this module takes; [] where there is no such folder."""
    filesystem, inside = resolve(path)
    selector = fs.FileSelector(inside, recursive=True, allow_not_found=True)
    prefix = "" if isinstance(filesystem, fs.LocalFileSystem) else "s3://"
    found = [i.path for i in filesystem.get_file_info(selector) if i.type == fs.FileType.File]
    return sorted(f"{prefix}{name}" for name in found)


def delete(path: str) -> None:
    """Remove a file; nothing happens where there is none.

    Raises:
        StorageError: it is there and cannot be removed.
    """
    filesystem, inside = resolve(path)
    try:
        if exists(path):
            filesystem.delete_file(inside)
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"{path}: cannot be removed: {error}") from error


def digest(path: str) -> str:
    """sha256 (hex) of a file's content, read in pieces.

    Raises:
        StorageError: there is no such file, or it cannot be read.
    """
    filesystem, inside = resolve(path)
    total = hashlib.sha256()
    try:
        with filesystem.open_input_stream(inside) as file:
            while piece := file.read(_CHUNK):
                total.update(piece)
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"{path}: cannot be read: {error}") from error
    return total.hexdigest()


def digest_bytes(content: bytes | pa.Buffer) -> str:
    """sha256 (hex) of bytes."""
    return hashlib.sha256(content).hexdigest()
