"""Stages 1 and 2: do pictures and captions find each other, and are questions answered from the picture?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from embervlm.data.prompts import CAPTION_PROMPT
from embervlm.data.schema import Record
from embervlm.evaluation import captions as t
from embervlm.evaluation import metrics as m
from embervlm.evaluation.asking import Asker, other_images

Figures = dict[str, float]
GROUP = 64
CAPTION_TOKENS = 48
ANSWER_TOKENS = 24


def _distinct(records: Sequence[Record]) -> list[Record]:
    """One record per caption: two pictures with the same caption cannot be told apart by it."""
    seen: dict[str, Record] = {}
    for record in records:
        if record.image is not None:
            seen.setdefault(t.normalise_answer(record.response), record)
    return list(seen.values())


def evaluate_alignment(
    asker: Asker, records: Sequence[Record], train: Sequence[Record] | None, with_baselines: bool, seed: int
) -> tuple[Figures, Figures, dict[str, Any]]:
    """Retrieval both ways, and captions written by the model against the reference captions."""
    pairs = _distinct(records)
    if len(pairs) < 2:
        raise m.MetricError("stage 1: at least two pictures with different captions are needed")
    similarity = asker.images([r.image for r in pairs]) @ asker.texts([r.response for r in pairs]).T
    figures: Figures = m.recall_at(similarity)
    if len(pairs) >= GROUP:
        figures.update(m.recall_one_of(similarity, GROUP, seed))
    shown = [r for r in records if r.image is not None]
    written = asker.write(
        [{"image": r.image, "prompt": r.instruction or CAPTION_PROMPT} for r in shown], CAPTION_TOKENS
    )
    # Published caption sets have several captions of a picture, all of them references.
    references = [r.tags.get("captions") or [r.response] for r in shown]
    figures.update({"cider": t.cider_d(written, references), "bleu4": t.bleu4(written, references)})
    tables: dict[str, Any] = {
        "retrieval_pairs": len(pairs),
        "captions": [{"id": r.id, "written": w, "reference": r.response} for r, w in zip(shown, written, strict=True)],
    }
    base: Figures = {}
    if with_baselines:
        chance = {f"i2t_recall_at_{k}": min(1.0, k / len(pairs)) for k in (1, 5)}
        chance.update({f"i2t_recall_1_of_{GROUP}": 1 / GROUP} if len(pairs) >= GROUP else {})
        base = {f"chance_{name}": value for name, value in chance.items()}
        # Captions of other pictures of the same test split: what fluent text without a look would reach.
        order = np.random.default_rng(seed).permutation(len(shown))
        strangers = [""] * len(shown)
        for place, i in enumerate(order):
            strangers[int(i)] = written[int(order[(place + 1) % len(order)])]
        base["shuffled_image_cider"] = t.cider_d(strangers, references)
        base["shuffled_image_bleu4"] = t.bleu4(strangers, references)
    return figures, base, tables


def _by_type(hits: np.ndarray, records: Sequence[Record], name: str) -> Figures:
    """Accuracy overall and per question type."""
    figures = {name: float(hits.mean())}
    groups: dict[str, list[bool]] = {}
    for hit, record in zip(hits, records, strict=True):
        kind = record.tags.get("question_type")
        if kind:
            groups.setdefault(str(kind).replace(" ", "_").replace("-", "_"), []).append(bool(hit))
    figures.update({f"{name}_{kind}": float(np.mean(values)) for kind, values in sorted(groups.items())})
    return figures


def _majority_answers(train: Sequence[Record], test: Sequence[Record]) -> list[str]:
    """The commonest training answer to the same question, else to the same type of question, else of all."""
    tables: dict[Any, Counter[str]] = {}
    for record in train:
        for key in (("q", record.instruction.lower()), ("t", record.tags.get("question_type")), ("all", None)):
            tables.setdefault(key, Counter())[record.response] += 1
    answers = []
    for record in test:
        keys = (("q", record.instruction.lower()), ("t", record.tags.get("question_type")), ("all", None))
        table = next(tables[key] for key in keys if key in tables)
        answers.append(min(table, key=lambda text: (-table[text], text)))
    return answers


def evaluate_instruction(
    asker: Asker, records: Sequence[Record], train: Sequence[Record] | None, with_baselines: bool, seed: int
) -> tuple[Figures, Figures, dict[str, Any]]:
    """Greedy answers, exact after normalisation: overall and per question type, with and without the picture."""
    references = [r.response for r in records]

    def ask(images: Sequence[Any]) -> list[str]:
        requests = [{"image": i, "prompt": r.instruction} for i, r in zip(images, records, strict=True)]
        return asker.write(requests, ANSWER_TOKENS)

    answers = ask([r.image for r in records])
    hits = t.answer_hits(answers, references)
    figures = _by_type(hits, records, "answer_accuracy")
    asked = [(answer, r.tags["answers"]) for answer, r in zip(answers, records, strict=True) if r.tags.get("answers")]
    if asked:
        figures["vqa_accuracy"] = float(np.mean([t.vqa_score(answer, given) for answer, given in asked]))
    low, high = m.bootstrap_interval(hits, seed=seed)
    blind = ask([None] * len(records))
    figures.update(_by_type(t.answer_hits(blind, references), records, "answer_accuracy_without_image"))
    figures["image_gain"] = figures["answer_accuracy"] - figures["answer_accuracy_without_image"]
    tables: dict[str, Any] = {
        "intervals": {"answer_accuracy": {"low": low, "high": high}},
        "answers": [
            {
                "id": r.id,
                "question": r.instruction,
                "question_type": r.tags.get("question_type"),
                "answer": a,
                "answer_without_image": n,
                "reference": r.response,
                "correct": bool(hit),
            }
            for r, a, n, hit in zip(records, answers, blind, hits, strict=True)
        ],
    }
    base: Figures = {}
    if with_baselines:
        base["text_only_answer_accuracy"] = figures["answer_accuracy_without_image"]
        stranger = t.answer_hits(ask(other_images(records, seed)), references)
        base["shuffled_image_answer_accuracy"] = float(stranger.mean())
        if train:
            majority = t.answer_hits(_majority_answers(train, records), references)
            base["majority_answer_accuracy"] = float(majority.mean())
    return figures, base, tables
