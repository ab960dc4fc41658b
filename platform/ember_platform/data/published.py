"""Published datasets on their way to shards: their annotations are read once, in order, into an index beside the
shards.

    <data.dir>/.index/<dataset>/00000-train.parquet      a row per record: what it says, and where its picture lies
    <data.dir>/.index/<dataset>/00000-faults.parquet     rows that cannot be used
    <data.dir>/.index/<dataset>/00000.json               how many, of which files; written last

From the index, any shard can be made by itself: `records.read_index` reads its rows and then their pictures. Neither
holds more than a thousand rows, whatever the size of the dataset.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import embervlm
from ember_platform import storage
from ember_platform.config import ROBOT_SOURCE, RunConfig
from embervlm.data.augmentation import variants
from embervlm.data.readers import FORMATS
from embervlm.data.readers.base import Dataset, Double, Fault, Found, ReaderError, plain
from embervlm.data.schema import SPLITS, Record

FOLDER = ".index"
FAULTS = "faults"
#: What makes an index beside the dataset and the readers' code.
_FORMAT = "1"
_ROWS = 1024
_SCHEMA = pa.schema([("number", pa.int64()), ("line", pa.int64()), ("row", pa.string())])
_BUFFER = 4 << 20


class StoredFiles:
    """A dataset's files, local or on S3, as the readers want them."""

    def open(self, path: str) -> BinaryIO:
        """See `embervlm.data.readers.base.Files`."""
        filesystem, inside = storage.resolve(path)
        try:
            # Reads by place, not one stream: on S3 each piece is a request that can be made again.
            return io.BufferedReader(filesystem.open_input_file(inside), _BUFFER)
        except (OSError, pa.ArrowException) as error:
            raise ReaderError(f"{path}: cannot be opened: {error}") from error

    def list(self, path: str) -> list[str]:
        """See `embervlm.data.readers.base.Files`."""
        return [path] if storage.identity(path) else storage.list_files(path)


@dataclass(frozen=True)
class Source:
    """A published dataset of a configuration.

    `digest` is of its settings and of the code that reads it; `limit` and `augment` are those of the configuration.
    """

    dataset: Dataset
    limit: int | None
    augment: int
    max_bad_share: float

    @property
    def name(self) -> str:
        """The source of its records."""
        return self.dataset.name

    @property
    def kind(self) -> str:
        """The kind of its records."""
        return str(FORMATS[self.dataset.format].KIND)

    @property
    def digest(self) -> str:
        """sha256 (hex) of all that decides what is read, the content of its files aside."""
        content = [_FORMAT, asdict(self.dataset), self.limit, self.augment, _code_digest()]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Part:
    """A group of a dataset's files that is read by itself, one of `total`.

    `index` is where its index goes, a path without an ending; `files` is empty where they are gone and the index is
    there.
    """

    source: Source
    number: int
    total: int
    files: tuple[str, ...]
    index: str

    @property
    def path(self) -> str:
        """The note that is written when the index is there."""
        return f"{self.index}.json"


@dataclass(frozen=True)
class PartNote:
    """What is known of an indexed part: rows per split, faults by kind, doubles, the files as they were.

    `parts` is how many the dataset has.
    """

    digest: str
    parts: int
    files: list[list[Any]]
    counts: dict[str, int]
    rows: int
    faults: int
    doubles: int
    reasons: dict[str, int] = field(default_factory=dict)
    first: dict[str, Any] | None = None

    @property
    def content(self) -> str:
        """sha256 (hex) of what decides the part's records."""
        return hashlib.sha256(json.dumps([self.digest, self.files, self.counts], sort_keys=True).encode()).hexdigest()


def sources_of(config: RunConfig) -> list[Source]:
    """The published datasets of a configuration, the robot-selection files among them."""
    data = config.data
    found = []
    for name, one in sorted(data.datasets.items()):
        dataset = Dataset(
            name=name,
            format=data.format_of(name),
            annotations=one.annotations,
            images=one.images,
            questions=one.questions,
            split=one.split,
            validation=one.validation,
            test=one.test,
        )
        share = data.max_bad_share if one.max_bad_share is None else one.max_bad_share
        found.append(Source(dataset, one.limit, one.augment, share))
    if data.robot_data:
        robots = Dataset(
            ROBOT_SOURCE,
            ROBOT_SOURCE,
            data.robot_data,
            validation=data.robot_validation,
            folds=data.robot_folds,
            fold=data.robot_fold,
        )
        found.append(Source(robots, None, data.robot_augment, data.max_bad_share))
    return found


def parts_of(source: Source, folder: str) -> list[Part]:
    """The parts of a dataset, in order.

    Where its files are gone and the data folder has their index still, that is enough.

    Raises:
        ReaderError: a file is missing.
    """
    base = storage.join(folder, FOLDER, source.name)
    try:
        groups = FORMATS[source.dataset.format].parts(source.dataset, StoredFiles())
        missing = next((file for group in groups for file in group if storage.identity(file) is None), None)
    except ReaderError as error:
        groups, missing = [], str(error)
    if missing is None:
        return [Part(source, i, len(groups), files, _place(base, i)) for i, files in enumerate(groups)]
    kept = _kept(source, base)
    if not kept:
        raise ReaderError(missing if ": " in missing else f"{source.name}: {missing}: no such file")
    return kept


def _place(base: str, number: int) -> str:
    return storage.join(base, f"{number:05d}")


