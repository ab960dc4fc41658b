"""A small pair of robot-selection files in the two published formats, in words of our own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from embervlm.fleet import default_fleet

#: Robots that fit, and how a task for them begins.
WORDS = {
    ("Drone",): "Photograph from the air",
    ("Underwater Robot",): "Dive down to",
    ("Robot with Wheels",): "Drive along the smooth floor beside",
    ("Robot with Legs", "Drone"): "Search the rough slope around",
}
PLACES = ("the old mill", "the north pier", "the red barn", "a fallen mast", "the pump house", "the stone bridge")
TASKS = len(WORDS) * len(PLACES)


def write_robot_files(folder: Path) -> Path:
    """`single.json` with every task, `multi.json` with every second one again and its plan; the folder."""
    fleet = default_fleet()
    lines = [f"Robots: {', '.join(fleet.names)}. Which of them suits the task?"]
    for robot in fleet:
        lines += [f"{robot.name}:", f"capabilities: {', '.join(robot.capabilities)},"]
        lines += [f"limitations: {', '.join(robot.limitations)},", f"environments: {', '.join(robot.environments)}"]
    single: list[dict[str, Any]] = []
    multi: list[dict[str, Any]] = []
    for robots, begin in WORDS.items():
        for i, place in enumerate(PLACES):
            asked = {"instruction": "\n".join(lines), "input": f"Task: {begin} {place}."}
            single.append({**asked, "output": ", ".join(robots)})
            if i % 2:
                step = {"subtask": f"Go to {place}", "assigned_robot": robots[0], "execution_order": 1}
                multi.append({**asked, "subtasks": [step], "original_single_robot_output": list(robots)})
    folder.mkdir(parents=True, exist_ok=True)
    for name, items in (("single", single), ("multi", multi)):
        (folder / f"{name}.json").write_text(json.dumps(items, indent=1), encoding="utf-8")
    return folder
