"""Fleets of robots in free words, in which few abilities decide, with near-twins; and the matrix of verdicts."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from embervlm.fleet import Robot
from embervlm.world.lexicon.asks import ATOMS, MODES, Asks
from embervlm.world.lexicon.telling import NO, SLACK, UNSAID_KG, UNSURE, Told, describe, payloads

#: How often each ability is one that a fleet's descriptions talk about.
_FOCUS = {
    "kg": 5, "hand": 5, "rough": 4, "stairs": 4, "fast": 4, "long": 4, "high": 4, "narrow": 4, "storm": 3,
    "uneven": 2.5, "fire": 2.5, "gap": 2.5, "rain": 1.5, "dark": 2, "in": 2.5, "out": 1.5, "talk": 2.5,
    "thermal": 2, "quiet": 1.5, "gas": 1.5, "cold": 1.5, "atex": 1.2, "radiation": 1, "clean": 1, "grip": 2, "deep": 1,
}  # fmt: skip
_SIZES = ((2, 3), (3, 8), (4, 16), (5, 20), (6, 16), (7, 11), (8, 9), (10, 7), (12, 4), (16, 3), (24, 2), (40, 1))
_SCARCE = frozenset({"high", "fire", "radiation", "atex", "thermal", "gas", "clean"})
_GROUND = frozenset({"uneven", "rough", "stairs", "gap"})
_MEDIA = (
    ({"ground"}, 58), ({"air"}, 21), ({"under"}, 9), ({"afloat"}, 5), ({"ground", "under"}, 2), ({"ground", "air"}, 2),
    ({"ground", "afloat"}, 1), ({"air", "under"}, 1), ({"air", "afloat"}, 1),
)  # fmt: skip
_NAMES = [
    "Kestrel",
    "Atlas",
    "Juno",
    "Milo",
    "Orion",
    "Vega",
    "Nova",
    "Pixel",
    "Rigel",
    "Comet",
    "Bruno",
    "Hazel",
    "Indigo",
    "Jasper",
    "Luna",
    "Onyx",
    "Quill",
    "Saffron",
    "Tango",
    "Umber",
    "Willow",
    "Zephyr",
    "Basil",
    "Cobalt",
    "Delta",
    "Echo",
    "Fennel",
    "Hugo",
    "Iris",
    "Lotus",
    "Maple",
    "Nimbus",
    "Olive",
    "Otto",
    "Greta",
    "Bertha",
    "Karl",
    "Moses",
    "Ruby",
    "Sisyphus",
    "Hector",
    "Ada",
    "Turing",
    "Gizmo",
    "Rusty",
    "Bolt",
    "Widget",
    "Sparky",
    "Dusty",
    "Nelson",
    "Magda",
    "Yuri",
    "Pablo",
    "Tilda",
    "Uma",
    "Vito",
    "Wanda",
]
_MODELS = [
    "SX",
    "RT",
    "Mk",
    "AR",
    "KL",
    "TX",
    "VM",
    "HD",
    "Q",
    "Z",
    "PR",
    "ML",
    "GX",
    "NB",
    "CT",
    "LS",
    "Unit",
    "Model",
    "Type",
    "Robot",
    "Machine",
    "Number",
]


@dataclass(frozen=True, eq=False)
class Team:
    """A fleet with what its descriptions tell. Compared by identity: a pool makes each of its fleets once."""

    key: str
    robots: tuple[Robot, ...]
    told: tuple[Told, ...]


def verdicts(told: tuple[Told, ...], asked: tuple[Asks, ...]) -> np.ndarray:
    """The verdict (YES, UNSURE, NO) on every task of every robot: int8 [tasks, robots]; the same as `Told.judge`."""
    status = np.array([[one.status(atom) for atom in ATOMS] for one in told], np.int8)
    needs, allowed, weights = _needs(asked)
    load = _loads(told, weights)
    best = np.full((len(asked), len(told)), NO, np.int8)
    for m in range(len(MODES)):
        lacks = needs[m] @ (status == NO).T.astype(np.float32) > 0
        unsure = needs[m] @ (status == UNSURE).T.astype(np.float32) > 0
        found = np.where(lacks, NO, np.where(unsure, UNSURE, 1)).astype(np.int8)
        found = np.where(allowed[m][:, None], np.minimum(found, load), NO)
        best = np.maximum(best, found)
    return best


def _loads(told: tuple[Told, ...], weights: np.ndarray) -> np.ndarray:
    """`Told.carries` for every task and robot: int8 [tasks, robots]; YES where there is no load."""
    found = np.ones((len(weights), len(told)), np.int8)
    rows = np.flatnonzero(~np.isnan(weights[:, 0]))
    least, most = weights[rows].T
    for j, one in enumerate(told):
        if one.kg is None:
            found[rows, j] = np.where(least > UNSAID_KG, NO, UNSURE)
        else:
            found[rows, j] = np.where(most <= one.kg[0], 1, np.where(least > one.kg[1] * SLACK, NO, UNSURE))
    return found


@lru_cache(maxsize=8)
def _needs(asked: tuple[Asks, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What tasks need.

    Returns:
        Which abilities in each mode [modes, tasks, atoms], which modes are allowed [modes, tasks], and least and
        most weight of the load, NaN where there is none [tasks, 2].
    """
    place = {atom: i for i, atom in enumerate(ATOMS)}
    needs = np.zeros((len(MODES), len(asked), len(ATOMS)), np.float32)
    allowed = np.zeros((len(MODES), len(asked)), bool)
    for m, mode in enumerate(MODES):
        for t, asks in enumerate(asked):
            allowed[m, t] = mode in asks.modes
            for atom in asks.needed(mode):
                needs[m, t, place[atom]] = 1
    weights = np.array([asks.kg or (np.nan, np.nan) for asks in asked], float).reshape(-1, 2)
    return needs, allowed, weights


