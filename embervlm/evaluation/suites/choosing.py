"""The figures of choosing robots, with intervals: the same for the model and for everything it stands beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from embervlm.data.schema import Record
from embervlm.evaluation import baselines as b
from embervlm.evaluation import calibration as c
from embervlm.evaluation import cues
from embervlm.evaluation import metrics as m
from embervlm.evaluation.asking import Asker, as_arrays, request
from embervlm.evaluation.intervals import Sample
from embervlm.evaluation.selection import ask_all_ways, familiarity_slices, predictions, slice_rows
from embervlm.evaluation.suites.result import Estimates, Options
from embervlm.evaluation.suites.trusting import familiarity_figures

#: Parts of the records that are reported on their own: name → one truth per record.
Slices = Mapping[str, Sequence[bool]]
_PARTS = ("first_choice", "team_exact", "team_iou")


def slices_of(records: Sequence[Record]) -> dict[str, list[bool]]:
    """The slices that the records know, without those that are empty or everything."""
    return {name: row for name, row in slice_rows(records).items() if any(row) and not all(row)}


def estimates(answers: b.Answers, records: Sequence[Record], seed: int, slices: Slices | None = None) -> Estimates:
    """First choice, teams, infeasible choices, calibration, slices and counterfactual pairs, each with its interval.

    Every record must have a robot that can do its task: what is answered where none can is measured apart.
    """
    can = [b.labels_of(r) for r in records]
    pairs = [r.tags.get("pair") for r in records]
    sample = Sample(pairs, seed)
    hits = m.first_choice_hits(answers.ranking, can)
    rows = {
        "first_choice": hits.astype(float),
        "team_exact": np.array([m.team_exact([s], [y]) for s, y in zip(answers.sent, can, strict=True)]),
        "team_iou": np.array([m.team_iou([s], [y]) for s, y in zip(answers.sent, can, strict=True)]),
    }
    found = {name: sample.mean(values) for name, values in rows.items()}
    sent = np.array([float(s.sum()) for s in answers.sent])
    wrong = np.array([float((s & ~y).sum()) for s, y in zip(answers.sent, can, strict=True)])
    found["infeasible_rate"] = sample.mean(wrong, sent)
    top = np.array([float(p.max()) for p in answers.confidence])
    found["ece"] = sample.of(lambda drawn: c.expected_calibration_error(top[drawn], hits[drawn]))
    for name, belongs in (slices or {}).items():
        place = np.flatnonzero(belongs)
        part = Sample([pairs[i] for i in place], seed)
        found.update({f"{figure}_{name}": part.mean(rows[figure][place]) for figure in _PARTS})
    for name, right in (("counterfactual_both_right", hits), ("counterfactual_both_exact", rows["team_exact"] == 1)):
        both = m.pairs_right(right, pairs)
        if both:
            found[name] = Sample([None] * len(both), seed).mean([float(one) for one in both])
    return found


def own_figures(
    raw: Sequence[dict[str, Any]], records: Sequence[Record], seed: int, slices: Slices | None = None
) -> Estimates:
    """The model's own figures: those of choosing, calibration before and after, familiarity."""
    answers = as_arrays(records, raw)
    found = estimates(answers, records, seed, {**(slices or {}), **familiarity_slices(raw)})
    sample = Sample([r.tags.get("pair") for r in records], seed)
    hits = m.first_choice_hits(answers.ranking, [b.labels_of(r) for r in records])
    if all("scores" in answer for answer in raw):
        top = c.before_calibration(answers.ranking)
        found["ece_uncalibrated"] = sample.of(lambda drawn: c.expected_calibration_error(top[drawn], hits[drawn]))
    return found | familiarity_figures(raw, hits, sample)


def ask(asker: Asker, records: Sequence[Record], options: Options) -> tuple[list[dict[str, Any]], dict[str, b.Answers]]:
    """The model's answers, and its answers with something withheld: picture, task, its own picture, its chain."""
    direct, compared = ask_all_ways(asker, records, options.baselines, options.seed)
    if not options.reasoning:
        return direct, compared
    raw = asker.select([request(r) for r in records], reasoning=True)
    return raw, {"without_reasoning": as_arrays(records, direct), **compared}


def cue_answers(records: Sequence[Record]) -> dict[str, b.Answers]:
    """The baselines that look at descriptions without understanding them."""
    return {"longest_description": cues.longest_description(records), "word_overlap": cues.word_overlap(records)}


def beside(
    compared: Mapping[str, b.Answers], records: Sequence[Record], seed: int, slices: Slices | None = None
) -> dict[str, Estimates]:
    """The figures of every baseline. Calibration is left out: most of them claim none."""
    found = {}
    for name, answers in compared.items():
        values = estimates(answers, records, seed, slices)
        values.pop("ece")
        found[name] = values
    return found


def rows_of(records: Sequence[Record], raw: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A prediction per record, for error analysis."""
    return predictions(as_arrays(records, raw), records, raw)
