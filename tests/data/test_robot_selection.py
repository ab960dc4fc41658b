"""The reader of the public robot-selection files, on a fixture of our own and on the real ones where they are."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from embervlm.data.readers.base import Dataset, Double, Fault, LocalFiles, ReaderError, fold_split, plain
from embervlm.data.readers.robot_selection import parts
from embervlm.data.readers.robot_selection import read as rows
from embervlm.data.schema import Record

SHARED = Path(__file__).parents[3] / "shared" / "data" / "robot-selection"
FLEET = (
    "Robots: Crane, Mole. What is the most suited robot for the task?\n"
    "Mole:\ncapabilities: digging, crawling,\nlimitations: slow,\nenvironments: tunnels, soil\n"
    "Crane:\ncapabilities: lifting,\nlimitations: heavy,\nenvironments: yards"
)


@dataclass
class Read:
    """What the reader gave, sorted."""

    records: list[Record]
    faults: list[Fault]
    merged: int


def read(path: Path) -> Read:
    dataset = Dataset("robot_selection", "robot_selection", str(path), folds=5)
    files = LocalFiles()
    found = [row for part in parts(dataset, files) for row in rows(dataset, part, files)]
    faults = [row for row in found if isinstance(row, Fault)]
    merged = sum(isinstance(row, Double) for row in found)
    return Read([row.record for row in found if not isinstance(row, Fault | Double)], faults, merged)


def single(task: str, output: Any = "Mole") -> dict[str, Any]:
    return {"instruction": FLEET, "input": f"Task: {task}", "output": output}


def multi(task: str, output: Any, robot: str = "Crane") -> dict[str, Any]:
    steps = [("Lift the lid", robot, 2), ("Dig to the pipe", "Mole", 1)]
    return {
        "instruction": FLEET,
        "input": f"Task: {task}",
        "subtasks": [{"subtask": s, "assigned_robot": r, "execution_order": o} for s, r, o in steps],
        "original_single_robot_output": output,
    }


def write(path: Path, items: list[Any]) -> Path:
    path.write_text(json.dumps(items, indent=1))
    return path


def test_both_formats(tmp_path: Path) -> None:
    write(tmp_path / "a.json", [single("Dig a hole.", "Crane, Mole"), single("Lift a beam.", "Crane")])
    write(tmp_path / "b.json", [multi("Dig a hole.", ["Mole", "Crane"]), multi("Mend the pipe.", "Mole")])
    result = read(tmp_path)
    assert result.faults == []
    assert result.merged == 1
    hole, beam, pipe = result.records
    assert (hole.instruction, hole.labels, hole.kind, hole.image) == (
        "Dig a hole.",
        ["Crane", "Mole"],
        "selection",
        None,
    )
    assert [(s["order"], s["robot"]) for s in hole.plan] == [(1, "Mole"), (2, "Crane")]
    assert [r["name"] for r in beam.robots] == ["Crane", "Mole"]
    assert beam.robots[1] == {
        "name": "Mole",
        "capabilities": ["digging", "crawling"],
        "limitations": ["slow"],
        "environments": ["tunnels", "soil"],
    }
    assert pipe.labels == ["Mole"]
    assert len({r.id for r in result.records}) == 3


def test_bad_items_are_named_by_line(tmp_path: Path) -> None:
    items = [
        single("Dig.", "Badger"),
        single("  "),
        single("Dig more."),
        multi("Lift.", "Crane", robot="Badger"),
        ["no object"],
        {"instruction": "Robots: Crane. Which?", "input": "Task: x", "output": "Crane"},
    ]
    result = read(write(tmp_path / "a.json", items))
    assert [r.instruction for r in result.records] == ["Dig more."]
    assert [fault.reason.split(":")[0] for fault in result.faults] == [f"item {i}" for i in (0, 1, 3, 4, 5)]
    assert "unknown robot 'Badger'; the fleet has Crane, Mole" in result.faults[0].reason
    assert result.faults[0].line == 2
    assert result.faults[1].line == 7


def test_a_broken_item_does_not_take_the_rest_along(tmp_path: Path) -> None:
    text = json.dumps([single("One."), single("Two."), single("Three.")], indent=1)
    path = tmp_path / "a.json"
    path.write_text(text.replace('"Task: Two."', '"Task: Two.'))
    result = read(path)
    assert [r.instruction for r in result.records] == ["One.", "Three."]
    (fault,) = result.faults
    assert "malformed JSON" in fault.reason
    assert fault.line == 7
    path.write_text(text[:-3])
    assert len(read(path).records) == 2


def test_files_that_cannot_be_read_at_all(tmp_path: Path) -> None:
    with pytest.raises(ReaderError, match="no JSON there"):
        read(tmp_path)
    (tmp_path / "a.json").write_text('{"a": 1}')
    with pytest.raises(ReaderError, match="expected a JSON list"):
        read(tmp_path)


def test_a_task_is_in_one_split_and_tests_once_over_the_folds() -> None:
    for task in ("Dig a hole.", "Lift a beam.", "Mend it."):
        assert plain(task) == plain(f"  {task.upper()} ")
        assert sum(fold_split(plain(task), 5, fold) == "test" for fold in range(5)) == 1


def test_more_of_the_tasks_that_do_not_test_may_validate() -> None:
    tasks = [f"Dig hole {i}." for i in range(400)]
    splits = [[fold_split(plain(task), 5, 2, share) for task in tasks] for share in (0.125, 0.375)]
    assert all(a in (b, "train") for a, b in zip(*splits, strict=True)), "no task leaves test or validation"
    rest = [[split for split in found if split != "test"] for found in splits]
    assert [found.count("validation") / len(found) for found in rest] == pytest.approx([0.125, 0.375], abs=0.06)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the public robot-selection files are not here")
def test_the_published_files() -> None:
    result = read(SHARED)
    assert result.faults == []
    assert len(result.records) + result.merged == 223
    assert all(len(r.robots) == 5 and 1 <= len(r.labels) <= 4 for r in result.records)
    splits: dict[str, set[str]] = {}
    for record in result.records:
        splits.setdefault(record.instruction.casefold(), set()).add(record.split)
    assert all(len(names) == 1 for names in splits.values())
    assert sum(bool(r.plan) for r in result.records) >= 110