def _applies(atom: str, media: frozenset[str]) -> bool:
    """Whether an ability means anything for a robot that moves like this."""
    if atom in _GROUND:
        return "ground" in media
    if atom == "high":
        return "ground" in media and "air" not in media
    if atom == "deep":
        return "under" in media
    dry = media & {"ground", "air"}
    if atom in ("in", "out", "fire", "gas", "atex", "clean", "radiation"):
        return bool(dry)
    if atom in ("storm", "rain", "cold", "thermal", "talk", "quiet"):
        return bool(dry or "afloat" in media)
    return True


def _told(rng: random.Random, focus: list[str], media: frozenset[str]) -> Told:
    """A random robot that speaks of every focus that means something for it."""
    base = rng.choices((0, 1, 2), (5, 2, 3))[0] if "ground" in media else 0
    abilities: dict[str, bool] = {}
    kg = None
    for atom in focus:
        if not _applies(atom, media) or (atom in ("in", "out") and {"in": "out", "out": "in"}[atom] in abilities):
            continue
        if atom == "kg":
            levels = payloads()
            low, high, _ = levels[rng.randrange(len(levels) if "ground" in media else 9)]
            kg = (low, high)
        elif atom in ("rough", "uneven"):
            # The ground it is built for is told by the way it moves; the rest of the text agrees.
            told = {
                0: ("uneven", False),
                1: ("rough", False) if atom == "rough" else ("uneven", True),
                2: ("rough", True),
            }
            abilities.update([told[base]])
        else:
            chance = 0.35 if atom in _SCARCE else 0.5
            if base == 0 and atom in ("stairs", "gap"):
                chance = 0.15
            elif base == 2 and atom == "stairs":
                chance = 0.65
            abilities[atom] = rng.random() < chance
    return Told(media, base, _consistent(abilities), kg)


def _consistent(abilities: dict[str, bool]) -> dict[str, bool]:
    """What one ability already says need not be said again, and must not be denied."""
    found = dict(abilities)
    for more, less in (("storm", "rain"), ("hand", "grip")):
        if more in found and less in found:
            # Whoever has more has less; whoever lacks less lacks more.
            if found[more]:
                del found[less]
            elif not found[less]:
                del found[more]
    return found


def _silent(rng: random.Random, told: Told) -> Told:
    """Lacks that go without saying are often left unsaid."""
    kept = {
        atom: there
        for atom, there in told.abilities.items()
        if there or Told(told.media, told.base).status(atom) != NO or rng.random() < 0.5
    }
    return replace(told, abilities=kept)


def _twin(rng: random.Random, told: Told) -> Told | None:
    """The same robot but for one ability."""
    choices = [*told.abilities, *(["kg"] if told.kg else [])]
    rng.shuffle(choices)
    for atom in choices:
        if atom == "kg":
            levels = [level[:2] for level in payloads()]
            at = levels.index(told.kg)  # type: ignore[arg-type]
            other = at + rng.choice((-3, 3))
            if 0 <= other < len(levels):
                return replace(told, kg=levels[other])
            continue
        flipped = {**told.abilities, atom: not told.abilities[atom]}
        base = told.base
        if atom == "rough":
            base = 2 if flipped[atom] else 1
        elif atom == "uneven":
            base = 1 if flipped[atom] else 0
        return replace(told, abilities=flipped, base=base)
    return None


def _team(rng: random.Random, key: str, split: str) -> Team:
    size = rng.choices([s for s, _ in _SIZES], [w for _, w in _SIZES])[0]
    weights = dict(_FOCUS)
    focus: list[str] = []
    for _ in range(rng.randint(3, 5)):
        atom = rng.choices(list(weights), list(weights.values()))[0]
        focus.append(atom)
        del weights[atom]
    kinds: list[Told] = []
    wished = rng.choices([frozenset(m) for m, _ in _MEDIA], [w for _, w in _MEDIA])[0]
    while len(kinds) < size:
        # Half of the fleets are of one make, so that only the rest of their words tells them apart.
        media = wished if len(kinds) and rng.random() < 0.4 else rng.choices(
            [frozenset(m) for m, _ in _MEDIA], [w for _, w in _MEDIA]
        )[0]  # fmt: skip
        made = _told(rng, focus, media)
        kinds.append(made)
        twin = _twin(rng, made) if rng.random() < 0.3 and len(kinds) < size else None
        if twin is not None:
            kinds.append(twin)
    rng.shuffle(kinds)
    kinds = [_silent(rng, told) for told in kinds]
    names = _names(rng, size)
    robots = [describe(rng, told, name, split) for told, name in zip(kinds, names, strict=True)]
    return Team(key, tuple(robots), tuple(kinds))


def _names(rng: random.Random, size: int) -> list[str]:
    """Names that tell nothing: call signs, model numbers, letters."""
    manner = rng.random()
    names: dict[str, None] = {}
    while len(names) < size:
        if manner < 0.4:
            name = rng.choice(_NAMES) if size < 30 else f"{rng.choice(_NAMES)} {rng.randint(1, 9)}"
        elif manner < 0.75:
            name = f"{rng.choice(_MODELS)}{rng.choice((' ', '-'))}{rng.randint(1, 900)}"
        else:
            name = rng.choice((rng.choice(_NAMES), f"{rng.choice(_MODELS)} {rng.randint(1, 90)}"))
        names[name] = None
    return list(names)


@lru_cache(maxsize=4096)
def team(seed: int, split: str, i: int) -> Team:
    """Fleet number i of a split, the same for the same arguments."""
    return _team(random.Random(f"teams|{seed}|{split}|{i}"), f"words-{split}-{i}", split)
