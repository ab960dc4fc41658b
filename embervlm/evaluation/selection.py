"""Stage 3: does it choose the right robots, how sure is it, and does it need the picture for it?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from embervlm.data.prompts import UNKNOWN_TASK
from embervlm.data.schema import Record
from embervlm.evaluation import baselines as b
from embervlm.evaluation import calibration as c
from embervlm.evaluation import metrics as m
from embervlm.evaluation.asking import Asker, as_arrays, other_images, request
from embervlm.fleet import default_fleet

Figures = dict[str, float]

#: Parts of the test split that are reported on their own.
SLICES: dict[str, Callable[[Record], bool]] = {
    "unseen_wordings": lambda r: bool(r.tags.get("wording_unseen")),
    "unseen_robots": lambda r: bool(r.tags.get("robots_unseen")),
    "needs_image": lambda r: bool(r.tags.get("needs_image")),
    "text_suffices": lambda r: r.tags.get("needs_image") is False,
}


def slice_rows(records: Sequence[Record]) -> dict[str, list[bool]]:
    """Which records belong to each slice, empty ones included; where records have several sources, to each of those."""
    found = {name: [belongs(r) for r in records] for name, belongs in SLICES.items()}
    sources = sorted({r.source for r in records})
    return found | ({name: [r.source == name for r in records] for name in sources} if len(sources) > 1 else {})


#: Bounds of the parts by familiarity, in percent of validation inputs.
FAMILIARITY = (0, 5, 25, 50, 100)


def familiarity_slices(raw: Sequence[dict[str, Any]]) -> dict[str, list[bool]]:
    """The answers by how familiar their records were to the model, without empty parts; none where it does not say."""
    if any(answer.get("familiarity") is None for answer in raw):
        return {}
    share = np.array([100 * answer["familiarity"] for answer in raw])
    parts = {f"familiarity_{a}_{b}": (a < share) & (share <= b) for a, b in pairwise(FAMILIARITY)}
    return {name: row.tolist() for name, row in parts.items() if row.any()}


def measured(**values: float | None) -> Figures:
    """The figures that exist: what could not be measured is absent, never zero."""
    return {name: float(value) for name, value in values.items() if value is not None}


def selection_figures(answers: b.Answers, records: Sequence[Record]) -> Figures:
    """Every figure of selection over the records, slices and counterfactual pairs included."""
    can = [b.labels_of(r) for r in records]
    names = [b.names_of(r) for r in records]
    hits = m.first_choice_hits(answers.ranking, can)
    top = [float(p.max()) for p in answers.confidence]
    pooled = np.concatenate(answers.confidence), np.concatenate(can)
    figures = measured(
        first_choice=float(hits.mean()),
        mean_confidence=float(np.mean(top)),
        macro_f1=m.macro_f1(answers.sent, can, names) if any(row.any() for row in can) else None,
        decision_macro_f1=m.decision_macro_f1(answers.sent, can),
        ece=c.expected_calibration_error(top, hits),
        ece_equal_mass=c.expected_calibration_error(top, hits, equal_mass=True),
        ece_robots=c.expected_calibration_error(*pooled),
        brier=c.brier(answers.confidence, can),
        team_iou=m.team_iou(answers.sent, can),
        team_exact=m.team_exact(answers.sent, can),
        team_hamming=m.team_hamming(answers.sent, can),
        team_micro_f1=m.micro_f1(answers.sent, can),
        infeasible_rate=m.infeasible_rate(answers.sent, can),
    )
    for name, row in slice_rows(records).items():
        figures.update(_part(answers, records, [i for i, inside in enumerate(row) if inside], name))
    pairs = [r.tags.get("pair") for r in records]
    exact = [bool((s == y).all()) for s, y in zip(answers.sent, can, strict=True)]
    for name, right in (("counterfactual_both_right", hits), ("counterfactual_both_exact", np.array(exact))):
        found = m.both_right(right, pairs)
        if found is not None:
            figures[name] = found[0]
    return figures


def trust_figures(answers: b.Answers, raw: Sequence[dict[str, Any]], records: Sequence[Record]) -> Figures:
    """Calibration before it was fitted, and whether less familiar records are more often wrong.

    `ece_uncalibrated`; `familiarity`, the mean; `familiarity_error_auroc`, the chance that a wrong answer's record is
    less familiar than a right one's; first choice and teams by part. Absent where the model has no such statistics.
    """
    hits = m.first_choice_hits(answers.ranking, [b.labels_of(r) for r in records])
    figures = {}
    if all("scores" in answer for answer in raw):
        figures["ece_uncalibrated"] = c.expected_calibration_error(c.before_calibration(answers.ranking), hits)
    parts = familiarity_slices(raw)
    if parts:
        shares = np.array([answer["familiarity"] for answer in raw])
        figures["familiarity"] = float(shares.mean())
        if hits.any() and not hits.all():
            figures["familiarity_error_auroc"] = m.auroc(-shares, ~hits)
    for name, row in parts.items():
        figures.update(_part(answers, records, [i for i, inside in enumerate(row) if inside], name))
    return figures


def _part(answers: b.Answers, records: Sequence[Record], chosen: list[int], name: str) -> Figures:
    """First choice and teams of a slice; nothing where it is empty."""
    if not chosen:
        return {}
    return {
        f"{key}_{name}": value
        for key, value in b.answer_figures(answers.part(chosen), [records[i] for i in chosen]).items()
    }


def default_fleet_figures(answers: b.Answers, records: Sequence[Record]) -> tuple[Figures, dict[str, dict[str, float]]]:
    """Per-robot figures of the five default robots, over the records whose fleet they are; empty where none is."""
    five = set(default_fleet().names)
    chosen = [i for i, r in enumerate(records) if set(b.names_of(r)) == five]
    if not chosen:
        return {}, {}
    table = m.per_robot(
        [answers.sent[i] for i in chosen],
        [b.labels_of(records[i]) for i in chosen],
        [b.names_of(records[i]) for i in chosen],
    )
    flat = {
        f"{robot.lower().replace(' ', '_')}_{key}": value for robot, row in table.items() for key, value in row.items()
    }
    return flat, table


def intervals(answers: b.Answers, records: Sequence[Record], seed: int = 0) -> dict[str, dict[str, float]]:
    """95% bootstrap intervals of first choice and team IoU over tasks."""
    can = [b.labels_of(r) for r in records]
    values = {
        "first_choice": m.first_choice_hits(answers.ranking, can).astype(float),
        "team_iou": np.array([m.team_iou([s], [y]) for s, y in zip(answers.sent, can, strict=True)]),
    }
    found = {}
    for name, sample in values.items():
        low, high = m.bootstrap_interval(sample, seed=seed)
        found[name] = {"low": low, "high": high}
    return found


def predictions(answers: b.Answers, records: Sequence[Record], raw: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per record for figures and error analysis: what was asked, answered and right."""
    rows = []
    hits = m.first_choice_hits(answers.ranking, [b.labels_of(r) for r in records])
    for i, (record, answer) in enumerate(zip(records, raw, strict=True)):
        names = b.names_of(record)
        rows.append(
            {
                "id": record.id,
                "task": record.instruction,
                "fleet": names,
                "labels": list(record.labels),
                "team": [n for n, sends in zip(names, answers.sent[i], strict=True) if sends],
                "first": names[int(answers.ranking[i].argmax())],
                "confidence": float(answers.confidence[i].max()),
                "scores": answers.ranking[i].tolist(),
                "correct": bool(hits[i]),
                "none_of_these": answer.get("none_of_these"),
                "familiarity": answer.get("familiarity"),
                "reasoning": answer.get("reasoning"),
            }
        )
    return rows


