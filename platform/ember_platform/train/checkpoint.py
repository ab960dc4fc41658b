"""What a checkpoint holds, and reading and writing it.

    checkpoint-1-000120/         phase 1, step 120 of that phase
      model/                     from_pretrained folder, processor included
      engine/                    DeepSpeed: weights and optimizer, each rank its part
      history.parquet            a row per step so far
      state.json                 where the run is; written last

The random numbers of a step are a function of the step (`schedule.seed_step`), and so is the learning rate: neither has
a state to keep. The position in the data is the step.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

MODEL, ENGINE, STATE, HISTORY = "model", "engine", "state.json", "history.parquet"


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
    improvements: int = 0  # in all phases; orders the checkpoints that were a best
    phase_over: bool = False  # stopped early, or its last step is done
    finished: bool = False

    def begin_phase(self, phase: int) -> None:
        """Count from zero again; what spans the phases stays."""
        self.phase, self.step, self.stale, self.phase_over, self.best = phase, 0, 0, False, Best()

    @property
    def name(self) -> str:
        """The checkpoint's folder name; it sorts by time."""
        return f"checkpoint-{self.phase}-{self.step:06d}"

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


def write_state(folder: Path, state: RunState, history: list[dict[str, Any]]) -> None:
    """Write what rank 0 adds to a checkpoint after model and engine."""
    write_history(history, folder / HISTORY)
    (folder / STATE).write_text(state.to_json())


def read_state(folder: Path, digest: str | None = None) -> tuple[RunState, list[dict[str, Any]]]:
    """State and history of a checkpoint.

    Args:
        folder: the checkpoint.
        digest: of the run that wants to go on from it; None where any will do.

    Raises:
        CheckpointError: it is no checkpoint, damaged, or of a run with other settings.
    """
    try:
        state = RunState.from_json((folder / STATE).read_text())
        history = read_history(folder / HISTORY)
    except (OSError, ValueError, TypeError, KeyError, pa.ArrowException) as error:
        raise CheckpointError(f"{folder}: no complete checkpoint ({type(error).__name__}: {error})") from error
    if digest is not None and state.digest != digest:
        raise CheckpointError(
            f"{folder}: written by a run with other settings or other data (digest {state.digest[:12]}, this run has "
            f"{digest[:12]}); give the run its own output_dir, or resume with the settings of that run"
        )
    return state, history
