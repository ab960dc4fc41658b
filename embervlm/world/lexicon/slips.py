"""The noise of people who type: slips of the fingers, short forms, capitals."""

from __future__ import annotations

import random
import re

_SHORT = {
    "please": ("pls", "plz"), "with": ("w/",), "and": ("&", "n"), "you": ("u",), "minutes": ("mins", "min"),
    "without": ("w/o",), "for": ("4",), "are": ("r",), "the": ("da", "teh", "th"), "to": ("2",), "because": ("cuz",),
    "check": ("chk",), "something": ("smth",), "tomorrow": ("tmrw",), "building": ("bldg",), "temperature": ("temp",),
    "pictures": ("pics",), "picture": ("pic",), "photo": ("pic",), "going to": ("gonna",), "hours": ("hrs",),
    "okay": ("ok",), "thanks": ("thx",), "before": ("b4",), "about": ("abt",), "through": ("thru",),
    "night": ("nite",), "number": ("no.",), "approximately": ("approx",), "maintenance": ("maint",),
}  # fmt: skip
_NEAR = {
    "a": "s", "b": "v", "c": "x", "d": "f", "e": "r", "f": "g", "g": "h", "h": "j", "i": "o", "j": "k", "k": "l",
    "l": "k", "m": "n", "n": "m", "o": "p", "p": "o", "q": "w", "r": "t", "s": "d", "t": "y", "u": "i", "v": "b",
    "w": "e", "x": "c", "y": "u", "z": "x",
}  # fmt: skip


def slip(rng: random.Random, text: str, share: float = 0.3) -> str:
    """The text as typed: in `share` of the cases with slips or short forms; capitals and full stops vary."""
    if rng.random() < share:
        if rng.random() < 0.4:
            text = _shortened(rng, text)
        else:
            for _ in range(rng.choices((1, 2, 3), (60, 28, 12))[0]):
                text = _slipped(rng, text)
    return _cased(rng, text)


def _shortened(rng: random.Random, text: str) -> str:
    words = text.split(" ")
    return " ".join(rng.choice(_SHORT[w]) if w in _SHORT and rng.random() < 0.6 else w for w in words)


def _slipped(rng: random.Random, text: str) -> str:
    """One letter swapped, lost, doubled or hit beside, or two words run together; numbers stay as they are."""
    words = text.split(" ")
    spots = [i for i, word in enumerate(words) if len(word) > 3 and word.isalpha()]
    if not spots:
        return text
    i = rng.choice(spots)
    word = words[i]
    j = rng.randrange(1, len(word) - 1)
    kind = rng.random()
    if kind < 0.3:
        word = word[:j] + word[j + 1] + word[j] + word[j + 2 :]
    elif kind < 0.55:
        word = word[:j] + word[j + 1 :]
    elif kind < 0.75:
        word = word[:j] + word[j] + word[j:]
    elif kind < 0.93:
        word = word[:j] + _NEAR.get(word[j].lower(), word[j]) + word[j + 1 :]
    elif i + 1 < len(words) and words[i + 1].isalpha():
        words[i + 1] = ""
        word += text.split(" ")[i + 1]
    words[i] = word
    return " ".join(w for w in words if w)


def _cased(rng: random.Random, text: str) -> str:
    dice = rng.random()
    if dice < 0.04:
        return text.upper()
    if dice < 0.5:
        text = re.sub(r"(^|[.!?] )([a-z])", lambda m: m[1] + m[2].upper(), text)
    if text[-1] not in ".?!" and rng.random() < 0.5:
        text += "."
    return text
