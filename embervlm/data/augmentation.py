"""More wordings of the same task: synonyms and other ways to put it, for training records only.

A wording never changes what is asked, so robots, reasoning and plan stay true as they are. What is chosen depends on
the record and the number of the variant alone.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from embervlm.data.schema import Record

#: What a task tells to do: the words as they stand, and others for them. Longer ones first.
_VERBS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("check for", ("look for", "test for")),
    ("monitor for", ("watch for", "look out for")),
    ("search for", ("look for", "try to find")),
    ("navigate across", ("travel across", "move across")),
    ("navigate through", ("travel through", "find a way through")),
    ("carry out", ("perform", "do")),
    ("inspect", ("examine", "check", "look over")),
    ("examine", ("inspect", "check", "look at")),
    ("check", ("inspect", "examine", "verify")),
    ("survey", ("scan", "look over", "assess")),
    ("monitor", ("watch", "observe", "keep an eye on")),
    ("transport", ("carry", "move", "bring")),
    ("carry", ("transport", "take", "bring")),
    ("deliver", ("bring", "take", "carry")),
    ("navigate", ("travel through", "find a way through", "make a way through")),
    ("explore", ("scout", "investigate", "search")),
    ("investigate", ("examine", "look into")),
    ("assess", ("evaluate", "judge")),
    ("analyze", ("study", "evaluate")),
    ("collect", ("gather", "take")),
    ("traverse", ("cross", "travel across")),
    ("perform", ("carry out", "do")),
    ("track", ("follow",)),
    ("locate", ("find",)),
    ("search", ("look through",)),
    ("study", ("examine", "look at")),
    ("climb", ()),
    ("dive", ()),
    ("drive", ()),
    ("fly", ()),
    ("move", ()),
    ("reach", ("get to",)),
    ("identify", ("find", "make out")),
    ("ensure", ("make sure of",)),
    ("provide", ("give",)),
)
_WORDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("vast", ("huge", "wide")),
    ("large", ("big",)),
    ("potential", ("possible",)),
    ("detailed", ("thorough", "close")),
    ("routine", ("regular",)),
    ("near", ("close to", "next to")),
    ("supplies", ("goods",)),
    ("equipment", ("gear",)),
    ("exterior", ("outside",)),
    ("interior", ("inside",)),
    ("rubble", ("debris",)),
    ("obstruction", ("blockage",)),
    ("deterioration", ("decay",)),
    ("remote", ("far-off", "distant")),
    ("distant", ("far-off", "remote")),
)
#: Ways to ask for what a task tells to do, and to put a task that begins otherwise.
_ASKED = ("{}", "please {}", "we need to {}", "the task is to {}", "someone has to {}", "a robot should {}", "now {}")
_TOLD = ("{}", "this is the task: {}", "the following has to be done: {}")
#: A verb is one at the beginning and where another one is joined to it, and nowhere else.
_PLACE = r"(?:(?<=^)|(?<=\bto )|(?<=\band ))"


def variants(record: Record, count: int, allowed: Callable[[str], bool] = bool) -> Iterator[Record]:
    """At most `count` records with the same task in other words, all different.

    Args:
        record: of training; of another split nothing comes.
        count: how many are wanted; a short task may not have so many.
        allowed: says of a task's text whether it may be trained on. With the function that splits by task text, a
            wording that is a task of another split is left out.
    """
    if record.split != "train":
        return
    seen = {_same(record.instruction)}
    made = 0
    for attempt in range(4 * count):
        if made == count:
            return
        text = reworded(record.instruction, f"{record.id}/{attempt}")
        if _same(text) in seen or not allowed(text):
            continue
        seen.add(_same(text))
        made += 1
        tags = {**record.tags, "variant_of": record.id}
        yield replace(record, id=f"{record.id}-v{made}", instruction=text, tags=tags)


def reworded(task: str, key: str) -> str:
    """A task in other words; the key decides in which."""
    draw = _Draw(key)
    text = task.strip()
    asked = _begins_with_verb(text)
    text = text[:1].lower() + text[1:] if asked else text
    for table, place in ((_VERBS, _PLACE), (_WORDS, "")):
        pattern = re.compile(rf"{place}\b({'|'.join(old for old, new in table if new)})\b", re.IGNORECASE)
        others = dict(table)

        def exchanged(match: re.Match[str], others: dict[str, tuple[str, ...]] = others) -> str:
            choices = (match[1], *others[match[1].lower()])
            return choices[draw(len(choices))]

        text = pattern.sub(exchanged, text)
    frames = _ASKED if asked else _TOLD
    text = frames[draw(len(frames))].format(text)
    return text[:1].upper() + text[1:]


def _begins_with_verb(text: str) -> bool:
    return re.match(rf"({'|'.join(old for old, _ in _VERBS)})\b", text, re.IGNORECASE) is not None


def _same(text: str) -> str:
    return " ".join(text.casefold().split())


class _Draw:
    """Numbers that a key alone decides."""

    def __init__(self, key: str) -> None:
        self.key, self.count = key, 0

    def __call__(self, choices: int) -> int:
        self.count += 1
        digest = hashlib.sha256(f"{self.key}/{self.count}".encode()).digest()
        return int.from_bytes(digest[:8], "big") % choices
