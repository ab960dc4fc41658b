"""What written chains are worth one by one: steps, coherence, agreement with the answer, facts taken over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embervlm.data.schema import STEPS, Record
from embervlm.evaluation.asking import Asker, request
from embervlm.evaluation.reasoning import complete, decided, mentioned
from embervlm.monitoring.measuring.moments import StageRun
from embervlm.world.chains import parse_chain

if TYPE_CHECKING:
    from embervlm.models.modeling import EmberVLM

COHERENCE = "coherence: share of four checks passed"
COHERENCE_MEANS = (
    "coherence: share of four checks (all four steps written; decision within the robots found able; first choice in "
    "the decision; plan within the decision)"
)
CONSISTENCY_MEANS = "consistency: overlap (IoU) of the decision's robots with the team sent"
#: Chains that are written side by side: a step of writing costs little more for many.
TOGETHER = 128
_FACTS = ("environment", "weather", "light", "site", "access", "terrain", "hazard")


@dataclass(frozen=True)
class Chain:
    """A record's chain as the model wrote it, with the answer after it.

    Attributes:
        record, answer: what was asked, and the answer as `select_many` gives it.
        steps: the four steps (fewer where it stopped early).
        coherence, consistency: 0 to 1, see `COHERENCE_MEANS` and `CONSISTENCY_MEANS`.
        correct: whether the first choice can do the task.
        place: where the chosen robot is first mentioned, 0 (start) to 1 (end of the chain); None where it never is.
    """

    record: Record
    answer: dict[str, Any]
    steps: list[str]
    coherence: float
    consistency: float
    correct: bool
    place: float | None

    @property
    def chosen(self) -> str:
        """The first choice."""
        return str(self.answer["robots"][0]["robot"])


def written(model: EmberVLM, records: Sequence[Record]) -> list[Chain]:
    """Ask for chains, greedily."""
    answers = Asker(model, batch_size=TOGETHER).select([request(r) for r in records], reasoning=True)
    return [read(record, answer) for record, answer in zip(records, answers, strict=True)]


def evaluated(run: StageRun) -> dict[str, Chain]:
    """Test record's id → the chain that the product wrote for it when it was evaluated; none where it wrote none."""
    rows = run.predicted("steps", "plan")
    return {r.id: read(r, _answer(rows[r.id])) for r in run.test if r.id in rows}


def _answer(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the evaluation's predictions as the answer that it was made of; of the robots only the first."""
    first = {"robot": row["first"], "confidence": row["confidence"]}
    return {"robots": [first], **{name: row[name] for name in ("team", "plan", "steps")}}


def read(record: Record, answer: dict[str, Any]) -> Chain:
    """A chain's own figures."""
    steps = list(answer.get("steps") or [])
    decision, team = decided(steps), set(answer["team"])
    chosen = str(answer["robots"][0]["robot"])
    able = set(parse_chain(steps).get("able", ()))
    checks = [
        complete(steps),
        bool(decision) and decision <= able,
        chosen in decision,
        bool(answer["plan"]) and {step["robot"] for step in answer["plan"]} <= decision,
    ]
    text = " ".join(steps)
    place = text.find(f"[{chosen}]")
    return Chain(
        record=record,
        answer=answer,
        steps=steps,
        coherence=float(np.mean(checks)),
        consistency=len(decision & team) / len(decision | team) if decision | team else 1.0,
        correct=chosen in record.labels,
        place=None if place < 0 else place / len(text),
    )


def facts(chains: Sequence[Chain]) -> dict[str, tuple[int, int]]:
    """Kind of fact → how often chains state it as it is, of how many whose reference states it."""
    counts: dict[str, list[int]] = {}
    for chain in chains:
        truth, said = parse_chain(chain.record.reasoning), parse_chain(chain.steps)
        pairs = {name: (truth.get(name), said.get(name)) for name in ("category", "requirements")}
        scene, stated = truth.get("environment", {}), said.get("environment", {})
        pairs |= {name: (scene.get(name), stated.get(name)) for name in _FACTS}
        for name, (right, own) in pairs.items():
            if right is not None:
                row = counts.setdefault("place" if name == "environment" else name, [0, 0])
                row[0] += own == right
                row[1] += 1
    return {name: (right, total) for name, (right, total) in counts.items()}


def ablated(steps: Sequence[str]) -> list[list[str]]:
    """The chain without each of its steps in turn: that step is left empty."""
    return [["" if i == q else step for i, step in enumerate(steps)] for q in range(len(STEPS))]


def best_robot(record: Record) -> str | None:
    """The robot that the reference decision names first, which is the best for the task; None where it has none."""
    names = mentioned(record.reasoning[-1]) if record.reasoning else []
    return names[0] if names else None
