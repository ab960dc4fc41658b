"""Captions, and questions with short answers, from the scene graph.

A question is made answer first: the type is drawn, then the answer evenly among all it can have, then a scene in
which it is true. So the question alone tells next to nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from embervlm.world.ontology import ACCESSES, COLORS, ENVIRONMENTS, KINDS, SITES, SIZES, TERRAINS, WEATHERS, Scene
from embervlm.world.scenes import DRY_KINDS, sample_scene
from embervlm.world.words import KIND_WORDS, PLACE_PHRASES, table, words

QUESTION_TYPES: tuple[str, ...] = (
    "place", "weather", "light", "site", "access", "terrain", "hazard", "object", "color", "size", "count", "yesno",
)  # fmt: skip

_SITE = table("""
ground: on the ground | at ground level | standing on the floor | down below || down on the floor | on ground level
high: high up | far above the ground | ten metres up | at the top || high above the floor | up at the top
underwater: under water | below the waterline | sunk on the bottom | below the surface || sunk below the surface |
    on the bottom under water
""")
_ACCESS = table("""
open: the way is clear | nothing blocks the way | the path is free || the path is clear | the way is free
stairs: stairs lead to it | steps lead the way | there is a flight of stairs || steps lead to it | there are stairs
    on the way
gap: a ditch crosses the way | there is a gap in the path | a trench blocks the way || a gap blocks the path | there
    is a ditch in the way
narrow: the opening is narrow | a tight passage leads there | the way is very narrow || a narrow opening leads there
    | the passage is tight
""")
_TERRAIN = table("""
flat: the ground is flat | smooth floor | even ground || the floor is even | flat floor
uneven: the ground is uneven | bumpy ground | gravel and bumps || the floor is bumpy | uneven gravel
rough: the ground is rough | rocks and debris lie about | very rough terrain || rough rocks lie about | the terrain
    is rough
""")
_WEATHER = table("""
calm: calm weather | the air is still | no wind || still air | the weather is calm
rain: it rains | rain is falling | wet weather || falling rain | the weather is wet
storm: a storm rages | storm and wind | it is stormy || wind and storm | the weather is stormy
fog: fog hangs in the air | it is foggy | thick fog || thick foggy air | there is fog
snow: snow is falling | it snows | falling snow || it is snowing | there is snow
""")
_LIGHT = table("""
day: by day | in daylight | bright day || bright daylight
dusk: at dusk | in the evening light | the sun is low || low evening sun
night: at night | in the dark | dark night || dark at night
lamps: under lamps | lit by lamps | lamps are on || lamp light
""")
_FIRE = words("fire burns beside it | flames are near | there is a fire || a fire is near | flames burn beside it")
_OPENINGS = words(
    "{x} | {x} | there is {x} | a picture of {x} | one sees {x} | the view shows {x} "
    "|| here is {x} | a view of {x} | the picture shows {x}"
)


def caption(rng: random.Random, scene: Scene, unseen: bool = False) -> str:
    """One or two short sentences that are true of the scene.

    Thing, colour, place and site are always told; of weather, light, access, terrain and fire two or three.
    """

    def pick(wording: Any) -> str:
        return str(wording.pick(rng, unseen and rng.random() < 0.6))

    target = scene.target
    name = target.kind if rng.random() < 0.7 else pick(KIND_WORDS[target.kind])
    size = f"{target.size} " if rng.random() < 0.5 else ""
    person = "person" in KINDS[target.kind]
    phrase = f"{size}{name} in {target.color}" if person else f"{size}{target.color} {name}"
    thing = f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"
    spots = [pick(_SITE[scene.site]), pick(PLACE_PHRASES[scene.environment])]
    if rng.random() < 0.4:
        spots.reverse()
    first = pick(_OPENINGS).replace("{x}", f"{thing} {', '.join(spots) if rng.random() < 0.3 else ' '.join(spots)}")
    rest = [pick(_LIGHT[scene.light])]
    if not ENVIRONMENTS[scene.environment].indoor:
        rest.append(pick(_WEATHER[scene.weather]))
    if scene.site != "underwater":
        rest += [pick(_ACCESS[scene.access]), pick(_TERRAIN[scene.terrain])]
    rng.shuffle(rest)
    rest = rest[: rng.choice((2, 3))]
    if scene.hazard == "fire":
        rest.insert(0, pick(_FIRE))
    joint = rng.choice((", ", "; ", " and ")) if len(rest) == 2 else ", "
    return f"{first}. {joint.join(rest)}."


@dataclass(frozen=True)
class Question:
    """A question about a scene, with its answer and its type (of `QUESTION_TYPES`)."""

    scene: Scene
    question: str
    answer: str
    kind: str


_ASK = table("""
place: where is this? | what place is this? | which place does the picture show? | where are we? | name the place.
    || what place do we see? | which place is this? | where does this happen?
