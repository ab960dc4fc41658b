"""Drafts of tasks: which phrases go together, and what they ask for in sum. `render` puts them into words."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import lru_cache

from embervlm.world.lexicon.asks import Asks, merge
from embervlm.world.lexicon.entries import Entry, entries

#: The sorts of draft and how often each is made.
SORTS = {"job": 46, "look": 22, "carry": 15, "fetch": 4, "seek": 13}
_MAIN = {"job": "job", "look": "thing", "carry": "load", "fetch": "load", "seek": "sought"}
_PLACED = {"job": 0.22, "look": 0.4, "carry": 0.7, "fetch": 0.6, "seek": 1.0}
#: Modifiers that make sense below the surface, on the water and in the air.
_BELOW = frozenset({"fast", "long", "hand", "grip", "narrow", "dark", "kg", "quiet"})
_AFLOAT = _BELOW - {"narrow", "kg"} | {"storm", "rain", "thermal", "talk", "cold"}
_ALOFT = frozenset({"fast", "long", "storm", "rain", "dark", "cold", "thermal", "gas", "quiet", "kg"})
#: Modifiers that only some fields of work know.
_FIELDS = {
    "atex": {"plant", "energy", "mine", "rescue", "logistics"},
    "radiation": {"plant", "energy", "rescue", "field"},
    "clean": {"care", "field", "plant"},
    "cold": {"logistics", "field", "plant", "forest", "farm", "road", "build", "guard"},
    "quiet": {"home", "care", "event", "office", "field", "forest", "guard", "shop"},
    "gas": {"plant", "energy", "mine", "rescue", "field", "build", "sea"},
    "fire": {"rescue", "plant", "energy", "build", "logistics", "road", "forest", "home", "office"},
}  # fmt: skip
_OUTDOOR_FIELDS = {"farm", "forest", "field", "rescue", "mine", "build", "road", "energy", "guard", "sea"}
_STAIR_FREE = {"farm", "forest", "field"}


@dataclass(frozen=True)
class Draft:
    """Phrases of one task. `asks` is their sum; `weighed` a load's exact weight where the text tells it."""

    sort: str
    main: Entry
    place: Entry | None
    modifiers: tuple[Entry, ...]
    denials: tuple[Entry, ...]
    remarks: tuple[Entry, ...]
    asks: Asks
    weighed: float | None = None

    @property
    def phrases(self) -> tuple[Entry, ...]:
        """All entries of the draft."""
        place = (self.place,) if self.place else ()
        return (self.main, *place, *self.modifiers, *self.denials, *self.remarks)


def draft(rng: random.Random, split: str) -> Draft:
    """A draft whose main phrase (or, where it has to be, its place) is the split's own."""
    while True:
        made = _attempt(rng, split)
        if made is not None:
            return made


def _attempt(rng: random.Random, split: str) -> Draft | None:
    sort = rng.choices(list(SORTS), list(SORTS.values()))[0]
    main = rng.choice(entries(_MAIN[sort], split, own=True))
    asks, weighed = main.asks, None
    if asks.kg and rng.random() < 0.4:
        weighed = _weight(rng, asks.kg)
        asks = replace(asks, kg=(weighed, weighed))
    if sort == "fetch":
        if asks.kg and asks.kg[1] > 20:
            return None  # nobody picks that up by hand
        asks = replace(asks, hands=max(asks.hands, 1))
    place = None
    if rng.random() < _PLACED[sort]:
        place = rng.choice(entries("place", split, own=sort == "seek" and rng.random() < 0.7))
        fitting = _placed(sort, main, asks, place)
        if fitting is None:
            return None
        asks = fitting
    fields = (main.fields & place.fields if place else main.fields) or main.fields
    modifiers: list[Entry] = []
    for _ in range(rng.choices((0, 1, 2), (45, 42, 13))[0]):
        added = rng.choice(entries("modifier", split))
        total = _modified(asks, added, fields)
        if total is not None and added not in modifiers:
            modifiers.append(added)
            asks = total
    denials = [d for d in (rng.choice(entries("denial", split)),) if rng.random() < 0.45 and _deniable(asks, d)]
    remarks = rng.sample(entries("remark", split), rng.choices((0, 1, 2), (62, 32, 6))[0])
    return Draft(sort, main, place, tuple(modifiers), tuple(denials), tuple(remarks), asks, weighed)


