"""Reader of the public robot-selection JSON files, both formats.

An item has `instruction` (the fleet in words), `input` (`Task: …`) and either `output` (comma-separated robot
names) or `original_single_robot_output` (the same, or a list) with `subtasks`. Both become text-only selection
records; the same task with the same answer in both files becomes one record, the one that has a plan.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embervlm.data.schema import Record
from embervlm.fleet import Fleet, FleetError, Robot

SOURCE = "robot_selection"
_HEADER = re.compile(r"^\s*Robots:\s*(?P<names>[^.\n]+)\.", re.IGNORECASE)
_LISTS = ("capabilities", "limitations", "environments")
_NEXT_ITEM = re.compile(r'\{\s*"(?:instruction|input|output|subtasks|original_single_robot_output)"\s*:')


class ReaderError(ValueError):
    """A file that cannot be read at all. The message names it."""


@dataclass(frozen=True)
class Fault:
    """A row that is set aside: where it stands and why."""

    source: str
    line: int
    reason: str
    id: str


@dataclass(frozen=True)
class ReadResult:
    """What a file or folder gave: records in order, faults, and how many doubles were merged."""

    records: list[Record]
    faults: list[Fault]
    merged: int


def json_files(path: str | Path) -> list[Path]:
    """The file itself, or every `*.json` of a folder, sorted by name.

    Raises:
        ReaderError: nothing there.
    """
    path = Path(path)
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files or not all(f.is_file() for f in files):
        raise ReaderError(f"{path}: no robot-selection JSON there; expected a file or a folder of *.json")
    return files


def read(path: str | Path, folds: int = 5, fold: int = 0) -> ReadResult:
    """Every record of a file or of a folder of files, split by task text.

    A task's hash puts it into one of `folds` folds; fold number `fold` is the test split, and of the others every
    eighth task validates. So no task text is in two splits, however the files are cut or ordered.

    Raises:
        ReaderError: no file, not UTF-8, or not a JSON list at all.
    """
    kept: dict[tuple[Any, ...], Record] = {}
    faults: list[Fault] = []
    rows = 0
    for file in json_files(path):
        for index, line, item in _items(file):
            identity = f"{file.stem}-{index:05d}"
            if isinstance(item, str):
                faults.append(Fault(str(file), line, item, identity))
                continue
            try:
                record = to_record(item, identity, folds, fold)
            except (FleetError, ReaderError) as error:
                faults.append(Fault(str(file), line, f"item {index}: {error}", identity))
                continue
            rows += 1
            key = (_normal(record.instruction), tuple(r["name"] for r in record.robots), frozenset(record.labels))
            if key not in kept or (record.plan and not kept[key].plan):
                kept[key] = record
    return ReadResult(list(kept.values()), faults, rows - len(kept))


def to_record(item: Any, identity: str, folds: int = 5, fold: int = 0) -> Record:
    """One item of either format as a selection record.

    Raises:
        ReaderError: a field that is missing, of the wrong kind, empty, or names a robot the fleet does not have.
        FleetError: two robots of the same name.
    """
    if not isinstance(item, dict):
        raise ReaderError(f"expected an object, found {type(item).__name__}")
    fleet = _fleet(_text(item, "instruction"))
    task = re.sub(r"^\s*task\s*:\s*", "", _text(item, "input"), flags=re.IGNORECASE).strip()
    if not task:
        raise ReaderError("input: the task is empty")
    answer = "output" if "output" in item else "original_single_robot_output"
    labels = _names(item, answer, fleet)
    return Record(
        id=f"{SOURCE}-{identity}",
        source=SOURCE,
        kind="selection",
        split=split_of(task, folds, fold),
        image=None,
        instruction=task,
        response=", ".join(labels),
        robots=fleet.to_dicts(),
        labels=labels,
        plan=_plan(item, fleet),
        tags={"category": SOURCE, "needs_image": False},
    )


def split_of(task: str, folds: int, fold: int) -> str:
    """The split of a task, from its text alone (case and spacing aside)."""
    number = int.from_bytes(hashlib.sha256(_normal(task).encode()).digest()[:8], "big")
    if number % folds == fold % folds:
        return "test"
    return "validation" if (number // folds) % 8 == 0 else "train"


def _normal(task: str) -> str:
    return " ".join(task.casefold().split())


def _text(item: dict[str, Any], key: str) -> str:
    value = item.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ReaderError(f"{key}: expected a text that is not empty, found {value!r}")
    return value


def _names(item: dict[str, Any], key: str, fleet: Fleet) -> list[str]:
    """Robot names, as a list or separated by commas, in the fleet's order."""
    value = item.get(key)
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(n, str) and n.strip() for n in names) or not names:
        raise ReaderError(f"{key}: expected robot names, found {value!r}")
    wanted = {n.strip() for n in names}
    unknown = sorted(wanted - set(fleet.names))
    if unknown:
        raise ReaderError(f"{key}: unknown robot {unknown[0]!r}; the fleet has {', '.join(fleet.names)}")
    return [name for name in fleet.names if name in wanted]


