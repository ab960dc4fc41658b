"""The default five in free words, and which of them people would send.

Able is not yet suited: a humanoid can look at a parked van, but one sends the drone or the wheels. So the labels of
the default fleet are the suited ones among the able, by a small table of what speaks against each.
"""

from __future__ import annotations

import random
from functools import lru_cache

from embervlm.fleet import Robot, default_fleet
from embervlm.world.lexicon.asks import Asks
from embervlm.world.lexicon.teams import Team
from embervlm.world.lexicon.telling import NO, UNSURE, Phrases, Told, phrase_table, shaped

DRONE, DIVER, HUMANOID, WHEELS, LEGS = NAMES = tuple(default_fleet().names)
_EVERYBODY = ("dark", "cold", "thermal", "gas", "in", "out", "fast", "long")
_TALKED_OF = "high rough uneven stairs gap narrow rain storm grip quiet talk clean atex radiation"
_WORDS = 55
#: How much worse than the best suited a robot may be and still be sent.
_MARGIN = 0.35
#: Fields of work among people.
_INDOOR = frozenset({"home", "care", "shop", "office", "event"})


def _told(media: str, has: str, kg: tuple[float, float], base: int = 0) -> Told:
    """A robot of which everything is known; what is in neither list it lacks."""
    listed = {*_EVERYBODY, *has.split()}
    lacks = {atom: False for atom in _TALKED_OF.split() if atom not in listed}
    return Told(frozenset(media.split()), base, {**dict.fromkeys(sorted(listed), True), **lacks}, kg)


#: What the default five are taken to be able to do. Haste and endurance weigh (`_against`), they do not exclude.
FIVE: dict[str, Told] = {
    DRONE: _told("air", "atex radiation", (2, 3)),
    DIVER: _told("under afloat", "hand grip deep narrow quiet rain storm", (15, 25)),
    HUMANOID: _told("ground", "uneven stairs hand grip talk clean quiet rain radiation", (15, 22), 1),
    WHEELS: _told("ground", "quiet rain clean atex radiation storm", (700, 700)),
    LEGS: _told("ground", "uneven rough stairs gap narrow rain storm quiet atex radiation", (25, 35), 2),
}


def _against(name: str, asks: Asks, fields: frozenset[str]) -> float:
    """What speaks against sending this robot, though it is able; 0: nothing."""
    stairs_inside = "stairs" in asks.flags and "out" not in asks.flags
    inside = (
        "in" in asks.flags
        or stairs_inside
        or (not asks.flags & {"out", "high"} and bool(fields & _INDOOR) and asks.medium != "air")
    )
    load = asks.kg[1] if asks.kg else 0.0
    plain = not asks.terrain and not asks.flags & {"stairs", "gap", "narrow"}
    skilled = asks.hands > 0 or "talk" in asks.flags
    cost = 0.0
    if name == DRONE:
        cost += 1.6 if inside else 0.0
        cost += 1.0 if load and "fast" not in asks.flags else 0.0
        cost += 2.0 if "long" in asks.flags else 0.0
        cost += 0.3 if asks.terrain == 2 else 0.0
        cost -= 0.5 if "fast" in asks.flags and not inside else 0.0
    elif name == DIVER:
        cost += 0.5 if asks.medium == "overwater" else 0.0
    elif name == HUMANOID:
        cost += 0.0 if skilled else 0.8 if plain else 0.1 if inside else 0.6
        cost += 1.0 if "fast" in asks.flags else 0.0
        cost += 1.0 if "long" in asks.flags else 0.0
        cost += 0.2 if load > 5 else 0.0
        cost -= 0.5 if fields & {"home", "care"} and not load and plain else 0.0
    elif name == WHEELS:
        cost += 0.0 if inside or load else 0.1
    elif name == LEGS:
        cost += 0.6 if plain else 0.0
        cost += 0.4 if inside and plain else 0.0
        cost += 0.3 if "fast" in asks.flags else 0.0
    return cost


@lru_cache(maxsize=20_000)
def suited(asks: Asks, fields: frozenset[str]) -> list[str] | None:
    """The names of the default five whom one would send, in their order; empty: nobody can; None: nobody can say."""
    if "fire" in asks.flags:
        return None
    verdicts = {name: told.judge(asks)[0] for name, told in FIVE.items()}
    if UNSURE in verdicts.values():
        return None
    costs = {name: _against(name, asks, fields) for name, verdict in verdicts.items() if verdict != NO}
    if not costs:
        return []
    return [name for name, cost in costs.items() if cost <= min(costs.values()) + _MARGIN]


@lru_cache(maxsize=1)
def _words() -> dict[str, dict[str, Phrases]]:
    return phrase_table("five.txt")


def reworded(rng: random.Random, split: str) -> tuple[Robot, ...]:
    """The default five in other words, in their order, some of them under another name."""
    table = _words()
    renamed = rng.random() < 0.5
    length = rng.randint(4, 7)
    robots = []
    for name in NAMES:
        called = table["name"][name].pick(rng, split) if renamed else name
        for _ in range(20):
            parts = [
                list(dict.fromkeys(table[section][name].pick(rng, split) for _ in range(count)))
                for section, count in (("has", length), ("lacks", rng.randint(0, 3)), ("place", rng.randint(0, 2)))
            ]
            if sum(len(text.split()) for group in parts for text in group) <= _WORDS:
                break
        robots.append(shaped(rng, called, *parts))
    return tuple(robots)


@lru_cache(maxsize=8)
def default_teams(seed: int, split: str, count: int) -> tuple[Team, ...]:
    """The default five: first as they are, then `count` times in other words."""
    told = tuple(FIVE.values())
    plain = Team("default", tuple(default_fleet()), told)
    return (
        plain,
        *(
            Team(f"default-{split}-{i}", reworded(random.Random(f"five|{seed}|{split}|{i}"), split), told)
            for i in range(count)
        ),
    )
