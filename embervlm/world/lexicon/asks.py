"""What a phrase asks of a robot, as a set of requirements that add up.

The vocabulary is EmberWorld's (`ontology.REQUIREMENTS`), finer where words are: on the water as well as below it,
from above as well as on the ground, any weight, and abilities that no picture shows (thermal camera, quiet, …).
A table writes them as *ties*: `high out`, `stairs kg=40`, `under hand`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

#: What a tie may say about where the robot must move; "dry": on land or in the air, as it likes.
MEDIA = ("dry", "air", "ground", "overwater", "afloat", "under")
#: The ways in which a robot moves, and which of them each medium allows.
MODES = ("ground", "air", "afloat", "under")
ALLOWED = {
    "dry": ("ground", "air"),
    "air": ("air",),
    "ground": ("ground",),
    "overwater": ("air", "afloat"),
    "afloat": ("afloat",),
    "under": ("under",),
}
#: The kind of requirement (`ontology.REQUIREMENTS`) of each ability; None: no picture shows it.
KIND: dict[str, str | None] = {
    **dict.fromkeys(MODES, "medium"),
    "high": "height", "uneven": "terrain", "rough": "terrain", "stairs": "stairs", "gap": "gap",
    "narrow": "clearance", "rain": "weather", "storm": "weather", "fire": "heat", "kg": "payload",
    "grip": "manipulation", "hand": "manipulation", "fast": "speed", "long": "endurance",
    **dict.fromkeys(
        ("dark", "thermal", "gas", "quiet", "talk", "atex", "radiation", "cold", "clean", "deep", "in", "out")
    ),
}  # fmt: skip
#: Every ability but the load, in a fixed order.
ATOMS = tuple(atom for atom in KIND if atom != "kg")
#: All that a task may ask for by name, in a fixed order: a medium in any case, and what else it says.
NAMED = (*MEDIA, *(atom for atom in KIND if atom not in MODES))
#: Who has the one has the other.
IMPLIES = {"rough": "uneven", "storm": "rain", "hand": "grip", "deep": "under"}
_TERRAIN = ("", "uneven", "rough")
_WEATHER = ("", "rain", "storm")
_HANDS = ("", "grip", "hand")
_FLAGS = frozenset(ATOMS) - set(MODES) - {*_TERRAIN, *_WEATHER, *_HANDS}
#: What only a robot on the ground must cope with.
_GROUND_ONLY = frozenset({"high", "stairs", "gap"})
_NOT_BELOW = frozenset({"in", "out", "fire", "dark", "cold", "clean"})


@dataclass(frozen=True)
class Asks:
    """Requirements. `kg` is what the load weighs, least and most; `flags` are abilities of a yes or no."""

    medium: str = "dry"
    terrain: int = 0  # 0 flat, 1 uneven, 2 rough
    weather: int = 0  # 0 any robot, 1 rain, 2 storm
    hands: int = 0  # 0 none, 1 gripper, 2 hand
    kg: tuple[float, float] | None = None
    flags: frozenset[str] = frozenset()

    def needed(self, mode: str) -> frozenset[str]:
        """The abilities (of `ATOMS`) that a robot needs who goes about it in this mode."""
        found = {mode, _HANDS[self.hands], *self.flags}
        if mode == "under":
            return frozenset(found - _NOT_BELOW - _GROUND_ONLY - {""})
        found.add(_WEATHER[self.weather])
        if mode == "ground":
            found.add(_TERRAIN[self.terrain])
        else:
            found -= _GROUND_ONLY
        return frozenset(found - {""})

    @property
    def modes(self) -> tuple[str, ...]:
        """The modes in which it can be done."""
        return ALLOWED[self.medium]

    @property
    def atoms(self) -> frozenset[str]:
        """All that is asked for, by name, without regard to a mode; "kg" for a load."""
        found = {_TERRAIN[self.terrain], _WEATHER[self.weather], _HANDS[self.hands], *self.flags}
        found |= {"kg"} if self.kg else set()
        found |= {self.medium} if self.medium != "dry" else set()
        return frozenset(found - {""})

    @property
    def named(self) -> frozenset[str]:
        """All that is asked for of `NAMED`."""
        return self.atoms | {self.medium}

    @property
    def special(self) -> bool:
        """Whether it asks for anything beyond being indoors or out of doors."""
        return bool(self.atoms - {"in", "out"})

    def kinds(self) -> list[str]:
        """The kinds of `ontology.REQUIREMENTS` that are asked for, in their order; "medium" always is."""
        from embervlm.world.ontology import REQUIREMENTS

        asked = {"medium", *(KIND[atom] for atom in self.atoms if atom in KIND)}
        return [kind for kind in REQUIREMENTS if kind in asked]


def parse(ties: str) -> Asks:
    """Ties as a table writes them.

    Raises:
        ValueError: a word that is no tie.
    """
    asks = Asks()
    for tie in ties.split():
        asks = _with(asks, tie)
    return asks


def _with(asks: Asks, tie: str) -> Asks:
    if tie.startswith("kg="):
        return replace(asks, kg=around(float(tie[3:])))
    if tie in MEDIA:
        return replace(asks, medium=tie)
    if tie in _TERRAIN:
        return replace(asks, terrain=_TERRAIN.index(tie))
    if tie in _WEATHER:
        return replace(asks, weather=_WEATHER.index(tie))
    if tie in _HANDS:
        return replace(asks, hands=_HANDS.index(tie))
    if tie not in _FLAGS:
        raise ValueError(f"tie: unknown {tie!r}; known are {', '.join(sorted({*MEDIA, *ATOMS}))} and kg=<number>")
    return replace(asks, flags=asks.flags | {tie})


def around(kg: float) -> tuple[float, float]:
    """What a thing may weigh that usually weighs so much."""
    return (round(kg * 0.7, 3), round(kg * 1.4, 3))


@lru_cache(maxsize=100_000)
def merge(one: Asks, other: Asks) -> Asks | None:
    """All that both ask for; None where no job asks for both."""
    if one.kg and other.kg:
        return None
    medium = _narrower(one.medium, other.medium)
    flags = one.flags | other.flags
    if medium is None or {"in", "out"} <= flags or {"fast", "long"} <= flags:
        return None
    return Asks(
        medium,
        max(one.terrain, other.terrain),
        max(one.weather, other.weather),
        max(one.hands, other.hands),
        one.kg or other.kg,
        flags,
    )


def _narrower(one: str, other: str) -> str | None:
    """The medium that allows what both allow."""
    for a, b in ((one, other), (other, one)):
        if set(ALLOWED[a]) <= set(ALLOWED[b]):
            return a
    return None


def merged(parts: Iterable[Asks]) -> Asks | None:
    """All that the parts ask for; None where they do not go together."""
    total: Asks | None = Asks()
    for part in parts:
        total = merge(total, part)
        if total is None:
            return None
    return total
