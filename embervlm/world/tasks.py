"""Selection tasks: a need, a fleet, a scene that decides between its robots, a text, and a twin.

Which scenes a task is shown in is balanced: among all scenes that the environment allows, those with other
able robots are weighted so that every robot that could ever do the task is able equally often. So neither the
most gifted robot nor the longest description is a good guess: one has to look.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from embervlm.world.fleets import KnownFleet
from embervlm.world.language import TaskText, normalised, task_text
from embervlm.world.ontology import CATEGORIES, ENVIRONMENTS, KINDS, Category, Need, Profile, Scene, Thing
from embervlm.world.oracle import able
from embervlm.world.scenes import DRY_KINDS, FACTS, sample_scene, visible_facts

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]

_WET = tuple(name for name, place in ENVIRONMENTS.items() if "underwater" in place.sites)
#: The share of a fleet that should be able, on average, and the most that may be.
ABLE_SHARE = 0.35
MOST_ABLE = 0.67
_SPLIT_SHARES = (("train", 60), ("validation", 80), ("test", 100))


@dataclass(frozen=True)
class Task:
    """A selection task in one scene."""

    scene: Scene
    need: Need
    text: TaskText
    needs_image: bool


def split_of(text: str) -> str:
    """The only split in which a task of this text may occur, from a hash of the normalised text."""
    bucket = zlib.crc32(normalised(text).encode()) % 100
    return next(split for split, limit in _SPLIT_SHARES if bucket < limit)


def sample_need(rng: random.Random) -> tuple[Need, str]:
    """What is asked for (nothing stated yet), and the kind of its target."""
    category: Category = rng.choice(CATEGORIES)
    kind = rng.choice(_kinds(category))
    traits = KINDS[kind]
    carries, hands = False, 0
    if category == "inspect":
        hands = 2 if rng.random() < 0.35 else 0
    elif category == "transport" or (category == "rescue" and "animal" in traits):
        carries, hands = True, 1 if rng.random() < 0.4 else 0
    elif category == "rescue":
        hands = 2 if rng.random() < 0.35 else 0
    enduring = rng.random() < (0.35 if category == "survey" else 0.1)
    fast = not enduring and rng.random() < 0.22
    return Need(category, carries, hands, fast, enduring), kind


@lru_cache(maxsize=8)
def _kinds(category: str) -> tuple[str, ...]:
    """The kinds of thing that a task of this category may be about."""
    living = {"person", "animal"}
    fits = {
        "inspect": lambda traits: not traits & living,
        "transport": lambda traits: "carry" in traits and not traits & living,
        "rescue": lambda traits: bool(traits & living),
    }.get(category, lambda traits: True)
    return tuple(kind for kind, traits in KINDS.items() if fits(traits))


@lru_cache(maxsize=128)
def _cases(environment: str, dry: bool, sized: bool) -> tuple[Scene, ...]:
    """Every combination of deciding facts in an environment, as scenes without layout.

    Weather stands for itself only where it storms; size varies only where it matters.
    """
    place = ENVIRONMENTS[environment]
    sites = [s for s in place.sites if s != "underwater" or not dry]
    weathers = ("calm",) if place.indoor else ("calm", "storm")
    hazards = ("none", "fire") if place.fire else ("none",)
    sizes = ("small", "medium", "large") if sized else ("small",)
    cases: list[Scene] = []
    for site, access, terrain, weather, hazard, size in product(
        sites, place.accesses, place.terrains, weathers, hazards, sizes
    ):
        if site == "underwater" and (access != "open" or hazard != "none"):
            continue
        target = Thing("crate", "red", size, 0.5, 0.3)  # type: ignore[arg-type]
        cases.append(Scene(0, environment, weather, "day", terrain, access, site, hazard, target, ()))  # type: ignore[arg-type]
    return tuple(cases)


@lru_cache(maxsize=50_000)
def _able_in(profile: Profile, environment: str, dry: bool, carries: bool) -> BoolArray:
    """In which cases of the environment the robot is able, as far as place and load go."""
    need = Need("inspect", carries=carries)
    return np.array([able(profile, case, need) for case in _cases(environment, dry, carries)])


@dataclass(frozen=True)
class _Board:
    """All cases of a task: which robots are able in each, and how often each case should be shown."""

    cases: tuple[Scene, ...]
    table: BoolArray  # [cases, robots]
    codes: npt.NDArray[np.int64]  # [cases], the set of able robots as bits
    weights: FloatArray  # [cases], zero where nobody or nearly everybody is able


def _board(fleet: KnownFleet, need: Need, environment: str, kind: str) -> _Board | None:
    """The balanced board of a task, or None where fewer than two sets of able robots are possible."""
    dry = kind in DRY_KINDS
    columns = []
    for known in fleet.robots:
        p = known.profile
        fit = p.manipulation >= need.hands and (p.fast or not need.fast) and (p.enduring or not need.enduring)
        column = _able_in(p, environment, dry, need.carries)
        columns.append(column if fit else np.zeros_like(column))
    table = np.stack(columns, axis=1)
    count = table.sum(1)
    codes = table.astype(np.int64) @ (1 << np.arange(table.shape[1], dtype=np.int64))
    valid = (count > 0) & (count <= max(1, MOST_ABLE * table.shape[1]))
    sets, first, inverse, sizes = np.unique(codes[valid], return_index=True, return_inverse=True, return_counts=True)
    if len(sets) < 2:
        return None
    shares = _balance(table[valid][first], table.shape[1])
    weights = np.zeros(len(codes))
    weights[valid] = shares[inverse] / sizes[inverse]
    return _Board(_cases(environment, dry, need.carries), table, codes, weights)


def _balance(sets: BoolArray, robots: int, rounds: int = 40) -> FloatArray:
    """How often to show each set of able robots [sets, robots], so that all who ever are able are so equally often."""
    possible = sets.any(0)
    members = sets[:, possible].astype(float)
    goal = float(np.clip(ABLE_SHARE * robots / possible.sum(), 0.15, 0.5))
    shares = np.full(len(sets), 1 / len(sets))
    for _ in range(rounds):
        often = np.clip(shares @ members, 1e-4, 1 - 1e-4)
        push = np.log(goal / often) - np.log((1 - goal) / (1 - often))
        shares = shares * np.exp(members @ (0.3 * push))
        shares /= shares.sum()
    return shares


def sample_task(
    rng: random.Random, fleet: KnownFleet, split: str, unseen: bool = False, pair: bool = False
) -> tuple[Task, Task | None]:
    """A task for the fleet, and with `pair` its counterfactual twin: same text, another scene, others able.

    Args:
        rng: all chance.
        fleet: the robots with their profiles.
        split: the text is one that belongs to this split.
        unseen: use test-only wordings.
        pair: also make the twin.
    """
    while True:
        need, kind = sample_need(rng)
        environment = _environment(rng, fleet, kind)
        board = _board(fleet, need, environment, kind)
        if board is None:
            continue
        case = rng.choices(range(len(board.cases)), board.weights.tolist())[0]
        need = replace(need, stated=_stated(rng, need, board.cases[case]))
        keeps = _same_text(board, need, case)
        other = _twin_case(rng, board, keeps, case) if pair else None
        if pair and other is None:
            continue
        scene = _scene(rng, board.cases[case], kind, need)
        for _ in range(60):
            text = task_text(rng, scene, need, unseen)
            if split_of(text.text) == split:
                break
        else:
            continue
        needs_image = bool((board.codes[keeps] != board.codes[case]).any())
        task = Task(scene, need, text, needs_image)
        if other is None:
            return task, None
        return task, Task(_twin_scene(rng, scene, board.cases[other], need), need, text, needs_image)


def _environment(rng: random.Random, fleet: KnownFleet, kind: str) -> str:
    """An environment; one with water more often where a robot can do nothing elsewhere."""
    divers = any(known.profile.media == {"water"} for known in fleet.robots)
    if divers and kind not in DRY_KINDS and rng.random() < 0.5:
        return rng.choice(_WET)
    return rng.choice(tuple(ENVIRONMENTS))


def _stated(rng: random.Random, need: Need, case: Scene) -> frozenset[str]:
    """Which visual facts the text gives away: mostly none, sometimes one or two, rarely all."""
    tellable = [f for f in FACTS if (f != "size" or need.carries)]
    if case.site == "underwater":
        tellable = [f for f in tellable if f not in ("access", "terrain", "hazard")]
    dice = rng.random()
    if dice < 0.62:
        return frozenset()
    count = 1 if dice < 0.84 else 2 if dice < 0.94 else len(tellable)
    return frozenset(rng.sample(tellable, min(count, len(tellable))))


def _same_text(board: _Board, need: Need, case: int) -> BoolArray:
    """The cases [cases] in which everything that the text states is as in `case`."""
    told = visible_facts(board.cases[case])
    return np.array([all(visible_facts(c)[f] == told[f] for f in need.stated) for c in board.cases])


def _twin_case(rng: random.Random, board: _Board, keeps: BoolArray, case: int) -> int | None:
    """A case with other able robots, one or (where one does not do) two facts away."""
    told = visible_facts(board.cases[case])
    near: dict[int, list[int]] = {1: [], 2: []}
    for i in np.flatnonzero(keeps & (board.weights > 0) & (board.codes != board.codes[case])):
        facts = visible_facts(board.cases[i])
        distance = sum(facts[f] != told[f] for f in FACTS)
        if distance in near:
            near[distance].append(int(i))
    found = near[1] if near[1] and (rng.random() < 0.7 or not near[2]) else near[2]
    if not found:
        return None
    return rng.choices(found, board.weights[found].tolist())[0]


def _scene(rng: random.Random, case: Scene, kind: str, need: Need) -> Scene:
    """A full scene with the facts of the case; what does not decide is drawn freely."""
    facts: dict[str, Any] = visible_facts(case)
    if not need.carries:
        del facts["size"]
    if case.weather != "storm":
        facts["weather"] = _mild(rng, case)
    if case.site == "underwater":
        del facts["hazard"]
    return sample_scene(rng, case.environment, kind, **facts)


def _mild(rng: random.Random, case: Scene) -> str:
    """A weather that hinders nobody."""
    indoor = ENVIRONMENTS[case.environment].indoor
    return "calm" if indoor else rng.choice(("calm", "calm", "rain", "fog", "snow"))


def _twin_scene(rng: random.Random, scene: Scene, case: Scene, need: Need) -> Scene:
    """The scene with the deciding facts of the case; everything else stays."""
    facts: dict[str, Any] = {f: v for f, v in visible_facts(case).items() if f != "weather"}
    target = replace(scene.target, size=facts.pop("size")) if need.carries else scene.target
    facts.pop("size", None)
    if case.weather == "storm":
        weather = "storm"
    else:
        weather = scene.weather if scene.weather != "storm" else _mild(rng, case)
    return replace(scene, target=target, weather=weather, **facts)  # type: ignore[arg-type]
