"""The numbers written on figures."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from embervlm.evaluation.calibration import expected_calibration_error
from embervlm.monitoring import statistics as st


def test_trend_and_its_equation() -> None:
    line = st.trend([0, 1, 2, 3], [1, 3, 5, 7])
    assert line is not None
    assert (line.equation(), line.r, line.n) == ("y = 2.000x + 1.000", pytest.approx(1.0), 4)
    falling = st.trend([0, 1, 2], [-1, -2, -3])
    assert falling is not None
    assert falling.equation() == "y = -1.000x − 1.000"
    assert st.trend([1, 1, 1], [1, 2, 3]) is None
    assert st.trend([1, 2], [1, 2]) is None


def test_correlation_of_what_does_not_vary_is_not_a_number() -> None:
    assert np.isnan(st.correlation([1, 1, 1], [1, 2, 3]))
    assert st.r_text(st.correlation([1, 2, 3], [2, 2, 2])) == "r: does not vary"


def test_pareto_keeps_what_nobody_beats() -> None:
    #                     beaten   best    cheap  equal cost, worse
    assert st.pareto([3.0, 5.0, 1.0, 1.0], [4.0, 9.0, 5.0, 2.0]) == [2, 1]


@given(some.lists(some.tuples(some.integers(0, 9), some.integers(0, 9)), min_size=1, max_size=12))
def test_pareto_against_the_definition(points: list[tuple[int, int]]) -> None:
    cost, gain = zip(*points, strict=True)
    front = {points[i] for i in st.pareto(cost, gain)}
    due = {p for p in points if not any((q[0] <= p[0] and q[1] >= p[1] and q != p) for q in points)}
    assert front == due


def test_wilson_of_known_shares() -> None:
    low, high = st.wilson([8, 0, 0], [10, 10, 0])
    # 8 of 10: 0.4902 to 0.9433 (Brown, Cai & DasGupta, 2001, by the formula of Wilson).
    np.testing.assert_allclose([low[0], high[0]], [0.4902, 0.9433], atol=1e-4)
    assert (low[1], high[1] > 0.2) == (0, True)
    assert np.isnan(low[2])


def test_wilson_holds_the_share_to_the_last_bit() -> None:
    total = np.arange(1, 2000)
    for correct in (np.zeros_like(total), total, total // 2):
        low, high = st.wilson(correct, total)
        assert (low <= correct / total).all()
        assert (correct / total <= high).all()


def test_column_interval_holds_the_mean_and_shrinks_with_rows() -> None:
    random = np.random.default_rng(1)
    widths = []
    for rows in (20, 500):
        values = random.random((rows, 3))
        values[: rows // 2, 2] = np.nan
        low, high = st.column_interval(values)
        mean = np.nanmean(values, 0)
        assert ((low < mean) & (mean < high)).all()
        widths.append(high - low)
    assert (widths[1] < widths[0] / 2).all()
    assert widths[1][2] > widths[1][0]
    assert np.isnan(st.column_interval(np.array([[1.0, np.nan], [2.0, np.nan]]))[0][1])


def test_ece_interval_is_of_the_same_error() -> None:
    random = np.random.default_rng(2)
    confidence = random.random(300)
    correct = random.random(300) < confidence * 0.7
    low, high = st.ece_interval(confidence, correct)
    # Resampling adds noise, so the interval lies around and above the point, never far from it.
    assert low - 0.02 < expected_calibration_error(confidence, correct) < high
    sure = np.ones(50)
    assert st.ece_interval(sure, sure) == (0.0, 0.0)
    assert st.ece_interval(sure, 0 * sure) == (1.0, 1.0)


def test_rolling_mean_and_spread() -> None:
    mean, spread = st.rolling([1.0, 2.0, 3.0, 4.0, 5.0], 3)
    np.testing.assert_allclose(mean, [1.5, 2, 3, 4, 4.5])
    np.testing.assert_allclose(spread, [0.5, np.std([1, 2, 3]), np.std([1, 2, 3]), np.std([1, 2, 3]), 0.5])
    np.testing.assert_allclose(st.rolling([7.0, 8.0], 1)[0], [7, 8])
