"""What a sweep's trials say together: how the best grew, which parameters mattered, who was stopped where."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ember_platform.tuning.ledger import FINISHED, STOPPED, Record
from ember_platform.tuning.rungs import milestones
from ember_platform.tuning.space import Parameter, SweepConfig

#: Trials below which nothing is said about parameters.
LEAST_TRIALS = 8
NOISE = "(a random number)"


@dataclass(frozen=True)
class Best:
    """After so many epochs of all trials: this epoch's value, of which trial, and the best value yet."""

    spent: int
    value: float
    best: float
    number: int
    epoch: int


@dataclass(frozen=True)
class Importance:
    """A parameter's share of what a forest explains: the mean over resampled trials, and the middle 90%."""

    name: str
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Rung:
    """One comparison of ASHA: trials that reached it, those stopped there, the least value that went on."""

    epoch: int
    reached: int
    stopped: list[int]
    cut: float | None


def best_so_far(records: Sequence[Record], sign: float) -> list[Best]:
    """Every epoch of every trial in the order of time."""
    told = sorted((e.at, r.number, e.epoch, e.value) for r in records for e in r.epochs)
    found: list[Best] = []
    best = -math.inf
    for spent, (_, number, epoch, value) in enumerate(told, 1):
        best = max(best, sign * value)
        found.append(Best(spent, value, sign * best, number, epoch))
    return found


def at_epoch(records: Sequence[Record], share: float = 0.6) -> tuple[int, list[Record]] | None:
    """The latest epoch that most trials reached, at least `LEAST_TRIALS`, and those trials; None where too few."""
    told = [r for r in records if r.epochs]
    for epoch in range(max((len(r.epochs) for r in told), default=0), 0, -1):
        there = [r for r in told if len(r.epochs) >= epoch]
        if len(there) >= max(LEAST_TRIALS, share * len(told)):
            return epoch, there
    return None


def importance(
    sweep: SweepConfig, records: Sequence[Record], rounds: int = 24, trees: int = 40, seed: int = 0
) -> tuple[int, list[Importance]] | None:
    """Each parameter's share in explaining the value after the same epoch, the greatest first, and that epoch.

    A random forest is fitted to the trials drawn with replacement, again and again; a parameter's share is the part of
    the variance that splits on it take away. A column of random numbers takes part: what is no higher says nothing.
    None where there are too few trials.
    """
    found = at_epoch(records)
    if found is None:
        return None
    from sklearn.ensemble import RandomForestRegressor

    epoch, chosen = found
    values = np.array([r.epochs[epoch - 1].value for r in chosen])
    columns, owners = encode(sweep, chosen)
    names = [*sweep.space, NOISE]
    generator = np.random.default_rng(seed)
    shares = np.zeros((rounds, len(names)))
    for i in range(rounds):
        rows = generator.integers(len(values), size=len(values))
        noise = generator.random((len(values), 1))
        forest = RandomForestRegressor(trees, min_samples_leaf=2, random_state=i, n_jobs=1)
        forest.fit(np.hstack([columns, noise])[rows], values[rows])
        for owner, part in zip([*owners, len(names) - 1], forest.feature_importances_, strict=True):
            shares[i, owner] += part
    low, high = np.quantile(shares, [0.05, 0.95], axis=0)
    made = [Importance(name, float(shares[:, i].mean()), float(low[i]), float(high[i])) for i, name in enumerate(names)]
    return epoch, sorted(made, key=lambda one: -one.share)


def encode(sweep: SweepConfig, records: Sequence[Record]) -> tuple[np.ndarray, list[int]]:
    """Trials as numbers, (trials, columns), and the parameter that each column belongs to.

    A choice has a column per value; a parameter that may not apply has one for whether it does.
    """
    columns: list[list[float]] = []
    owners: list[int] = []
    for i, (name, parameter) in enumerate(sweep.space.items()):
        made: list[list[float]] = []
        if parameter.choice is not None:
            made = [[float(r.params.get(name) == value) for r in records] for value in parameter.choice]
        else:
            middle = float(np.mean([scaled(parameter, end) for end in parameter.bounds]))
            made = [[scaled(parameter, r.params[name]) if name in r.params else middle for r in records]]
        if parameter.when:
            made.append([float(name in r.params) for r in records])
        columns += made
        owners += [i] * len(made)
    return np.array(columns).T, owners


def scaled(parameter: Parameter, value: Any) -> float:
    """A number as it is searched: its logarithm where that is even."""
    return math.log10(value) if parameter.kind.startswith("log") else float(value)


def rungs(sweep: SweepConfig, records: Sequence[Record], epochs: int, sign: float) -> list[Rung]:
    """Every comparison of the sweep's scheduler, ascending."""
    found = []
    for epoch in milestones(sweep.scheduler, epochs):
        there = [r for r in records if len(r.epochs) >= epoch]
        stopped = [r.number for r in there if r.status == STOPPED and len(r.epochs) == epoch]
        on = [sign * r.epochs[epoch - 1].value for r in there if r.number not in stopped]
        found.append(Rung(epoch, len(there), stopped, sign * min(on) if on else None))
    return found


def overhead(records: Sequence[Record]) -> tuple[float, float] | None:
    """Median and greatest seconds from a trial's start to its first step; None where no trial came to one."""
    times = sorted(s for r in records if (s := r.first_step_seconds()) is not None)
    return (float(np.median(times)), times[-1]) if times else None


def paid_epochs(records: Sequence[Record], rows: int) -> float:
    """Epochs of `rows` training records that all trials trained, also what came after a trial's last validation."""
    return sum(r.pace.get("samples", 0) for r in records) / rows


def finished(records: Sequence[Record]) -> list[Record]:
    """The trials that trained to their end."""
    return [r for r in records if r.status == FINISHED]
