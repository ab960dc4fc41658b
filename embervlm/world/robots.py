"""Robots at random: archetypes, profiles, and their description in words.

A description tells every ability that counts; what it does not tell, the robot lacks. Neutral entries pad
it, so that its length and the number of its entries say nothing about who is fit.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass, field, fields
from typing import Any

from embervlm.fleet import Fleet, Robot, default_fleet
from embervlm.world.abilities import (
    HAS,
    HAS_PLACE,
    LACKS,
    NEUTRAL_CAPABILITIES,
    NEUTRAL_LIMITATIONS,
    NEUTRAL_PLACES,
    Wording,
    load_text,
)
from embervlm.world.ontology import Medium, Profile
from embervlm.world.words import words

#: Most words of a description, name included.
WORD_LIMIT = 45


@dataclass(frozen=True)
class Archetype:
    """A type of robot: its names, media, terrain, and how often it has each ability."""

    names: tuple[str, ...]
    media: tuple[Medium, ...]
    terrain: tuple[str, ...] = ("flat",)
    payload: tuple[int, ...] = (0, 2, 15)
    manipulation: tuple[int, ...] = (0, 0, 1)
    odds: dict[str, float] = field(default_factory=dict)
    test_only: bool = False


# One line a type: name (* = test split only): names; media; terrains; payloads; manipulation levels; odds of abilities.
# A value that stands twice is drawn twice as often.
_TABLE = """
cart: Cart, Trolley; ground; flat flat uneven; 15 60; 0 0 1; fast .5 enduring .6 slim .4 height .2 gap .1 stairs .1
rover: Rover, Buggy; ground; uneven rough; 2 15 60; 0 1 2; fast .6 enduring .5 gap .4 height .2
tracked: Tracked Robot, Crawler; ground; uneven rough; 15 60; 0 1 2; stairs .6 enduring .5 gap .4
quadruped: Quadruped, Four-Legged Robot; ground; uneven rough; 2 15; 0 0 1; stairs .7 gap .6 fast .5 slim .5
humanoid: Biped, Android; ground; flat uneven rough; 2 15; 1 2 2; stairs .8 gap .4 slim .5 height .2
mobile arm: Mobile Arm, Arm on Wheels; ground; flat uneven; 2 15 60; 1 2 2; enduring .5 height .4 slim .3 stairs .2
loader: Loader, Lift Truck; ground; flat uneven rough; 60; 0 1; height .6 enduring .5 gap .3
balancer: Two-Wheeler, Balancing Robot; ground; flat uneven; 0 2 15; 0 1 2; fast .7 slim .8 stairs .3 gap .2
boom lift: Boom Robot, Mast Robot; ground; flat uneven rough; 2 15 60; 0 1 2; height 1 enduring .5 stairs .2 gap .3
wall climber: Wall Climber, Magnet Robot; ground; flat uneven rough; 0 2 15; 0 1 2; height 1 slim .6 stairs .5 gap .4
fire robot: Fire Robot, Foam Robot; ground; flat uneven rough; 2 15 60; 0 1 2; heatproof 1 stairs .5 gap .3 height .3
quadcopter: Quadcopter, Multicopter; air; flat; 0 2; 0 0 1; fast .7 slim .6 enduring .2
heavy drone: Cargo Drone, Octocopter; air; flat; 15 60; 0 0 1; fast .5 slim .2 enduring .4
arm drone: Drone with Arm, Aerial Worker; air; flat; 2 15; 1 2; slim .4 enduring .3 fast .3
tethered drone: Tethered Drone, Kite Drone; air; flat; 0 2 15; 0 0 1; enduring 1 slim .4
rov: ROV, Diving Robot; water; flat; 0 2 15 60; 0 1 2; enduring .6 fast .3
auv: AUV, Torpedo Robot; water; flat; 0 2 15; 0 0 1; fast .7 enduring .7
amphibian: Amphibious Crawler, Otter Robot; ground water; flat uneven rough; 0 2 15 60; 0 1 2; gap .4 stairs .3
roller drone: Roller Drone, Hopping Drone; ground air; flat uneven; 0 2 15; 0 0 1; fast .5 slim .5
hexapod*: Hexapod, Six-Legged Robot; ground; uneven rough; 2 15 60; 0 1 2; stairs .6 gap .7 slim .3 height .3
snake*: Snake Robot, Eel Robot; ground water; uneven rough; 0 2; 0 1; slim .95 stairs .5 gap .5 height .5
blimp*: Blimp, Airship; air; flat; 0 2 15 60; 0 0 1; enduring .9 fast .2
wing*: VTOL Wing, Tilt Wing; air; flat; 0 2 15; 0 0 1; fast .9 enduring .5
diving drone*: Diving Drone, Gannet Robot; air water; flat; 0 2 15; 0 0 1; fast .6 slim .4
rail robot*: Cable Robot, Rope Walker; ground; flat uneven rough; 2 15; 0 1 2; height .9 gap .8 slim .4 stairs .3
"""


def _archetypes(table: str) -> dict[str, Archetype]:
    found = {}
    for line in table.strip().splitlines():
        key, _, rest = line.partition(": ")
        names, media, terrain, payload, manipulation, odds = (part.strip() for part in rest.split(";"))
        chances = odds.split()
        found[key.rstrip("*")] = Archetype(
            names=tuple(names.split(", ")),
            media=tuple(media.split()),  # type: ignore[arg-type]
            terrain=tuple(terrain.split()),
            payload=tuple(map(int, payload.split())),
            manipulation=tuple(map(int, manipulation.split())),
            odds=dict(zip(chances[::2], map(float, chances[1::2]), strict=True)),
            test_only=key.endswith("*"),
        )
    return found


#: The types of robot; those with `test_only` occur in the test split alone.
ARCHETYPES: dict[str, Archetype] = _archetypes(_TABLE)

_COMMON_ODDS = {"weatherproof": 0.5, "heatproof": 0.4}
_FLAGS = ("height", "stairs", "gap", "slim", "weatherproof", "heatproof", "fast", "enduring")
_GROUND_FLAGS = ("height", "stairs", "gap")
_FLAG_WORDS = {"weatherproof": "storm", "heatproof": "heat"}

_CALL_SIGNS = words("""
Kestrel | Atlas | Juno | Milo | Orion | Vega | Nova | Pixel | Rigel | Comet | Bruno | Hazel | Indigo | Jasper | Luna
| Onyx | Pepper | Quill | Saffron | Tango | Umber | Willow | Zephyr | Basil | Cobalt | Delta | Echo | Fennel |
Ginger | Hugo | Iris | Koala | Lotus | Maple | Nimbus | Olive
""").train


def sample_profile(rng: random.Random, archetype: str) -> Profile:
    """A random profile of the archetype. Abilities of the ground stay off for what only flies or swims."""
    kind = ARCHETYPES[archetype]
    odds = {**_COMMON_ODDS, **kind.odds}
    flags = {flag: rng.random() < odds.get(flag, 0.0) for flag in _FLAGS}
    on_ground = "ground" in kind.media
    if not on_ground:
        flags.update(dict.fromkeys(_GROUND_FLAGS, False))
    if kind.media == ("water",):
        # Nothing of weather, fire and openings matters below the waterline.
        flags.update(slim=False, weatherproof=False, heatproof=False)
    terrain: Any = rng.choice(kind.terrain) if on_ground else "flat"
    return Profile(
        media=frozenset(kind.media),
        terrain=terrain,
        payload_kg=rng.choice(kind.payload),
        manipulation=rng.choice(kind.manipulation),
        **flags,
    )


def profile_key(profile: Profile) -> str:
    """A canonical text of the profile: equal for equal abilities."""
    parts = [",".join(sorted(profile.media))]
    parts += [str(getattr(profile, f.name)) for f in fields(profile) if f.name != "media"]
    return "|".join(parts)


def held_out(profile: Profile) -> bool:
    """Whether this combination of abilities is kept for the test split (one in five is)."""
    return zlib.crc32(profile_key(profile).encode()) % 5 == 0


def abilities(profile: Profile) -> list[str]:
    """The abilities that the description must tell, as keys of the wording tables."""
    found: list[str] = sorted(profile.media)
    if profile.terrain != "flat":
        found.append(profile.terrain)
    found += [_FLAG_WORDS.get(flag, flag) for flag in _FLAGS if getattr(profile, flag)]
    if profile.payload_kg:
        found.append("payload")
    if profile.manipulation:
        found.append("gripper" if profile.manipulation == 1 else "hand")
    return found


def lacks(profile: Profile) -> list[str]:
    """What a limitation may say that the robot lacks, as keys of `LACKS`."""
    has = set(abilities(profile))
    found = []
    if "ground" in profile.media:
        found += [key for key in _GROUND_FLAGS if key not in has]
        found += {"flat": ["terrain"], "uneven": ["rough"], "rough": []}[profile.terrain]
    if profile.media != {"water"}:
        found += [key for key in ("slim", "storm", "heat") if key not in has]
    found += {0: ["payload"], 2: ["heavy"]}.get(profile.payload_kg, [])
    found += {0: ["manipulation"], 1: ["hand"]}.get(profile.manipulation, [])
    return found + [key for key in ("fast", "enduring") if key not in has]


def describe(rng: random.Random, profile: Profile, name: str, unseen: bool = False) -> Robot:
    """The robot in words, at most `WORD_LIMIT` of them.

    Args:
        rng: chooses the wordings, the padding and the order.
        profile: what it can do.
        name: its name, which need not tell anything.
        unseen: use test-only wordings for about half of the entries.
    """
    caps: list[str] = []
    places: list[str] = []
    for key in abilities(profile):
        new = unseen and rng.random() < 0.5
        if key in HAS_PLACE and len(places) < 3 and rng.random() < 0.22:
            places.append(HAS_PLACE[key].pick(rng, new))
        else:
            phrase = HAS[key].pick(rng, new)
            caps.append(phrase.replace("{kg}", load_text(profile.payload_kg, rng, new)) if key == "payload" else phrase)
    missing = lacks(profile)
    rng.shuffle(missing)
    limits = [LACKS[key].pick(rng, unseen and rng.random() < 0.5) for key in missing[: rng.randint(0, 1)]]
    # Padding up to a length drawn without regard to the abilities, as far as the words last.
    wish = (rng.randint(4, 7), rng.randint(1, 2), 1)
    budget = WORD_LIMIT - _words(name, *caps, *limits, *places)
    for items, count, source in (
        (caps, wish[0], NEUTRAL_CAPABILITIES),
        (limits, wish[1], NEUTRAL_LIMITATIONS),
        (places, wish[2], NEUTRAL_PLACES),
    ):
        budget = _pad(rng, items, count, source, budget, unseen)
        rng.shuffle(items)
    return Robot(name, tuple(caps), tuple(limits), tuple(places))


def _words(*texts: str) -> int:
    return sum(len(text.split()) for text in texts)


def _pad(rng: random.Random, items: list[str], count: int, source: Wording, budget: int, unseen: bool) -> int:
    """Add neutral entries up to `count` within the budget of words; returns what is left of it."""
    while len(items) < count:
        text = source.pick(rng, unseen and rng.random() < 0.5)
        if _words(text) > budget:
            break
        if text not in items:
            items.append(text)
            budget -= _words(text)
    return budget


def sample_name(rng: random.Random, archetype: str) -> str:
    """A name: a call sign, a model number, or the plain type (whose medium the description tells too)."""
    style = rng.random()
    if style < 0.4:
        return f"{rng.choice(_CALL_SIGNS)} {rng.randint(1, 9)}" if rng.random() < 0.6 else rng.choice(_CALL_SIGNS)
    if style < 0.65:
        return f"{rng.choice('ABCDEFGHJKLMNPQRSTUVWXZ')}-{rng.randint(1, 99)}"
    return rng.choice(ARCHETYPES[archetype].names)


@dataclass(frozen=True)
class KnownRobot:
    """A robot with what only the oracle knows of it."""

    robot: Robot
    profile: Profile
    archetype: str
    unseen: bool = False  # its type or its combination of abilities occurs in the test split only


def sample_robot(rng: random.Random, unseen: bool = False, unseen_words: bool = False) -> KnownRobot:
    """A random robot; with `unseen` of a type or with a combination of abilities kept for the test split."""
    types = [a for a, kind in ARCHETYPES.items() if not kind.test_only]
    if unseen and rng.random() < 0.5:
        types = [a for a, kind in ARCHETYPES.items() if kind.test_only]
    while True:
        archetype = rng.choice(types)
        profile = sample_profile(rng, archetype)
        if held_out(profile) == unseen or ARCHETYPES[archetype].test_only:
            name = sample_name(rng, archetype)
            return KnownRobot(describe(rng, profile, name, unseen_words), profile, archetype, unseen)


def _profile(media: Medium, **abilities: Any) -> Profile:
    return Profile(frozenset({media}), **abilities)


#: What the default five can do, as their public descriptions let us expect.
DEFAULT_PROFILES: dict[str, Profile] = {
    "Drone": _profile("air", slim=True, fast=True, payload_kg=2),
    "Underwater Robot": _profile("water", manipulation=2, payload_kg=15, enduring=True),
    "Humanoid": _profile("ground", terrain="uneven", stairs=True, manipulation=2, payload_kg=15),
    "Robot with Wheels": _profile("ground", fast=True, payload_kg=60, enduring=True),
    "Robot with Legs": _profile(
        "ground", terrain="rough", stairs=True, gap=True, slim=True, weatherproof=True, heatproof=True, payload_kg=15
    ),
}


def default_known() -> tuple[KnownRobot, ...]:
    """The default five with their profiles, in their order."""
    fleet: Fleet = default_fleet()
    return tuple(KnownRobot(robot, DEFAULT_PROFILES[robot.name], "default") for robot in fleet)
