"""Robots in free words. A robot is what its description tells: each ability it has, lacks, or leaves unsaid.

What is left unsaid counts by what people make of it: nobody expects an unmentioned arm, wing or gas sensor, nobody
knows whether an unmentioned battery lasts a day. The latter is *unsure*, and no label is ever built on it.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field, replace
from functools import lru_cache

from embervlm.fleet import Robot
from embervlm.world.lexicon.asks import ATOMS, IMPLIES, MEDIA, MODES, Asks, parse
from embervlm.world.lexicon.entries import lines, rare_words, split_phrases, text_split
from embervlm.world.lexicon.slips import slip

#: Most words of a description, name included.
WORD_LIMIT = 52
YES, UNSURE, NO = 1, 0, -1
#: A load above this is not for a robot that says nothing of loads; and what is more than its load by so much, neither.
UNSAID_KG = 20.0
SLACK = 1.05
#: Unsaid, they are not there.
SPECIAL = frozenset({*MODES, "high", "fire", "grip", "hand", "thermal", "gas", "talk", "atex", "radiation", "clean"})
#: Unsaid, they are no trouble.
ORDINARY = frozenset({"in", "out"})


@dataclass(frozen=True)
class Told:
    """What a description tells. `base`: the ground it is built for (0 floors, 1 fields, 2 anything), if it has one.

    `abilities` holds what is told, True or False; `kg` the load it takes, least and most, None where unsaid.
    """

    media: frozenset[str]
    base: int = 0
    abilities: dict[str, bool] = field(default_factory=dict)
    kg: tuple[float, float] | None = None

    def status(self, atom: str) -> int:
        """YES, UNSURE or NO for an ability of `ATOMS`, as a reader of the description would say."""
        if atom in MODES:
            return YES if atom in self.media else NO
        known = self.abilities
        if any(known.get(more) for more in (atom, *(a for a, less in IMPLIES.items() if less == atom))):
            return YES
        if known.get(atom) is False or (atom in IMPLIES and known.get(IMPLIES[atom]) is False):
            return NO
        if atom in ORDINARY:
            return YES
        if atom == "grip" and known.get("hand") is False:
            return UNSURE  # "too coarse for knobs" is said of a gripper
        if "ground" in self.media and atom in ("rough", "stairs", "gap", "uneven"):
            return self._ground(atom)
        if atom == "deep" and "under" not in self.media:
            return NO
        return NO if atom in SPECIAL else UNSURE

    def _ground(self, atom: str) -> int:
        if atom == "uneven":
            return UNSURE if self.base == 0 else YES
        if self.base == 2:
            return YES if atom == "rough" else UNSURE
        return UNSURE if atom == "rough" and self.base == 1 else NO

    def carries(self, kg: tuple[float, float]) -> int:
        """Whether it takes a load of at least and at most so much."""
        if self.kg is None:
            return NO if kg[0] > UNSAID_KG else UNSURE
        if kg[1] <= self.kg[0]:
            return YES
        return NO if kg[0] > self.kg[1] * SLACK else UNSURE

    def meets(self, name: str) -> int:
        """YES, UNSURE or NO for one of `NAMED` and nothing else, asked of the robot where it is at home."""
        if name in MEDIA:
            return self.judge(Asks(name))[0]
        if name == "kg":
            return NO if self.kg is not None and self.kg[1] == 0 else UNSURE
        return max(self.judge(replace(parse(name), medium=mode))[0] for mode in self.media)

    def judge(self, asks: Asks) -> tuple[int, frozenset[str]]:
        """The verdict on a task, and what is lacking (of the mode in which least is); of `ATOMS` or "kg"."""
        load = YES if asks.kg is None else self.carries(asks.kg)
        verdicts = []
        for mode in asks.modes:
            found = {atom: self.status(atom) for atom in asks.needed(mode)}
            found["kg"] = load
            missing = frozenset(atom for atom, status in found.items() if status == NO)
            verdicts.append((NO if missing else min(found.values()), missing))
        return max(verdicts, key=lambda verdict: (verdict[0], -len(verdict[1])))


@dataclass(frozen=True)
class Phrases:
    """The phrases of one meaning by split."""

    by_split: dict[str, tuple[str, ...]]

    def pick(self, rng: random.Random, split: str) -> str:
        """A phrase that the split may use, in the other splits often one of its own."""
        own = self.by_split.get(split, ())
        if split == "train" or (own and rng.random() < 0.5):
            return rng.choice(own)
        return rng.choice((*own, *self.by_split["train"]))


def phrase_table(file: str) -> dict[str, dict[str, Phrases]]:
    """Section → key → phrases of a table of robots' words."""
    rare = rare_words()
    listed: dict[str, dict[str, list[str]]] = {}
    for _, section, key, _, text in lines(file):
        listed.setdefault(section, {}).setdefault(key, []).extend(split_phrases(text))
    return {
        section: {key: _by_split(phrases, rare) for key, phrases in table.items()} for section, table in listed.items()
    }


def _by_split(phrases: list[str], rare: frozenset[str]) -> Phrases:
    groups: dict[str, list[str]] = {"train": []}
    for phrase in phrases:
        groups.setdefault(text_split(phrase, rare), []).append(phrase)
    if not groups["train"]:
        groups["train"] = phrases  # a meaning that training never heard could not be learned at all
    return Phrases({split: tuple(group) for split, group in groups.items()})