def _weight(rng: random.Random, kg: tuple[float, float]) -> float:
    """A weight between the two, as round as people say it."""
    value = rng.uniform(*kg)
    return round(value, 1) if value < 3 else float(round(value)) if value < 60 else float(5 * round(value / 5))


def _placed(sort: str, main: Entry, asks: Asks, place: Entry) -> Asks | None:
    """What is asked for in sum when it happens there, or None where that makes no sense."""
    if not main.meets(place):
        return None
    wet = ("under", "overwater", "afloat")
    if sort in ("job", "look"):
        if main.asks.special and place.asks.special and main.asks.medium != place.asks.medium:
            return None
        if (place.asks.medium in wet or main.asks.medium in wet) and main.asks.medium != place.asks.medium:
            # A hull is inspected "at the marina", but never "in the attic".
            plain = not place.asks.special and "in" not in place.asks.flags and bool(place.fields & {"sea", "field"})
            if not plain:
                return None
        if place.asks.special and main.asks.atoms & {"high", "ground", "air"}:
            return None
    elif sort in ("carry", "fetch") and "high" in place.asks.flags and asks.kg and asks.kg[0] > 20:
        return None
    return merge(asks, place.asks)


def _modified(asks: Asks, added: Entry, fields: frozenset[str]) -> Asks | None:
    atoms = added.asks.atoms - {"out"}
    allowed = {"under": _BELOW, "afloat": _AFLOAT, "overwater": _AFLOAT, "air": _ALOFT}.get(asks.medium)
    if allowed is not None and not atoms <= allowed:
        return None
    if atoms & asks.atoms - {"hand", "grip"} or (atoms & {"uneven"} and asks.terrain):
        return None
    if "in" in asks.flags and atoms & {"storm", "rain", "uneven", "gap"}:
        return None
    if atoms & {"rough", "gap"} and not fields & _OUTDOOR_FIELDS:
        return None
    if atoms & {"stairs"} and fields and fields <= _STAIR_FREE:
        return None
    if atoms & {"stairs"} and asks.medium == "ground":
        return None
    if atoms & {"high"} and (asks.kg or asks.medium != "dry" or asks.atoms & {"narrow", "stairs", "rough", "gap"}):
        return None
    if "high" in asks.flags and atoms & {"narrow", "kg", "stairs", "ground"}:
        return None
    if any(atom in atoms and fields and not fields & known for atom, known in _FIELDS.items()):
        return None
    return merge(asks, added.asks)


def _deniable(asks: Asks, denial: Entry) -> bool:
    """Whether the draft asks for nothing of what the phrase denies."""
    said = denial.ties.split("=")[0]
    if asks.medium in ("under", "afloat", "overwater"):
        return said in ("fast", "long", "kg", "thermal") and said not in asks.atoms
    clashes = {
        "uneven": asks.terrain > 0 or asks.medium == "air",
        "rough": asks.terrain > 1 or asks.medium == "air",
        "rain": asks.weather > 0 or "in" in asks.flags,
        "storm": asks.weather > 1 or "in" in asks.flags,
        "hand": asks.hands > 0,
        "grip": asks.hands > 0 or asks.kg is not None,
        "high": "high" in asks.flags or asks.medium == "air",
        "long": "long" in asks.flags,
    }
    if said == "stairs" and asks.medium == "air":
        return False
    return not clashes.get(said, said in asks.atoms)


@lru_cache(maxsize=6)
def drafts(seed: int, split: str, count: int) -> tuple[Draft, ...]:
    """The drafts of a split, the same for the same arguments."""
    rng = random.Random(f"drafts|{seed}|{split}")
    return tuple(draft(rng, split) for _ in range(count))
