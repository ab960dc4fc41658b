"""Local paths and `s3://bucket/prefix` as one small thing, over `pyarrow.fs`.

A path is a string; a write is complete or absent. Credentials, region, endpoint and addressing style of S3 are what
boto3 finds (environment, profile, role, …: AWS_PROFILE, AWS_ENDPOINT_URL, `s3 = addressing_style` of a profile). An
endpoint of one's own is addressed by path unless the profile says `virtual`. A request that fails for a while (5xx,
throttling, a connection that is reset or stalls) is tried again with growing pauses, AWS_MAX_ATTEMPTS times in all.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

#: Names the folder that relative paths count from; `cluster/local.py submit` sets it.
ROOT_VARIABLE = "EMBERVLM_ROOT"
_CHUNK = 1 << 20
#: Times that a request to S3 is made in all, where AWS_MAX_ATTEMPTS does not say.
_ATTEMPTS = 6
#: Seconds until a request to S3 that stands still is given up, where EMBERVLM_S3_TIMEOUT does not say.
_TIMEOUT = 20.0
#: Where boto3 may have credentials from that expire, and that S3's own client asks as well.
_RENEWED = ("iam-role", "container-role", "assume-role-with-web-identity", "sso", "custom-process")
_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
_Environment = tuple[tuple[str, str], ...]


class StorageError(OSError):
    """Storage that cannot be used. The message names the path and what was tried."""


class MissingFileError(StorageError):
    """There is no such file."""


class _S3(fs.S3FileSystem):
    """S3 as this process may use it. It travels as its bucket's name: its retries would be lost, and secrets stay."""

    def __init__(self, bucket: str, settings: dict[str, Any]) -> None:
        super().__init__(**settings)
        self.bucket = bucket

    def __reduce__(self) -> tuple[Any, ...]:
        return _s3, (self.bucket,)


def _s3(bucket: str) -> fs.FileSystem:
    """The client of a bucket with the credentials of now."""
    environment = tuple(sorted((k, v) for k, v in os.environ.items() if k.startswith("AWS_")))
    timeout = _number("EMBERVLM_S3_TIMEOUT", _TIMEOUT)
    return _client(bucket, environment, timeout, *_keys(_session(environment)))


@functools.lru_cache(maxsize=32)
def _client(bucket: str, environment: _Environment, timeout: float, *keys: str | None) -> fs.FileSystem:
    access_key, secret_key, token = keys
    session = _session(environment)
    client = session.client("s3")
    settings: dict[str, Any] = {
        "retry_strategy": fs.AwsStandardS3RetryStrategy(max_attempts=int(_number("AWS_MAX_ATTEMPTS", _ATTEMPTS))),
        "connect_timeout": timeout,
        "request_timeout": timeout,
        "allow_delayed_open": True,  # a small file is one request and not three
    }
    if access_key:
        settings |= {"access_key": access_key, "secret_key": secret_key, "session_token": token}
    style = (client.meta.config.s3 or {}).get("addressing_style")
    endpoint = str(client.meta.endpoint_url)
    if ".amazonaws.com" not in endpoint:
        scheme, _, host = endpoint.partition("://")
        settings |= {"endpoint_override": host.rstrip("/"), "scheme": scheme}
        settings |= {"force_virtual_addressing": style == "virtual"}
        region = session.region_name
    else:
        region = session.region_name or fs.resolve_s3_region(bucket)
    return _S3(bucket, settings | {"region": region or "us-east-1"})


def _keys(session: Any) -> tuple[str | None, str | None, str | None]:
    """The keys that boto3 finds; none where they come from a place that the client knows and renews them from."""
    found = session.get_credentials()
    if found is None or found.method in _RENEWED:
        return None, None, None
    frozen = found.get_frozen_credentials()
    return frozen.access_key, frozen.secret_key, frozen.token


@functools.lru_cache(maxsize=4)
def _session(environment: _Environment) -> Any:
    """A boto3 session under an environment; reading its files is what costs, so it is kept."""
    import boto3

    return boto3.Session()


def _number(variable: str, default: float) -> float:
    """A number of the environment, above 0.

    Raises:
        StorageError: it is set to something else.
    """
    text = os.environ.get(variable, "")
    try:
        value = float(text) if text else default
    except ValueError:
        value = 0.0
    if not value > 0:
        raise StorageError(f"{variable}: expected a number above 0, found {text!r}")
    return value


