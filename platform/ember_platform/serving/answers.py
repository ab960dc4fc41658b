"""The model's answer as the endpoint's."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

from ember_platform.serving.fleets import NamedFleet
from ember_platform.serving.schemas import AttentionMap, PlanStep, RankedRobot, SelectAnswer, SelectRequest, Timings
from ember_platform.serving.worker import Job


def drained(steps: Generator[Any, Any, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Run a text to its end and give the answers."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def select_answer(
    job: Job,
    answer: dict[str, Any],
    question: SelectRequest,
    fleet: NamedFleet,
    request_id: str,
    arrived: float,
    reasoning: bool,
) -> SelectAnswer:
    """What `/v1/select` answers; `arrived` as of `time.monotonic`."""
    robots = [RankedRobot(**robot) for robot in answer["robots"][: question.top_k]]
    return SelectAnswer(
        request_id=request_id,
        model=job.engine.ref,
        fleet=fleet.ref,
        robots=robots,
        team=answer["team"],
        none_of_these=answer["none_of_these"],
        familiarity=answer["familiarity"],
        plan=[PlanStep(**step) for step in answer["plan"]],
        reasoning=answer["reasoning"] if reasoning else None,
        attention=_attention(answer, fleet, robots),
        timings=Timings(
            read_ms=_ms(job.queued - arrived),
            queue_ms=_ms(job.started - job.queued),
            model_ms=_ms(job.finished - job.started),
            total_ms=_ms(time.monotonic() - arrived),
            batch_size=job.batch_size,
        ),
    )


def _attention(answer: dict[str, Any], fleet: NamedFleet, robots: list[RankedRobot]) -> list[AttentionMap] | None:
    maps = answer.get("attention")
    if maps is None:
        return None
    place = {name: i for i, name in enumerate(fleet.fleet.names)}
    return [
        AttentionMap(robot=r.robot, weights=[[round(float(v), 5) for v in row] for row in maps[place[r.robot]]])
        for r in robots
    ]


def _ms(seconds: float) -> float:
    return round(1000 * max(0.0, seconds), 3)
