"""Random access to the records of parquet shards, without holding them in memory.

Parquet cannot give one row cheaply, so each shard is laid out once as a plain Arrow file beside it (or in the
temporary folder, where the shard is remote) and mapped: all processes of a machine share the same pages.
"""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ember_platform import storage
from ember_platform.data.manifest import DataError
from embervlm.data.schema import SCHEMA, Record

_FOLDER = ".rows"


class Rows(Sequence[Record]):
    """The records of some shards, one after the other, as a sequence."""

    def __init__(self, paths: Sequence[str]) -> None:
        """Open the shards at `paths`.

        Raises:
            DataError: a shard is missing, damaged or of another schema.
        """
        self._shards = [_mapped(path) for path in paths]
        self._starts = np.cumsum([0, *(shard.num_rows for shard in self._shards)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        """The record at an index, or a list of those in a slice."""
        if isinstance(index, slice):
            return self.take(range(*index.indices(len(self))))
        index = int(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        return self.take([index % len(self)])[0]

    def __iter__(self) -> Iterator[Record]:
        for shard in self._shards:
            for start in range(0, shard.num_rows, 64):
                yield from map(Record.from_row, shard.slice(start, 64).to_pylist())

    def take(self, indices: Sequence[int] | np.ndarray, pictures: bool = True) -> list[Record]:
        """The records at some indices, in their order (an index may come twice); `image` is None without `pictures`."""
        wanted = np.asarray(indices, dtype=np.int64)
        owners = np.searchsorted(self._starts, wanted, side="right") - 1
        records: list[Record | None] = [None] * len(wanted)
        for owner in np.unique(owners):
            places = np.flatnonzero(owners == owner)
            shard = self._shards[owner]
            if not pictures:
                shard = shard.select([name for name in shard.schema.names if name != "image"])
            rows = shard.take(pa.array(wanted[places] - self._starts[owner])).to_pylist()
            for place, row in zip(places, rows, strict=True):
                records[place] = Record.from_row(row if pictures else {**row, "image": None})
        return [record for record in records if record is not None]

    def texts(self) -> Iterator[Record]:
        """Every record without its picture (`image` is None) and teacher fields: quick, for lengths and ids."""
        light = [name for name in SCHEMA.names if name != "image" and not name.startswith("teacher")]
        for shard in self._shards:
            for row in shard.select(light).to_pylist():
                yield Record.from_row({**row, "image": None})

    def column(self, name: str) -> list[str]:
        """One text column of all rows, such as `id` or `source`."""
        return [value for shard in self._shards for value in shard.column(name).to_pylist()]


@functools.lru_cache(maxsize=4096)
def _mapped_file(file: str) -> pa.RecordBatch:
    reader = pa.ipc.open_file(pa.memory_map(file, "r"))
    if reader.num_record_batches == 0:
        return pa.RecordBatch.from_pylist([], schema=SCHEMA)
    return reader.get_batch(0)


def _mapped(path: str) -> pa.RecordBatch:
    """A shard as one mapped record batch, laid out first where that has not been done."""
    filesystem, inside = storage.resolve(path)
    info = filesystem.get_file_info(inside)
    if not info.is_file:
        raise DataError(f"{path}: no such shard; prepare the data again")
    name = hashlib.sha256(f"{path} {info.size} {info.mtime_ns}".encode()).hexdigest()[:16]
    if storage.is_local(path):
        folder = Path(inside).parent / _FOLDER
    else:
        folder = Path(tempfile.gettempdir()) / f"embervlm-rows-{os.getuid()}"
    target = folder / f"{Path(inside).stem}-{name}.arrow"
    if not target.exists():
        _lay_out(path, target)
    try:
        return _mapped_file(str(target))
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{target}: damaged ({error}); remove it and try again") from error


def _lay_out(path: str, target: Path) -> None:
    try:
        with storage.open_input(path) as file:
            table = pq.read_table(file, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: this shard cannot be read ({error}); prepare the data again") from error
    missing = [name for name in SCHEMA.names if name not in table.column_names]
    if missing:
        raise DataError(f"{path}: this shard has no column {missing[0]!r}; prepare the data again")
    table = table.select(SCHEMA.names).combine_chunks()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    if storage.is_local(path):  # elsewhere shards of many folders lie together, under the same names
        for stale in target.parent.glob(f"{target.name.rpartition('-')[0]}-*.arrow"):
            if stale != target:
                stale.unlink(missing_ok=True)
    storage.write_bytes(str(target), sink.getvalue())
