"""The words-only baselines learn what words can tell, and folds never share a task."""

from __future__ import annotations

import numpy as np
import pytest

from embervlm.data.schema import Record
from embervlm.evaluation import baselines as b
from embervlm.evaluation.metrics import MetricError
from embervlm.fleet import default_fleet

WORDS = {
    "Drone": "photograph the high roof",
    "Underwater Robot": "dive to the hull",
    "Robot with Wheels": "drive along",
}


def record(i: int, task: str, labels: list[str], robots: list[dict] | None = None) -> Record:
    fleet = default_fleet().to_dicts() if robots is None else robots
    return Record(str(i), "t", "selection", "test", None, task, "", robots=fleet, labels=labels)


def told_by_words(count: int) -> list[Record]:
    names = list(WORDS)
    return [record(i, f"{WORDS[names[i % 3]]} number {i}", [names[i % 3]]) for i in range(count)]


def told_by_words_and_robots(count: int, seed: int) -> list[Record]:
    """Fleets differ: who can do it follows from a word of the task and a word of the robot together."""
    rng = np.random.default_rng(seed)
    skills = ["fly", "swim", "climb", "drive"]
    rows = []
    for i in range(count):
        asked = skills[rng.integers(4)]
        robots = [
            {"name": f"R{rng.integers(10_000)}-{k}", "capabilities": [skill], "limitations": [], "environments": []}
            for k, skill in enumerate(rng.permutation(skills)[: rng.integers(2, 5)])
        ]
        labels = [r["name"] for r in robots if r["capabilities"] == [asked]]
        rows.append(record(i, f"please {asked} to place", labels, robots))
    return rows


def test_tfidf_learns_what_words_tell_for_one_fleet() -> None:
    figures = b.answer_figures(b.tfidf(told_by_words(60), told_by_words(30)), told_by_words(30))
    assert figures == {"first_choice": 1.0, "team_iou": 1.0, "team_exact": 1.0}


def test_tfidf_learns_interactions_for_fleets_that_differ() -> None:
    train, test = told_by_words_and_robots(400, 0), told_by_words_and_robots(100, 1)
    test = [r for r in test if r.labels]
    assert not b.same_fleet(train)
    assert b.answer_figures(b.tfidf(train, test), test)["first_choice"] > 0.95


def test_majority_is_always_the_same_robots() -> None:
    train = [record(i, "t", ["Humanoid"] if i < 6 else ["Drone"]) for i in range(10)]
    answers = b.majority(train, told_by_words(4))
    assert {default_fleet().names[int(p.argmax())] for p in answers.confidence} == {"Humanoid"}
    assert answers.confidence[0].tolist() == [0.4, 0, 0.6, 0, 0]
    unknown = record(0, "t", [], [{"name": "X"}, {"name": "Y"}])
    assert b.majority(train, [unknown]).confidence[0].tolist() == [0.2, 0.2]


def test_folds_keep_a_task_together_and_do_not_depend_on_order() -> None:
    records = [*told_by_words(20), record(99, "DIVE to the hull  number 1", ["Drone"])]
    folds = b.folds_by_task(records, 5, seed=3)
    assert sorted(i for fold in folds for i in fold) == list(range(21))
    assert any({1, 20} <= set(fold) for fold in folds), "the same words, whatever case and blanks"
    back = b.folds_by_task(records[::-1], 5, seed=3)
    assert [sorted(20 - i for i in fold) for fold in back] == folds
    with pytest.raises(MetricError, match="do not make 5 folds"):
        b.folds_by_task(records[:3], 5)


def test_evaluate_folds() -> None:
    found = b.evaluate_folds(told_by_words(45), folds=3, seeds=(0, 1))
    assert found["tfidf"]["first_choice"] == 1.0
    assert found["majority"]["first_choice"] < 0.5
    assert (found["tasks"], found["records"], found["folds"], found["seeds"]) == (45, 45, 3, 2)


def test_no_training_records_is_an_error() -> None:
    with pytest.raises(MetricError, match="no training records"):
        b.tfidf([], told_by_words(3))
