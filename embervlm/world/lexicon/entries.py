"""The lexicon: tables of phrases, what each asks for, its field of work, and the only split it may occur in.

A split owns words, not only phrases: a phrase with a rare word that belongs to the test split occurs in no other.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from embervlm.world.lexicon.asks import Asks, around, parse

TABLES = Path(__file__).parent / "tables"
TASK_FILES = (
    "jobs_home.txt", "jobs_outdoor.txt", "jobs_industry.txt", "jobs_motion.txt", "things.txt", "places.txt",
    "loads.txt", "people.txt", "modifiers.txt", "remarks.txt", "frames.txt",
)  # fmt: skip
#: Sections of phrases that carry meaning; the others are forms.
CONTENT = ("job", "thing", "place", "load", "sought", "modifier", "denial")
FIELDS = (
    "home", "care", "shop", "office", "event", "logistics", "plant", "energy", "build", "road", "farm", "forest",
    "field", "rescue", "guard", "mine", "sea",
)  # fmt: skip
#: A word in more phrases than this belongs to every split.
RARE = 12
#: Of a hundred rare words, how many belong to the test split, and how many more to validation.
_TEST, _VALIDATION = 5, 4
_FORM_TEST, _FORM_VALIDATION = 12, 8


@dataclass(frozen=True)
class Entry:
    """A phrase of the lexicon. `fields`: the fields of work it belongs to, empty for all."""

    section: str
    text: str
    asks: Asks
    ties: str
    fields: frozenset[str]
    split: str

    def meets(self, other: Entry) -> bool:
        """Whether they share a field of work."""
        return not self.fields or not other.fields or bool(self.fields & other.fields)


class LexiconError(ValueError):
    """A table that cannot be read. The message names file and line."""


def lines(file: str) -> Iterator[tuple[int, str, str, str, str]]:
    """Line number, section, ties, fields and phrases of every line of a table.

    Raises:
        LexiconError: a line before the first section, or without a colon.
    """
    section = ""
    for number, line in enumerate((TABLES / file).read_text(encoding="utf-8").splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            section = line.strip("[]")
            continue
        head, colon, phrases = line.partition(": ")
        if not section or not colon:
            raise LexiconError(f"{file}:{number}: expected 'ties @fields: phrase | phrase' below a [section]")
        ties, _, fields = head.partition("@")
        yield number, section, ties.strip(), fields.strip(), phrases


def split_phrases(text: str) -> list[str]:
    """The phrases of a line, spacing normalised."""
    return [" ".join(phrase.split()) for phrase in text.split("|") if phrase.strip()]


def _read(file: str) -> Iterator[Entry]:
    for number, section, ties, fields, phrases in lines(file):
        names = frozenset(fields.split(",")) - {"", "*"}
        unknown = sorted(names - set(FIELDS))
        if unknown:
            raise LexiconError(f"{file}:{number}: unknown field {unknown[0]!r}; known are {', '.join(FIELDS)}")
        try:
            asks = parse(ties)
        except ValueError as error:
            raise LexiconError(f"{file}:{number}: {error}") from error
        for phrase in split_phrases(phrases):
            mine, own = asks, ties
            if section == "load":
                phrase, _, kg = phrase.rpartition(" =")
                try:
                    mine, own = replace(asks, kg=around(float(kg))), f"kg={float(kg):g}"
                except ValueError as error:
                    raise LexiconError(f"{file}:{number}: a load needs '=<kg>', found {phrase!r}") from error
            yield Entry(section, phrase, mine, own, names, "")


def stems(text: str) -> set[str]:
    """The words of a text of four letters and more, without a plural s; what stands in braces is no word."""
    found = re.findall(r"[a-z]{4,}", re.sub(r"\{\w+\}", " ", text.lower()))
    return {word[:-1] if word.endswith("s") and not word.endswith("ss") else word for word in found}


def _bucket(text: str) -> int:
    return zlib.crc32(text.encode()) % 100


def word_split(word: str) -> str:
    """The split that a rare word belongs to; "train" words may occur everywhere."""
    bucket = _bucket(word)
    return "test" if bucket < _TEST else "validation" if bucket < _TEST + _VALIDATION else "train"


def form_split(text: str) -> str:
    """The split of a form (a frame, a verb), which is split as a whole."""
    bucket = _bucket(text)
    return "test" if bucket < _FORM_TEST else "validation" if bucket < _FORM_TEST + _FORM_VALIDATION else "train"


def text_split(text: str, rare: frozenset[str]) -> str:
    """The split of a phrase: that of its rarest owner among its rare words, test before validation before train."""
    owners = {word_split(word) for word in stems(text) & rare}
    return "test" if "test" in owners else "validation" if "validation" in owners else "train"


@lru_cache(maxsize=1)
def rare_words() -> frozenset[str]:
    """Words that stand in few phrases of all tables; only these are owned by a split."""
    counts: Counter[str] = Counter()
    for file in (*TASK_FILES, "robots.txt", "five.txt"):
        for *_, phrases in lines(file):
            for phrase in split_phrases(phrases):
                counts.update(stems(phrase))
    return frozenset(word for word, count in counts.items() if count <= RARE)


@lru_cache(maxsize=1)
def lexicon() -> dict[str, tuple[Entry, ...]]:
    """Section → its entries, in the order of the tables.

    Raises:
        LexiconError: a table holds what is no entry.
    """
    rare = rare_words()
    found: dict[str, list[Entry]] = {}
    for file in TASK_FILES:
        for entry in _read(file):
            owned = text_split(entry.text, rare) if entry.section in (*CONTENT, "remark") else form_split(entry.text)
            found.setdefault(entry.section, []).append(replace(entry, split=owned))
    return {section: tuple(entries) for section, entries in found.items()}


@lru_cache(maxsize=64)
def entries(section: str, split: str, own: bool = False) -> tuple[Entry, ...]:
    """The entries of a section that a split may use; with `own` those that it does not share with training, if any."""
    allowed = {split} if own or split == "train" else {split, "train"}
    found = tuple(entry for entry in lexicon()[section] if entry.split in allowed)
    return found or entries(section, "train")
