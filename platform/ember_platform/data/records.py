"""From an index of a published dataset to its records: the rows of a shard, and then their pictures."""

from __future__ import annotations

import base64
import binascii
import json
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ember_platform import storage
from ember_platform.data.manifest import DataError
from embervlm.data.images import ImageError, keepable
from embervlm.data.readers.base import Fault, Found, Picture
from embervlm.data.schema import Record

#: A file of more bytes is no picture that is worth a look.
_LARGEST = 100_000_000
#: Pictures that are fetched while one is worked on.
_AHEAD = 8


def index_rows(path: str, start: int, count: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, row) of `count` rows of an index file from `start` on, a few at a time.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        with storage.open_input(path) as opened:
            file = pq.ParquetFile(opened)
            place = 0
            for group in range(file.num_row_groups):
                size = file.metadata.row_group(group).num_rows
                if place + size > start and place < start + count:
                    table = file.read_row_group(group, columns=["line", "row"], use_threads=False)
                    first = max(0, start - place)
                    for row in table.slice(first, start + count - place - first).to_pylist():
                        yield row["line"], json.loads(row["row"])
                place += size
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: this index cannot be read ({error}); remove it and prepare the data again") from error


def read_index(path: str, start: int, count: int, image_size: int, max_pixels: int) -> Iterator[Found | Fault]:
    """The records of some rows of an index, each with its picture: upright, its shorter side at most `image_size`."""
    for line, row, fetched in _fetched(index_rows(path, start, count)):
        record = Record.from_row(row["record"])
        if fetched is not None:
            try:
                record.image = keepable(fetched.result(), image_size, max_pixels)
            except ImageError as error:
                yield Fault(row["file"], line, f"{error} ({row['picture'][0][0]})", record.id)
                continue
        yield Found(record, row["file"], line)


def _fetched(rows: Iterable[tuple[int, dict[str, Any]]]) -> Iterator[tuple[int, dict[str, Any], Future[bytes] | None]]:
    """The rows with their pictures' bytes, the next few being fetched meanwhile: on S3 each takes a while to come."""
    waiting: deque[tuple[int, dict[str, Any], Future[bytes] | None]] = deque()
    with ThreadPoolExecutor(_AHEAD, thread_name_prefix="pictures") as pool:
        for line, row in rows:
            found = row["picture"]
            waiting.append((line, row, pool.submit(_content, Picture(tuple(found[0]), *found[1:])) if found else None))
            if len(waiting) > _AHEAD:
                yield waiting.popleft()
        yield from waiting


def _content(picture: Picture) -> bytes:
    """A picture's bytes.

    Raises:
        ImageError: there is no such file, it is far larger than a picture, or lies elsewhere.
        StorageError: it is there and cannot be read: no fault of the row.
    """
    if any(".." in path.split("/") for path in picture.paths):
        raise ImageError("image: its name leads out of the folder of pictures")
    length = _LARGEST + 1 if picture.length is None else picture.length
    for path in picture.paths:
        try:
            content = storage.read_bytes(path, picture.offset, length) if length <= _LARGEST + 1 else None
        except storage.MissingFileError:
            continue
        if content is None or len(content) > _LARGEST:
            raise ImageError(f"image: a file of more than {_LARGEST} bytes")
        return _decoded(content) if picture.encoding == "base64" else content
    raise ImageError("image: no such file")


def _decoded(text: bytes) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ImageError(f"image: no base64: {error}") from error