weather: what is the weather? | how is the weather? | what weather is it? | describe the weather. || which weather
    is it? | how is the weather here?
light: what is the light? | what time of day or light is it? | how is the scene lit? | what kind of light is there?
    || which light is there? | how is the light?
site: where is the {k}? | at what height is the {k}? | is the {k} on the ground, high or underwater? | where does
    one find the {k}? || where does the {k} stand? | at which height is the {k}?
access: how does one get to the {k}? | what is on the way to the {k}? | how is the way to the {k}? | what must one
    pass to reach the {k}? || which way leads to the {k}? | what is on the way?
terrain: how is the ground? | what is the ground like? | how is the terrain? | describe the ground. || what is the
    terrain like? | how is the ground here?
hazard: is there a fire? | does anything burn? | is something on fire? | can you see flames? || does something burn
    here? | are there flames?
object: what is the {c} thing? | which thing is {c}? | what do you see that is {c}? | name the {c} object. || which
    object is {c}? | what is the {c} object?
color: what color is the {k}? | which color has the {k}? | what is the color of the {k}? | name the color of the
    {k}. || which color is the {k}? | the {k} has what color?
size: how big is the {k}? | what size is the {k}? | is the {k} small, medium or large? | how large is the {k}? ||
    which size has the {k}? | what is the size of the {k}?
count: how many things are there? | count the objects. | how many objects do you see? | what is the number of
    things? || how many things do you see? | count the things.
