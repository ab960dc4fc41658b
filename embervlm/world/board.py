"""All scenes that a task could be shown in, and how often each should be, so that no robot is a good guess.

A *case* is one combination of deciding facts. A *board* holds all cases of a fleet, a need and an environment with
the set of robots that are able in each. Sets are weighted twice: within a board, so that every robot that is ever
able is so equally often; and between boards of a fleet, to even out what needs and places leave uneven.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from embervlm.world.fleets import KnownFleet
from embervlm.world.ontology import ENVIRONMENTS, SIZE_KG, TERRAINS, Need, Profile, Scene, Thing
from embervlm.world.scenes import DRY_KINDS, visible_facts

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]

#: The share of a fleet that should be able, on average, and the most that may be.
ABLE_SHARE = 0.35
MOST_ABLE = 0.67
# Tasks in the repertoire of a random fleet and of the default five, which many more records share; and the strongest
# pull between them.
_BOARDS = 48
_DEFAULT_BOARDS = 600
_STRONGEST = 1.6


@lru_cache(maxsize=128)
def cases(environment: str, dry: bool, sized: bool) -> tuple[Scene, ...]:
    """Every combination of deciding facts in an environment, as scenes without layout.

    Weather stands for itself only where it storms; size varies only where it matters.
    """
    place = ENVIRONMENTS[environment]
    sites = [s for s in place.sites if s != "underwater" or not dry]
    weathers = ("calm",) if place.indoor else ("calm", "storm")
    hazards = ("none", "fire") if place.fire else ("none",)
    sizes = ("small", "medium", "large") if sized else ("small",)
    found: list[Scene] = []
    for site, access, terrain, weather, hazard, size in product(
        sites, place.accesses, place.terrains, weathers, hazards, sizes
    ):
        if site == "underwater" and (access != "open" or hazard != "none"):
            continue
        target = Thing("crate", "red", size, 0.5, 0.3)  # type: ignore[arg-type]
        found.append(
            Scene(0, environment, weather, "day", terrain, access, site, hazard, target, ())  # type: ignore[arg-type]
        )
    return tuple(found)


@lru_cache(maxsize=128)
def _columns(environment: str, dry: bool, sized: bool) -> dict[str, npt.NDArray[np.int64]]:
    """The cases' facts as arrays [cases]."""
    found = cases(environment, dry, sized)
    return {
        "wet": np.array([c.site == "underwater" for c in found]),
        "low": np.array([c.site == "ground" for c in found]),
        "terrain": np.array([TERRAINS.index(c.terrain) for c in found]),
        "no stairs": np.array([c.access != "stairs" for c in found]),
        "no gap": np.array([c.access != "gap" for c in found]),
        "wide": np.array([c.access != "narrow" for c in found]),
        "mild": np.array([c.weather != "storm" for c in found]),
        "cool": np.array([c.hazard != "fire" for c in found]),
        "kg": np.array([SIZE_KG[c.target.size] for c in found]),
    }


@lru_cache(maxsize=128)
def _facts(environment: str, dry: bool, sized: bool) -> npt.NDArray[np.int64]:
    """The cases' deciding facts as numbers [cases, facts], in the order of `FACTS`."""
    rows = [tuple(visible_facts(case).values()) for case in cases(environment, dry, sized)]
    return np.stack([np.unique(column, return_inverse=True)[1] for column in zip(*rows, strict=True)], axis=1)


@lru_cache(maxsize=50_000)
def able_in(profile: Profile, environment: str, dry: bool, carries: bool) -> BoolArray:
    """In which cases of the environment the robot is able, as far as place and load go: the oracle on arrays."""
    c = _columns(environment, dry, carries)
    nowhere = np.zeros(len(c["wet"]), dtype=bool)
    by_land = by_air = nowhere
    if profile.media & {"ground", "air"}:
        place = (c["wide"] | profile.slim) & (c["mild"] | profile.weatherproof) & (c["cool"] | profile.heatproof)
        if "air" in profile.media:
            by_air = place
        if "ground" in profile.media:
            by_land = (
                place
                & (c["low"] | profile.height)
                & (c["terrain"] <= TERRAINS.index(profile.terrain))
                & (c["no stairs"] | profile.stairs)
                & (c["no gap"] | profile.gap)
            )
    dry_land = by_land | by_air
    result: BoolArray = np.where(c["wet"], "water" in profile.media, dry_land)
    return result & (c["kg"] <= profile.payload_kg) if carries else result


@dataclass(frozen=True)
class Board:
    """All cases of a task: who is able in each, and how often each should be shown."""

    cases: tuple[Scene, ...]
    facts: npt.NDArray[np.int64]  # [cases, facts], equal numbers for equal facts
    table: BoolArray  # [cases, robots]
    codes: npt.NDArray[np.int64]  # [cases], the set of able robots as bits
    weights: FloatArray  # [cases], sum 1; zero where nobody or nearly everybody is able


def make_board(fleet: KnownFleet, need: Need, environment: str, kind: str) -> Board | None:
    """The balanced board of a task, or None where fewer than two sets of able robots are possible."""
    asked = Need("inspect", need.carries, need.hands, need.fast, need.enduring)
    return _board(fleet, asked, environment, kind in DRY_KINDS)


