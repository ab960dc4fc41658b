"""The order of samples: a pure function of (seed, epoch), whatever the number of workers.

Positions are drawn from the raw stream of a bit generator, which numpy keeps the same across versions, and never from
its `shuffle`, which it may change.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

#: Batches whose samples are sorted by length together. More sorts better and mixes less.
WINDOW = 16
#: Samples of one group that follow each other. More shares more work and mixes less.
RUN = 8


def permutation(count: int, *key: int | str) -> np.ndarray:
    """The numbers 0 … count-1 in an order that the key alone decides (int64)."""
    entropy = int.from_bytes(hashlib.sha256("/".join(map(str, key)).encode()).digest()[:16], "big")
    return np.argsort(np.random.PCG64(entropy).random_raw(count), kind="stable") if count else np.zeros(0, np.int64)


def epoch_order(
    lengths: Sequence[int] | np.ndarray,
    batch_size: int,
    seed: int,
    epoch: int,
    *,
    window: int = WINDOW,
    salt: str = "",
    groups: Sequence[int] | np.ndarray | None = None,
) -> list[list[int]]:
    """The GLOBAL batches of an epoch in order; every index comes exactly once.

    Samples are shuffled, sorted by length within windows of `window` batches, cut into batches of alike lengths, and
    the batches shuffled, as are the samples in each. There are ceil(n / batch_size) batches whose sizes differ by one
    at most: an epoch has no small last batch, and none is above `batch_size`.

    Args:
        lengths: length of each sample, in any unit.
        batch_size: the greatest size of a batch.
        seed: of the run.
        epoch: counted from 0.
        window: how many batches are sorted together; 1 does not sort.
        salt: keeps apart orders that share seed and epoch, such as the phases of a stage.
        groups: samples of one group come in runs of up to `RUN`, so that a batch shares their work; lengths are then
            not sorted by.

    Raises:
        ValueError: batch_size or window below 1.
    """
    if batch_size < 1 or window < 1:
        raise ValueError(f"batch_size and window must be at least 1, not {batch_size} and {window}")
    sizes = np.asarray(lengths)
    count = len(sizes)
    number = steps_per_epoch(count, batch_size)
    if number == 0:
        return []
    shuffled = permutation(count, seed, epoch, salt, "samples")
    edges = np.arange(number + 1) * count // number
    if groups is not None and len(set(np.asarray(groups).tolist())) > 1:
        runs = _runs(shuffled, np.asarray(groups))
        shuffled = np.concatenate([runs[i] for i in permutation(len(runs), seed, epoch, salt, "runs")])
        return [part.tolist() for part in np.split(shuffled, edges[1:-1])]
    batches: list[np.ndarray] = []
    for first in range(0, number, window):
        last = min(first + window, number)
        chunk = shuffled[edges[first] : edges[last]]
        if window > 1:
            chunk = chunk[np.argsort(sizes[chunk], kind="stable")]
        batches += np.split(chunk, edges[first + 1 : last] - edges[first])
    order = permutation(number, seed, epoch, salt, "batches")
    mixed = []
    for i in order:
        inside = permutation(len(batches[i]), seed, epoch, salt, "inside", int(i))
        mixed.append(batches[i][inside].tolist())
    return mixed


def _runs(shuffled: np.ndarray, groups: np.ndarray) -> list[np.ndarray]:
    """The samples, in their order, gathered into runs of one group."""
    gathered = shuffled[np.argsort(groups[shuffled], kind="stable")]
    bounds = np.flatnonzero(np.diff(groups[gathered])) + 1
    return [part[i : i + RUN] for part in np.split(gathered, bounds) for i in range(0, len(part), RUN)]


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Optimizer steps of an epoch over so many samples: ceil(count / batch_size)."""
    return -(-count // batch_size)


def epoch_samples(sources: Sequence[str], mixing: Mapping[str, float], seed: int, epoch: int) -> np.ndarray:
    """The samples of an epoch, as places in `sources` (the source of each sample), ascending (int64).

    A source with weight 1 (or none) gives each sample once, with weight 2 twice. With weight 0.5 it gives a half that
    moves on from epoch to epoch, so that every two epochs have each sample once.
    """
    names = np.asarray(sources)
    parts = []
    for source in sorted(set(sources)):
        places = np.flatnonzero(names == source)
        weight = mixing.get(source, 1.0)
        whole = int(weight)
        parts += [places] * whole
        share = (weight - whole) * len(places)
        start, stop = int(epoch * share), int((epoch + 1) * share)
        if stop > start:
            cycle = places[permutation(len(places), seed, source, "cycle")]
            parts.append(cycle[np.arange(start, stop) % len(places)])
    return np.sort(np.concatenate(parts)) if parts else np.zeros(0, np.int64)


def restart_steps(plans: Sequence[Plan], epochs: Sequence[int]) -> list[tuple[int, ...]]:
    """For each phase the steps with which it goes on after these epochs of the stage; its first step is none."""
    found, before = [], 0
    for plan in plans:
        own = [plan.epoch_starts[epoch - before] for epoch in epochs if 0 < epoch - before < len(plan.epoch_starts)]
        found.append(tuple(step for step in own if step < plan.steps))
        before += plan.epochs
    return found


def epoch_size(counts: Mapping[str, int], mixing: Mapping[str, float]) -> int:
    """Samples of the first epoch (others may differ by one a source) over sources with so many records."""
    return sum(int(count * mixing.get(source, 1.0)) for source, count in counts.items())


@dataclass(frozen=True, eq=False)
class Plan:
    """Every step of one phase of a stage. Steps count from 0 through all epochs."""

    lengths: np.ndarray
    sources: list[str]
    batch_size: int
    epochs: int
    seed: int
    salt: str
    mixing: Mapping[str, float]
    max_steps: int | None = None
    groups: np.ndarray | None = None

    @functools.cached_property
    def epoch_starts(self) -> list[int]:
        """The first step of each epoch, and at the end the number of steps."""
        starts = [0]
        for epoch in range(self.epochs):
            starts.append(starts[-1] + steps_per_epoch(len(self._samples(epoch)), self.batch_size))
        if self.max_steps is not None:
            starts = [s for s in starts[:-1] if s < self.max_steps] + [min(starts[-1], self.max_steps)]
        return starts

    @property
    def steps(self) -> int:
        """The number of optimizer steps."""
        return self.epoch_starts[-1]

    @property
    def smallest_batch(self) -> int:
        """Samples of the smallest global batch of the first epoch."""
        count = len(self._samples(0))
        return count // max(1, steps_per_epoch(count, self.batch_size))

    def epoch(self, epoch: int) -> list[list[int]]:
        """The global batches of one epoch, as places among the records."""
        samples = self._samples(epoch)
        groups = None if self.groups is None else self.groups[samples]
        order = epoch_order(self.lengths[samples], self.batch_size, self.seed, epoch, salt=self.salt, groups=groups)
        return [samples[batch].tolist() for batch in order]

    def _samples(self, epoch: int) -> np.ndarray:
        if all(self.mixing.get(source, 1.0) == 1.0 for source in set(self.sources)):
            return np.arange(len(self.lengths))
        return epoch_samples(self.sources, self.mixing, self.seed, epoch)


def share_edges(count: int, parts: int) -> np.ndarray:
    """Where a batch of `count` samples is cut into contiguous parts whose sizes differ by one at most."""
    return np.arange(parts + 1) * count // parts
