"""Raw sources to checked shards: `prepare(config)`, one Ray Data job.

Every shard is a task of its own: read, check each row, write the parquet file at once, then a note beside it with its
digest and its faults. The manifest comes last. A run that died goes on with the shards whose notes still hold; a run
that has nothing to do does nothing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ember_platform import storage
from ember_platform.config import ROBOT_SOURCE, RunConfig
from ember_platform.data.checks import fault_of
from ember_platform.data.manifest import FILE, QUARANTINE, DataError, Manifest, Shard
from ember_platform.data.sources import READERS, Planned, Reader, ShardSpec, plan
from embervlm.data.schema import Record, to_table

_NOTES = ".notes"
_QUARANTINE_SCHEMA = pa.schema([(name, pa.string()) for name in ("stage", "split", "source")])
_QUARANTINE_SCHEMA = _QUARANTINE_SCHEMA.append(pa.field("line", pa.int64()))
_QUARANTINE_SCHEMA = _QUARANTINE_SCHEMA.append(pa.field("id", pa.string())).append(pa.field("reason", pa.string()))


@dataclass(frozen=True)
class Note:
    """What is known of a finished shard: the shard itself and its rows in quarantine."""

    shard: Shard
    faults: list[dict[str, Any]]


Make = Callable[[ShardSpec], Note]
Runner = Callable[[list[ShardSpec], Make], Iterable[Note]]


def prepare(
    config: RunConfig,
    *,
    runner: Runner | None = None,
    readers: dict[str, Reader] | None = None,
    say: Callable[[str], None] = print,
) -> Manifest:
    """Make every shard that a configuration asks for, or find them made.

    Args:
        config: what to make and where.
        runner: how shards are made; the default is a Ray Data job on the running cluster (or one of its own).
        readers: source → reader of its records; the default knows EmberWorld and the robot-selection files.
        say: takes lines of progress.

    Raises:
        DataError: more rows went to quarantine than `data.max_bad_share` allows.
        ReaderError: a source cannot be read at all.
        StorageError: the data folder cannot be written.
    """
    folder = config.data.dir
    planned, generators = plan(config)
    request = storage.digest_bytes("".join([s.path + s.digest for s in planned.specs]).encode())
    finished = _finished(folder, request)
    if finished is not None:
        say(f"data: {folder} is complete ({_summary(finished)})")
        return finished

    notes = {spec.path: note for spec in planned.specs if (note := _reusable(folder, spec)) is not None}
    missing = [spec for spec in planned.specs if spec.path not in notes]
    say(f"data: {len(planned.specs)} shards, {len(notes)} already there, {len(missing)} to make in {folder}")
    make = ShardMaker(folder, readers or READERS)
    run = runner or (lambda specs, make: on_ray(specs, make, config))
    for done, note in enumerate(run(missing, make) if missing else [], 1):
        notes[note.shard.path] = note
        if done % max(1, len(missing) // 10) == 0 or done == len(missing):
            say(f"data: {done}/{len(missing)} shards made")

    manifest = _manifest(config, planned, generators, request, notes)
    _quarantine(config, planned, notes, say)
    manifest.save()
    _sweep(folder, {spec.path for spec in planned.specs})
    say(f"data: {_summary(manifest)}")
    return manifest


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
        for line, record in enumerate(self.readers[spec.source](spec), spec.start):
            total += 1
            reason = fault_of(record, spec.max_image_pixels) or _misplaced(record, spec)
            if reason is None and record.id in seen:
                reason = "id: given twice"
            if reason is None:
                good.append(record)
                seen.add(record.id)
            else:
                faults.append(_fault(spec.stage, spec.split, spec.source, line, str(record.id), reason))
        if total != spec.count:
            raise DataError(f"{spec.source} gave {total} records for {spec.path} where {spec.count} were asked for")
        content = _parquet(good)
        storage.write_bytes(storage.join(self.folder, spec.path), content)
        digest = storage.digest_bytes(content)
        note = Note(Shard(spec.path, len(good), digest, len(content), spec.source, spec.digest), faults)
        storage.write_bytes(_note_path(self.folder, spec), json.dumps(asdict(note), sort_keys=True).encode())
        return note


def on_ray(specs: list[ShardSpec], make: Make, config: RunConfig) -> Iterator[Note]:
    """Make shards in Ray Data tasks, at most `data.workers` at once; notes come as they are done."""
    import ray

    from ember_platform.data.rayed import ensure_ray, quiet

    ensure_ray(config)
    quiet()

    def one(row: dict[str, Any]) -> dict[str, Any]:
        return {"note": json.dumps(asdict(make(specs[row["id"]])))}

    # Half a CPU a task: on two logical CPUs a whole one beside anything else would wait for ever.
    dataset = ray.data.range(len(specs), override_num_blocks=len(specs)).map(
        one, num_cpus=0.5, compute=ray.data.TaskPoolStrategy(min(config.data.workers, len(specs)))
    )
    for row in dataset.iter_rows():
        yield _note(json.loads(row["note"]))


def _misplaced(record: Record, spec: ShardSpec) -> str | None:
    if record.kind != spec.kind:
        return f"kind: {record.kind!r} where {spec.kind!r} is read"
    if record.split != spec.split:
        return f"split: {record.split!r} where {spec.split!r} is read"
    return None


def _fault(stage: str, split: str, source: str, line: int, identity: str, reason: str) -> dict[str, Any]:
    return {"stage": stage, "split": split, "source": source, "line": line, "id": identity, "reason": reason}


def _parquet(records: list[Record]) -> pa.Buffer:
    """The same records give the same bytes."""
    sink = pa.BufferOutputStream()
    pq.write_table(to_table(records), sink, compression="zstd", row_group_size=256, use_dictionary=["source", "split"])
    return sink.getvalue()


def _note_path(folder: str, spec: ShardSpec) -> str:
    return storage.join(folder, _NOTES, spec.path.replace("/", "-").removesuffix(".parquet") + ".json")


def _note(content: dict[str, Any]) -> Note:
    return Note(Shard(**content["shard"]), list(content["faults"]))


def _reusable(folder: str, spec: ShardSpec) -> Note | None:
    """The note of a shard that was made for this very spec and whose file is unharmed."""
    path = _note_path(folder, spec)
    if not storage.exists(path):
        return None
    try:
        note = _note(json.loads(storage.read_bytes(path)))
    except (ValueError, KeyError, TypeError):
        return None  # a damaged note only costs making the shard again
    return note if note.shard.spec == spec.digest and _intact(folder, note.shard) else None


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


def _manifest(
    config: RunConfig, planned: Planned, generators: dict[str, str], request: str, notes: dict[str, Note]
) -> Manifest:
    shards: dict[str, dict[str, list[Shard]]] = {}
    reasons: Counter[str] = Counter(fault.reason.split(":")[0] for fault in planned.faults)
    for spec in planned.specs:
        note = notes[spec.path]
        shards.setdefault(spec.stage, {}).setdefault(spec.split, []).append(note.shard)
        reasons.update(fault["reason"].split(":")[0] for fault in note.faults)
    return Manifest(config.data.dir, request, config.seed, generators, shards, dict(reasons), planned.merged)


def _quarantine(config: RunConfig, planned: Planned, notes: dict[str, Note], say: Callable[[str], None]) -> None:
    """Write the quarantine, print its counts, and stop where it is too large.

    Raises:
        DataError: past `data.max_bad_share` of the rows of any source.
    """
    rows = [_fault("stage3", "", f.source, f.line, f.id, f.reason) for f in planned.faults]
    rows += [fault for spec in planned.specs for fault in notes[spec.path].faults]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=_QUARANTINE_SCHEMA), sink, compression="zstd")
    path = storage.join(config.data.dir, QUARANTINE)
    storage.write_bytes(path, sink.getvalue())
    if rows:
        say(f"data: {len(rows)} rows in quarantine, {path}:")
        for reason, number in Counter(f"{row['stage']} {row['reason']}" for row in rows).most_common(5):
            say(f"  {number} × {reason}")
    _stop_past(config, planned, notes, path)


def _stop_past(config: RunConfig, planned: Planned, notes: dict[str, Note], path: str) -> None:
    """Stop where any source has too large a share of rows in quarantine."""
    for source in config.sources:
        mine = [note for note in notes.values() if note.shard.source == source]
        faults = [fault for note in mine for fault in note.faults]
        if source == ROBOT_SOURCE:
            faults += [_fault("stage3", "", f.source, f.line, f.id, f.reason) for f in planned.faults]
        total = sum(note.shard.rows for note in mine) + len(faults)
        if len(faults) > config.data.max_bad_share * total:
            first = faults[0]
            raise DataError(
                f"{len(faults)} of {total} rows of {source} ({len(faults) / total:.2%}) cannot be used, more than "
                f"data.max_bad_share ({config.data.max_bad_share:.2%}); the first: {first['source']} line "
                f"{first['line']}: {first['reason']}. All are in {path}; mend them or raise data.max_bad_share"
            )


def _sweep(folder: str, wanted: set[str]) -> None:
    """Remove shards of earlier requests, which the manifest no longer names."""
    for stage in ("stage1", "stage2", "stage3", "stage4"):
        base = storage.join(folder, stage)
        for path in storage.list_files(base):
            place = f"{stage}/{path[len(storage.resolve(base)[1]) :].lstrip('/')}"
            if path.endswith(".parquet") and storage.is_local(path) and place not in wanted:
                storage.delete(path)


def _summary(manifest: Manifest) -> str:
    parts = [f"{stage} {'/'.join(str(n) for n in splits.values())}" for stage, splits in manifest.counts().items()]
    merged = f", {manifest.merged} doubles merged" if manifest.merged else ""
    return f"train/validation/test rows: {', '.join(parts)}{merged}, {sum(manifest.quarantined.values())} in quarantine"
