"""Raw sources to checked shards: `prepare(config)`, one Ray Data job.

The annotations of published datasets are indexed first (`published`). Then every shard is a task of its own: read,
check each row, write the parquet file at once, then a note beside it with its digest and its faults. The manifest
comes last. A run that died goes on with the parts and shards whose notes still hold; a run that has nothing to do
does nothing. What is held at once is a shard per task and a line about every shard, however many rows there are.
"""

from __future__ import annotations

import itertools
import json
import pickle
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ember_platform import storage
from ember_platform.config import RunConfig
from ember_platform.data import published
from ember_platform.data.checks import fault_of
from ember_platform.data.manifest import FILE, QUARANTINE, DataError, Manifest, Shard
from ember_platform.data.published import Part, PartNote, kind_of
from ember_platform.data.records import index_rows
from ember_platform.data.sources import (
    READERS,
    STAGE_OF_KIND,
    Planned,
    Reader,
    ShardSpec,
    plan,
    read_published,
    shard_prefix,
)
from embervlm.data.readers.base import Fault, Found
from embervlm.data.schema import Record, to_table

_NOTES = ".notes"
_QUARANTINE_SCHEMA = pa.schema(
    [
        ("stage", pa.string()),
        ("split", pa.string()),
        ("source", pa.string()),
        ("file", pa.string()),
        ("line", pa.int64()),
        ("id", pa.string()),
        ("reason", pa.string()),
    ]
)


@dataclass(frozen=True)
class Note:
    """What is known of a finished shard: itself, and its rows in quarantine: how many of which kind, and the first.

    All of those rows are in the note's file.
    """

    shard: Shard
    faults: int
    reasons: dict[str, int]
    first: dict[str, Any] | None = None


Make = Callable[[Any], Any]
Runner = Callable[[list[Any], Make], Iterable[Any]]


