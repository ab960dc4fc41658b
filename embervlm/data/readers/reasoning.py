"""Reasoning-annotated records: a JSON list of tasks with the chain that leads to the robots.

    {"instruction": "Robots: …" (the fleet in words, or anything), "task": "…", "image": "scene.jpg" (may be left out),
     "reasoning_chain": ["…", "…", "…", "…"], "selected_robot": "Drone, Robot with Legs", "subtasks": […] (may be left
     out)}

- The chain is a list of steps, or a text cut at "Step 1:", "Step 2:" …; it is in `reasoning_chain`, `reasoning`, or in
  `response` between `<reasoning>` and `</reasoning>`. Four steps are kept as they are (task analysis, environment
  assessment, capability matching, decision). Of more than four, those before the last are joined into the third;
  fewer are a fault.
- The robots are in `selected_robot`, `robot_target` or `answer`, in `response` between `<answer>` and `</answer>`, or
  are all of `response`.
- The task is in `task`, in `input`, in the last user turn of `prompt`, or is the instruction.
- The fleet is the one that the instruction describes, `robots` (as in a fleet file), or the five default robots.
- A picture lies below `images` or, where that is not given, beside the JSON file.

A robot that a step names becomes a mention of it, `[Drone]`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from embervlm.data.readers.base import (
    Dataset,
    Fault,
    Files,
    Found,
    ReaderError,
    Rows,
    brief,
    need_text,
    picture_key,
    plain,
)
from embervlm.data.readers.json_stream import Item, walk
from embervlm.data.readers.robot_selection import fleet_of, names_of, plan_of, task_of
from embervlm.data.schema import STEPS, Record
from embervlm.fleet import Fleet, FleetError, default_fleet

KIND = "reasoning"
_STEP = re.compile(r"(?:^|\n)\s*(?:\*\*)?step\s+\d+\s*[:.)]\s*", re.IGNORECASE)
_TAG = {name: re.compile(rf"<{name}>(.*?)</{name}>", re.DOTALL | re.IGNORECASE) for name in ("reasoning", "answer")}
#: What people call the default robots.
_ALIASES = {
    "underwater": "Underwater Robot",
    "wheeled": "Robot with Wheels",
    "wheeled robot": "Robot with Wheels",
    "legged": "Robot with Legs",
    "legged robot": "Robot with Legs",
}


def parts(dataset: Dataset, files: Files) -> list[tuple[str, ...]]:
    """Each JSON file by itself.

    Raises:
        ReaderError: nothing there.
    """
    found: list[tuple[str, ...]] = [(path,) for path in files.list(dataset.annotations) if path.endswith(".json")]
    if not found:
        raise ReaderError(f"{dataset.annotations}: no JSON there; expected a file or a folder of *.json")
    return found


def read(dataset: Dataset, part: Sequence[str], files: Files) -> Rows:
    """Records of a file.

    Raises:
        ReaderError: no JSON list at the top.
    """
    (file,) = part
    folder, _, name = file.rpartition("/")
    beside = replace(dataset, images=dataset.images or folder or ".")
    with files.open(file) as opened:
        for item in walk(opened, file):
            if item.key:
                raise ReaderError(f"{file}: expected a JSON list of items at the top, found a mapping")
            identity = f"{dataset.name}-{name.removesuffix('.json')}-{item.index:05d}"
            if item.reason is not None:
                yield Fault(file, item.line, f"item {item.index}: {item.reason}", identity)
                continue
            try:
                yield _found(beside, file, item, identity)
            except (FleetError, ReaderError) as error:
                yield Fault(file, item.line, f"item {item.index}: {error}", identity)


def _found(dataset: Dataset, file: str, item: Item, identity: str) -> Found:
    row = item.value
    if not isinstance(row, dict):
        raise ReaderError(f"expected an object, found {brief(row)}")
    fleet = _fleet(row)
    task = _task(row)
    labels = _labels(row, fleet)
    image = row.get("image")
    picture = None if image in (None, "") else dataset.picture(need_text(image, "image"))
    record = Record(
        id=identity,
        source=dataset.name,
        kind=KIND,
        split=dataset.split_of(picture_key(str(image)) if picture else plain(task)),
        image=None,
        instruction=task,
        response=", ".join(labels),
        reasoning=[mention(step, fleet.names) for step in _chain(row)],
        robots=fleet.to_dicts(),
        labels=labels,
        plan=plan_of(row.get("subtasks"), fleet),
        tags={"category": "reasoning", "needs_image": False},
    )
    return Found(record, file, item.line, picture)


def _fleet(row: dict[str, Any]) -> Fleet:
    if row.get("robots") is not None:
        return Fleet.of(row["robots"])
    instruction = row.get("instruction")
    if isinstance(instruction, str) and instruction.lstrip().lower().startswith("robots:"):
        return fleet_of(instruction)
    return default_fleet()


def _task(row: dict[str, Any]) -> str:
    for name in ("task", "input"):
        if row.get(name):
            return task_of(row[name], name)
    asked = [turn for turn in row.get("prompt") or [] if isinstance(turn, dict) and turn.get("role") == "user"]
    if asked:
        return task_of(asked[-1].get("content"), "prompt")
    return task_of(row.get("instruction"), "task (or input, prompt, instruction)")


def _labels(row: dict[str, Any], fleet: Fleet) -> list[str]:
    key = next((name for name in ("selected_robot", "robot_target", "answer") if row.get(name)), "response")
    value = row.get(key)
    if key == "response" and isinstance(value, str):
        tagged = _TAG["answer"].search(value)
        value = tagged[1] if tagged else value
    names = value.split(",") if isinstance(value, str) else value
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        known = {name.casefold(): name for name in fleet.names}
        aliases = {short: full for short, full in _ALIASES.items() if full in fleet.names}
        wanted = [name.strip() for name in names]
        value = [known.get(name.casefold()) or aliases.get(name.casefold()) or name for name in wanted]
    return names_of(value, key, fleet)


def _chain(row: dict[str, Any]) -> list[str]:
    """The four steps.

    Raises:
        ReaderError: fewer, or none.
    """
    value = row.get("reasoning_chain") or row.get("reasoning")
    if value is None and isinstance(row.get("response"), str):
        tagged = _TAG["reasoning"].search(row["response"])
        value = tagged[1] if tagged else None
    if isinstance(value, str):
        cut = _STEP.split(value)
        value = cut[1:] if len(cut) > 1 else value.splitlines()
    if not isinstance(value, list) or not all(isinstance(step, str) for step in value):
        raise ReaderError(f"reasoning_chain: expected a list of steps or a text, found {brief(value)}")
    steps = [" ".join(_STEP.sub("", step).replace("**", "").split()) for step in value]
    steps = [step for step in steps if step]
    if len(steps) < len(STEPS):
        raise ReaderError(f"reasoning_chain: {len(steps)} steps where {len(STEPS)} are needed ({', '.join(STEPS)})")
    return [*steps[:2], " ".join(steps[2:-1]), steps[-1]]


def mention(text: str, names: Sequence[str]) -> str:
    """The text with the robots' names as mentions; a name inside a longer one, or bracketed already, stays."""
    choices = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    known = {name.casefold(): name for name in names}
    found = re.compile(rf"(?<![\w\[])({choices})(?![\w\]])", re.IGNORECASE)
    return found.sub(lambda match: f"[{known[match[1].casefold()]}]", text)
