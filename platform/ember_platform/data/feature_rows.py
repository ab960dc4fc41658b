"""Features of pictures, computed once, by the place of their record: what a frozen encoder would say again and again.

One file per shard, an Arrow file of one column of bytes (bfloat16, P × V per picture, null where a record has none),
mapped into memory as the records are.
"""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from ember_platform import storage
from ember_platform.data.manifest import DataError

COLUMN = "features"


def file_of(folder: str, shard_digest: str) -> str:
    """Where the features of a shard with this content are."""
    return storage.join(folder, f"{shard_digest[:32]}.arrow")


def write(path: str, features: Sequence[np.ndarray | None], shape: tuple[int, int]) -> None:
    """Write one shard's features, (P, V) uint16 each, at once."""
    kind = pa.binary(shape[0] * shape[1] * 2)
    column = pa.array([None if f is None else f.tobytes() for f in features], kind)
    schema = pa.schema([pa.field(COLUMN, kind)], {"shape": f"{shape[0]},{shape[1]}"})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch([column], schema=schema))
    storage.write_bytes(path, sink.getvalue())


class FeatureRows:
    """The features of the records of some shards, one shard after the other."""

    def __init__(self, paths: Sequence[str]) -> None:
        """Open the files at `paths`, those of the shards in their order.

        Raises:
            DataError: a file is missing or damaged.
        """
        self._files = [_opened(path) for path in paths]
        self._starts = np.cumsum([0, *(len(column) for column, _ in self._files)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def take(self, indices: Sequence[int]) -> list[np.ndarray | None]:
        """Features (P, V) as bits of bfloat16 (uint16), None where a record has no picture."""
        found: list[np.ndarray | None] = []
        for index in indices:
            owner = int(np.searchsorted(self._starts, index, side="right")) - 1
            column, shape = self._files[owner]
            value = column[int(index - self._starts[owner])]
            found.append(np.frombuffer(value.as_buffer(), np.uint16).reshape(shape) if value.is_valid else None)
        return found


@functools.lru_cache(maxsize=4096)
def _opened(path: str) -> tuple[pa.Array, tuple[int, int]]:
    """A file's column, mapped (from a copy in the temporary folder, where it is remote), and the shape of a row."""
    filesystem, inside = storage.resolve(path)
    if not filesystem.get_file_info(inside).is_file:
        raise DataError(f"{path}: no such features; set data.feature_cache=off, or start the stage again")
    if not storage.is_local(path):
        name = hashlib.sha256(path.encode()).hexdigest()[:32]
        copy = Path(tempfile.gettempdir()) / f"embervlm-rows-{os.getuid()}" / f"{name}.arrow"
        if not copy.exists():
            storage.write_bytes(str(copy), storage.read_bytes(path))
        inside = str(copy)
    try:
        reader = pa.ipc.open_file(pa.memory_map(inside, "r"))
        tokens, width = (int(n) for n in reader.schema.metadata[b"shape"].split(b","))
        return reader.get_batch(0).column(COLUMN), (tokens, width)
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise DataError(f"{inside}: damaged ({error}); remove it and start the stage again") from error