def prepare(
    config: RunConfig,
    *,
    runner: Runner | None = None,
    readers: dict[str, Reader] | None = None,
    again: bool = False,
    say: Callable[[str], None] = print,
) -> Manifest:
    """Make every shard that a configuration asks for, or find them made.

    Args:
        config: what to make and where.
        runner: how shards are made; the default is a Ray Data job on the running cluster (or one of its own).
        readers: source → reader of its records, for what is no published dataset; the default knows EmberWorld.
        again: make shards again that have rows in quarantine, for instance because missing pictures have come.
        say: takes lines of progress.

    Raises:
        DataError: more rows went to quarantine than `data.max_bad_share` allows.
        ReaderError: a source cannot be read at all.
        StorageError: the data folder cannot be written.
    """
    folder = config.data.dir
    run = runner or (lambda jobs, make: on_ray(jobs, make, config))
    planned = plan(config, lambda parts: _index(parts, run, say))
    request = storage.digest_bytes("".join([s.path + s.digest for s in planned.specs]).encode())
    finished = None if again else _finished(folder, request)
    if finished is not None:
        say(f"data: {folder} is complete ({_summary(finished)})")
        return finished

    notes = {spec.path: note for spec in planned.specs if (note := _reusable(folder, spec, again)) is not None}
    missing = [spec for spec in planned.specs if spec.path not in notes]
    say(f"data: {len(planned.specs)} shards, {len(notes)} already there, {len(missing)} to make in {folder}")
    make = ShardMaker(folder, readers or READERS)
    for done, note in enumerate(run(missing, make) if missing else [], 1):
        notes[note.shard.path] = note
        if done % max(1, len(missing) // 10) == 0 or done == len(missing):
            say(f"data: {done}/{len(missing)} shards made")

    manifest = _manifest(config, planned, request, notes)
    _quarantine(config, planned, notes, say)
    manifest.save()
    _sweep(folder, planned)
    say(f"data: {_summary(manifest)}")
    return manifest


def _index(parts: list[Part], run: Runner, say: Callable[[str], None]) -> Iterator[PartNote]:
    """Read the annotations of parts; one that was read a moment ago by a run that died is not missing any more."""
    for part, note in zip(parts, run(parts, published.Indexer()), strict=True):
        rows = ", ".join(f"{count} {split}" for split, count in note.counts.items())
        say(f"data: {part.source.name}, part {part.number}: {rows}, {note.faults} that cannot be used")
        yield note


class ShardMaker:
    """Makes one shard; sent to the workers, so it holds nothing but the folder and the readers."""

    def __init__(self, folder: str, readers: dict[str, Reader]) -> None:
        self.folder = folder
        self.readers = readers

    def __call__(self, spec: ShardSpec) -> Note:
        """Read, check, write the shard and its note.

        Raises:
            DataError: the source gave another number of records than was asked for.
        """
        good: list[Record] = []
        faults: list[dict[str, Any]] = []
        seen: set[str] = set()
        total = 0
        for line, row in enumerate(self.readers.get(spec.source, read_published)(spec), spec.start):
            total += 1
            if isinstance(row, Record):
                row = Found(row, "", line)
            if isinstance(row, Found):
                reason = fault_of(row.record, spec.max_image_pixels) or _misplaced(row.record, spec)
                if reason is None and row.record.id in seen:
                    reason = "id: given twice"
                if reason is None:
                    good.append(row.record)
                    seen.add(row.record.id)
                    continue
                row = Fault(row.file, row.line, reason, str(row.record.id))
            faults.append(_fault(spec.stage, spec.split, spec.source, row))
        if total != spec.count:
            raise DataError(f"{spec.source} gave {total} records for {spec.path} where {spec.count} were asked for")
        content = _parquet(good)
        storage.write_bytes(storage.join(self.folder, spec.path), content)
        digest = storage.digest_bytes(content)
        shard = Shard(spec.path, len(good), digest, len(content), spec.source, spec.digest)
        note = {"shard": asdict(shard), "faults": faults}
        storage.write_bytes(_note_path(self.folder, spec), json.dumps(note, sort_keys=True).encode())
        return _note(note)


def on_ray(jobs: list[Any], make: Make, config: RunConfig) -> Iterator[Any]:
    """Do jobs in Ray Data tasks, at most `data.workers` at once; the results come in the order of the jobs."""
    import ray

    from ember_platform.data.rayed import ensure_ray, quiet

    ensure_ray(config)
    quiet()

    def one(row: dict[str, Any]) -> dict[str, Any]:
        return {"made": pickle.dumps(make(jobs[row["id"]]))}

    # Half a CPU a task: on two logical CPUs a whole one beside anything else would wait for ever.
    dataset = ray.data.range(len(jobs), override_num_blocks=len(jobs)).map(
        one, num_cpus=0.5, compute=ray.data.TaskPoolStrategy(min(config.data.workers, len(jobs)))
    )
    dataset.context.execution_options.preserve_order = True
    for row in dataset.iter_rows():
        yield pickle.loads(row["made"])


def _misplaced(record: Record, spec: ShardSpec) -> str | None:
    if record.kind != spec.kind:
        return f"kind: {record.kind!r} where {spec.kind!r} is read"
    if record.split != spec.split:
        return f"split: {record.split!r} where {spec.split!r} is read"
    return None


def _fault(stage: str, split: str, source: str, row: Fault) -> dict[str, Any]:
    return {
        "stage": stage,
        "split": split,
        "source": source,
        "file": row.file,
        "line": row.line,
        "id": row.id,
        "reason": row.reason,
    }


def _parquet(records: list[Record]) -> pa.Buffer:
    """The same records give the same bytes."""
    sink = pa.BufferOutputStream()
    pq.write_table(to_table(records), sink, compression="zstd", row_group_size=256, use_dictionary=["source", "split"])
    return sink.getvalue()


def _note_path(folder: str, spec: ShardSpec) -> str:
    return storage.join(folder, _NOTES, spec.path.replace("/", "-").removesuffix(".parquet") + ".json")


def _note(content: dict[str, Any]) -> Note:
    faults = content["faults"]
    reasons = Counter(kind_of(fault["reason"]) for fault in faults)
    return Note(Shard(**content["shard"]), len(faults), dict(reasons), faults[0] if faults else None)


def _reusable(folder: str, spec: ShardSpec, again: bool) -> Note | None:
    """The note of a shard that was made for this very spec and whose file is unharmed."""
    path = _note_path(folder, spec)
    if not storage.exists(path):
        return None
    try:
        note = _note(json.loads(storage.read_bytes(path)))
    except (ValueError, KeyError, TypeError):
        return None  # a damaged note only costs making the shard again
    if note.shard.spec != spec.digest or (again and note.faults):
        return None
    return note if _intact(folder, note.shard) else None


def _intact(folder: str, shard: Shard) -> bool:
    path = storage.join(folder, shard.path)
    return storage.exists(path) and storage.digest(path) == shard.sha256


def _finished(folder: str, request: str) -> Manifest | None:
    """The manifest of a complete earlier run of the same request, its shards unharmed."""
    if not storage.exists(storage.join(folder, FILE)):
        return None
    try:
        manifest = Manifest.load(folder)
    except DataError:
        return None  # damaged: it is written again from the shards
    shards = [s for splits in manifest.shards.values() for group in splits.values() for s in group]
    return manifest if manifest.request == request and all(_intact(folder, s) for s in shards) else None


def _manifest(config: RunConfig, planned: Planned, request: str, notes: dict[str, Note]) -> Manifest:
    shards: dict[str, dict[str, list[Shard]]] = {}
    reasons: Counter[str] = Counter()
    for spec in planned.specs:
        note = notes[spec.path]
        shards.setdefault(spec.stage, {}).setdefault(spec.split, []).append(note.shard)
        reasons.update(note.reasons)
    for _, part in planned.parts:
        reasons.update(part.reasons)
    doubles = sum(part.doubles for _, part in planned.parts)
    return Manifest(config.data.dir, request, config.seed, planned.generators, shards, dict(reasons), doubles)


def _quarantine(config: RunConfig, planned: Planned, notes: dict[str, Note], say: Callable[[str], None]) -> None:
    """Write the quarantine, a few rows at a time, print its counts, and stop where it is too large.

    Raises:
        DataError: past the share of bad rows that a source is allowed.
    """
    path = storage.join(config.data.dir, QUARANTINE)
    counts: Counter[tuple[str, str]] = Counter()
    with storage.drafted(path) as draft, pq.ParquetWriter(draft, _QUARANTINE_SCHEMA, compression="zstd") as writer:
        for rows in _set_aside(config.data.dir, planned, notes):
            writer.write_table(pa.Table.from_pylist(rows, schema=_QUARANTINE_SCHEMA))
            counts.update((row["source"], kind_of(row["reason"])) for row in rows)
    if counts:
        say(f"data: {sum(counts.values())} rows in quarantine, {path}:")
        for (source, reason), number in counts.most_common(5):
            say(f"  {number} × {source}: {reason}")
    _stop_past(config, planned, notes, path)


def _set_aside(folder: str, planned: Planned, notes: dict[str, Note]) -> Iterator[list[dict[str, Any]]]:
    """The rows of the quarantine, in order and in pieces: those that no record came of, then those of each shard."""
    for part, note in planned.parts:
        if note.faults:
            stage = STAGE_OF_KIND[part.source.kind]
            found = index_rows(f"{part.index}-{published.FAULTS}.parquet", 0, note.faults)
            rows = (_fault(stage, "", part.source.name, Fault(**row)) for _, row in found)
            while piece := list(itertools.islice(rows, 256)):
                yield piece
    for spec in planned.specs:
        if notes[spec.path].faults:
            yield json.loads(storage.read_bytes(_note_path(folder, spec)))["faults"]


def _stop_past(config: RunConfig, planned: Planned, notes: dict[str, Note], path: str) -> None:
    """Stop where any source has too large a share of rows in quarantine."""
    allowed = {source.name: source.max_bad_share for source in published.sources_of(config)}
    for source in config.sources:
        parts: list[Note | PartNote] = [note for part, note in planned.parts if part.source.name == source]
        mine = [note for note in notes.values() if note.shard.source == source]
        bad = sum(note.faults for note in [*parts, *mine])
        total = sum(note.shard.rows for note in mine) + bad
        share = allowed.get(source, config.data.max_bad_share)
        if bad > share * total:
            first = next(note.first for note in [*parts, *mine] if note.first)
            name = (
                "data.max_bad_share" if share == config.data.max_bad_share else f"data.datasets.{source}.max_bad_share"
            )
            raise DataError(
                f"{bad} of {total} rows of {source} ({bad / total:.2%}) cannot be used, more than "
                f"{name} ({share:.2%}); the first: {first['file'] or source} line "
                f"{first['line']}: {first['reason']}. All are in {path}; mend them or raise {name}"
            )


def _sweep(folder: str, planned: Planned) -> None:
    """Remove what earlier requests left of this one's sources; the shards of others may be wanted again."""
    wanted = {spec.path for spec in planned.specs}
    mine = {(spec.stage, shard_prefix(spec.source)) for spec in planned.specs}
    for stage in sorted({spec.stage for spec in planned.specs}):
        base = storage.join(folder, stage)
        inside = storage.resolve(base)[1]
        for path in storage.list_files(base):
            place = f"{stage}/{path[path.index(inside) + len(inside) :].lstrip('/')}"
            prefix = place.rsplit("/", 1)[-1].rpartition("-")[0]
            if path.endswith(".parquet") and (stage, prefix) in mine and place not in wanted:
                storage.delete(path)


def _summary(manifest: Manifest) -> str:
    parts = [f"{stage} {'/'.join(str(n) for n in splits.values())}" for stage, splits in manifest.counts().items()]
    merged = f", {manifest.merged} doubles merged" if manifest.merged else ""
    return f"train/validation/test rows: {', '.join(parts)}{merged}, {sum(manifest.quarantined.values())} in quarantine"
