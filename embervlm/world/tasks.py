"""Selection tasks: a need, a fleet, a scene that decides between its robots, a text, and a twin.

Which scene a task is shown in is balanced (see `board`): neither the most gifted robot nor the longest
description is a good guess, one has to look.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from embervlm.world.board import Board, BoolArray, make_board, repertoire, twin_weights
from embervlm.world.fleets import KnownFleet
from embervlm.world.language import WORD_LIMIT, TaskText, normalised, task_text
from embervlm.world.ontology import CATEGORIES, ENVIRONMENTS, KINDS, SIZES, Category, Need, Scene
from embervlm.world.scenes import DRY_KINDS, FACTS, sample_scene, visible_facts

_WET = tuple(name for name, place in ENVIRONMENTS.items() if "underwater" in place.sites)
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
        hands = 2 if rng.random() < 0.5 else 0
    elif category == "transport" or (category == "rescue" and "animal" in traits):
        carries, hands = True, 1 if rng.random() < 0.6 else 0
    elif category == "rescue":
        hands = 2 if rng.random() < 0.5 else 0
    enduring = rng.random() < (0.6 if category == "survey" else 0.3)
    fast = not enduring and rng.random() < 0.45
    return Need(category, carries, hands, fast, enduring), kind


def _like(rng: random.Random, need: Need, kind: str) -> str:
    """Another kind of thing of which the same can be asked in the same places."""
    same = [k for k in _kinds(need.category) if (k in DRY_KINDS) == (kind in DRY_KINDS)]
    if need.category == "rescue":
        same = [k for k in same if ("person" in KINDS[k]) == ("person" in KINDS[kind])]
    return rng.choice(same)


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
    stock = repertoire(fleet, _draw)
    while True:
        need, kind, environment = rng.choices(stock.asks, stock.often)[0]
        kind = _like(rng, need, kind)
        board = make_board(fleet, need, environment, kind)
        assert board is not None  # the repertoire holds none of these
        pulled = board.weights * np.exp(board.table @ stock.pull)
        case = rng.choices(range(len(board.cases)), pulled.tolist())[0]
        need = replace(need, stated=_stated(rng, need, board.cases[case]))
        keeps = _same_text(board, need, case)
        other = None
        if pair:
            twins = twin_weights(board, case, keeps) * np.exp(board.table @ stock.twin_pull)
            if not twins.any():
                continue
            other = rng.choices(range(len(twins)), twins.tolist())[0]
        scene = _scene(rng, board.cases[case], kind, need)
        for _ in range(60):
            text = task_text(rng, scene, need, unseen)
            if split_of(text.text) == split and len(text.text.split()) <= WORD_LIMIT:
                break
        else:
            continue
        needs_image = bool((board.codes[keeps] != board.codes[case]).any())
        task = Task(scene, need, text, needs_image)
        if other is None:
            return task, None
        return task, Task(_twin_scene(rng, scene, board.cases[other], need), need, text, needs_image)


def _draw(rng: random.Random, fleet: KnownFleet) -> tuple[Need, str, str]:
    """A need, the kind of its target, and an environment."""
    need, kind = sample_need(rng)
    return need, kind, _environment(rng, fleet, kind)


def _environment(rng: random.Random, fleet: KnownFleet, kind: str) -> str:
    """An environment; one with water more often where a robot can do nothing elsewhere."""
    divers = any(known.profile.media == {"water"} for known in fleet.robots)
    if divers and kind not in DRY_KINDS and rng.random() < 0.3:
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
    if count > 2:
        # Told everything, a text still has to stay short: what cannot be otherwise goes unsaid.
        tellable = [f for f in tellable if len(_options(case, f)) > 1]
    return frozenset(rng.sample(tellable, min(count, len(tellable))))


def _options(case: Scene, fact: str) -> tuple[str, ...]:
    """What the fact could be in the environment of the case."""
    place = ENVIRONMENTS[case.environment]
    known: dict[str, tuple[str, ...]] = {"site": place.sites, "access": place.accesses, "terrain": place.terrains}
    if fact == "weather":
        return ("calm",) if place.indoor else ("calm", "storm")
    if fact == "hazard":
        return ("none", "fire") if place.fire else ("none",)
    return known.get(fact, SIZES)


def _same_text(board: Board, need: Need, case: int) -> BoolArray:
    """The cases [cases] in which everything that the text states is as in `case`."""
    told = [FACTS.index(f) for f in need.stated]
    same: BoolArray = (board.facts[:, told] == board.facts[case, told]).all(1)
    return same


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