@lru_cache(maxsize=1)
def words() -> dict[str, dict[str, Phrases]]:
    """Section → ability → phrases of `robots.txt`.

    Raises:
        ValueError: a key that is no ability.
    """
    table = phrase_table("robots.txt")
    known = {*ATOMS, "ground0", "ground1", "ground2"}
    for section in ("has", "lacks", "place"):
        for key in table[section]:
            if key not in known:
                raise ValueError(f"robots.txt [{section}]: {key!r} is no ability; known are {', '.join(sorted(known))}")
    return table


@lru_cache(maxsize=1)
def payloads() -> tuple[tuple[float, float, Phrases], ...]:
    """Least and most kilograms of every payload level, lightest first, with its phrases."""
    found = []
    for key, phrases in words()["payload"].items():
        low, high = map(float, key.split("-"))
        found.append((low, high, phrases))
    return tuple(sorted(found, key=lambda level: level[:2]))


def describe(rng: random.Random, told: Told, name: str, split: str) -> Robot:
    """The robot in words; what decides nothing pads each list to a length that its abilities have no say in."""
    table = words()
    wish = (rng.randint(4, 7), rng.choice((1, 2, 2, 3)), rng.choice((0, 1, 1)))
    for attempt in range(14):
        has, lacks, places = groups = _statements(rng, told, split)
        budget = WORD_LIMIT - sum(len(text.split()) for text in (name, *has, *lacks, *places))
        if budget < 0 and attempt < 13:
            continue
        padding = (("neutral", "any"), ("neutral", "drawback"), ("neutral", "place"))
        for group, count, (section, key) in zip(groups, wish, padding, strict=True):
            for _ in range(count - len(group)):
                text = table[section][key].pick(rng, split)
                if text not in group and len(text.split()) <= budget:
                    group.append(text)
                    budget -= len(text.split())
            rng.shuffle(group)
        break
    return shaped(rng, name, has, lacks, places)


def _statements(rng: random.Random, told: Told, split: str) -> tuple[list[str], list[str], list[str]]:
    table = words()
    has: list[str] = []
    lacks: list[str] = []
    places: list[str] = []
    for medium in sorted(told.media):
        key = f"ground{told.base}" if medium == "ground" else medium
        has.append(filled(rng, table["has"][key].pick(rng, split)))
        if medium in table["place"] and rng.random() < 0.25:
            places.append(table["place"][medium].pick(rng, split))
    for atom, there in told.abilities.items():
        if there and atom in table["place"] and rng.random() < 0.14:
            places.append(table["place"][atom].pick(rng, split))
        elif there:
            has.append(filled(rng, table["has"][atom].pick(rng, split)))
        else:
            lacks.append(filled(rng, table["lacks"][atom].pick(rng, split)))
    if told.kg is not None:
        phrases = next(p for low, high, p in payloads() if (low, high) == told.kg)
        (lacks if told.kg[1] == 0 and rng.random() < 0.6 else has).append(phrases.pick(rng, split))
    return has, lacks, places


def shaped(rng: random.Random, name: str, has: list[str], lacks: list[str], places: list[str]) -> Robot:
    """The statements as a robot: as lists, as a data sheet, as prose in one entry or in two."""
    manner = rng.random()
    if manner < 0.5:
        lists = [has, lacks, places]
    elif manner < 0.62:
        lists = [["; ".join(has)], ["; ".join(lacks)] if lacks else [], ["; ".join(places)] if places else []]
    elif manner < 0.8:
        lists = [[_prose(rng, has)], [_prose(rng, lacks)] if lacks else [], places]
    else:
        # Everything in one paragraph, the weak points where they happen to stand.
        mixed = [*has, *lacks, *places]
        if rng.random() < 0.5:
            rng.shuffle(mixed)
        lists = [[_prose(rng, mixed)], [], []]
    lists = [[slip(rng, text, 0.05) if rng.random() < 0.3 else text for text in group] for group in lists]
    return Robot(name, *(tuple(group) for group in lists))


_JOINTS = (". ", ". ", ", ", ", ", "; ", " and ", " - ", ". also: ", ". note: ", ", furthermore ")


def _prose(rng: random.Random, parts: list[str]) -> str:
    text = parts[0]
    for part in parts[1:]:
        text += rng.choice(_JOINTS) + part
    return text + rng.choice((".", ""))


def filled(rng: random.Random, text: str) -> str:
    """A phrase with its numbers drawn, clear of what tasks ask for."""
    return re.sub(r"\{(\w+)\}", lambda match: _number(rng, match[1]), text) if "{" in text else text


def _number(rng: random.Random, name: str) -> str:
    if name == "cm":
        return f"{rng.choice((22, 25, 28, 30, 32, 35, 38, 40))} cm"
    if name == "wide":
        cm = rng.choice((110, 120, 130, 140, 150, 180, 210))
        return rng.choice((f"{cm} cm", f"{cm / 100:g} m"))
    if name == "gap":
        return rng.choice(("1.2 m", "1.5 m", "130 cm", "up to 1.4 m", "a good metre and a half"))
    if name == "m":
        return f"{rng.randint(40, 60)} m"
    if name == "kmh":
        return rng.choice((f"{rng.randint(30, 80)} km/h", f"{rng.randint(20, 50)} mph", f"{rng.randint(9, 20)} m/s"))
    if name == "slow":
        return rng.choice((f"{rng.randint(1, 3)} km/h", f"0.{rng.randint(2, 6)} m/s", "walking pace"))
    if name == "h":
        return str(rng.randint(13, 30))
    if name == "min":
        return str(rng.randint(15, 60))
    if name == "kn":
        return f"{rng.randint(70, 90)} knots"
    if name == "breeze":
        return f"{rng.randint(8, 18)} knots"
    assert name == "depth", name
    return f"{rng.randint(40, 110) * 100:,} m"