@lru_cache(maxsize=8192)
def _board(fleet: KnownFleet, need: Need, environment: str, dry: bool) -> Board | None:
    columns = []
    for known in fleet.robots:
        p = known.profile
        fit = p.manipulation >= need.hands and (p.fast or not need.fast) and (p.enduring or not need.enduring)
        column = able_in(p, environment, dry, need.carries)
        columns.append(column if fit else np.zeros_like(column))
    table = np.stack(columns, axis=1)
    count = table.sum(1)
    codes = table.astype(np.int64) @ (1 << np.arange(table.shape[1], dtype=np.int64))
    valid = (count > 0) & (count <= max(1, MOST_ABLE * table.shape[1]))
    sets, first, inverse, sizes = np.unique(codes[valid], return_index=True, return_inverse=True, return_counts=True)
    if len(sets) < 2:
        return None
    members = table[valid][first]
    possible = members.any(0)
    goal = float(np.clip(ABLE_SHARE * len(possible) / possible.sum(), 0.15, 0.5))
    pull = _even_out(members[:, possible].astype(float), np.full(len(sets), 1 / len(sets)), goal, 20)
    shares = np.exp(members[:, possible] @ pull)
    shares /= shares.sum()
    weights = np.zeros(len(codes))
    weights[valid] = shares[inverse] / sizes[inverse]
    return Board(cases(environment, dry, need.carries), _facts(environment, dry, need.carries), table, codes, weights)


def _even_out(members: FloatArray, base: FloatArray, goal: float, rounds: int, strongest: float = 8.0) -> FloatArray:
    """The pull per robot [robots] with which sets [sets, robots], weighted base · exp(members @ pull), hold every
    robot about equally often."""
    pull = np.zeros(members.shape[1])
    aim = np.log(goal / (1 - goal))
    for _ in range(rounds):
        shares = base * np.exp(members @ pull)
        often = shares @ members / shares.sum()
        step = aim - np.log((often + 1e-4) / (1.0001 - often))
        pull = np.minimum(np.maximum(pull + 0.4 * step, -strongest), strongest)
    return pull


#: Draws a need, a kind and an environment for a fleet.
Drawer = Callable[[random.Random, KnownFleet], tuple[Need, str, str]]


@dataclass(frozen=True)
class Repertoire:
    """What a fleet is asked: (need, kind, environment) and how often, and what evens out who is able.

    `pull` [robots] weights the cases of a board by exp(table @ pull), `twin_pull` those of a counterfactual.
    """

    asks: tuple[tuple[Need, str, str], ...]
    often: tuple[float, ...]
    pull: FloatArray
    twin_pull: FloatArray


@lru_cache(maxsize=4096)
def repertoire(fleet: KnownFleet, draw: Drawer) -> Repertoire:
    """Tasks for the fleet, weighted so that over all of them each robot is able about equally often."""
    rng = random.Random(f"repertoire|{fleet.key}|{fleet.robots[0].robot.name}")
    asks: list[Any] = []
    boards, members, base = [], [], []
    while len(asks) < (_DEFAULT_BOARDS if fleet.default else _BOARDS):
        ask = draw(rng, fleet)
        board = make_board(fleet, ask[0], ask[2], ask[1])
        if board is not None:
            # Cases with the same able robots count as one here.
            _, first, inverse = np.unique(board.codes, return_index=True, return_inverse=True)
            members.append(board.table[first].astype(float))
            base.append(np.bincount(inverse, board.weights))
            asks.append(ask)
            boards.append(board)
    pull = _even_out(np.concatenate(members), np.concatenate(base), ABLE_SHARE, 60, _STRONGEST)
    often = tuple(float(b @ np.exp(m @ pull)) for m, b in zip(members, base, strict=True))
    some = rng.choices(boards, often, k=max(64, len(boards) // 2))
    return Repertoire(tuple(asks), often, pull, _twin_pull(rng, some, pull))


def twin_weights(board: Board, case: int, keeps: BoolArray | None = None) -> FloatArray:
    """How well each case [cases] serves as a counterfactual of `case`: others able, one or two facts away.

    `keeps` [cases] marks those of which the same text is true. All zero: there is none.
    """
    differs = board.codes != board.codes[case]
    if keeps is not None:
        differs &= keeps
    distance = (board.facts != board.facts[case]).sum(1)
    # There are far more cases two facts away than one; a single change teaches most.
    closeness = np.select([distance == 1, distance == 2], [12.0, 1.0], 0.0)
    return board.weights * differs * closeness


def _twin_pull(rng: random.Random, boards: list[Board], pull: FloatArray) -> FloatArray:
    """The pull per robot [robots] within the counterfactuals of cases as they are shown."""
    rows = []
    for board in boards:
        shown = board.weights * np.exp(board.table @ pull)
        weights = twin_weights(board, rng.choices(range(len(shown)), shown.tolist())[0])
        if weights.any():
            found = np.flatnonzero(weights)
            rows.append((board.table[found].astype(float), weights[found]))
    twin_pull = np.zeros(len(pull))
    if not rows:
        return twin_pull
    longest = max(len(weights) for _, weights in rows)
    tables = np.stack([np.pad(table, ((0, longest - len(table)), (0, 0))) for table, _ in rows])
    base = np.stack([np.pad(weights, (0, longest - len(weights))) for _, weights in rows])
    for _ in range(25):
        shares = base * np.exp(tables @ twin_pull)
        shares /= shares.sum(1, keepdims=True)
        often = np.clip(np.einsum("tc,tcr->r", shares, tables) / len(rows), 1e-4, 1 - 1e-4)
        step = np.log(ABLE_SHARE / often) - np.log((1 - ABLE_SHARE) / (1 - often))
        twin_pull = np.clip(twin_pull + 0.4 * step, -2 * _STRONGEST, 2 * _STRONGEST)
    return twin_pull
