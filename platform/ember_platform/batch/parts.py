"""What is to be answered: parquet and JSONL files, cut into parts that are read, answered and written on their own.

A record is a row with `task` (or `instruction`), and where it has them `id`, `image` (the bytes of a picture file),
`image_path` (a file, relative to the record's own file) and `fleet` or `robots` (a list of robots, or JSON of one). In
JSONL `image` is base64. The shards of a training run are such files.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from ember_platform import storage

COLUMNS = ("id", "task", "instruction", "image", "image_path", "fleet", "robots")


class BatchError(RuntimeError):
    """Input or output that cannot be used as a whole. The message names the file and what to do."""


@dataclass(frozen=True)
class Part:
    """Some records of one file: rows of a parquet file, or bytes of a JSONL file, from `start` to before `end`.

    `first` is the row or line (from 0) of its first record; `stamp` tells whether the file was changed.
    """

    path: str
    kind: str
    start: int
    end: int
    first: int
    stamp: str

    def key(self, request: str) -> str:
        """The name of its answers: another for another file, range or request."""
        return storage.digest_bytes(json.dumps([asdict(self), request]).encode())[:20]


@dataclass(frozen=True)
class Question:
    """One record as it was found; `fault` where it cannot be one, as (field, reason)."""

    row: int
    id: str
    task: Any = None
    image: Any = None
    image_path: Any = None
    fleet: Any = None
    fault: tuple[str, str] | None = None


def find_parts(places: Sequence[str], rows: int) -> list[Part]:
    """The parts of files and folders, in order, of about `rows` records each.

    Raises:
        BatchError: nothing there, a file of another kind, or one without tasks. StorageError: it cannot be read.
    """
    parts: list[Part] = []
    for path in _files(places):
        parts += _parquet_parts(path, rows) if path.endswith(".parquet") else _jsonl_parts(path, rows)
    if not parts:
        raise BatchError(f"{', '.join(places)}: no records in any .parquet or .jsonl file there")
    return parts


def _files(places: Sequence[str]) -> Iterator[str]:
    for place in places:
        filesystem, inside = storage.resolve(place)
        is_file = filesystem.get_file_info(inside).type == fs.FileType.File
        found = [place] if is_file else storage.list_files(place)
        known = [path for path in found if path.endswith((".parquet", ".jsonl")) and "/." not in path]
        if not known:
            raise BatchError(f"{place}: no .parquet or .jsonl file is there")
        yield from known


def _stamp(path: str) -> str:
    filesystem, inside = storage.resolve(path)
    info = filesystem.get_file_info(inside)
    return f"{info.size}:{info.mtime_ns}"


def _parquet_parts(path: str, rows: int) -> Iterator[Part]:
    with _parquet(path) as file:
        names, total = file.schema_arrow.names, file.metadata.num_rows
    if "task" not in names and "instruction" not in names:
        raise BatchError(f"{path}: neither a column task nor instruction; it has {', '.join(names)}")
    stamp = _stamp(path)
    for start in range(0, total, rows):
        yield Part(path, "parquet", start, min(start + rows, total), start, stamp)


def _parquet(path: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(storage.open_input(path))
    except pa.ArrowException as error:
        raise BatchError(f"{path}: not a parquet file ({error})") from error


def _jsonl_parts(path: str, rows: int) -> Iterator[Part]:
    """One pass over the file, which finds where its lines begin."""
    stamp = _stamp(path)
    start = position = first = line = 0
    filesystem, inside = storage.resolve(path)
    with filesystem.open_input_stream(inside) as stream:
        while chunk := stream.read(1 << 20):
            at = -1
            while (at := chunk.find(b"\n", at + 1)) >= 0:
                line += 1
                if line - first == rows:
                    yield Part(path, "jsonl", start, position + at + 1, first, stamp)
                    start, first = position + at + 1, line
            position += len(chunk)
    if position > start:
        yield Part(path, "jsonl", start, position, first, stamp)


# ---------------------------------------------------------------- reading


def read_part(part: Part) -> list[Question]:
    """The records of a part. A record that is none is a question with a fault.

    Raises:
        BatchError: the file is damaged, or another one by now.
    """
    if _stamp(part.path) != part.stamp:
        raise BatchError(f"{part.path}: changed while it was being answered; run the job again")
    rows = _parquet_rows(part) if part.kind == "parquet" else _jsonl_rows(part)
    return [_question(part, number, row) for number, row in rows]


def _parquet_rows(part: Part) -> Iterator[tuple[int, Any]]:
    with _parquet(part.path) as file:
        columns = [name for name in COLUMNS if name in file.schema_arrow.names]
        position = 0
        for group in range(file.metadata.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            low, high = max(part.start, position), min(part.end, position + count)
            if low < high:
                try:
                    table = file.read_row_group(group, columns=columns).slice(low - position, high - low)
                except (pa.ArrowException, OSError) as error:
                    raise BatchError(f"{part.path}: rows {low} to {high} cannot be read ({error})") from error
                yield from enumerate(table.to_pylist(), low)
            position += count


def _jsonl_rows(part: Part) -> Iterator[tuple[int, Any]]:
    with storage.open_input(part.path) as file:
        file.seek(part.start)
        content = bytes(file.read(part.end - part.start))
    for number, line in enumerate(content.split(b"\n")[: None if not content.endswith(b"\n") else -1], part.first):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, error


def _question(part: Part, number: int, row: Any) -> Question:
    name = f"{part.path.rsplit('/', 1)[-1]}:{number}"
    if not isinstance(row, dict):
        said = f"not JSON: {row}" if isinstance(row, Exception) else f"not an object but {type(row).__name__}"
        return Question(number, name, fault=("", said[:200]))
    identity = row.get("id")
    name = identity if isinstance(identity, str) and identity else name
    image = row.get("image")
    if isinstance(image, str):
        try:
            image = base64.b64decode(image, validate=True)
        except (binascii.Error, ValueError):
            return Question(number, name, fault=("image", "not base64"))
    fleet = row.get("fleet") if row.get("fleet") not in (None, "", []) else row.get("robots") or None
    task = row.get("task") if row.get("task") is not None else row.get("instruction")
    return Question(number, name, task, image, row.get("image_path"), fleet)


def picture_bytes(part: Part, question: Question) -> bytes | None:
    """The bytes of a question's picture, None where it has none.

    Raises:
        BatchError: no bytes, or the file that it names cannot be read.
    """
    if question.image is not None:
        if not isinstance(question.image, bytes):
            raise BatchError("not the bytes of a picture file")
        return question.image
    if question.image_path is None:
        return None
    if not isinstance(question.image_path, str):
        raise BatchError("image_path is no text")
    place = question.image_path
    if "://" not in place and not place.startswith("/"):
        place = storage.join(part.path.rpartition("/")[0] or ".", place)
    try:
        return storage.read_bytes(place)
    except storage.StorageError as error:
        raise BatchError(f"the file {question.image_path} cannot be read") from error
