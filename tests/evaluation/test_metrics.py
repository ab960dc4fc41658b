"""Metrics with answers known by hand, and the properties that must hold for any input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embervlm.evaluation import metrics as m

SENT = [np.array([True, False, True]), np.array([False, False]), np.array([True, True, False, False])]
CAN = [np.array([True, True, False]), np.array([False, False]), np.array([True, True, False, False])]


@st.composite
def tasks(draw: st.DrawFn) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """Ragged scores, teams and labels of 1 to 12 tasks with 1 to 6 robots each."""
    scores, sent, can = [], [], []
    for _ in range(draw(st.integers(1, 12))):
        n = draw(st.integers(1, 6))
        scores.append(np.array(draw(st.lists(st.integers(-5, 5), min_size=n, max_size=n)), dtype=float))
        sent.append(np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n))))
        can.append(np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n))))
    return scores, sent, can


def test_known_teams() -> None:
    assert m.team_exact(SENT, CAN) == pytest.approx(2 / 3)
    assert m.team_iou(SENT, CAN) == pytest.approx((1 / 3 + 1 + 1) / 3)
    assert m.team_hamming(SENT, CAN) == pytest.approx((2 / 3) / 3)
    assert m.micro_f1(SENT, CAN) == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))
    assert m.decision_macro_f1(SENT, CAN) == pytest.approx((6 / 8 + 8 / 10) / 2)
    assert m.infeasible_rate(SENT, CAN) == pytest.approx(1 / 4)
    assert m.infeasible_rate([np.array([False])], [np.array([True])]) is None


def test_first_choice_counts_a_tie_only_if_everybody_in_it_can() -> None:
    scores = [np.array([2.0, 1.0]), np.array([1.0, 1.0]), np.array([1.0, 1.0, 0.0])]
    can = [np.array([True, False]), np.array([True, False]), np.array([True, True, False])]
    assert m.first_choice_hits(scores, can).tolist() == [True, False, True]


def test_per_robot_and_macro_f1() -> None:
    names = [["a", "b", "c"], ["a", "b"], ["d", "a", "b", "c"]]
    table = m.per_robot(SENT, CAN, names)
    assert table["a"] == {"f1": 1.0, "support": 2.0, "precision": 1.0, "recall": 1.0}
    assert table["b"] == {"f1": 0.0, "support": 1.0, "recall": 0.0}
    assert table["c"] == {"f1": 0.0, "support": 0.0, "precision": 0.0}
    assert m.macro_f1(SENT, CAN, names) == pytest.approx((1 + 0 + 1) / 3)
    with pytest.raises(m.MetricError, match="no robot is labelled"):
        m.macro_f1([np.array([True])], [np.array([False])], [["a"]])


def test_agrees_with_scikit_learn_where_fleets_are_equal() -> None:
    from sklearn.metrics import f1_score, hamming_loss, jaccard_score

    rng = np.random.default_rng(0)
    can, sent = rng.random((60, 5)) < 0.4, rng.random((60, 5)) < 0.5
    names = [list("abcde")] * 60
    assert m.team_iou(sent, can) == pytest.approx(
        jaccard_score(can, sent, average="samples", zero_division=1)  # type: ignore[arg-type]
    )
    assert m.team_hamming(sent, can) == pytest.approx(hamming_loss(can, sent))
    assert m.micro_f1(sent, can) == pytest.approx(f1_score(can, sent, average="micro"))
    assert m.macro_f1(sent, can, names) == pytest.approx(f1_score(can, sent, average="macro"))


@settings(max_examples=60, deadline=None)
@given(tasks())
def test_perfect_is_one_and_worst_is_zero(sample: tuple[list[np.ndarray], ...]) -> None:
    _, _, can = sample
    opposite = [~c for c in can]
    assert m.team_exact(can, can) == m.team_iou(can, can) == m.micro_f1(can, can) == 1.0
    assert m.team_hamming(can, can) == 0.0
    assert m.infeasible_rate(can, can) in (None, 0.0)
    assert m.team_exact(opposite, can) == m.team_iou(opposite, can) == 0.0
    assert m.team_hamming(opposite, can) == 1.0
    able = [c for c in can if c.any()]
    if able:
        assert m.first_choice([c.astype(float) for c in able], able) == 1.0
        some = [c for c in able if not c.all()]
        assert not some or m.first_choice([-c.astype(float) for c in some], some) == 0.0


@settings(max_examples=60, deadline=None)
@given(tasks(), st.randoms(use_true_random=False))
def test_no_figure_depends_on_the_order_of_robots_or_tasks(
    sample: tuple[list[np.ndarray], ...], random: object
) -> None:
    order = list(range(len(sample[0])))
    random.shuffle(order)  # type: ignore[attr-defined]
    within = []
    for row in sample[0]:
        places = list(range(len(row)))
        random.shuffle(places)  # type: ignore[attr-defined]
        within.append(places)
    moved = [[rows[i][within[i]] for i in order] for rows in sample]
    for name in ("team_exact", "team_iou", "team_hamming", "micro_f1", "decision_macro_f1", "infeasible_rate"):
        before, after = getattr(m, name)(*sample[1:]), getattr(m, name)(*moved[1:])
        assert before == pytest.approx(after), name
    assert m.first_choice(sample[0], sample[2]) == pytest.approx(m.first_choice(moved[0], moved[2]))


def test_shapes_and_values_are_checked() -> None:
    with pytest.raises(m.MetricError, match="team IoU: 1 tasks against 2"):
        m.team_iou([np.zeros(2)], [np.zeros(2)] * 2)
    with pytest.raises(m.MetricError, match="task 1 has"):
        m.team_exact([np.zeros(2), np.zeros(3)], [np.zeros(2), np.zeros(2)])
    with pytest.raises(m.MetricError, match="no task at all"):
        m.first_choice([], [])
    with pytest.raises(m.MetricError, match="not finite"):
        m.first_choice([np.array([np.nan])], [np.array([True])])


def test_both_right_needs_both_members() -> None:
    assert m.both_right([True, True, True, False, True], ["p", "p", "q", "q", "alone"]) == (0.5, 2)
    assert m.both_right([True, True], [None, "alone"]) is None


def test_plans() -> None:
    gold = [
        {"order": 1, "subtask": "fly to the roof", "robot": "A"},
        {"order": 2, "subtask": "repair the vent", "robot": "B"},
    ]
    swapped = [dict(gold[1], order=1), dict(gold[0], order=2)]
    assert m.plan_scores([gold], [gold]) == {
        "plan_assignment_accuracy": 1.0,
        "plan_length_exact": 1.0,
        "plan_order_tau": 1.0,
    }
    assert m.plan_scores([swapped], [gold])["plan_order_tau"] == -1.0
    assert m.plan_scores([swapped], [gold])["plan_assignment_accuracy"] == 1.0
    half = m.plan_scores([[dict(gold[0], robot="A")], []], [gold, []])
    assert half == {"plan_assignment_accuracy": 0.5, "plan_length_exact": 0.0}
    assert m.plan_scores([[]], [[]]) == {}
    assert m.kendall_tau([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(4 / 6)
    assert m.kendall_tau([1, 1], [1, 2]) is None


def test_retrieval() -> None:
    perfect = np.eye(128)
    assert m.recall_at(perfect) == dict.fromkeys(
        ("i2t_recall_at_1", "i2t_recall_at_5", "t2i_recall_at_1", "t2i_recall_at_5"), 1.0
    )
    assert m.recall_one_of(perfect) == {"i2t_recall_1_of_64": 1.0, "t2i_recall_1_of_64": 1.0}
    assert m.recall_at(np.zeros((8, 8)))["i2t_recall_at_1"] == 0.0, "a constant must not win by ties"
    lopsided = np.array([[3.0, 1.0], [4.0, 2.0]])  # image 1 prefers caption 0; caption 0 prefers image 1
    assert m.recall_at(lopsided, [1]) == {"i2t_recall_at_1": 0.5, "t2i_recall_at_1": 0.5}
    noise = np.random.default_rng(0).standard_normal((640, 640))
    assert m.recall_one_of(noise)["i2t_recall_1_of_64"] == pytest.approx(1 / 64, abs=0.01)
    with pytest.raises(m.MetricError, match="only 10 pairs"):
        m.recall_one_of(np.eye(10))


def test_bootstrap_interval_covers_the_mean() -> None:
    values = np.random.default_rng(0).random(200) < 0.7
    low, high = m.bootstrap_interval(values)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.7 * 0.3 / 200), rel=0.2)
    assert m.bootstrap_interval(np.ones(5)) == (1.0, 1.0)
    assert m.bootstrap_interval(values, seed=3) == m.bootstrap_interval(values, seed=3)
