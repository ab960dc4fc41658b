"""Reasoning chains in four steps, their plan, and the parser that reads a chain back.

The forms are few and fixed, so that what a model writes can be read: which environment it saw, which
requirements it derived, whom it found able and whom it sends. Robots are named best first, where the best is
the one with the fewest abilities beyond what is asked (then by name); the order of the fleet plays no part.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from embervlm.world.ontology import (
    CATEGORIES,
    ENVIRONMENTS,
    LIGHTS,
    SIZE_KG,
    WEATHERS,
    Need,
    Profile,
    Scene,
)
from embervlm.world.oracle import judge, requirements, surplus

_ASKS = {
    "carry": "payload",
    "gripper": "manipulation",
    "hand": "manipulation",
    "speed": "speed",
    "endurance": "endurance",
}
#: How chains name a requirement; values with a level hold it in their text.
_NEEDS = {
    "water": ("medium", "water"),
    "land or air": ("medium", "land or air"),
    "height": ("height", "10 m"),
    "uneven ground": ("terrain", "uneven"),
    "rough ground": ("terrain", "rough"),
    "stairs": ("stairs", "yes"),
    "gap": ("gap", "yes"),
    "slim": ("clearance", "yes"),
    "storm proof": ("weather", "yes"),
    "heat proof": ("heat", "yes"),
    "2 kg": ("payload", "2 kg"),
    "15 kg": ("payload", "15 kg"),
    "60 kg": ("payload", "60 kg"),
    "gripper": ("manipulation", "gripper"),
    "hand": ("manipulation", "hand"),
    "speed": ("speed", "yes"),
    "endurance": ("endurance", "yes"),
}
_NEED_TEXT = {pair: text for text, pair in _NEEDS.items()}
_REASONS = {
    "medium": "cannot go there",
    "height": "cannot reach up",
    "terrain": "cannot cross the ground",
    "stairs": "cannot climb stairs",
    "gap": "cannot cross the gap",
    "clearance": "is too wide",
    "weather": "cannot stand storms",
    "heat": "cannot stand fire",
    "payload": "cannot carry it",
    "manipulation": "cannot handle it",
    "speed": "is too slow",
    "endurance": "cannot last",
}
_SITE_TEXT = {"ground": "on the ground", "high": "high up", "underwater": "underwater"}


def ranked(fleet: Mapping[str, Profile], scene: Scene, need: Need) -> list[str]:
    """The robots that are able, best first."""
    fit = [name for name, lacking in judge(fleet, scene, need).items() if not lacking]
    return sorted(fit, key=lambda name: (surplus(fleet[name], scene, need), name))


def chain(rng: random.Random, fleet: Mapping[str, Profile], scene: Scene, need: Need) -> list[str]:
    """The four steps: task analysis, environment assessment, capability matching, decision.

    Args:
        rng: chooses between the slightly different forms.
        fleet: profiles by robot name; at least one robot is able.
        scene: what the picture shows.
        need: what is asked for.
    """
    best = ranked(fleet, scene, need)
    return [_analysis(rng, scene, need), _assessment(rng, scene, need), _matching(rng, fleet, scene, need), _send(best)]


def _analysis(rng: random.Random, scene: Scene, need: Need) -> str:
    asks = ["carry"] if need.carries else []
    asks += [("gripper", "hand")[need.hands - 1]] if need.hands else []
    asks += ["speed"] if need.fast else []
    asks += ["endurance"] if need.enduring else []
    opening = rng.choice(("task: ", ""))
    return f"{opening}{need.category} the {scene.target.kind}. asks: {', '.join(asks) or 'nothing special'}."


def _assessment(rng: random.Random, scene: Scene, need: Need) -> str:
    conditions = f"{scene.environment}, {scene.weather}, {scene.light}"
    text = f"{rng.choice(('seen', 'place'))}: {conditions}. the {scene.target.kind} is {_SITE_TEXT[scene.site]}."
    if scene.site != "underwater":
        text += f" way {scene.access}, ground {scene.terrain}"
        text += ", fire." if scene.hazard == "fire" else ", no fire."
    if need.carries:
        text += f" weight {SIZE_KG[scene.target.size]} kg."
    return text


def need_texts(scene: Scene, need: Need) -> list[str]:
    """The requirements as chains name them, in the order of `REQUIREMENTS`."""
    return [_NEED_TEXT[pair] for pair in requirements(scene, need).items()]


def _matching(rng: random.Random, fleet: Mapping[str, Profile], scene: Scene, need: Need) -> str:
    verdicts = judge(fleet, scene, need)
    best = ranked(fleet, scene, need)
    text = f"{rng.choice(('needs', 'needed'))}: {', '.join(need_texts(scene, need))}."
    text += f" able: {', '.join(f'[{name}]' for name in best)}."
    # Those that lack least are the closest calls: their reasons say most.
    others = sorted((name for name in fleet if verdicts[name]), key=lambda name: (len(verdicts[name]), name))
    shown = 2 if len(best) < 4 else 1
    return text + "".join(f" [{name}] {_REASONS[verdicts[name][0]]}." for name in others[:shown])


def _send(names: Sequence[str]) -> str:
    marked = [f"[{name}]" for name in names]
    listed = marked[0] if len(marked) == 1 else f"{', '.join(marked[:-1])} and {marked[-1]}"
    return f"send {listed}."


def plan(fleet: Mapping[str, Profile], scene: Scene, need: Need) -> list[dict[str, Any]]:
    """One to three subtasks in their order, each with a robot that is able."""
    best = ranked(fleet, scene, need)
    kind = scene.target.kind
    way = {"stairs": " up the stairs", "gap": " across the gap", "narrow": " through the opening"}.get(scene.access, "")
    way = " under water" if scene.site == "underwater" else way
    does = {
        "inspect": "inspect the {k}" if not need.hands else "work on the {k}",
        "transport": "pick up the {k}" if need.hands else "load the {k}",
        "navigate": "wait at the {k}",
        "survey": "record the {k}",
        "rescue": "secure the {k}" if need.carries else "help the {k}",
    }[need.category].format(k=kind)
    steps = [(f"go to the {kind}{way}", best[0]), (does, best[0])]
    if need.carries:
        steps.append((f"carry the {kind} back", best[0]))
    elif len(best) > 1:
        steps.append(("stand by and report", best[1]))
    return [{"order": i, "subtask": text, "robot": robot} for i, (text, robot) in enumerate(steps, 1)]


def parse_chain(steps: Sequence[str] | str) -> dict[str, Any]:
    """What a chain says, as far as it can be read; parts that cannot be read are absent.

    Args:
        steps: the four steps, or the whole chain as one text.

    Returns:
        Any of "category", "asks" (list), "environment" (dict of environment, weather, light, site, access, terrain,
        hazard, weight_kg), "requirements" (kind → level, as `oracle.requirements`), "able", "reasons" (robot →
        requirement kind) and "decision" (robot names).
    """
    text = steps if isinstance(steps, str) else " ".join(steps)
    found: dict[str, Any] = {}
    category = re.search(rf"\b({'|'.join(CATEGORIES)}) the\b", text)
    if category:
        found["category"] = category[1]
    asks = re.search(r"\basks: ([^.]*)\.", text)
    if asks:
        found["asks"] = [a for a in asks[1].split(", ") if a in _ASKS]
    environment = _parse_environment(text)
    if environment:
        found["environment"] = environment
    needs = re.search(r"\bneed(?:s|ed): ([^.\[]*)\.", text)
    if needs:
        found["requirements"] = dict(_NEEDS[n] for n in needs[1].split(", ") if n in _NEEDS)
    listed = re.search(r"\bable: ((?:\[[^\]]*\](?:, )?)+)", text)
    if listed:
        found["able"] = re.findall(r"\[([^\]]*)\]", listed[1])
    kinds = {phrase: kind for kind, phrase in _REASONS.items()}
    reasons = re.findall(rf"\[([^\]]*)\] ({'|'.join(map(re.escape, kinds))})\.", text)
    if reasons:
        found["reasons"] = {name: kinds[phrase] for name, phrase in reasons}
    sent = re.search(r"\bsend ((?:\[[^\]]*\](?:, | and )?)+)", text)
    if sent:
        found["decision"] = re.findall(r"\[([^\]]*)\]", sent[1])
    return found


def _parse_environment(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    names = "|".join(map(re.escape, ENVIRONMENTS))
    head = re.search(rf"\b({names}), ({'|'.join(WEATHERS)}), ({'|'.join(LIGHTS)})\.", text)
    if head:
        found.update(environment=head[1], weather=head[2], light=head[3])
    site = re.search(r"\bis (on the ground|high up|underwater)\.", text)
    if site:
        found["site"] = next(s for s, phrase in _SITE_TEXT.items() if phrase == site[1])
    way = re.search(r"\bway (open|stairs|gap|narrow), ground (flat|uneven|rough), (no fire|fire)\.", text)
    if way:
        found.update(access=way[1], terrain=way[2], hazard="fire" if way[3] == "fire" else "none")
    weight = re.search(r"\bweight (\d+) kg\.", text)
    if weight:
        found["weight_kg"] = int(weight[1])
    return found
