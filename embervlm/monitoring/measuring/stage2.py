"""Stage 2: answers with and without the picture, token probabilities, distance to the teacher, lengths, perplexity."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from embervlm.data.schema import Record
from embervlm.evaluation.captions import answer_hits, words
from embervlm.monitoring import data as d
from embervlm.monitoring.measuring.moments import Array, StageRun, evaluations, padded, token_probabilities

RECORDS = 192
POSITIONS = 48
#: Question types of the embedded world, from what is seen at a glance to what has to be worked out.
_SIMPLE = (
    "light",
    "weather",
    "site",
    "place",
    "terrain",
    "access",
    "hazard",
    "color",
    "size",
    "object",
    "yesno",
    "count",
)
#: Nats by which a divergence of equal distributions may be negative: sums in float32.
ROUNDING = 1e-6


def measure(store: d.FigureStore, run: StageRun) -> None:
    """Write the data of stage 2's figures; of response lengths see `lengths`, which needs all stages."""
    asked = run.validation[:RECORDS]
    requests = [{"image": r.image, "prompt": r.instruction} for r in asked]
    answers = [r.response for r in asked]
    steps, perplexity = [], []
    for moment, (model, _) in run.models():
        table = padded([-np.log(p.clip(1e-12)) for p in token_probabilities(model, requests, answers)], POSITIONS)
        steps.append(moment.step)
        perplexity.append(np.exp(np.nanmean(table, axis=0)))
        if moment is run.product:
            own = token_probabilities(model, requests, model.generate_texts(requests, max_new_tokens=POSITIONS))
            longest = max(map(len, own))
            store.write(
                d.TokenProbability(
                    truth=padded(list(np.exp(-table)), POSITIONS, longest),
                    generated=padded(own, POSITIONS, table.shape[1]),
                    step=moment.step,
                    source=f"validation split, {len(asked)} questions; the model's own answers are greedy",
                )
            )
    store.write(
        d.PerplexityByPosition(
            np.array(steps), np.array(perplexity), source=f"validation split, {len(asked)} answers, teacher forced"
        )
    )
    complexity(store, run)
    distillation(store, run.history, run.teacher)


def complexity(store: d.FigureStore, run: StageRun) -> None:
    """Single answers by type of question, asked with the picture and without."""
    rows = [row for row in run.tables.get("answers", ()) if row.get("question_type")]
    if not rows:
        return store.note(d.InstructionComplexity, "the test records name no type of question")
    kinds = Counter(str(row["question_type"]) for row in rows)
    known = {kind: i for i, kind in enumerate((*d.INSTRUCTION_TYPES, *_SIMPLE))}
    order = sorted(kinds, key=lambda kind: (known.get(kind, len(known)), kind))
    store.write(
        d.InstructionComplexity(
            categories=tuple(order),
            category=np.array([order.index(str(row["question_type"])) for row in rows]),
            with_vision=np.array([float(row["correct"]) for row in rows]),
            without_vision=answer_hits(
                [row["answer_without_image"] for row in rows], [row["reference"] for row in rows]
            ).astype(float),
            metric="share answered exactly",
            step=run.product.step,
            source=f"test split, {len(rows)} questions by their type, greedy answers",
        )
    )
    return None


def distillation(store: d.FigureStore, history: Mapping[str, Array], teacher: str, where: str = "") -> None:
    """Divergence from the teacher at every step, and the student's validation accuracy.

    Args:
        history: of the student's training: column → a value per optimizer step.
        teacher: its name, "" without one.
        where: what training that was, for the caption, where it is not the run's own.
    """
    from embervlm.stages.instruction import Instruction, InstructionModule

    if not teacher:
        if not store.stems(d.DistillationGap):
            why = "the run had no teacher (teacher.model), and none for this figure (figures.distillation_steps)"
            store.note(d.DistillationGap, why)
        return None
    if "distill_loss" not in history or "taught_rows" in history:
        return store.note(d.DistillationGap, "the history has no distance to the teacher's distributions")
    value = np.asarray(history["distill_loss"], float) / InstructionModule.temperature**2
    value = np.where(np.abs(value) < ROUNDING, np.maximum(value, 0), value)
    known = np.isfinite(value)
    when, metrics = evaluations(history)
    store.write(
        d.DistillationGap(
            steps=np.asarray(history["step"])[known].astype(int),
            divergence=value[known],
            evaluations=when,
            accuracy=metrics[Instruction.metric],
            teacher=teacher,
            source=f"{where}training batches, KL over the teacher's stored top-k at temperature 2; validation accuracy",
        )
    )
    return None


def lengths(store: d.FigureStore, runs: dict[int, StageRun]) -> None:
    """Lengths of what the stages' products wrote for their test records, and of the references, in words."""
    pairs: dict[str, list[tuple[str, str]]] = {}
    if 1 in runs:
        pairs["captioning"] = [(row["written"], row["reference"]) for row in runs[1].tables.get("captions", ())]
    if 2 in runs:
        pairs["VQA"] = [(row["answer"], row["reference"]) for row in runs[2].tables.get("answers", ())]
    if 4 in runs:
        truth: dict[str, Record] = {record.id: record for record in runs[4].test}
        pairs["complex reasoning"] = [
            (row["reasoning"], " ".join(truth[row["id"]].reasoning))
            for row in runs[4].tables.get("predictions", ())
            if row["reasoning"] and row["id"] in truth and truth[row["id"]].reasoning
        ]
    pairs = {task: found for task, found in pairs.items() if found}
    if not pairs or 2 not in runs:
        return store.note(d.ResponseLengths, "no stage wrote texts for its test records")
    flat = [(c, *pair) for c, found in enumerate(pairs.values()) for pair in found]
    store.write(
        d.ResponseLengths(
            tasks=tuple(pairs),
            task=np.array([c for c, _, _ in flat]),
            generated=np.array([len(words(text)) for _, text, _ in flat]),
            target=np.array([len(words(text)) for _, _, text in flat]),
            unit="words",
            step=runs[2].product.step,
            source="test records of stages 1 (captions), 2 (answers) and 4 (chains), each by that stage's product",
        )
    )
    return None
