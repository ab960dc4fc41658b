"""Calibration: a calibrated sample has no error, a boastful one has exactly its excess."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embervlm.evaluation import calibration as c
from embervlm.evaluation.metrics import MetricError


def test_ece_of_a_calibrated_sample_is_small_and_of_a_boastful_one_large() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(20_000)
    y = rng.random(20_000) < p
    for equal_mass in (False, True):
        assert c.expected_calibration_error(p, y, equal_mass=equal_mass) < 0.02
    assert c.expected_calibration_error(np.full(100, 0.9), np.arange(100) < 60) == pytest.approx(0.3)
    assert c.expected_calibration_error(np.full(100, 0.9), np.arange(100) < 60, equal_mass=True) == pytest.approx(0.3)
    assert c.expected_calibration_error(np.ones(4), np.zeros(4)) == 1.0


def test_ece_by_hand() -> None:
    # Two bins of fifteen: 0.95 twice (one right), 0.50 twice (both right).
    value = c.expected_calibration_error([0.95, 0.95, 0.5, 0.5], [1, 0, 1, 1])
    assert value == pytest.approx(0.5 * 0.45 + 0.5 * 0.5)
    rows = c.reliability([0.95, 0.95, 0.5, 0.5], [1, 0, 1, 1])
    assert [(r["count"], r["accuracy"]) for r in rows] == [(2, 1.0), (2, 0.5)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60), st.booleans())
def test_every_sample_is_in_exactly_one_bin(sample: list[tuple[float, bool]], equal_mass: bool) -> None:
    p, y = [s[0] for s in sample], [s[1] for s in sample]
    rows = c.reliability(p, y, equal_mass=equal_mass)
    assert sum(r["count"] for r in rows) == len(sample)
    assert all(r["low"] - 1e-12 <= r["confidence"] <= r["high"] + 1e-12 for r in rows)
    assert 0 <= c.expected_calibration_error(p, y, equal_mass=equal_mass) <= 1


def test_brier_known_values() -> None:
    can = [np.array([True, False]), np.array([False])]
    assert c.brier([np.array([1.0, 0.0]), np.array([0.0])], can) == 0.0
    assert c.brier([np.array([0.0, 1.0]), np.array([1.0])], can) == pytest.approx((2 + 1) / 2)


@pytest.mark.parametrize("kind", ["team", "choice"])
@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_temperature_undoes_a_known_scaling(kind: str, factor: float) -> None:
    rng = np.random.default_rng(1)
    logits = rng.standard_normal((4000, 5)) * 2
    if kind == "team":
        can = rng.random(logits.shape) < 1 / (1 + np.exp(-logits))
    else:
        can = np.eye(5, dtype=bool)[(logits + rng.gumbel(size=logits.shape)).argmax(axis=1)]
    fitted = c.fit_temperature(list(logits * factor), list(can), kind=kind)
    assert fitted == pytest.approx(factor, rel=0.1)


def test_temperature_errors_name_what_is_wrong() -> None:
    with pytest.raises(MetricError, match="kind 'softmax' is unknown"):
        c.fit_temperature([np.zeros(2)], [np.zeros(2)], kind="softmax")
    with pytest.raises(MetricError, match="no task has a robot"):
        c.fit_temperature([np.zeros(2)], [np.zeros(2)], kind="choice")
    with pytest.raises(MetricError, match="within 0 and 1"):
        c.expected_calibration_error([1.2], [1])
    assert c.fit_temperature([np.zeros(2)], [np.array([True, False])]) == 1.0


def test_weights_say_whose_likelihood_counts() -> None:
    """Two groups of other scales: all weight on one gives that one's temperature."""
    rng = np.random.default_rng(2)
    logits = rng.standard_normal((3000, 2)) * 2
    can = rng.random(logits.shape) < 1 / (1 + np.exp(-logits))
    scores = logits * np.array([3.0, 0.5])
    one = [np.array([1.0, 0.0])] * len(scores)
    temperature, bias = c.fit_calibration(list(scores), list(can), one)
    assert temperature == pytest.approx(3, rel=0.1)
    assert bias == pytest.approx(0, abs=0.1)
    assert c.fit_calibration(list(scores), list(can))[0] < 2.5
    assert c.fit_calibration([np.zeros(2)], [np.ones(2)]) == (1.0, 0.0)
    with pytest.raises(MetricError, match="1 weights for 2 scores"):
        c.fit_calibration([np.zeros(2)], [np.array([True, False])], [np.ones(1)])
