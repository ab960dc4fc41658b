"""A figure with its bootstrap interval.

What is drawn again is a *unit*: a record, or the records that belong together (counterfactual twins), because those
are not independent of each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embervlm.evaluation.metrics import MetricError, bootstrap_interval

#: Draws of an interval whose statistic is a function of records, not a sum over them.
_ROUNDS = 500


@dataclass(frozen=True)
class Estimate:
    """A figure over `samples` units, with its 95% interval; none where there is one unit or the figure breaks down."""

    value: float
    low: float | None
    high: float | None
    samples: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Any) -> Estimate:
        """What `to_dict` gave.

        Raises:
            MetricError: it is none, or one of its numbers is not finite.
        """
        if not isinstance(content, dict) or content.keys() != {"value", "low", "high", "samples"}:
            raise MetricError(f"{content!r} is not a value with its interval and samples")
        numbers = [content["value"], *(content[end] for end in ("low", "high") if content[end] is not None)]
        if not all(isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n) for n in numbers):
            raise MetricError(f"{content!r} is not a finite value with its interval")
        return cls(**content)


class Sample:
    """The records that figures are over, as units that can be drawn again.

    Args:
        groups: per record what it belongs to; records of one group are one unit, None is a unit of its own.
        seed: of the draws.

    Raises:
        MetricError: no record.
    """

    def __init__(self, groups: Sequence[Hashable | None], seed: int = 0) -> None:
        if not len(groups):
            raise MetricError("intervals: no records")
        members: dict[Hashable, list[int]] = {}
        for i, group in enumerate(groups):
            members.setdefault(("alone", i) if group is None else ("group", group), []).append(i)
        self.units = [np.array(places) for places in members.values()]
        self.seed = seed

    def mean(
        self, values: Sequence[float] | NDArray[Any], weights: Sequence[float] | NDArray[Any] | None = None
    ) -> Estimate:
        """Σ values / Σ weights, one of each per record; the plain mean where there are no weights.

        Raises:
            MetricError: the weights are all zero: the figure does not exist.
        """
        above = np.asarray(values, dtype=np.float64)
        below = np.ones(len(above)) if weights is None else np.asarray(weights, dtype=np.float64)
        if not below.sum():
            raise MetricError("intervals: a share of nothing")
        top = np.array([above[unit].sum() for unit in self.units])
        bottom = np.array([below[unit].sum() for unit in self.units])

        def share(drawn: NDArray[Any]) -> NDArray[Any]:
            with np.errstate(invalid="ignore", divide="ignore"):
                return np.asarray(top[drawn].sum(-1) / bottom[drawn].sum(-1))

        return self._estimate(float(above.sum() / below.sum()), share)

    def of(self, statistic: Callable[[NDArray[np.intp]], float]) -> Estimate:
        """Any function of the records' places (long); it may give NaN where a draw has no such figure."""

        def each(drawn: NDArray[Any]) -> NDArray[Any]:
            return np.array([statistic(np.concatenate([self.units[u] for u in row])) for row in drawn])

        return self._estimate(statistic(np.concatenate(self.units)), each, _ROUNDS)

    def _estimate(self, value: float, statistic: Callable[[NDArray[Any]], Any], rounds: int = 2000) -> Estimate:
        count = len(self.units)
        if count < 2:
            return Estimate(value, None, None, count)
        low, high = bootstrap_interval(
            np.arange(count), lambda drawn: statistic(drawn.astype(np.intp)), rounds=rounds, seed=self.seed
        )
        known = math.isfinite(low) and math.isfinite(high)
        return Estimate(value, low if known else None, high if known else None, count)
