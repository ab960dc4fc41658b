"""Task texts: a need and a scene put into words, in very many ways.

A text is a verb phrase for the thing, wrapped in a frame, with (each sometimes) the place, haste, endurance,
visual facts that it gives away, a reason, and the small noise of people who type.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from embervlm.world.abilities import Wording
from embervlm.world.ontology import KINDS, Need, Scene
from embervlm.world.scenes import visible_facts
from embervlm.world.wordings import ENDURING, FAST, FRAMES, REASONS, VERBS
from embervlm.world.words import KIND_WORDS, PLACE_PHRASES, STATED, WEIGHT_RANGE

#: Most words of a task.
WORD_LIMIT = 30


@dataclass(frozen=True)
class TaskText:
    """A task in words. `place` says whether it names the environment, `unseen` whether it uses test-only wordings."""

    text: str
    place: bool
    unseen: bool


def action(need: Need) -> str:
    """The key of `VERBS` for what the task asks."""
    if need.carries:
        verb = "grab" if need.hands else "carry"
    elif need.hands:
        verb = "hand"
    else:
        verb = {"inspect": "look", "survey": "look"}.get(need.category, "go")
    return f"{need.category} {verb}"


def task_text(rng: random.Random, scene: Scene, need: Need, unseen: bool = False) -> TaskText:
    """The task in words, at most `WORD_LIMIT` of them.

    Args:
        rng: chooses the wording.
        scene: gives the thing, the place and the facts named in `need.stated`.
        need: what is asked for.
        unseen: use test-only wordings: always for the verb, for everything else where the dice say so.

    Raises:
        ValueError: the category has no verb for what the need asks (`VERBS` says what it has).
    """
    key = action(need)
    if key not in VERBS:
        raise ValueError(f"need: no wording for {key!r}; known are {', '.join(VERBS)}")
    drafts = []
    for attempt in range(12):
        drafts.append(_compose(rng, scene, need, key, unseen, plain=attempt > 3))
        if len(drafts[-1][0].split()) <= WORD_LIMIT:
            break
    text, place = min(reversed(drafts), key=lambda draft: max(len(draft[0].split()), WORD_LIMIT))
    return TaskText(_noise(rng, text), place, unseen)


def _compose(rng: random.Random, scene: Scene, need: Need, key: str, unseen: bool, plain: bool) -> tuple[str, bool]:
    def pick(wording: Wording) -> str:
        return wording.pick(rng, unseen and rng.random() < 0.7)

    verb = VERBS[key].pick(rng, unseen)
    request = verb.replace("{o}", _thing(rng, scene, unseen), 1)
    if "person" in KINDS[scene.target.kind]:
        request = re.sub(r"\bit\b", "them", request)
    named = not plain and rng.random() < 0.5
    details = [pick(PLACE_PHRASES[scene.environment])] if named else []
    if need.fast:
        details.append(pick(FAST))
    if need.enduring:
        details.append(pick(ENDURING))
    facts = visible_facts(scene)
    for fact in sorted(need.stated):
        phrase = pick(STATED[fact][facts[fact]])
        details.append(phrase.replace("{kg}", weight_text(rng, facts[fact])) if fact == "size" else phrase)
    rng.shuffle(details)
    if not plain and len(details) < 3 and rng.random() < 0.25:
        details.append(pick(REASONS))
    lead = details.pop() if details and rng.random() < 0.25 else ""
    frame = pick(FRAMES)
    body = ", ".join([request, *details]) if rng.random() < 0.5 else " ".join([request, *details[:1]])
    if len(details) > 1 and ", " not in body:
        body = ", ".join([body, *details[1:]])
    text = frame.replace("{t}", body)
    if text.endswith("?") and details and rng.random() < 0.5:
        # A question keeps its mark after the request; the rest follows as a remark.
        text = frame.replace("{t}", request) + " " + ", ".join(details)
    return (f"{lead}: {text}" if lead else text), named


def _thing(rng: random.Random, scene: Scene, unseen: bool) -> str:
    name = KIND_WORDS[scene.target.kind].pick(rng, unseen and rng.random() < 0.5)
    dice = rng.random()
    if dice < 0.3:
        # People wear their colour, things have it.
        person = "person" in KINDS[scene.target.kind]
        return f"the {name} in {scene.target.color}" if person else f"the {scene.target.color} {name}"
    if dice < 0.4:
        return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
    return f"the {name}"


def weight_text(rng: random.Random, size: str) -> str:
    """A weight that a thing of this size has, as a number with its unit."""
    kg = rng.randint(*WEIGHT_RANGE[size])
    return f"{kg} {rng.choice(('kg', 'kg', 'kilos', 'kilograms'))}"


def _noise(rng: random.Random, text: str) -> str:
    """Capitals, a full stop or none, and now and then a slip of the fingers."""
    if rng.random() < 0.06:
        words = text.split(" ")
        spots = [i for i, w in enumerate(words) if len(w) > 5 and w.isalpha()]
        if spots:
            i = rng.choice(spots)
            j = rng.randrange(1, len(words[i]) - 2)
            word = words[i]
            words[i] = word[:j] + word[j + 1] + word[j] + word[j + 2 :]
            text = " ".join(words)
    if not text.endswith("?") and rng.random() < 0.6:
        text += "."
    return text[0].upper() + text[1:] if rng.random() < 0.3 else text


def normalised(text: str) -> str:
    """The text without case, punctuation and spacing: two tasks with equal results count as the same text."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def wording_counts() -> dict[str, tuple[int, int]]:
    """For every table of task wordings how many there are for all splits, and for the test split alone."""
    tables: dict[str, list[Wording]] = {
        "verbs": list(VERBS.values()),
        "things": list(KIND_WORDS.values()),
        "places": list(PLACE_PHRASES.values()),
        "facts": [w for fact, values in STATED.items() if fact != "size" for w in values.values()]
        + [STATED["size"]["small"]],
        "frames": [FRAMES],
        "haste": [FAST],
        "endurance": [ENDURING],
        "reasons": [REASONS],
    }
    return {
        name: (sum(len(set(w.train)) for w in found), sum(len(set(w.test)) for w in found))
        for name, found in tables.items()
    }
