"""The numbers that are written on figures: intervals, trends, correlations, Pareto sets.

Bootstrap intervals are those of `embervlm.evaluation.metrics`, calibration that of `embervlm.evaluation.calibration`;
here is what only figures need. All intervals are 95%.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embervlm.evaluation.calibration import BINS
from embervlm.evaluation.metrics import bootstrap_interval

Floats = NDArray[np.float64]
LEVEL = 0.95
ROUNDS = 1000


@dataclass(frozen=True)
class Trend:
    """A least-squares line through n points, with Pearson's r."""

    slope: float
    intercept: float
    r: float
    n: int

    def equation(self) -> str:
        """`y = 0.123x + 0.456`."""
        return f"y = {self.slope:.3f}x {'−' if self.intercept < 0 else '+'} {abs(self.intercept):.3f}"


def trend(x: Any, y: Any) -> Trend | None:
    """The line through the points; None for fewer than 3 points or where x does not vary."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if len(x) < 3 or np.ptp(x) == 0:
        return None
    slope, intercept = np.polyfit(x, y, 1)
    return Trend(float(slope), float(intercept), correlation(x, y), len(x))


def correlation(x: Any, y: Any) -> float:
    """Pearson's r; NaN for fewer than 3 points or where one side does not vary."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def r_text(r: float) -> str:
    """`r = 0.71`, or that there is none."""
    return "r: does not vary" if np.isnan(r) else f"r = {r:.2f}"


def pareto(cost: Any, gain: Any) -> list[int]:
    """Places of the points that no other beats in both, from the lowest cost up.

    A point is beaten by one that costs no more and gains no less, and is better in one of the two.
    """
    cost, gain = np.asarray(cost, float), np.asarray(gain, float)
    front, best = [], -np.inf
    for i in np.lexsort((-gain, cost)):
        if gain[i] > best:
            front.append(int(i))
            best = gain[i]
    return front


def many_times(values: Any) -> bool:
    """Whether values above 0 differ so much (20 times) that only a logarithmic axis parts the small ones."""
    values = np.asarray(values, float)
    return bool(values.max() > 20 * max(float(values.min()), 1e-9))


def wilson(correct: Any, total: Any) -> tuple[Floats, Floats]:
    """Wilson's score interval of shares (Wilson, 1927), element by element; NaN where the total is 0."""
    k, n = np.asarray(correct, float), np.asarray(total, float)
    z = 1.959963984540054
    with np.errstate(invalid="ignore", divide="ignore"):
        p = k / n
        middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
        # At shares of 0 and 1 rounding would put a bound on the wrong side of the share by the last bit.
        low, high = np.clip(middle - half, 0, p), np.clip(middle + half, p, 1)
    return np.where(n > 0, low, np.nan), np.where(n > 0, high, np.nan)


def share(correct: Any, total: Any) -> Floats:
    """correct / total, NaN where the total is 0."""
    k, n = np.asarray(correct, float), np.asarray(total, float)
    return np.divide(k, n, out=np.full(n.shape, np.nan), where=n > 0)


def mean_interval(values: Any) -> tuple[float, float]:
    """Bootstrap interval of the mean."""
    return bootstrap_interval(values, level=LEVEL, rounds=ROUNDS)


def column_interval(values: Any, rounds: int = 500, seed: int = 0) -> tuple[Floats, Floats]:
    """Bootstrap intervals of the column means of (R, T) values with NaN, rows resampled together.

    NaN for a column without values in most of the resamples.
    """
    values = np.asarray(values, float)
    known = np.isfinite(values)
    filled = np.where(known, values, 0.0)
    picks = np.random.default_rng(seed).integers(0, len(values), (rounds, len(values)))
    weights = np.stack([np.bincount(pick, minlength=len(values)) for pick in picks]).astype(float)
    means = share(weights @ filled, weights @ known.astype(float))
    low, high = np.full((2, values.shape[1]), np.nan)
    for t in np.flatnonzero(np.isfinite(means).mean(0) > 0.5):
        low[t], high[t] = np.nanquantile(means[:, t], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return low, high


def ece_interval(confidence: Any, correct: Any, bins: int = BINS) -> tuple[float, float]:
    """Bootstrap interval of the expected calibration error with equal-width bins."""
    p, y = np.asarray(confidence, float), np.asarray(correct, float)
    # The same bins as embervlm.evaluation.calibration.reliability: (low, high], the first closed on both sides.
    place = np.clip(np.searchsorted(np.linspace(0, 1, bins + 1), p, side="left") - 1, 0, bins - 1)

    def errors(draws: NDArray[Any]) -> list[float]:
        rows = draws.astype(int)
        return [
            float(np.abs(np.bincount(place[i], y[i], bins) - np.bincount(place[i], p[i], bins)).sum() / len(i))
            for i in rows
        ]

    return bootstrap_interval(np.arange(len(p)), errors, LEVEL, ROUNDS)


def rolling(values: Any, window: int) -> tuple[Floats, Floats]:
    """Centred running mean and standard deviation over `window` values, shorter at the ends."""
    values = np.asarray(values, float)
    half = max(0, window // 2)
    total = np.concatenate([[0.0], np.cumsum(values)])
    square = np.concatenate([[0.0], np.cumsum(values**2)])
    low = np.maximum(np.arange(len(values)) - half, 0)
    high = np.minimum(np.arange(len(values)) + half + 1, len(values))
    mean = (total[high] - total[low]) / (high - low)
    variance = (square[high] - square[low]) / (high - low) - mean**2
    return mean, np.sqrt(np.maximum(variance, 0))