def _kept(source: Source, base: str) -> list[Part]:
    """The parts that were indexed for these settings, if they are all that is wanted; else none."""
    kept: list[Part] = []
    rows = total = 0
    while (note := read_note(part := Part(source, len(kept), total, (), _place(base, len(kept))))) is not None:
        if note.digest != source.digest:
            break
        kept.append(part)
        rows, total = rows + note.rows, note.parts
    enough = source.limit is not None and rows >= source.limit
    return kept if enough or len(kept) == total else []


def read_note(part: Part) -> PartNote | None:
    """The note of a part, or None where it is not indexed (or the note is damaged: then it is indexed again)."""
    try:
        return PartNote(**json.loads(storage.read_bytes(part.path))) if storage.exists(part.path) else None
    except (ValueError, TypeError):
        return None


def indexed(part: Part) -> PartNote | None:
    """The note of a part, where its index is of these settings and of the files as they are now."""
    note = read_note(part)
    if note is None or note.digest != part.source.digest:
        return None
    return note if not part.files or note.files == _identities(part) else None


def _identities(part: Part) -> list[list[Any]]:
    return [list(storage.identity(file) or (file, -1, 0)) for file in part.files]


class Indexer:
    """Reads one part into its index; sent to the workers."""

    def __call__(self, part: Part) -> PartNote:
        """Write the index of a part, and then its note.

        Raises:
            ReaderError: its files are not of the dataset's format at all.
        """
        files, source = _identities(part), part.source
        doubles = rows = 0
        with _Writer(part) as writer:
            for row in FORMATS[source.dataset.format].read(source.dataset, part.files, StoredFiles()):
                if isinstance(row, Double):
                    doubles += 1
                    continue
                if source.limit is not None and rows >= source.limit:
                    break
                if isinstance(row, Fault):
                    writer.fault(rows, row)
                else:
                    for record in (row.record, *self.wordings(row.record, source)):
                        writer.found(rows, Found(record, row.file, row.line, row.picture))
                rows += 1
        note = PartNote(
            digest=source.digest,
            parts=part.total,
            files=files,
            counts={split: writer.counts[split] for split in SPLITS},
            rows=rows,
            faults=writer.counts[FAULTS],
            doubles=doubles,
            reasons=dict(sorted(writer.reasons.items())),
            first=writer.first,
        )
        storage.write_bytes(part.path, json.dumps(asdict(note), sort_keys=True).encode())
        return note

    def wordings(self, record: Record, source: Source) -> Iterator[Record]:
        """Other wordings of a training record; none that would be a task of another split."""
        dataset = source.dataset
        return variants(record, source.augment - 1, lambda task: dataset.split_of(plain(task)) == "train")


class _Writer:
    """The files of a part's index, each made when its first row comes, put in place when all is read."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.counts: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.first: dict[str, Any] | None = None
        self.waiting: dict[str, list[dict[str, Any]]] = {}
        self.open: dict[str, pq.ParquetWriter] = {}
        self.stack = contextlib.ExitStack()

    def __enter__(self) -> _Writer:
        return self

    def found(self, number: int, row: Found) -> None:
        record, picture = row.record.to_row(), None
        if row.picture is not None:
            picture = [list(row.picture.paths), row.picture.offset, row.picture.length, row.picture.encoding]
        self._put(row.record.split, number, row.line, {"record": record, "file": row.file, "picture": picture})

    def fault(self, number: int, row: Fault) -> None:
        self.reasons[kind_of(row.reason)] += 1
        self.first = self.first or asdict(row)
        self._put(FAULTS, number, row.line, asdict(row))

    def _put(self, name: str, number: int, line: int, row: dict[str, Any]) -> None:
        self.counts[name] += 1
        self.waiting.setdefault(name, []).append({"number": number, "line": line, "row": json.dumps(row)})
        if len(self.waiting[name]) >= _ROWS:
            self._flush(name)

    def _flush(self, name: str) -> None:
        if name not in self.open:
            draft = self.stack.enter_context(storage.drafted(f"{self.part.index}-{name}.parquet"))
            self.open[name] = pq.ParquetWriter(draft, _SCHEMA, compression="zstd")
            self.stack.callback(self.open[name].close)  # before the draft is put in place
        self.open[name].write_table(pa.Table.from_pylist(self.waiting.pop(name), schema=_SCHEMA))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                for name in list(self.waiting):
                    self._flush(name)
        except BaseException:
            self.stack.__exit__(*sys.exc_info())
            raise
        self.stack.__exit__(kind, error, trace)


def kind_of(reason: str) -> str:
    """What a reason is counted under: its field, where it names one, without numbers."""
    head = reason.split(":")[0]
    return "".join("…" if letter.isdigit() else letter for letter in head[:40]).replace("……", "…") or "?"


def rows_before(part: Part, note: PartNote, number: int) -> dict[str, int]:
    """How many records of each split stand among a part's first `number` rows."""
    counts = dict(note.counts)
    for split, total in note.counts.items():
        if total and note.rows > number:
            with storage.open_input(f"{part.index}-{split}.parquet") as opened:
                numbers = pq.ParquetFile(opened).iter_batches(columns=["number"])
                counts[split] = sum(pc.sum(pc.less(batch.column(0), number)).as_py() for batch in numbers)
    return counts


@functools.cache
def _code_digest() -> str:
    """sha256 (hex) of the code that reads published datasets."""
    root = Path(embervlm.__file__).parent / "data"
    files = [*sorted((root / "readers").glob("*.py")), root / "augmentation.py", root / "images.py", root / "schema.py"]
    total = hashlib.sha256()
    for file in files:
        total.update(file.name.encode() + b"\0" + storage.digest(str(file)).encode())
    return total.hexdigest()
