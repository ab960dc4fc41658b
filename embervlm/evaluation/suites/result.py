"""What a suite gives: figures with intervals, beside the same figures of its baselines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embervlm.evaluation.intervals import Estimate
from embervlm.evaluation.metrics import MetricError

Estimates = dict[str, Estimate]


@dataclass(frozen=True)
class Options:
    """What a suite is asked on, and how.

    Args:
        data: where its records are; what that is depends on the suite. None: the suite's own.
        limit: records at most. None: all there are, or as many as the suite makes by itself.
        seed: of records that the suite makes, of choices among them, and of the bootstrap.
        baselines: measure what the model is compared with.
        reasoning: let the model write its chain first; the answer without it is then among the baselines.
        image_size: pixels of a side of pictures that the suite paints.
    """

    data: Path | None = None
    limit: int | None = None
    seed: int = 0
    baselines: bool = True
    reasoning: bool = False
    image_size: int = 224


@dataclass(frozen=True)
class SuiteResult:
    """One suite's figures.

    `metrics` and each of `baselines` are {name: Estimate}; what was not measured is absent. `data` says in words what
    was asked, `notes` what a reader has to know; `tables` has JSON-ready rows (a prediction per record).
    """

    suite: str
    data: str
    samples: int
    metrics: Estimates
    baselines: dict[str, Estimates] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    tables: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: estimates as {"value", "low", "high", "samples"}."""
        return {
            "suite": self.suite,
            "data": self.data,
            "samples": self.samples,
            "metrics": _plain(self.metrics),
            "baselines": {name: _plain(values) for name, values in self.baselines.items()},
            "notes": list(self.notes),
            "tables": self.tables,
        }

    @classmethod
    def from_dict(cls, content: Any) -> SuiteResult:
        """What `to_dict` gave, whatever else stands beside it; without its tables.

        Raises:
            MetricError: it is none, or has a figure that is none; the message names the figure.
        """
        if not isinstance(content, dict) or not {"suite", "data", "samples", "metrics"} <= content.keys():
            raise MetricError("not what `embervlm evaluate --out` writes: it has no suite, data, samples or metrics")
        return cls(
            content["suite"],
            content["data"],
            content["samples"],
            _estimates(content["metrics"]),
            {name: _estimates(values) for name, values in content.get("baselines", {}).items()},
            tuple(content.get("notes", ())),
        )

    def table(self) -> str:
        """The figures in lines, the model's with their interval, each baseline in a column of its own."""
        names = [n for n, values in self.baselines.items() if values.keys() & self.metrics.keys()]
        rows = [["", "model", "95% interval", *(name.replace("_", " ") for name in names)]]
        for figure, found in self.metrics.items():
            beside = [self.baselines[name].get(figure) for name in names]
            interval = "" if found.low is None or found.high is None else f"{found.low:.3f} to {found.high:.3f}"
            cells = ["" if other is None else f"{other.value:.3f}" for other in beside]
            rows.append([figure.replace("_", " "), f"{found.value:.3f}", interval, *cells])
        width = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join([f"{row[0]:<{width[0]}}", *(f"{c:>{w}}" for c, w in zip(row[1:], width[1:], strict=True))])
            for row in rows
        ]
        return "\n".join([f"{self.suite}: {self.data}", *(line.rstrip() for line in lines), *self.notes])


def _estimates(values: Mapping[str, Any]) -> Estimates:
    found = {}
    for name, content in values.items():
        try:
            found[name] = Estimate.from_dict(content)
        except MetricError as error:
            raise MetricError(f"{name}: {error}") from error
    return found


def _plain(values: Mapping[str, Estimate]) -> dict[str, dict[str, Any]]:
    return {name: found.to_dict() for name, found in values.items()}