def _plan(item: dict[str, Any], fleet: Fleet) -> list[dict[str, Any]]:
    """The subtasks in order of execution (those of the same order stay as they stand)."""
    subtasks = item.get("subtasks")
    if subtasks is None:
        return []
    if not isinstance(subtasks, list):
        raise ReaderError(f"subtasks: expected a list, found {type(subtasks).__name__}")
    plan: list[dict[str, Any]] = []
    for i, step in enumerate(subtasks):
        if not isinstance(step, dict):
            raise ReaderError(f"subtasks[{i}]: expected an object, found {step!r}")
        order, robot = step.get("execution_order"), step.get("assigned_robot")
        if not isinstance(order, int) or isinstance(order, bool):
            raise ReaderError(f"subtasks[{i}].execution_order: expected a whole number, found {order!r}")
        if robot not in fleet.names:
            raise ReaderError(f"subtasks[{i}].assigned_robot: unknown robot {robot!r}")
        plan.append({"order": order, "subtask": _text(step, "subtask").strip(), "robot": robot})
    return sorted(plan, key=lambda step: step["order"])


@functools.lru_cache(maxsize=64)
def _fleet(instruction: str) -> Fleet:
    """The fleet that an instruction describes, in the order of its `Robots:` line.

    Raises:
        ReaderError: no such line, a robot without a description, or a description of a robot it does not name.
    """
    header = _HEADER.match(instruction)
    if header is None:
        raise ReaderError("instruction: expected it to begin with 'Robots: name, name, ….'")
    names = [name.strip() for name in header["names"].split(",") if name.strip()]
    described: dict[str, dict[str, list[str]]] = {}
    current = ""
    for line in instruction.splitlines()[1:]:
        key, separator, rest = line.partition(":")
        key = key.strip()
        if not separator:
            continue
        if key in _LISTS and current:
            described[current][key] = [part.strip() for part in rest.split(",") if part.strip()]
        elif not rest.strip():
            current = key
            described[current] = {}
    for name in names:
        if not described.get(name):
            raise ReaderError(f"instruction: robot {name!r} has no description")
    extra = sorted(set(described) - set(names))
    if extra:
        raise ReaderError(f"instruction: {extra[0]!r} is described and not among the robots named")
    return Fleet(Robot.from_dict({"name": name, **described[name]}, f"robot {name!r}") for name in names)


def _items(file: Path) -> Iterator[tuple[int, int, Any]]:
    """(index, line, item) of a JSON list; a text in place of an item says why it could not be parsed.

    After a broken item it goes on at the next one that begins as an item does.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ReaderError(f"{file}: cannot be read as UTF-8 text: {error}") from error
    opening = re.match(r"\s*\[", text)
    if opening is None:
        raise ReaderError(f"{file}: expected a JSON list of items at the top")
    decoder = json.JSONDecoder()
    position, line, counted, index = opening.end(), 1, 0, 0
    separator = re.compile(r"[\s,]*")
    while True:
        position = separator.match(text, position).end()  # type: ignore[union-attr]
        line += text.count("\n", counted, position)
        counted = position
        if position >= len(text):
            yield index, line, "the file ends before the list does"
            return
        if text[position] == "]":
            return
        try:
            item, position = decoder.raw_decode(text, position)
        except ValueError as error:
            item = f"item {index}: malformed JSON: {error}"
            following = _NEXT_ITEM.search(text, position + 1)
            end = text.rstrip().rfind("]")
            position = following.start() if following else max(end, position + 1)
        yield index, line, item
        index += 1
