"""Scenes at random, and the counterfactual twin of a scene.

The visual facts of a scene are drawn independently of each other and of the target, within what the
environment allows, so that none of them can be guessed from another. The only couplings are physical:
weather indoors is calm, indoor light is lamps, daylight through windows or night (dark), outdoor light
is day, dusk or night, and at an underwater site access is open and nothing burns.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations
from typing import Any

from embervlm.world.ontology import (
    COLORS,
    ENVIRONMENTS,
    KINDS,
    SIZES,
    WEATHERS,
    Environment,
    Need,
    Scene,
    Size,
    Thing,
)

#: The facts of a scene that decide who can do a task, in the order captions and chains name them.
FACTS: tuple[str, ...] = ("site", "access", "terrain", "weather", "hazard", "size")

_INDOOR_LIGHTS = ("lamps", "day", "night")
_OUTDOOR_LIGHTS = ("day", "dusk", "night")
_WEATHER_WEIGHTS = {"calm": 0.28, "rain": 0.14, "storm": 0.30, "fog": 0.14, "snow": 0.14}
#: Things that nobody would look for below the waterline.
DRY_KINDS: frozenset[str] = frozenset(
    kind for kind, traits in KINDS.items() if traits & {"person", "animal"} or kind in ("nest", "hive")
)
# A burning building burns more often than not; elsewhere fire is the exception.
_FIRE_SHARE = {"burning building": 0.6}
_KINDS = tuple(KINDS)


def as_rng(seed: int | random.Random) -> random.Random:
    """A generator from a seed, or the generator itself."""
    return seed if isinstance(seed, random.Random) else random.Random(seed)


def sample_scene(
    seed: int | random.Random,
    environment: str | None = None,
    kind: str | None = None,
    color: str | None = None,
    **facts: Any,
) -> Scene:
    """A scene at random.

    Args:
        seed: a seed, or a generator (which is advanced).
        environment: a name of `ENVIRONMENTS`; None draws one.
        kind: the target's kind, of `KINDS`; None draws one.
        color: the target's colour, of `COLORS`; None draws one.
        facts: values to keep, by name: site, access, terrain, weather, light, hazard, size.

    Raises:
        ValueError: an unknown environment, kind, colour or fact, or a value that the environment cannot have.
    """
    rng = as_rng(seed)
    name = environment if environment is not None else rng.choice(tuple(ENVIRONMENTS))
    if name not in ENVIRONMENTS:
        raise ValueError(f"environment: unknown {name!r}; known are {', '.join(ENVIRONMENTS)}")
    place = ENVIRONMENTS[name]
    target_kind = kind if kind is not None else rng.choice(_KINDS)
    if target_kind not in KINDS:
        raise ValueError(f"kind: unknown {target_kind!r}; known are {', '.join(KINDS)}")
    hue = color if color is not None else rng.choice(COLORS)
    if hue not in COLORS:
        raise ValueError(f"color: unknown {hue!r}; known are {', '.join(COLORS)}")
    values: dict[str, Any] = {}
    for fact, choices in _choices(place, target_kind).items():
        values[fact] = _draw(rng, place, fact, choices)
    for fact, value in facts.items():
        if fact not in values:
            raise ValueError(f"{fact}: unknown fact; known are {', '.join(values)}")
        allowed = _choices(place, target_kind)[fact]
        if value not in allowed:
            raise ValueError(f"{fact}: {value!r} cannot be in {name!r} with {target_kind!r}; possible: {allowed}")
        values[fact] = value
    size: Size = values.pop("size")
    target = Thing(target_kind, hue, size, round(rng.uniform(0.3, 0.7), 3), round(rng.uniform(0.2, 0.5), 3))
    return settle(
        Scene(
            seed=rng.getrandbits(31),
            environment=name,
            target=target,
            others=_others(rng, target),
            camera_height=round(rng.uniform(1.3, 2.2), 2),
            camera_yaw=round(rng.uniform(-0.12, 0.12), 3),
            **values,
        )
    )


def settle(scene: Scene) -> Scene:
    """The scene with the physical couplings applied (an underwater site: access open, no fire)."""
    if scene.site == "underwater":
        return replace(scene, access="open", hazard="none")
    return scene


def _choices(place: Environment, kind: str) -> dict[str, tuple[str, ...]]:
    """What every fact can be, given environment and target kind."""
    sites = tuple(s for s in place.sites if s != "underwater" or kind not in DRY_KINDS)
    return {
        "site": sites,
        "access": place.accesses,
        "terrain": place.terrains,
        "weather": ("calm",) if place.indoor else WEATHERS,
        "light": _INDOOR_LIGHTS if place.indoor else _OUTDOOR_LIGHTS,
        "hazard": ("none", "fire") if place.fire else ("none",),
        "size": SIZES,
    }


def _draw(rng: random.Random, place: Environment, fact: str, choices: tuple[str, ...]) -> str:
    if len(choices) == 1:
        return choices[0]
    if fact == "weather":
        return rng.choices(choices, [_WEATHER_WEIGHTS[c] for c in choices])[0]
    if fact == "hazard":
        share = _FIRE_SHARE.get(place.name, 0.45)
        return "fire" if rng.random() < share else "none"
    return rng.choice(choices)


def _others(rng: random.Random, target: Thing) -> tuple[Thing, ...]:
    """One to four small things on the ground, apart from each other and from the target, never its kind."""
    things: list[Thing] = []
    free = [x / 10 for x in range(1, 10) if abs(x / 10 - target.x) > 0.14]
    kinds = [k for k in _KINDS if k != target.kind]
    for _ in range(rng.randint(1, 4)):
        if not free:
            break
        x = rng.choice(free)
        free = [f for f in free if abs(f - x) > 0.12]
        # Some things come in pairs, so that counting them is a question.
        if things and rng.random() < 0.4:
            kind, color = things[-1].kind, things[-1].color
        else:
            kind, color = rng.choice(kinds), rng.choice(COLORS)
        things.append(
            Thing(kind, color, "small", round(x + rng.uniform(-0.02, 0.02), 3), round(rng.uniform(0.1, 0.7), 3))
        )
    return tuple(things)


def visible_facts(scene: Scene) -> dict[str, str]:
    """The deciding facts of a scene by name (`FACTS`)."""
    return {
        "site": scene.site,
        "access": scene.access,
        "terrain": scene.terrain,
        "weather": scene.weather,
        "hazard": scene.hazard,
        "size": scene.target.size,
    }


def with_facts(scene: Scene, **facts: str) -> Scene:
    """The scene with deciding facts replaced, couplings applied; everything else stays."""
    size = facts.pop("size", scene.target.size)
    target = replace(scene.target, size=size)  # type: ignore[arg-type]
    return settle(replace(scene, target=target, **facts))  # type: ignore[arg-type]


def variants(scene: Scene, stated: frozenset[str] = frozenset(), changes: int = 2) -> Iterator[Scene]:
    """Every scene that differs in one … `changes` deciding facts, fewest first, keeping the stated ones.

    Environment, target kind and colour, light, layout and the other things stay the same, so a text that is true
    of the scene in what it states is true of every variant.
    """
    now = visible_facts(scene)
    place = ENVIRONMENTS[scene.environment]
    choices = _choices(place, scene.target.kind)
    moves = [(f, v) for f in FACTS if f not in stated for v in choices[f] if v != now[f]]
    for count in range(1, changes + 1):
        for group in combinations(moves, count):
            if len({fact for fact, _ in group}) < count:
                continue
            changed = with_facts(scene, **dict(group))
            facts = visible_facts(changed)
            # The coupling may have moved a stated fact, or undone a change.
            if any(facts[f] != now[f] for f in stated) or any(facts[f] != v for f, v in group):
                continue
            yield changed


def twin(
    scene: Scene,
    need: Need,
    seed: int | random.Random,
    differs: Callable[[Scene], bool],
    changes: int = 2,
) -> Scene | None:
    """A counterfactual of the scene: one or two unstated facts changed so that the answer differs.

    Args:
        scene: the scene to change.
        need: what the task asks for; facts in `need.stated` stay as they are.
        seed: a seed, or a generator.
        differs: whether the oracle's answer for a scene differs from that for `scene`.
        changes: most facts changed at once; single changes are preferred.

    Returns:
        The twin, or None where no such change alters the answer.
    """
    rng = as_rng(seed)
    for count in range(1, changes + 1):
        found = [s for s in variants(scene, need.stated, count) if differs(s)]
        if found:
            return rng.choice(found)
    return None
