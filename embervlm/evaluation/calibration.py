"""Does a confidence of 0.8 mean right four times in five? Pure numpy, one definition each.

ECE after Naeini et al. (2015) and Guo et al. (2017): Σ_b |B_b|/n · |accuracy(B_b) − confidence(B_b)|,
with 15 equal-width bins, and the equal-mass form (bins of equal counts; Nixon et al., 2019).
Brier (1950): mean over tasks of Σ_robots (p − y)². Temperature after Guo et al.: one positive number
that divides the scores, fitted on validation records and only reported on test.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embervlm.evaluation.metrics import MetricError, Ragged, check_ragged

BINS = 15


def _checked(confidence: Any, correct: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    p, y = np.asarray(confidence, dtype=np.float64).ravel(), np.asarray(correct, dtype=np.float64).ravel()
    if p.shape != y.shape or not p.size:
        raise MetricError(f"calibration: {p.size} confidences against {y.size} outcomes")
    if not np.isfinite(p).all() or p.min() < 0 or p.max() > 1:
        raise MetricError(f"calibration: confidences must be within 0 and 1, found {p.min()} to {p.max()}")
    return p, y


def reliability(confidence: Any, correct: Any, bins: int = BINS, equal_mass: bool = False) -> list[dict[str, float]]:
    """The rows of a reliability diagram: low, high, count, confidence and accuracy of every bin that is not empty.

    Args:
        confidence: (n,) probabilities.
        correct: (n,) outcomes, 0 or 1.
        equal_mass: bins of equal counts instead of equal width. Equal confidences never fall into two bins.
    """
    p, y = _checked(confidence, correct)
    if equal_mass:
        edges = np.unique(np.quantile(p, np.linspace(0, 1, bins + 1)))
        edges = edges if len(edges) > 1 else np.array([p[0], p[0]])
    else:
        edges = np.linspace(0, 1, bins + 1)
    # Bins are (low, high], the first one closed on both sides.
    place = np.clip(np.searchsorted(edges, p, side="left") - 1, 0, len(edges) - 2)
    rows = []
    for b in np.unique(place):
        inside = place == b
        rows.append(
            {
                "low": float(edges[b]),
                "high": float(edges[b + 1]),
                "count": int(inside.sum()),
                "confidence": float(p[inside].mean()),
                "accuracy": float(y[inside].mean()),
            }
        )
    return rows


def expected_calibration_error(confidence: Any, correct: Any, bins: int = BINS, equal_mass: bool = False) -> float:
    """Expected calibration error; equal-width bins unless `equal_mass`."""
    rows = reliability(confidence, correct, bins, equal_mass)
    total = sum(row["count"] for row in rows)
    return float(sum(row["count"] / total * abs(row["accuracy"] - row["confidence"]) for row in rows))


def before_calibration(scores: Ragged) -> NDArray[np.float64]:
    """The confidence of every first choice without any calibration: a sigmoid of the highest score."""
    top = np.array([float(np.max(row)) for row in scores])
    return np.exp(-np.logaddexp(0, -top))


def brier(probabilities: Ragged, can: Ragged) -> float:
    """Mean over tasks of the sum over robots of (p − y)²."""
    check_ragged(probabilities, can, "Brier")
    return float(
        np.mean(
            [
                np.square(np.asarray(p, float) - np.asarray(c, float)).sum()
                for p, c in zip(probabilities, can, strict=True)
            ]
        )
    )


def binary_nll(scores: Any, correct: Any, temperature: float = 1.0, weights: Any = None) -> float:
    """Mean of −log P(outcome) where P(true) = sigmoid(score / temperature), weighted where weights are given."""
    z = np.asarray(scores, dtype=np.float64).ravel() / temperature
    y = np.asarray(correct, dtype=np.float64).ravel()
    return float(np.average(np.logaddexp(0, z) - y * z, weights=weights))


def choice_nll(scores: Ragged, can: Ragged, temperature: float = 1.0) -> float:
    """Mean of −log of the softmax mass that lies on the robots that can do the task; tasks without one are left out."""
    losses = []
    for s, c in zip(scores, can, strict=True):
        z, able = np.asarray(s, dtype=np.float64) / temperature, np.asarray(c, dtype=bool)
        if able.any():
            losses.append(np.logaddexp.reduce(z) - np.logaddexp.reduce(z[able]))
    if not losses:
        raise MetricError("choice likelihood: no task has a robot that can do it")
    return float(np.mean(losses))


def fit_temperature(
    scores: Ragged | Sequence[float],
    outcomes: Ragged | Sequence[float],
    kind: str = "team",
    low: float = 0.05,
    high: float = 20.0,
) -> float:
    """The temperature that makes the scores most likely; fit it on validation records only.

    Args:
        scores: one array of scores before normalisation per task.
        outcomes: per task, who can do it (boolean).
        kind: "team" for independent decisions, sigmoid(score / T) per robot; "choice" for softmax(score / T)
            over the fleet.

    Returns:
        T within `low` and `high`; 1 where the likelihood does not depend on it.

    Raises:
        MetricError: unknown kind, shapes that differ, or nothing to fit on.
    """
    if kind not in ("team", "choice"):
        raise MetricError(f"temperature: kind {kind!r} is unknown; choose 'team' or 'choice'")
    rows = [np.atleast_1d(np.asarray(s, dtype=np.float64)) for s in scores]
    truth = [np.atleast_1d(np.asarray(o, dtype=bool)) for o in outcomes]
    check_ragged(rows, truth, "temperature")
    from scipy.optimize import minimize_scalar

    if kind == "team":
        flat, labels = np.concatenate(rows), np.concatenate(truth)

        def loss(log_t: float) -> float:
            return binary_nll(flat, labels, float(np.exp(log_t)))
    else:

        def loss(log_t: float) -> float:
            return choice_nll(rows, truth, float(np.exp(log_t)))

    result = minimize_scalar(loss, bounds=(np.log(low), np.log(high)), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(result.x)) if result.fun < loss(0.0) - 1e-12 else 1.0


def fit_calibration(
    scores: Ragged | Sequence[float],
    outcomes: Ragged | Sequence[float],
    weights: Ragged | Sequence[float] | None = None,
) -> tuple[float, float]:
    """Temperature and bias of P(can) = sigmoid(score / temperature + bias), by likelihood (Platt, 1999).

    Args:
        scores: per task the scores before normalisation; outcomes: who can do it. Validation records only.
        weights: what each robot counts in the likelihood, in the same shapes; None: all the same.

    Returns:
        (temperature, bias); (1, 0) where all outcomes are equal, which fits no scale.

    Raises:
        MetricError: shapes that differ, or nothing to fit on.
    """
    rows = [np.atleast_1d(np.asarray(s, dtype=np.float64)) for s in scores]
    truth = [np.atleast_1d(np.asarray(o, dtype=bool)) for o in outcomes]
    check_ragged(rows, truth, "calibration")
    from scipy.optimize import minimize

    flat, labels = np.concatenate(rows), np.concatenate(truth)
    shares = np.ones(len(flat)) if weights is None else np.concatenate([np.atleast_1d(w) for w in weights])
    if shares.shape != flat.shape:
        raise MetricError(f"calibration: {shares.size} weights for {flat.size} scores")
    if labels.all() or not labels.any():
        return 1.0, 0.0

    def loss(point: NDArray[np.float64]) -> float:
        return binary_nll(flat * np.exp(-point[0]) + point[1], labels, weights=shares)

    bounds = [(np.log(0.05), np.log(20.0)), (-20.0, 20.0)]
    found = minimize(loss, np.zeros(2), method="L-BFGS-B", bounds=bounds).x
    return float(np.exp(found[0])), float(found[1])
