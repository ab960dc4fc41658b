"""Fleets at random, drawn once per split into a pool that its records share.

Records that share fleets let a batch encode each robot once. The training pool never holds a type or a
combination of abilities that is kept for the test split; the test pool has fleets of both sorts.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache

from embervlm.world.robots import KnownRobot, default_known, sample_robot

#: Fleets in a pool, where the caller does not say.
POOL_SIZE = 200


@dataclass(frozen=True, eq=False)
class KnownFleet:
    """A fleet with what only the oracle knows. `unseen`: most of its robots occur in the test split only.

    Compared by identity: a pool makes each of its fleets once.
    """

    key: str
    robots: tuple[KnownRobot, ...]
    unseen: bool = False

    @property
    def default(self) -> bool:
        """Whether these are the default five."""
        return self.key == "default"


DEFAULT = KnownFleet("default", default_known())


def _fleet(rng: random.Random, key: str, unseen: bool = False, source: list[KnownRobot] | None = None) -> KnownFleet:
    """A fleet of four to eight robots with distinct names, new ones or from `source`."""
    size = rng.randint(4, 8)
    robots: list[KnownRobot] = []
    while len(robots) < size:
        # In an unseen fleet most robots are new, but it still reads like a fleet that somebody owns.
        new = unseen and rng.random() < 0.75
        robot = rng.choice(source) if source and not new else sample_robot(rng, new, unseen_words=unseen)
        if all(robot.robot.name != other.robot.name for other in robots):
            robots.append(robot)
    return KnownFleet(key, tuple(robots), unseen and any(r.unseen for r in robots))


@lru_cache(maxsize=16)
def pool(seed: int, split: str, size: int = POOL_SIZE) -> tuple[KnownFleet, ...]:
    """The fleets of a split, the same for the same arguments.

    Train: new robots throughout. Validation: half of the fleets regroup robots of train, half are new ones of known
    types and combinations. Test: half regroup robots of train, half hold robots kept for the test split.

    Raises:
        ValueError: an unknown split, or a size below 1.
    """
    if split not in ("train", "validation", "test"):
        raise ValueError(f"split: unknown {split!r}; known are train, validation, test")
    if size < 1:
        raise ValueError(f"size: a pool needs at least one fleet, found {size}")
    rng = random.Random(f"fleets|{seed}|{split}")
    if split == "train":
        return tuple(_fleet(rng, f"train-{i}") for i in range(size))
    known = [robot for fleet in pool(seed, "train", size) for robot in fleet.robots]
    fleets = []
    for i in range(size):
        fresh = i % 2 == 1
        source = None if fresh and split == "validation" else known
        fleets.append(_fleet(rng, f"{split}-{i}", unseen=fresh and split == "test", source=source))
    return tuple(fleets)