""")

_YESNO: dict[str, Any] = {
    "site": table("""
        ground: is the {k} on the ground? | does the {k} stand on the ground? || is the {k} at ground level?
        high: is the {k} high up? | is the {k} far above the ground? || is the {k} up high?
        underwater: is the {k} under water? | does the {k} lie below the surface? || is the {k} below the water?
    """),
    "access": table("""
        open: is the way to the {k} clear? | can one walk straight to the {k}? || is the way free?
        stairs: are there stairs on the way? | do steps lead to the {k}? || does one climb stairs to the {k}?
        gap: is there a ditch on the way? | does a gap cross the way? || is there a gap before the {k}?
        narrow: is the way narrow? | does one pass a narrow opening? || is the opening to the {k} narrow?
    """),
    "terrain": table("""
        flat: is the ground flat? | is the floor smooth? || is the floor flat?
        uneven: is the ground uneven? | is the ground a bit bumpy? || is the floor uneven?
        rough: is the ground very rough? | do rocks lie about? || is it rough ground?
    """),
    "weather": table("""
        rain: is it raining? | does it rain? || is there rain?
        storm: is there a storm? | is it stormy? || does a storm rage?
        fog: is it foggy? | is there fog? || is fog in the air?
        snow: is it snowing? | is there snow? || does it snow?
    """),
    "environment": {
        name: words(f"is this a place {phrase.train[0]}? | are we {phrase.train[1]}? || are we {phrase.train[0]}?")
        for name, phrase in PLACE_PHRASES.items()
    },
}
_FACT_VALUES: dict[str, tuple[str, ...]] = {
    "weather": WEATHERS, "light": ("day", "dusk", "night", "lamps"), "site": SITES, "access": ACCESSES,
    "terrain": TERRAINS, "hazard": ("none", "fire"), "size": SIZES,
}  # fmt: skip
_ANSWERS = {
    "site": {"ground": "on the ground", "high": "high up", "underwater": "underwater"},
    "access": {"open": "open way", "stairs": "stairs", "gap": "a gap", "narrow": "narrow opening"},
    "hazard": {"none": "no", "fire": "yes"},
}


def question(rng: random.Random, unseen: bool = False) -> Question:
    """A question with its scene and answer; with `unseen` in a test-only wording."""
    kind = rng.choice(QUESTION_TYPES)
    if kind == "yesno":
        return _yes_or_no(rng, unseen)
    if kind == "place":
        scene = sample_scene(rng)
        return _ask(rng, kind, scene, scene.environment, unseen)
    if kind in _FACT_VALUES:
        value = rng.choice(_FACT_VALUES[kind])
        scene = _scene_with(rng, kind, value)
        return _ask(rng, kind, scene, _ANSWERS.get(kind, {}).get(value, value), unseen)
    if kind == "count":
        number = rng.randint(2, 5)
        scene = _until(rng, lambda s: len(s.others) + 1 == number)
        return _ask(rng, kind, scene, ("two", "three", "four", "five")[number - 2], unseen)
    # The colour must point at one thing only.
    color = rng.choice(COLORS)
    scene = _until(rng, lambda s: all(o.color != color for o in s.others), color=color)
    return _ask(rng, kind, scene, scene.target.kind if kind == "object" else color, unseen)


def _ask(rng: random.Random, kind: str, scene: Scene, answer: str, unseen: bool) -> Question:
    text = _ASK[kind].pick(rng, unseen).replace("{k}", scene.target.kind).replace("{c}", scene.target.color)
    return Question(scene, text, answer, kind)


def _until(rng: random.Random, fits: Callable[[Scene], bool], **wanted: Any) -> Scene:
    while True:
        scene = sample_scene(rng, **wanted)
        if fits(scene):
            return scene


def _places(fact: str, value: str) -> list[str]:
    """The environments in which the fact can go both ways and can have this value."""
    field = {"site": "sites", "access": "accesses", "terrain": "terrains"}.get(fact)
    if field:
        return [n for n, e in ENVIRONMENTS.items() if value in getattr(e, field) and len(getattr(e, field)) > 1]
    if fact == "hazard":
        return [n for n, e in ENVIRONMENTS.items() if e.fire]
    if fact == "weather":
        return [n for n, e in ENVIRONMENTS.items() if not e.indoor]
    if fact == "light":
        return [n for n, e in ENVIRONMENTS.items() if value in ("day", "night") or e.indoor == (value == "lamps")]
    return list(ENVIRONMENTS)


def _scene_with(rng: random.Random, fact: str, value: str) -> Scene:
    """A scene in which the fact has the value, and can be seen to have it."""
    environment = rng.choice(_places(fact, value))
    wanted: dict[str, Any] = {fact: value}
    if fact in ("access", "terrain", "hazard"):
        # Below the waterline nobody sees way, ground or fire.
        wanted["site"] = rng.choice([s for s in ENVIRONMENTS[environment].sites if s != "underwater"])
    kinds = [k for k in KINDS if k not in DRY_KINDS]
    return sample_scene(rng, environment, kind=rng.choice(kinds) if fact == "site" else None, **wanted)


def _yes_or_no(rng: random.Random, unseen: bool) -> Question:
    """A statement as a question: half are true; the false ones are false in a scene where they could be true."""
    fact = rng.choice(tuple(_YESNO))
    claim = rng.choice(tuple(_YESNO[fact]))
    true = rng.random() < 0.5
    if fact == "environment":
        name = claim if true else rng.choice([e for e in ENVIRONMENTS if e != claim])
        scene = sample_scene(rng, name)
    else:
        scene = _scene_with(rng, fact, claim)
        if not true:
            place = ENVIRONMENTS[scene.environment]
            options = {"site": place.sites, "access": place.accesses, "terrain": place.terrains}.get(fact, WEATHERS)
            wanted = {fact: rng.choice([v for v in options if v != claim])}
            if fact in ("access", "terrain"):
                wanted["site"] = scene.site
            scene = sample_scene(rng, scene.environment, scene.target.kind, **wanted)
    text = _YESNO[fact][claim].pick(rng, unseen).replace("{k}", scene.target.kind)
    return Question(scene, text, "yes" if true else "no", "yesno")