def ask_all_ways(
    asker: Asker, records: Sequence[Record], with_baselines: bool, seed: int = 0
) -> tuple[list[dict[str, Any]], dict[str, b.Answers]]:
    """The model's answers, and those of the same model with something withheld.

    The baselines: its eyes shut (text only), without the task (image only), before another picture. All are asked
    in one go, so that a fleet that they share is read once and not four times.
    """
    ways = {"own": [request(r) for r in records]}
    if with_baselines and any(r.image is not None for r in records):  # else text only is the model's own figure again
        strangers = other_images(records, seed)
        ways["text_only"] = [request(r, image=None) for r in records]
        ways["image_only"] = [request(r, task=UNKNOWN_TASK) for r in records]
        ways["shuffled_image"] = [request(r, image=image) for r, image in zip(records, strangers, strict=True)]
    raw = asker.select([one for requests in ways.values() for one in requests])
    parts = {name: raw[i * len(records) : (i + 1) * len(records)] for i, name in enumerate(ways)}
    own = parts.pop("own")
    return own, {name: as_arrays(records, part) for name, part in parts.items()}


def words_only(records: Sequence[Record], train: Sequence[Record] | None) -> dict[str, b.Answers]:
    """The baselines that learn from training records; none without those."""
    return {"majority": b.majority(train, records), "tfidf": b.tfidf(train, records)} if train else {}


def baseline_figures(answers: dict[str, b.Answers], records: Sequence[Record]) -> Figures:
    """Flat figures `<baseline>_<figure>` of every baseline."""
    flat: Figures = {}
    wanted = ("first_choice", "team_iou", "team_exact", "macro_f1", "counterfactual_both_right")
    for name, given in answers.items():
        figures = selection_figures(given, records)
        flat.update({f"{name}_{k}": v for k, v in figures.items() if k in wanted or k.startswith("first_choice_")})
    return flat


def evaluate_selection(
    asker: Asker, records: Sequence[Record], train: Sequence[Record] | None, with_baselines: bool, seed: int
) -> tuple[Figures, Figures, dict[str, Any]]:
    """Metrics, baselines and tables of stage 3, of records that some robot can do: `suites.trusting` has the others."""
    records = [r for r in records if r.labels] or records
    raw, compared = ask_all_ways(asker, records, with_baselines, seed)
    answers = as_arrays(records, raw)
    figures = selection_figures(answers, records)
    flat, robots = default_fleet_figures(answers, records)
    figures.update(flat)
    figures.update(trust_figures(answers, raw, records))
    can = [b.labels_of(r) for r in records]
    tables: dict[str, Any] = {
        "per_robot": robots,
        "reliability": c.reliability([p.max() for p in answers.confidence], m.first_choice_hits(answers.ranking, can)),
        "slices": {name: sum(row) for name, row in slice_rows(records).items()},
        "intervals": intervals(answers, records, seed),
        "predictions": predictions(answers, records, raw),
    }
    if with_baselines:
        compared.update(words_only(records, train))
    return figures, baseline_figures(compared, records), tables
