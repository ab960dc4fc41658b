"""Which samples a run trained on, step by step, held against what its plan has for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ember_platform.data.order import Plan


@dataclass(frozen=True)
class Audit:
    """Samples that were trained more often in an epoch than the plan has them, and less often; over so many epochs."""

    repeated: int
    lost: int
    epochs: int


def audit(rows: Sequence[Mapping[str, Any]], plans: Sequence[Plan]) -> Audit:
    """Compare the samples of the steps that count (`samples.parquet`) with the plan, epoch by epoch.

    Args:
        rows: `phase`, `phase_step` (from 1), `epoch` and `indices` of every step.
        plans: of the stage's phases. An epoch that was cut short by an early stop is compared up to there.
    """
    trained: dict[tuple[int, int], Counter[int]] = {}
    planned: dict[tuple[int, int], Counter[int]] = {}
    last: dict[int, int] = {}
    for row in rows:
        key = (int(row["phase"]), int(row["epoch"]))
        trained.setdefault(key, Counter()).update(row["indices"])
        last[key[0]] = max(last.get(key[0], 0), int(row["phase_step"]))
    for phase, steps in last.items():
        plan = plans[phase]
        for epoch, start in enumerate(plan.epoch_starts[:-1]):
            for batch in plan.epoch(epoch)[: max(0, min(steps, plan.steps) - start)]:
                planned.setdefault((phase, epoch), Counter()).update(batch)
    keys = trained.keys() | planned.keys()
    pairs = [(trained.get(key, Counter()), planned.get(key, Counter())) for key in keys]
    return Audit(
        repeated=sum((done - due).total() for done, due in pairs),
        lost=sum((due - done).total() for done, due in pairs),
        epochs=len(keys),
    )
