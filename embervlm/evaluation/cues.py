"""Baselines that understand nothing: what a fleet gives away by the length and the words of its descriptions.

A set of fleets that one of these solves measures the cue and not the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from embervlm.data.schema import Record
from embervlm.evaluation.baselines import Answers, labels_of, robot_text, team_of
from embervlm.evaluation.intervals import Estimate, Sample


def longest_description(records: Sequence[Record]) -> Answers:
    """The robot with the most characters about it; its share of the longest one is the confidence."""
    lengths = [np.array([float(len(robot_text(robot))) for robot in r.robots]) for r in records]
    return _only_the_best([row / row.max() for row in lengths])


def word_overlap(records: Sequence[Record]) -> Answers:
    """The robot whose words are most like the task's: cosine of TF-IDF over the records' own texts."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    robots = sorted({robot_text(robot) for r in records for robot in r.robots})
    words = TfidfVectorizer(stop_words="english", sublinear_tf=True).fit([*robots, *(r.instruction for r in records)])
    place = {text: i for i, text in enumerate(robots)}
    described, asked = words.transform(robots), words.transform([r.instruction for r in records])
    rows: list[Any] = []
    for i, record in enumerate(records):
        own = described[[place[robot_text(robot)] for robot in record.robots]]
        rows.append(np.clip(np.asarray((own @ asked[i].T).todense()).ravel(), 0.0, 1.0))
    return _only_the_best(rows)


def _only_the_best(confidence: list[Any]) -> Answers:
    """Such scores know no threshold: the team is the first choice."""
    return Answers(confidence, [team_of(np.where(row == row.max(), row, 0.0), threshold=1.0) for row in confidence])


def chance(records: Sequence[Record], sample: Sample) -> Estimate:
    """How often a robot drawn evenly from the fleet can do the task."""
    return sample.mean([float(labels_of(r).mean()) for r in records])
