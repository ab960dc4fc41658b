"""`public-tasks`: the robot-selection JSON files, zero-shot. Nothing of them is learned from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from embervlm.data.readers import robot_selection
from embervlm.data.readers.base import Dataset, Fault, Found, LocalFiles
from embervlm.data.schema import Record
from embervlm.evaluation import baselines as b
from embervlm.evaluation import cues
from embervlm.evaluation.asking import Asker, subset
from embervlm.evaluation.intervals import Sample
from embervlm.evaluation.metrics import MetricError
from embervlm.evaluation.suites.choosing import ask, beside, cue_answers, own_figures, rows_of
from embervlm.evaluation.suites.result import Estimates, Options, SuiteResult
from embervlm.evaluation.suites.trusting import beside_world

FOLDS = 5


def read_tasks(place: Path) -> tuple[list[Record], list[Fault]]:
    """Every record of a robot-selection JSON file or of a folder of them, and the items that are none.

    Raises:
        ReaderError: nothing there, or no such file. The message says what was expected.
    """
    dataset = Dataset(name="robot_selection", format="robot_selection", annotations=str(place), split="test")
    files = LocalFiles()
    records, faults = [], []
    for part in robot_selection.parts(dataset, files):
        for row in robot_selection.read(dataset, part, files):
            if isinstance(row, Found):
                records.append(row.record)
            elif isinstance(row, Fault):
                faults.append(row)
    return records, faults


def tasks_of(options: Options) -> tuple[list[Record], list[Fault]]:
    """The records of `--data` and what was left out there.

    Raises:
        MetricError: no data, or nothing in it that can be used. ReaderError: as `read_tasks`.
    """
    if options.data is None:
        raise MetricError("public-tasks: give --data, a robot-selection JSON file or a folder of them")
    records, faults = read_tasks(options.data)
    if not records:
        why = f": {fault_text(faults[0])}" if faults else ""
        raise MetricError(f"public-tasks: no usable item in {options.data}{why}")
    return records, faults


def public_tasks(asker: Asker, options: Options) -> SuiteResult:
    """First choice, teams and calibration on tasks that somebody else worded."""
    every, faults = tasks_of(options)
    records = subset(every, options.limit, options.seed)
    raw, compared = ask(asker, records, options)
    notes = [f"{len(faults)} items were left out: {fault_text(faults[0])}"] if faults else []
    baselines: dict[str, Estimates] = {}
    if options.baselines:
        learned, note = _learned(records, options.seed)
        notes.append(note)
        compared = {**compared, **learned, **cue_answers(records)}
        baselines = beside(compared, records, options.seed)
        sample = Sample([None] * len(records), options.seed)
        baselines["chance"] = {"first_choice": cues.chance(records, sample)}
    return SuiteResult(
        "public-tasks",
        f"{len(records)} records of {options.data}, zero-shot, without a picture",
        len(records),
        own_figures(raw, records, options.seed) | beside_world(asker, records, raw, options),
        baselines,
        tuple(notes),
        {"predictions": rows_of(records, raw)},
    )


def _learned(records: Sequence[Record], seed: int) -> tuple[dict[str, b.Answers], str]:
    try:
        found = {
            name: b.fold_answers(records, learner, FOLDS, seed)
            for name, learner in (("majority", b.majority), ("tfidf", b.tfidf))
        }
    except MetricError as error:
        return {}, f"No baseline that learns from the files: {error}."
    return found, f"majority and tfidf learn from the other {FOLDS - 1} of {FOLDS} folds by task; the model does not."


def fault_text(fault: Fault) -> str:
    """Where a row stands and why it was left out."""
    return f"{fault.file}:{fault.line}: {fault.reason}"
