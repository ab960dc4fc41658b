"""The records of a run's data folder, read whole, without the platform that wrote them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from embervlm.data.schema import SCHEMA, Record


def has_split(data: Path, stage: int, split: str) -> bool:
    """Whether the folder has shards of a stage's split."""
    return any((data / f"stage{stage}" / split).glob("*.parquet"))


def read_split(data: Path, stage: int, split: str, images: bool = True, most: int | None = None) -> list[Record]:
    """Every record of a stage's split, or at most `most` of them, evenly spaced; without pictures where not asked for.

    Raises:
        OSError: the folder has no such shards, or one cannot be read. The message names it and what to do.
    """
    paths = sorted((data / f"stage{stage}" / split).glob("*.parquet"))
    if not paths:
        raise FileNotFoundError(
            f"{data / f'stage{stage}' / split}: no shards (*.parquet) there; --data is the data folder of a run "
            "(jobs/prepare_data.py makes one)"
        )
    names = [name for name in SCHEMA.names if images or (name != "image" and not name.startswith("teacher"))]
    try:
        tables = [pq.read_table(path, columns=names, use_threads=False) for path in paths]
    except (pa.ArrowException, KeyError) as error:
        raise OSError(f"{paths[0].parent}: a shard cannot be read ({error}); prepare the data again") from error
    table = pa.concat_tables(tables)
    if most is not None and table.num_rows > most:
        step = -(-table.num_rows // most)
        table = table.take(pa.array(range(0, table.num_rows, step)))
    return [Record.from_row({"image": None, **row}) for row in table.to_pylist()]
