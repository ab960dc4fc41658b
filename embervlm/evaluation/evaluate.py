"""One stage on its test split: `evaluate_stage`. What each figure means stands where it is computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from embervlm.data.schema import Record
from embervlm.evaluation.asking import Asker, Model, subset
from embervlm.evaluation.metrics import MetricError
from embervlm.evaluation.reasoning import evaluate_reasoning
from embervlm.evaluation.selection import evaluate_selection
from embervlm.evaluation.understanding import evaluate_alignment, evaluate_instruction

_Evaluation = Callable[
    [Asker, Sequence[Record], Sequence[Record] | None, bool, int],
    tuple[dict[str, float], dict[str, float], dict[str, Any]],
]
_STAGES: dict[int, _Evaluation] = {
    1: evaluate_alignment,
    2: evaluate_instruction,
    3: evaluate_selection,
    4: evaluate_reasoning,
}


def evaluate_stage(
    model: Model,
    processor: Any,
    stage_number: int,
    test_records: Sequence[Record],
    train_records: Sequence[Record] | None = None,
    batch_size: int = 64,
    baselines: bool = True,
    samples: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure a stage's model on records that it has not seen.

    Args:
        model: an `EmberVLM` in the place where it shall run; it is not changed, only its processor is set.
        processor: the model's, or None where the model has its own.
        stage_number: 1 alignment, 2 instruction, 3 selection, 4 reasoning.
        test_records: the test split of the stage's kind. Records without picture are fine: what needs one is absent.
        train_records: what the word and majority baselines learn from; without them those are absent.
        batch_size: records per forward pass.
        baselines: measure what the model is compared with, too.
        samples: read at most so many records (a seeded choice that keeps counterfactual pairs whole).
        seed: of that choice, of shuffled pictures and of bootstrap draws.

    Returns:
        `metrics` and `baselines` as {name: number}, in which what was not measured is absent and never zero;
        `samples`, the number of records read; `tables`, JSON-ready rows for figures (predictions, reliability, …).

    Raises:
        MetricError: an unknown stage or no records.
    """
    evaluation = _STAGES.get(stage_number)
    if evaluation is None:
        raise MetricError(f"stage {stage_number} has no evaluation; stages are {', '.join(map(str, _STAGES))}")
    records = subset(test_records, samples, seed)
    if not records:
        raise MetricError(f"stage {stage_number}: no test records")
    asker = Asker(model, processor, batch_size)
    metrics, base, tables = evaluation(asker, records, train_records, baselines, seed)
    return {"metrics": metrics, "baselines": base, "samples": len(records), "tables": tables}
