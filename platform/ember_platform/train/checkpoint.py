"""What a checkpoint holds, and reading and writing it.

    checkpoint-1-000120/              phase 1, step 120 of that phase
      model/                          from_pretrained folder, processor included
      engine-0-of-2.safetensors       weights and optimizer, each rank its part (`engine_state`)
      engine-1-of-2.safetensors
      history.parquet                 a row per step so far
      samples.parquet                 the samples of every step so far
      state.json                      where the run is
      checkpoint.json                 every file with its size and sha256: the record, written last

A folder without its record is no checkpoint, and one whose files are not those of its record is damaged.

The random numbers of a step are a function of the step (`schedule.seed_step`), and so is the learning rate: neither has
a state to keep. The position in the data is the step.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ember_platform import storage

MODEL, STATE, HISTORY, SAMPLES, RECORD = "model", "state.json", "history.parquet", "samples.parquet", "checkpoint.json"
PREFIX = "checkpoint-"
_CHUNK = 1 << 20

#: File → its bytes and its sha256 (hex).
Sums = dict[str, tuple[int, str]]


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used. The message names it and says why."""


@dataclass
class Best:
    """The best validation of the current phase. `value` is None before the first."""

    value: float | None = None
    step: int = 0
    checkpoint: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass
class RunState:
    """Where a stage's run is: all that resuming needs beside weights and optimizer."""

    stage: int
    digest: str
    world_size: int
    phase: int = 0
    step: int = 0  # optimizer steps done in this phase
    total_step: int = 0  # and in all phases
    samples: int = 0  # seen in all phases
    best: Best = field(default_factory=Best)
    stale: int = 0  # validations since the last improvement
    phase_over: bool = False  # stopped early, or its last step is done
    finished: bool = False

    def begin_phase(self, phase: int) -> None:
        """Count from zero again; what spans the phases stays."""
        self.phase, self.step, self.stale, self.phase_over, self.best = phase, 0, 0, False, Best()

    @property
    def name(self) -> str:
        """The checkpoint's folder name; it sorts by time."""
        return f"{PREFIX}{self.phase}-{self.step:06d}"

    @classmethod
    def from_json(cls, text: str) -> RunState:
        """The inverse of `to_json`."""
        return cls.from_mapping(json.loads(text))

    @classmethod
    def from_mapping(cls, values: dict[str, Any]) -> RunState:
        """The inverse of `dataclasses.asdict`."""
        return cls(**{**values, "best": Best(**values["best"])})

    def to_json(self) -> str:
        """The state as JSON text."""
        return json.dumps(asdict(self), indent=1) + "\n"


# ---------------------------------------------------------------- history, state


def write_history(rows: list[dict[str, Any]], path: Path) -> None:
    """Rows of a history as parquet. A value that a row lacks is null; columns stand in the order of appearance."""
    columns: dict[str, None] = {}
    for row in rows:
        columns.update(dict.fromkeys(row))
    table = pa.table({name: pa.array([row.get(name) for row in rows]) for name in columns})
    pq.write_table(table, path)


def read_history(path: Path) -> list[dict[str, Any]]:
    """The inverse of `write_history`; nulls are left out of the rows again."""
    return [{k: v for k, v in row.items() if v is not None} for row in pq.read_table(path).to_pylist()]


def write_state(folder: Path, state: str, history: list[dict[str, Any]], samples: list[dict[str, Any]]) -> None:
    """Write what rank 0 adds to a checkpoint beside model and engine; `state` is `RunState.to_json`."""
    write_history(history, folder / HISTORY)
    write_history(samples, folder / SAMPLES)
    (folder / STATE).write_text(state)


def read_state(folder: Path, digest: str | None = None) -> tuple[RunState, list[dict[str, Any]], list[dict[str, Any]]]:
    """State, history and samples of a checkpoint.

    Args:
        folder: the checkpoint.
        digest: of the run that wants to go on from it; None where any will do.

    Raises:
        CheckpointError: it is no checkpoint, damaged, or of a run with other settings.
    """
    try:
        state = RunState.from_json((folder / STATE).read_text())
        history, samples = read_history(folder / HISTORY), read_history(folder / SAMPLES)
    except (OSError, ValueError, TypeError, KeyError, pa.ArrowException) as error:
        raise CheckpointError(f"{folder}: no complete checkpoint ({type(error).__name__}: {error})") from error
    if digest is not None and state.digest != digest:
        raise CheckpointError(
            f"{folder}: written by a run with other settings or other data (digest {state.digest[:12]}, this run has "
            f"{digest[:12]}); give the run its own output_dir, or resume with the settings of that run"
        )
    return state, history, samples


# --------------------------------------------------------------- complete or absent


def names(folder: str) -> list[str]:
    """The complete checkpoints in a stage's folder, oldest first."""
    ending = f"/{RECORD}"
    found = (Path(file).parent.name for file in storage.list_files(folder) if file.endswith(ending))
    return sorted(name for name in found if name.startswith(PREFIX))


def sums_of(folder: Path, flush: bool = False) -> Sums:
    """Size and digest of every file below a folder, by its path inside it; with `flush` they are also on the disk."""
    found: Sums = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        total, size = hashlib.sha256(), 0
        with path.open("rb") as file:
            while piece := file.read(_CHUNK):
                total.update(piece)
                size += len(piece)
            if flush:
                os.fsync(file.fileno())
        found[path.relative_to(folder).as_posix()] = (size, total.hexdigest())
    return found


def commit(checkpoint: str, sums: Sums) -> None:
    """Write the record, which makes a folder with these files a checkpoint.

    Raises:
        StorageError: it cannot be written.
    """
    files = {name: {"bytes": size, "sha256": digest} for name, (size, digest) in sorted(sums.items())}
    storage.write_bytes(storage.join(checkpoint, RECORD), (json.dumps({"files": files}, indent=1) + "\n").encode())


def damage(folder: Path, only: Sequence[str] = ("",)) -> str | None:
    """What is wrong with a checkpoint, or None: files that are missing, or not those of its record.

    Args:
        folder: the checkpoint, on this machine.
        only: beginnings of the paths that are read; all of them by default.
    """
    try:
        files = json.loads((folder / RECORD).read_text())["files"]
        expected = {name: (int(entry["bytes"]), str(entry["sha256"])) for name, entry in files.items()}
    except FileNotFoundError:
        return f"it has no {RECORD}"
    except (ValueError, TypeError, KeyError) as error:
        return f"{RECORD} cannot be read ({error})"
    for name, (size, digest) in expected.items():
        if not name.startswith(tuple(only)):
            continue
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes, and {size} were written"
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != digest:
            return f"{name} is not what was written (sha256 {found[:12]}, recorded {digest[:12]})"
    return None
