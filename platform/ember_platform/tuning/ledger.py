"""What a sweep has found, as files: one folder per trial, written whole and at once, so that no kill loses a trial.

outputs/tune/stage3/
  sweep.json               what is swept, on which data, from which parent
  trials/000/trial.json    parameters, every epoch's metrics, how it ended and why
  trials/000/pace.json     steps really trained (written by the worker)
  trials/000/stage3/       the trial's training, as any run leaves it
  best.yaml                the winner's configuration
  dashboard.html
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from ember_platform import storage
from ember_platform.train import folders
from ember_platform.tuning.space import Objective, Params

SWEEP, TRIALS, TRIAL, PACE, BEST, DASHBOARD = (
    "sweep.json",
    "trials",
    "trial.json",
    "pace.json",
    "best.yaml",
    "dashboard.html",
)
#: How a trial can stand. `stopped` is what the scheduler ended early, `failed` what could not go on.
RUNNING, FINISHED, STOPPED, FAILED = "running", "finished", "stopped", "failed"


class LedgerError(RuntimeError):
    """A sweep's folder that cannot be used as asked. The message says what to do."""


@dataclass
class Epoch:
    """One validation: `value` is the first objective of the best model so far, `at` the time (seconds since 1970)."""

    epoch: int
    step: int
    value: float
    metrics: dict[str, float]
    at: float


@dataclass
class Record:
    """One trial.

    Attributes:
        number: from 0; the trial's identity.
        params: dotted field → value.
        status: running, finished, stopped or failed.
        fault: of a failed one: diverged, out of memory, configuration, no room or crashed.
        reason: why it was stopped or failed, in words.
        epochs: every validation so far.
        figures: metrics of the kept model, measured ones included.
        started: seconds since 1970, when its process took it up; ended likewise.
        startup: seconds of its start by part, as the worker measured them; and `process`, of the trial's own process.
        model: folder of the best checkpoint's model.
        run: id of its tracking run.
    """

    number: int
    params: Params
    status: str = RUNNING
    fault: str | None = None
    reason: str | None = None
    epochs: list[Epoch] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    started: float | None = None
    ended: float | None = None
    startup: dict[str, float] = field(default_factory=dict)
    model: str | None = None
    run: str | None = None
    pace: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As folders and tables call it."""
        return f"{self.number:03d}"

    @property
    def over(self) -> bool:
        """Whether it need not run again."""
        return self.status != RUNNING

    def objective(self, objective: Objective) -> float | None:
        """Its figure for an objective, or None where it has none (yet)."""
        return self.figures.get(objective.metric)

    def first_step_seconds(self) -> float | None:
        """From its process's taking it up to its first optimizer step, or None where it came to none."""
        if self.started is None or "first_step" not in self.pace:
            return None
        return max(0.0, self.pace["first_step"] - self.started) + self.startup.get("process", 0.0)

    @classmethod
    def from_mapping(cls, values: dict[str, Any]) -> Record:
        """The inverse of `dataclasses.asdict`."""
        return cls(**{**values, "epochs": [Epoch(**epoch) for epoch in values.get("epochs", [])]})


class Ledger:
    """The trials of the sweep in a folder (a path or s3://bucket/prefix)."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def trial_dir(self, number: int) -> str:
        """The folder of a trial."""
        return storage.join(self.folder, TRIALS, f"{number:03d}")

    def header(self) -> dict[str, Any] | None:
        """The content of sweep.json, or None where there is no sweep."""
        return folders.read_json(storage.join(self.folder, SWEEP))

    def begin(self, header: dict[str, Any], resume: bool) -> None:
        """Make the folder this sweep's.

        Args:
            header: with `identity`, a mapping of everything that the trials' comparability rests on.
            resume: go on with the trials that are there.

        Raises:
            LedgerError: there is another sweep, or this one and nobody asked to resume it, or none to resume.
        """
        found = self.header()
        if found is None and resume:
            raise LedgerError(f"--resume: no sweep in {self.folder}; start it without --resume")
        if found is not None and not resume:
            raise LedgerError(
                f"{self.folder} holds a sweep of {len(self.records())} trials; go on with --resume, or take another "
                "--name"
            )
        if found is not None:
            before, now = found.get("identity", {}), header["identity"]
            changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
            if changed:
                raise LedgerError(
                    f"--resume: {self.folder} was begun with other settings ({', '.join(changed)}); its trials and new "
                    "ones could not be compared. Take another --name, or undo the change"
                )
            header = {**header, "began": found.get("began", header.get("began"))}
        folders.write_json(storage.join(self.folder, SWEEP), header)

    def put(self, record: Record) -> None:
        """Write a trial at once."""
        content = asdict(record)
        del content["pace"]
        folders.write_json(storage.join(self.trial_dir(record.number), TRIAL), content)

    def records(self) -> list[Record]:
        """Every trial, by number; one whose file is damaged counts as not begun."""
        found = []
        ending = f"/{TRIAL}"
        for path in storage.list_files(storage.join(self.folder, TRIALS)):
            if path.endswith(ending) and (content := folders.read_json(path)) is not None:
                record = Record.from_mapping(content)
                record.pace = folders.read_json(storage.join(self.trial_dir(record.number), PACE)) or {}
                found.append(record)
        return sorted(found, key=lambda record: record.number)


def best_of(records: list[Record], objective: Objective) -> Record | None:
    """The finished trial with the best figure (the first of equals), or None where none finished."""
    done = [r for r in records if r.status == FINISHED and r.objective(objective) is not None]
    return max(done, key=lambda r: objective.sign() * (r.objective(objective) or 0.0), default=None)


def pareto(records: list[Record], objectives: list[Objective]) -> list[Record]:
    """The finished trials that no other is at least as good as in everything and better in something."""
    points = []
    for record in records:
        values = [record.objective(o) for o in objectives]
        if record.status == FINISHED and all(value is not None for value in values):
            points.append((record, [o.sign() * (v or 0.0) for o, v in zip(objectives, values, strict=True)]))
    return [
        record
        for record, mine in points
        if not any(all(a >= b for a, b in zip(other, mine, strict=True)) and other != mine for _, other in points)
    ]


def canonical(values: Any) -> str:
    """Values as one text, equal where they are equal."""
    return json.dumps(values, sort_keys=True)
