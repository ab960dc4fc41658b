"""Drafts into words: request, clauses and remarks in the many orders and manners of people who type."""

from __future__ import annotations

import random
import re

from embervlm.world.lexicon.drafts import Draft
from embervlm.world.lexicon.entries import Entry, entries
from embervlm.world.lexicon.slips import slip

#: Most words of a task.
WORD_LIMIT = 48
_ARTICLES = re.compile(r"\b(?:the|a|an|our|that|please|some)\s+", re.IGNORECASE)


def render(rng: random.Random, draft: Draft, split: str) -> str:
    """The draft as a task text of at most `WORD_LIMIT` words."""
    for attempt in range(8):
        text = _text(rng, draft, split, brief=attempt > 3)
        if len(text.split()) <= WORD_LIMIT:
            break
    return slip(rng, " ".join(text.split()))


def _text(rng: random.Random, draft: Draft, split: str, brief: bool) -> str:
    def pick(section: str) -> str:
        own = split != "train" and rng.random() < 0.5
        return rng.choice(entries(section, split, own)).text

    request = _request(rng, draft, pick)
    clauses = [_filled(rng, entry) for entry in (*draft.modifiers, *draft.denials)]
    rng.shuffle(clauses)
    remarks = [] if brief else [_filled(rng, entry) for entry in draft.remarks]
    manner = rng.random()
    if manner < 0.14:
        return _telegram(rng, request, clauses, remarks)
    if manner < 0.24:
        return _ticket(rng, request, clauses, remarks)
    frame = pick("long frame" if not brief and rng.random() < 0.12 else "frame")
    if draft.sort == "look" and rng.random() < 0.22:
        return _sentences(rng, [_noun_form(rng, draft, pick)], clauses, remarks)
    inside = []
    while clauses and rng.random() < 0.5:
        inside.append(clauses.pop())
    core = request
    for clause in inside:
        core += rng.choice((", ", ", ", " - ", " ")) + clause
    text = _filled_text(rng, frame.replace("{t}", core))
    return _sentences(rng, [text], clauses, remarks)


def _request(rng: random.Random, draft: Draft, pick: object) -> str:
    """The main phrase as an imperative, with its place."""
    assert callable(pick)
    place = draft.place.text if draft.place else ""
    if draft.sort == "job":
        request = draft.main.text
    else:
        section = {"look": "look", "carry": "carry", "fetch": "fetch", "seek": "seek"}[draft.sort]
        request = str(pick(section)).replace("{x}", _thing(rng, draft, pick))
    if not place:
        if draft.sort == "carry" and rng.random() < 0.4:
            return f"{request} {pick('destination')}"
        return request
    if draft.sort == "carry":
        return f"{request} {_toward(rng, place)}"
    return f"{request} {place}" if rng.random() < 0.85 else f"{place}: {request}"


def _toward(rng: random.Random, place: str) -> str:
    """A place as a destination, where its preposition can be turned; else the load waits there."""
    turned = re.sub(r"^(?:in|at|on|by|beside|next to) (?=the\b)", "to ", place)
    if turned != place and rng.random() < 0.55:
        return turned
    return rng.choice((f"to the crew {place}", f"to somebody {place}", f"which is {place}", f"waiting {place}"))


def _thing(rng: random.Random, draft: Draft, pick: object) -> str:
    assert callable(pick)
    text = draft.main.text
    named = text if draft.sort == "carry" and rng.random() < 0.15 else f"{pick('article')} {text}"
    if draft.weighed is not None:
        weight = weight_text(rng, draft.weighed)
        named = rng.choice((f"{named} ({weight})", f"{named}, {weight},", f"{weight} {text}", f"{named} of {weight}"))
    return named


def weight_text(rng: random.Random, kg: float) -> str:
    """A weight as people give it: kilos, grams, pounds, tonnes."""
    if kg < 1:
        return f"{max(1, round(kg * 1000))} {rng.choice(('g', 'grams'))}"
    number = f"{kg:g}"
    if kg >= 500 and rng.random() < 0.6:
        return f"{kg / 1000:g} {rng.choice(('t', 'tonnes', 'tons'))}"
    if rng.random() < 0.18:
        return f"{round(kg * 2.2046)} {rng.choice(('lbs', 'lb', 'pounds'))}"
    return f"{number}{rng.choice((' kg', 'kg', ' kilos', ' kilograms', ' kgs'))}"


def _noun_form(rng: random.Random, draft: Draft, pick: object) -> str:
    assert callable(pick)
    thing = _thing(rng, draft, pick)
    return str(pick("noun look")).replace("{x}", f"{thing} {draft.place.text}" if draft.place else thing)


def _sentences(rng: random.Random, first: list[str], clauses: list[str], remarks: list[str]) -> str:
    """What is asked first or after a clause, the rest as sentences behind it."""
    parts = [*first, *clauses]
    if clauses and rng.random() < 0.2:
        parts = [clauses[0], *first, *clauses[1:]]
    for remark in remarks:
        parts.insert(rng.choice((0, len(parts), len(parts))), remark)
    text = parts[0]
    for part in parts[1:]:
        text = text.rstrip(",") + rng.choice((". ", ". ", "; ", " - ", ", ")) if text[-1] not in "?!" else text + " "
        text += part
    return text


def _telegram(rng: random.Random, request: str, clauses: list[str], remarks: list[str]) -> str:
    """Words that cost money: no articles, pieces in any order."""
    parts = [request, *clauses, *remarks[:1]]
    rng.shuffle(parts)
    joint = rng.choice((". ", "; ", ", ", " / ", " + ", " stop "))
    return joint.join(_ARTICLES.sub("", part) for part in parts)


def _ticket(rng: random.Random, request: str, clauses: list[str], remarks: list[str]) -> str:
    """A form: what, notes."""
    head = rng.choice(("task", "what", "job", "subject", "order", "request"))
    text = f"{head}: {request}"
    notes = [*clauses, *remarks]
    if notes:
        text += f"{rng.choice((' | ', '; ', '. '))}{rng.choice(('notes', 'info', 'note', 'remarks'))}: " + "; ".join(
            notes
        )
    return text


def _filled(rng: random.Random, entry: Entry) -> str:
    return _filled_text(rng, entry.text)


def _filled_text(rng: random.Random, text: str) -> str:
    """A phrase with its numbers drawn; all of them leave no doubt about what is asked."""
    return re.sub(r"\{(\w+)\}", lambda match: _number(rng, match[1]), text) if "{" in text else text


def _number(rng: random.Random, name: str) -> str:
    if name == "m":
        metres = rng.randint(8, 30)
        return rng.choice((f"{metres} m", f"{metres} metres", f"{metres}m", f"{round(metres * 3.28)} ft"))
    if name == "cm":
        cm = rng.choice((45, 50, 55, 60))
        return rng.choice((f"{cm} cm", f"{cm}cm", f"{cm * 10} mm", f"{round(cm / 2.54)} inches", f"0.{cm:02d} m"))
    if name == "gap":
        cm = rng.choice((60, 70, 80, 90, 100))
        return rng.choice((f"{cm} cm", f"{cm / 100:g} m", f"{round(cm / 30.5)} ft"))
    if name == "kn":
        knots = rng.randint(45, 65)
        return rng.choice((f"{knots} knots", f"{round(knots * 1.85)} km/h", f"{knots} kn"))
    numbers = {
        "h": (8, 12), "min": (2, 9), "deg": (18, 35), "steps": (12, 90), "ref": (1000, 9999), "n": (1, 30),
    }  # fmt: skip
    if name == "clock":
        return f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}"
    return str(rng.randint(*numbers[name]))
