"""The public robot-selection JSON files, both formats.

An item has `instruction` (the fleet in words), `input` (`Task: …`) and either `output` (comma-separated robot
names) or `original_single_robot_output` (the same, or a list) with `subtasks`. Both become text-only selection
records; the same task with the same answer twice, in one file or in several, becomes one record, one that has a plan
where there is any. No task text is in two splits, however the files are cut or ordered.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any

from embervlm.data.readers.base import (
    Dataset,
    Double,
    Fault,
    Files,
    Found,
    ReaderError,
    Rows,
    brief,
    need_text,
    plain,
)
from embervlm.data.readers.json_stream import walk
from embervlm.data.readers.shelf import Shelf
from embervlm.data.schema import Record
from embervlm.fleet import Fleet, FleetError, Robot

KIND = "selection"
_HEADER = re.compile(r"^\s*Robots:\s*(?P<names>[^.\n]+)\.", re.IGNORECASE)
_LISTS = ("capabilities", "limitations", "environments")


def parts(dataset: Dataset, files: Files) -> list[tuple[str, ...]]:
    """The file itself, or every `*.json` of a folder: read together, because they share tasks.

    Raises:
        ReaderError: nothing there.
    """
    found = tuple(path for path in files.list(dataset.annotations) if path.endswith(".json"))
    if not found:
        raise ReaderError(f"{dataset.annotations}: no JSON there; expected a file or a folder of *.json")
    return [found]


def read(dataset: Dataset, part: Sequence[str], files: Files) -> Rows:
    """Every record of the files.

    Raises:
        ReaderError: a file that is no JSON list.
    """
    with Shelf() as shelf:
        for number, file in enumerate(part):
            stem = file.rsplit("/", 1)[-1].removesuffix(".json")
            with files.open(file) as opened:
                for item in walk(opened, file):
                    if item.key:
                        raise ReaderError(f"{file}: expected a JSON list of items at the top, found a mapping")
                    identity = f"{dataset.name}-{stem}-{item.index:05d}"
                    if item.reason is not None:
                        yield Fault(file, item.line, f"item {item.index}: {item.reason}", identity)
                        continue
                    try:
                        record = to_record(item.value, identity, dataset)
                    except (FleetError, ReaderError) as error:
                        yield Fault(file, item.line, f"item {item.index}: {error}", identity)
                        continue
                    key = [plain(record.instruction), [r["name"] for r in record.robots], sorted(record.labels)]
                    shelf.put("tasks", key, item.line, [number, record.to_row()])
        for _, rows in shelf.groups("tasks"):
            chosen = next((i for i, (_, (_, row)) in enumerate(rows) if row["plan"]), 0)
            for i, (line, (number, row)) in enumerate(rows):
                place = (part[number], line)
                yield Found(Record.from_row(row), *place) if i == chosen else Double(*place)


def to_record(item: Any, identity: str, dataset: Dataset) -> Record:
    """One item of either format as a selection record.

    Raises:
        ReaderError: a field that is missing, of the wrong kind, empty, or names a robot the fleet does not have.
        FleetError: two robots of the same name.
    """
    if not isinstance(item, dict):
        raise ReaderError(f"expected an object, found {type(item).__name__}")
    fleet = fleet_of(need_text(item.get("instruction"), "instruction"))
    task = task_of(item.get("input"), "input")
    answer = "output" if "output" in item else "original_single_robot_output"
    labels = names_of(item.get(answer), answer, fleet)
    return Record(
        id=identity,
        source=dataset.name,
        kind=KIND,
        split=dataset.split_of(plain(task)),
        image=None,
        instruction=task,
        response=", ".join(labels),
        robots=fleet.to_dicts(),
        labels=labels,
        plan=plan_of(item.get("subtasks"), fleet),
        tags={"category": "robot_selection", "needs_image": False},
    )


def task_of(value: object, name: str) -> str:
    """A task without the word "Task:" before it.

    Raises:
        ReaderError: there is none.
    """
    task = re.sub(r"^\s*task\s*:\s*", "", need_text(value, name), flags=re.IGNORECASE).strip()
    if not task:
        raise ReaderError(f"{name}: the task is empty")
    return task


def names_of(value: object, key: str, fleet: Fleet) -> list[str]:
    """Robot names, as a list or separated by commas, in the fleet's order.

    Raises:
        ReaderError: none, or one that the fleet does not have.
    """
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(n, str) and n.strip() for n in names) or not names:
        raise ReaderError(f"{key}: expected robot names, found {brief(value)}")
    wanted = {n.strip() for n in names}
    unknown = sorted(wanted - set(fleet.names))
    if unknown:
        raise ReaderError(f"{key}: unknown robot {unknown[0]!r}; the fleet has {', '.join(fleet.names)}")
    return [name for name in fleet.names if name in wanted]


def plan_of(subtasks: object, fleet: Fleet) -> list[dict[str, Any]]:
    """The subtasks in order of execution (those of the same order stay as they stand).

    Raises:
        ReaderError: not a list of subtask, assigned_robot and execution_order.
    """
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
        plan.append({"order": order, "subtask": need_text(step.get("subtask"), "subtask").strip(), "robot": robot})
    return sorted(plan, key=lambda step: step["order"])


@functools.lru_cache(maxsize=64)
def fleet_of(instruction: str) -> Fleet:
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
