"""How far the latest requests are from the training data: population stability index of a few cheap numbers.

The reference is a sample of the stage-3 training records that the data manifest names. An index below 0.1 is usually
read as the same population, above 0.25 as another one.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ember_platform import storage
from ember_platform.config import RunConfig
from ember_platform.data.manifest import FILE, DataError, Manifest
from ember_platform.data.rows import Rows

logger = logging.getLogger(__name__)

FEATURES = ("task_words", "robots", "brightness", "contrast", "saturation")
BINS = 10
#: Requests before an index says anything.
LEAST = 50


def features(task: str, robots: int, image: Any) -> dict[str, float]:
    """The numbers of one request; those of the picture only where there is one (RGB, as the model gets it)."""
    found = {"task_words": float(len(task.split())), "robots": float(robots)}
    if image is not None:
        pixels = np.asarray(image, dtype=np.float32)[::4, ::4] / 255
        light = pixels.mean(axis=2)
        found["brightness"] = float(light.mean())
        found["contrast"] = float(light.std())
        found["saturation"] = float((pixels.max(axis=2) - pixels.min(axis=2)).mean())
    return found


class Reference:
    """Bins per feature, and the share of the training records in each."""

    def __init__(self, edges: Mapping[str, np.ndarray], shares: Mapping[str, np.ndarray]) -> None:
        self.edges, self.shares = dict(edges), dict(shares)

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, float]]) -> Reference:
        """Bins of about equal share; a feature with few values gets fewer bins."""
        edges, shares = {}, {}
        for name in FEATURES:
            values = np.array([row[name] for row in rows if name in row])
            if len(values) < LEAST:
                continue
            inner = np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1]))
            edges[name] = inner
            shares[name] = _shares(values, inner)
        return cls(edges, shares)

    def index(self, name: str, values: Sequence[float]) -> float:
        """Population stability index of values against the reference."""
        seen = _shares(np.asarray(values), self.edges[name])
        return float(np.sum((seen - self.shares[name]) * np.log(seen / self.shares[name])))


def _shares(values: np.ndarray, inner: np.ndarray) -> np.ndarray:
    # Half a record in every bin, so that an empty one does not make the index infinite.
    counts = np.bincount(np.searchsorted(inner, values, side="right"), minlength=len(inner) + 1) + 0.5
    return counts / counts.sum()


def training_reference(config: RunConfig, image_size: int) -> Reference | None:
    """The reference of the run's stage-3 training records, or None where its data is not at hand."""
    from embervlm.data.images import open_image, to_square

    folder = config.serving.drift.data_dir or config.data.dir
    if not storage.exists(storage.join(folder, FILE)):
        logger.info("drift: no %s in the data folder, so that drift is not measured", FILE)
        return None
    try:
        rows = Rows(Manifest.load(folder).paths(3, "train"))
    except DataError as error:
        logger.warning("drift: not measured: %s", error)
        return None
    found = []
    for i in np.linspace(0, len(rows) - 1, min(config.serving.drift.samples, len(rows))).astype(int):
        record = rows[int(i)]
        image = None
        if record.image is not None:
            image = to_square(open_image(record.image), image_size).transpose(1, 2, 0)
        found.append(features(record.instruction, len(record.robots), image))
    return Reference.of(found)


class Drift:
    """The latest requests against the reference."""

    def __init__(self, window: int) -> None:
        self.reference: Reference | None = None
        self._latest: dict[str, deque[float]] = {name: deque(maxlen=window) for name in FEATURES}

    def see(self, task: str, robots: int, image: Any) -> None:
        """Take note of a request."""
        if self.reference is not None:
            for name, value in features(task, robots, image).items():
                self._latest[name].append(value)

    def indices(self) -> dict[str, float]:
        """The index per feature, for those with enough requests."""
        if self.reference is None:
            return {}
        return {
            name: self.reference.index(name, list(values))
            for name, values in self._latest.items()
            if name in self.reference.edges and len(values) >= LEAST
        }
