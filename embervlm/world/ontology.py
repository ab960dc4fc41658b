"""What exists in EmberWorld: places, things, conditions, and what a robot must be able to do.

Everything that the painter draws, the language describes and the oracle judges is named here, so
that the three agree by construction. A scene is described by a handful of *visual facts*
(`Scene.site`, `access`, `terrain`, `weather`, `hazard`, the target's `size`): these are what a task
usually leaves unsaid, and what decides who can do it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Site = Literal["ground", "high", "underwater"]
Access = Literal["open", "stairs", "gap", "narrow"]
Terrain = Literal["flat", "uneven", "rough"]
Weather = Literal["calm", "rain", "storm", "fog", "snow"]
Light = Literal["day", "dusk", "night", "lamps"]
Hazard = Literal["none", "fire"]
Size = Literal["small", "medium", "large"]
Medium = Literal["ground", "air", "water"]
Category = Literal["inspect", "transport", "navigate", "survey", "rescue"]

SITES: tuple[Site, ...] = get_args(Site)
ACCESSES: tuple[Access, ...] = get_args(Access)
TERRAINS: tuple[Terrain, ...] = get_args(Terrain)
WEATHERS: tuple[Weather, ...] = get_args(Weather)
LIGHTS: tuple[Light, ...] = get_args(Light)
HAZARDS: tuple[Hazard, ...] = get_args(Hazard)
SIZES: tuple[Size, ...] = get_args(Size)
CATEGORIES: tuple[Category, ...] = get_args(Category)

#: Weight of a thing by its drawn size, in kilograms; a carrier needs at least this payload.
SIZE_KG: dict[Size, int] = {"small": 2, "medium": 15, "large": 60}

#: The kinds of requirement the oracle derives from scene and task, in the order chains name them.
REQUIREMENTS: tuple[str, ...] = (
    "medium",
    "height",
    "terrain",
    "stairs",
    "gap",
    "clearance",
    "weather",
    "heat",
    "payload",
    "manipulation",
    "speed",
    "endurance",
)


@dataclass(frozen=True)
class Environment:
    """A place and the visual facts that can be true of it."""

    name: str
    indoor: bool
    sites: tuple[Site, ...]
    accesses: tuple[Access, ...]
    terrains: tuple[Terrain, ...]
    fire: bool = False


def _environment(name: str, indoor: bool, sites: str, accesses: str, terrains: str, fire: bool = False) -> Environment:
    return Environment(
        name,
        indoor,
        tuple(sites.split()),  # type: ignore[arg-type]
        tuple(accesses.split()),  # type: ignore[arg-type]
        tuple(terrains.split()),  # type: ignore[arg-type]
        fire,
    )


ENVIRONMENTS: dict[str, Environment] = {
    e.name: e
    for e in (
        _environment("warehouse", True, "ground high", "open stairs gap narrow", "flat uneven"),
        _environment("stairwell", True, "ground high", "open stairs gap", "flat uneven rough"),
        _environment("hospital corridor", True, "ground high", "open stairs narrow", "flat"),
        _environment("facade", False, "ground high", "open stairs gap", "flat uneven rough"),
        _environment("roof", False, "ground high", "open stairs gap narrow", "flat uneven"),
        _environment("power line", False, "ground high", "open gap", "flat uneven rough"),
        _environment("forest slope", False, "ground high", "open gap narrow", "uneven rough"),
        _environment("rubble", False, "ground high", "open stairs gap narrow", "uneven rough", True),
        _environment("tunnel", True, "ground high underwater", "open gap narrow", "flat uneven rough"),
        _environment("harbour", False, "ground high underwater", "open stairs gap", "flat uneven"),
        _environment("river bed", False, "ground underwater", "open gap", "flat uneven rough"),
        _environment("road", False, "ground high", "open gap", "flat uneven rough", True),
        _environment("farmland", False, "ground high", "open gap", "flat uneven rough"),
        _environment("burning building", True, "ground high", "open stairs gap narrow", "flat uneven rough", True),
        _environment("laboratory", True, "ground high", "open stairs narrow", "flat"),
        _environment(
            "construction site", False, "ground high underwater", "open stairs gap narrow", "flat uneven rough"
        ),
    )
}

COLORS: tuple[str, ...] = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black", "brown", "grey")

#: Kinds of thing by family. `carry`: can be moved by a robot. `operate`: has something to turn, open or press.
#: `person`: somebody to help. The painter has a shape for every kind; the language a set of words.
KINDS: dict[str, frozenset[str]] = {
    **dict.fromkeys(
        (
            "crate",
            "barrel",
            "toolbox",
            "sack",
            "suitcase",
            "parcel",
            "gas cylinder",
            "cooler",
            "pallet",
            "bucket",
            "tyre",
            "battery pack",
            "medical kit",
            "rope coil",
            "fire extinguisher",
            "cable drum",
        ),
        frozenset({"carry"}),
    ),
    **dict.fromkeys(
        (
            "valve",
            "control panel",
            "hatch",
            "lever",
            "pump",
            "generator",
            "fuse box",
            "door lock",
            "hose reel",
            "switch",
        ),
        frozenset({"operate"}),
    ),
    **dict.fromkeys(
        (
            "camera",
            "antenna",
            "solar panel",
            "lamp",
            "pipe joint",
            "crack",
            "sign",
            "sensor",
            "beam",
            "window",
            "insulator",
            "propeller",
            "anchor",
            "net",
            "nest",
            "hive",
            "vent",
            "weld seam",
        ),
        frozenset({"look"}),
    ),
    **dict.fromkeys(("worker", "hiker", "driver", "child"), frozenset({"person"})),
    **dict.fromkeys(("dog", "sheep", "cat"), frozenset({"animal", "carry"})),
}


@dataclass(frozen=True)
class Thing:
    """An object of a scene.

    `x` is the horizontal place in the picture (0 left … 1 right), `depth` how far away it stands
    (0 nearest … 1 at the horizon). Things not at the target's site stand on the ground.
    """

    kind: str
    color: str
    size: Size
    x: float
    depth: float


@dataclass(frozen=True)
class Scene:
    """The scene graph: all that is true of a picture. The painter draws exactly this."""

    seed: int
    environment: str
    weather: Weather
    light: Light
    terrain: Terrain
    access: Access
    site: Site
    hazard: Hazard
    target: Thing
    others: tuple[Thing, ...]
    camera_height: float = 1.6  # metres
    camera_yaw: float = 0.0  # radians, small


@dataclass(frozen=True)
class Profile:
    """What a robot can do, as the oracle sees it. The description in words is made from this."""

    media: frozenset[Medium]
    height: bool = False  # works at 10 m and above
    terrain: Terrain = "flat"  # the worst it drives or walks on; flyers and swimmers do not need it
    stairs: bool = False
    gap: bool = False  # crosses a ditch of a metre
    slim: bool = False  # fits through an opening of half a metre
    weatherproof: bool = False  # works in a storm
    heatproof: bool = False  # works beside a fire
    payload_kg: int = 0  # one of 0, 2, 15, 60
    manipulation: int = 0  # 0 none, 1 gripper (take and put), 2 hand (turn, open, repair)
    fast: bool = False
    enduring: bool = False  # a working day on one charge


@dataclass(frozen=True)
class Need:
    """What a task asks for, whether the text says it or only the picture does.

    `carries`: the target must be moved (payload from its size). `hands` is the manipulation level.
    `stated` names the visual facts that the wording gives away ("site", "access", "terrain",
    "weather", "hazard", "size"); all others must be seen.
    """

    category: Category
    carries: bool = False
    hands: int = 0
    fast: bool = False
    enduring: bool = False
    stated: frozenset[str] = frozenset()
