"""Putting test records to a model, in batches, and reading its answers as arrays.

The only place of the evaluation that calls the model. Everything a record knows beyond picture,
task and fleet (labels, tags, reference texts) stays on this side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embervlm.data.prompts import robot_text
from embervlm.data.schema import Record
from embervlm.evaluation.baselines import Answers, names_of
from embervlm.evaluation.metrics import MetricError
from embervlm.fleet import Robot


class Model(Protocol):
    """What the evaluation asks of a model; `EmberVLM` has it."""

    processor: Any

    def select_many(self, requests: list[dict[str, Any]], reasoning: bool, batch_size: int) -> list[dict[str, Any]]:
        """Answers in the form of `select_robots`, with `scores` in fleet order and, with reasoning, `steps`."""

    def encode_images(self, images: list[Any], batch_size: int) -> NDArray[Any]:
        """(n, D) unit vectors."""

    def encode_texts(self, texts: list[str], batch_size: int) -> NDArray[Any]:
        """(n, D) unit vectors."""

    def generate_texts(self, requests: list[dict[str, Any]], max_new_tokens: int, batch_size: int) -> list[str]:
        """One greedy text per request `{"image", "prompt"}`."""


class Asker:
    """A model with its processor, and a batch size."""

    def __init__(self, model: Model, processor: Any = None, batch_size: int = 64) -> None:
        if batch_size < 1:
            raise MetricError(f"evaluation.batch_size: {batch_size} is not at least 1")
        if processor is not None:
            model.processor = processor
        self.model, self.batch_size = model, batch_size

    def select(self, requests: list[dict[str, Any]], reasoning: bool = False) -> list[dict[str, Any]]:
        """One answer per request: `{"robots": [{"robot", "confidence"}…], "team", "plan", "reasoning", "scores"}`."""
        # A batch reads each distinct robot once, so that requests with one fleet belong together.
        order = sorted(range(len(requests)), key=lambda i: [str(robot["name"]) for robot in requests[i]["fleet"]])
        given = self.model.select_many([requests[i] for i in order], reasoning=reasoning, batch_size=self.batch_size)
        if len(given) != len(requests):
            raise MetricError(f"select_many gave {len(given)} answers to {len(requests)} requests")
        answers: list[dict[str, Any]] = [{}] * len(requests)
        for place, answer in zip(order, given, strict=True):
            answers[place] = answer
        return answers

    def shortened(self, records: Sequence[Record]) -> tuple[list[Record], int]:
        """The records with every robot's description cut to what the model reads, and how many records were cut.

        Words leave from the end: a model that reads less answers with less. Labels stay.
        """
        processor = self.model.processor
        if processor is None:
            return list(records), 0
        short = [[_cut(robot, processor) for robot in record.robots] for record in records]
        found = [replace(record, robots=robots) for record, robots in zip(records, short, strict=True)]
        return found, sum(robots != record.robots for record, robots in zip(records, short, strict=True))

    def images(self, images: Sequence[Any]) -> NDArray[Any]:
        """(n, D) unit vectors of pictures."""
        return self.model.encode_images(list(images), batch_size=self.batch_size)

    def texts(self, texts: Sequence[str]) -> NDArray[Any]:
        """(n, D) unit vectors of texts."""
        return self.model.encode_texts(list(texts), batch_size=self.batch_size)

    def write(self, requests: Sequence[dict[str, Any]], max_new_tokens: int) -> list[str]:
        """One greedy text per request `{"image", "prompt"}`."""
        return self.model.generate_texts(list(requests), max_new_tokens=max_new_tokens, batch_size=self.batch_size)


def _cut(robot: dict[str, Any], processor: Any) -> dict[str, Any]:
    """A robot without the last words of its last list, as many as do not fit."""
    lists = {key: list(robot.get(key) or []) for key in ("capabilities", "limitations", "environments")}
    found = dict(robot)
    while any(lists.values()):
        excess = len(processor.words(robot_text(Robot.from_dict(found)))) - processor.max_robot_tokens
        if excess <= 0:
            return found
        key = [key for key, entries in lists.items() if entries][-1]
        words = lists[key].pop().split()
        # A word has about three tokens at most; what is still too long is cut again.
        rest = " ".join(words[: -max(1, excess // 3)])
        lists[key] += [rest] if rest else []
        found = {**robot, **lists}
    return found


def request(record: Record, **changes: Any) -> dict[str, Any]:
    """What the model may know of a selection record: picture, task, fleet (and what `changes` puts in their place)."""
    return {"image": record.image, "task": record.instruction, "fleet": record.robots, **changes}


def as_arrays(records: Sequence[Record], answers: Sequence[dict[str, Any]]) -> Answers:
    """Answers in fleet order.

    Raises:
        MetricError: an answer leaves a robot of its fleet out (was `top_k` set?), naming record and robot.
    """
    confidence, sent, scores = [], [], []
    for record, answer in zip(records, answers, strict=True):
        given = {entry["robot"]: float(entry["confidence"]) for entry in answer["robots"]}
        names = names_of(record)
        missing = [name for name in names if name not in given]
        if missing:
            raise MetricError(f"record {record.id}: the answer has no confidence for {missing[0]!r}")
        team = set(answer["team"])
        confidence.append(np.array([given[name] for name in names], dtype=np.float64))
        sent.append(np.array([name in team for name in names], dtype=bool))
        scores.append(np.asarray(answer.get("scores", confidence[-1]), dtype=np.float64))
    return Answers(confidence, sent, scores)


def other_images(records: Sequence[Record], seed: int = 0) -> list[Any]:
    """For every record the picture of another one: never its own, nor that of its counterfactual twin if avoidable.

    A random cyclic order gives everybody exactly one picture and nobody his own.
    """
    order = np.random.default_rng(seed).permutation(len(records))
    images: list[Any] = [None] * len(records)
    for place, i in enumerate(order):
        ahead = [int(order[(place + step) % len(order)]) for step in (1, 2)]
        pair = records[i].tags.get("pair")
        twin = pair is not None and records[ahead[0]].tags.get("pair") == pair
        images[int(i)] = records[ahead[1] if twin and ahead[1] != i else ahead[0]].image
    return images


def subset(records: Sequence[Record], most: int | None, seed: int = 0) -> list[Record]:
    """At most `most` records, chosen at random, counterfactual pairs kept whole; the order is kept."""
    if most is None or len(records) <= most:
        return list(records)
    groups: dict[Any, list[int]] = {}
    for i, record in enumerate(records):
        groups.setdefault(record.tags.get("pair") or ("alone", i), []).append(i)
    keys = list(groups)
    chosen: list[int] = []
    for k in np.random.default_rng(seed).permutation(len(keys)):
        members = groups[keys[int(k)]]
        if len(chosen) + len(members) <= most:
            chosen += members
    return [records[i] for i in sorted(chosen)]