def resolve(path: str) -> tuple[fs.FileSystem, str]:
    """The file system of a path, and the path inside it.

    Raises:
        StorageError: a scheme that is neither `s3` nor `file`, or no bucket.
    """
    scheme, separator, rest = str(path).partition("://")
    if not separator:
        return fs.LocalFileSystem(), absolute(str(path))
    if scheme == "file":
        return fs.LocalFileSystem(), rest
    if scheme != "s3" or not rest.split("/")[0]:
        raise StorageError(f"{path}: expected a local path or s3://bucket/prefix")
    return _s3(rest.split("/")[0]), rest.rstrip("/")


def absolute(path: str) -> str:
    """A local path made absolute; URLs (s3://…) as they are.

    A job runs in a copy of the repository that goes when the cluster goes, so a relative path counts from
    EMBERVLM_ROOT where that is set: the folder that the user submitted from.
    """
    if "://" in path:
        return path
    return os.path.normpath(os.path.join(os.environ.get(ROOT_VARIABLE) or os.getcwd(), os.path.expanduser(path)))


def is_local(path: str) -> bool:
    """Whether the path is on this machine's file system, told from its text alone."""
    scheme, separator, _ = str(path).partition("://")
    return not separator or scheme == "file"


def join(base: str, *parts: str) -> str:
    """`base/part/part`, for local paths and URLs alike."""
    return "/".join([str(base).rstrip("/"), *parts])


def exists(path: str) -> bool:
    """Whether there is a file or folder at the path."""
    return bool(_info(path).type != fs.FileType.NotFound)


def identity(path: str) -> tuple[str, int, int] | None:
    """What tells one content of a file from the next, without reading it: name, bytes, nanoseconds of its last change.

    None where there is no file.
    """
    found = _info(path)
    if found.type != fs.FileType.File:
        return None
    return path.rsplit("/", 1)[-1], int(found.size), int(found.mtime_ns or 0)


def _info(path: str) -> fs.FileInfo:
    filesystem, inside = resolve(path)
    try:
        return filesystem.get_file_info(inside)
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"{path}: cannot be looked up: {error}") from error


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


def read_bytes(path: str, offset: int = 0, length: int | None = None) -> bytes:
    """The whole file, or at most `length` bytes of it from `offset` on.

    Raises:
        MissingFileError: there is no such file.
        StorageError: it cannot be read.
    """
    filesystem, inside = resolve(path)
    try:
        if offset == 0 and length is None:
            with filesystem.open_input_stream(inside) as file:
                return bytes(file.read())
        with filesystem.open_input_file(inside) as file:
            return bytes(file.read_at(length if length is not None else file.size() - offset, offset))
    except (OSError, pa.ArrowException) as error:
        # A name that no file can have, or a folder's, is that of a missing file, too.
        folder = isinstance(filesystem, fs.LocalFileSystem) and os.path.isdir(inside)
        if folder or isinstance(error, pa.ArrowInvalid) or getattr(error, "errno", None) in _NO_FILE:
            raise MissingFileError(f"{path}: cannot be read: no such file") from error
        raise StorageError(f"{path}: cannot be read: {error}") from error


def write_bytes(path: str, content: bytes | pa.Buffer) -> None:
    """Write a file at once: afterwards it is there in full, or, where that failed, as it was before.

    Raises:
        StorageError: the folder cannot be made or the file cannot be written.
    """
    filesystem, inside = resolve(path)
    held = pa.py_buffer(content)  # what is no bytes fails here, before there is a file
    try:
        if isinstance(filesystem, fs.LocalFileSystem):
            _write_local(Path(inside), held)
        else:
            with filesystem.open_output_stream(inside) as file:
                file.write(held)
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"{path}: cannot be written: {error}") from error


@contextlib.contextmanager
def drafted(path: str) -> Iterator[Path]:
    """A local file to write piece by piece; it is put at the path, at once, when the block ends without an exception.

    Raises:
        StorageError: it cannot be put there.
    """
    filesystem, inside = resolve(path)
    target, local = Path(inside), isinstance(filesystem, fs.LocalFileSystem)
    draft = Path(target.parent if local else tempfile.gettempdir(), f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        if local:
            target.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        if not local:
            fs.copy_files(str(draft), inside, fs.LocalFileSystem(), filesystem)
            return
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(target)
    except (OSError, pa.ArrowException) as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"{path}: cannot be written: {error}") from error
    finally:
        draft.unlink(missing_ok=True)


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
    try:
        found = [i.path for i in filesystem.get_file_info(selector) if i.type == fs.FileType.File]
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"{path}: cannot be listed: {error}") from error
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
