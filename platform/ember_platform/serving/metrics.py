"""The endpoint's own metrics, beside those that Ray Serve keeps.

| Name | Kind | Tags |
|---|---|---|
| `ember_requests` | counter | route, status |
| `ember_latency_ms` | histogram | part: read, queue, model, total |
| `ember_batch_size` | histogram | kind: select, reason |
| `ember_fleet_cache` | counter | outcome: hit, miss |
| `ember_robot_first` | counter | robot (of the default fleet; others as "other") |
| `ember_confidence` | histogram | of the first robot |
| `ember_refused` | counter | why: the problem's slug |
| `ember_model_failures` | counter | version |
| `ember_switches` | counter | outcome: taken, refused, rolled_back |
| `ember_version_loaded` | gauge | version, role |
| `ember_shadow` | counter | outcome: agreed, differed, failed, dropped |
| `ember_drift` | gauge | feature: population stability index against the training data |
| `ember_queue` | gauge | |
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Protocol

MS = [1, 2, 5, 10, 20, 30, 50, 75, 100, 150, 200, 300, 500, 1_000, 2_000, 5_000, 10_000, 30_000]
TENTHS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99]
#: Name → kind, description, tags, bounds of the bins.
METRICS: dict[str, tuple[str, str, tuple[str, ...], list[float]]] = {
    "ember_requests": ("counter", "requests answered", ("route", "status"), []),
    "ember_latency_ms": ("histogram", "milliseconds by part", ("part",), [float(v) for v in MS]),
    "ember_batch_size": ("histogram", "requests that shared a pass", ("kind",), [1, 2, 4, 8, 16, 32, 64]),
    "ember_fleet_cache": ("counter", "fleets found among those kept, or read anew", ("outcome",), []),
    "ember_robot_first": ("counter", "answers by their first robot", ("robot",), []),
    "ember_confidence": ("histogram", "confidence of the first robot", (), TENTHS),
    "ember_refused": ("counter", "requests refused", ("why",), []),
    "ember_model_failures": ("counter", "requests on which a version failed", ("version",), []),
    "ember_switches": ("counter", "new versions, by what became of them", ("outcome",), []),
    "ember_version_loaded": ("gauge", "1 where a version is loaded", ("version", "role"), []),
    "ember_shadow": ("counter", "requests answered unseen by the challenger", ("outcome",), []),
    "ember_drift": ("gauge", "population stability index against the training data", ("feature",), []),
    "ember_queue": ("gauge", "requests that wait or are worked on", (), []),
}


class Metrics(Protocol):
    """Where numbers go; names and tags are those of `METRICS`."""

    def add(self, name: str, value: float = 1.0, **tags: str) -> None:
        """Count."""
        ...

    def see(self, name: str, value: float, **tags: str) -> None:
        """Put a value into a histogram."""
        ...

    def put(self, name: str, value: float, **tags: str) -> None:
        """Set a gauge."""
        ...


class LocalMetrics:
    """Kept in this process; for tests and for a server without Ray."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, tuple[tuple[str, str], ...]], list[float]] = defaultdict(lambda: [0.0])

    def add(self, name: str, value: float = 1.0, **tags: str) -> None:
        """See `Metrics`."""
        self.values[_key(name, tags)][0] += value

    def see(self, name: str, value: float, **tags: str) -> None:
        """See `Metrics`. Kept: their sum and their number."""
        entry = self.values[_key(name, tags)]
        if len(entry) == 1:
            entry.append(0.0)
        entry[0] += value
        entry[1] += 1

    def put(self, name: str, value: float, **tags: str) -> None:
        """See `Metrics`."""
        self.values[_key(name, tags)][0] = value

    def get(self, name: str, **tags: str) -> float:
        """The count, sum or value; 0 where there is none."""
        return self.values[_key(name, tags)][0]


def _key(name: str, tags: dict[str, str]) -> tuple[str, tuple[tuple[str, str], ...]]:
    if set(tags) != set(METRICS[name][2]):
        raise ValueError(f"{name}: has the tags {METRICS[name][2]}, not {tuple(tags)}")
    return name, tuple(sorted(tags.items()))


class RayMetrics:
    """Ray Serve's metrics: exported to Prometheus with the deployment and replica as further tags."""

    def __init__(self) -> None:
        from ray.serve import metrics

        self._metrics: dict[str, Any] = {}
        for name, (kind, description, names, bounds) in METRICS.items():
            tags: Any = names  # annotated by Ray as a tuple of one
            if kind == "counter":
                self._metrics[name] = metrics.Counter(name, description=description, tag_keys=tags)
            elif kind == "gauge":
                self._metrics[name] = metrics.Gauge(name, description=description, tag_keys=tags)
            else:
                self._metrics[name] = metrics.Histogram(name, description=description, boundaries=bounds, tag_keys=tags)

    def add(self, name: str, value: float = 1.0, **tags: str) -> None:
        """See `Metrics`."""
        self._metrics[name].inc(value, tags=tags)

    def see(self, name: str, value: float, **tags: str) -> None:
        """See `Metrics`."""
        self._metrics[name].observe(value, tags=tags)

    def put(self, name: str, value: float, **tags: str) -> None:
        """See `Metrics`."""
        self._metrics[name].set(value, tags=tags)
