"""Tasks and fleets in free words as records of stage 3, without a picture.

Record i is a pure function of (seed, split, i). Its labels are what the descriptions tell, never what they leave
open; the robot that is right is neither the one with most words, nor the one whose words are most like the task's.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from embervlm.data.schema import SPLITS, Record
from embervlm.fleet import Robot
from embervlm.world.lexicon.asks import KIND, NAMED, Asks
from embervlm.world.lexicon.drafts import Draft, drafts
from embervlm.world.lexicon.entries import stems
from embervlm.world.lexicon.five import default_teams, suited
from embervlm.world.lexicon.render import WORD_LIMIT, render
from embervlm.world.lexicon.teams import Team, team, verdicts
from embervlm.world.lexicon.telling import NO, UNSURE, YES
from embervlm.world.ontology import REQUIREMENTS

SOURCE = "emberwords"
#: Raised whenever the same arguments would make other records.
GENERATOR_VERSION = 2
#: The share of records with the default five, of these the share in their published words, and of team tasks.
DEFAULT_SHARE = 0.34
_PLAIN_SHARE = 0.4
_TEAM_SHARE = 0.15
#: The share of records on other fleets in which no robot can do it.
NONE_SHARE = 0.09
_DRAFTS = {"train": 12_000, "validation": 4_000, "test": 4_000}
_TEAMS = 400
_DEFAULTS = 120


def build(split: str, count: int, seed: int, start: int = 0) -> Iterator[Record]:
    """Records `start` … `start + count - 1` of a split.

    Args:
        split: "train", "validation" or "test"; the latter two use words and forms that training never sees.
        count: how many.
        seed: the data set's seed.
        start: index of the first.

    Raises:
        ValueError: an unknown split, or a negative number.
    """
    if split not in SPLITS:
        raise ValueError(f"split: unknown {split!r}; known are {', '.join(SPLITS)}")
    if count < 0 or start < 0:
        raise ValueError(f"count {count} and start {start} must not be negative")
    return (_record(split, i, seed) for i in range(start, start + count))


@dataclass(frozen=True)
class _Stock:
    """The drafts of a split by what they ask for."""

    asked: tuple[Asks, ...]
    drafts: tuple[tuple[Draft, ...], ...]


@lru_cache(maxsize=6)
def _stock(seed: int, split: str) -> _Stock:
    found: dict[Asks, list[Draft]] = {}
    for draft in drafts(seed, split, _DRAFTS[split]):
        found.setdefault(draft.asks, []).append(draft)
    return _Stock(tuple(found), tuple(map(tuple, found.values())))


@dataclass(frozen=True)
class _Board:
    """For one fleet which tasks it can be asked: `able` [tasks, robots] where nothing is unsure, and their weights."""

    rows: np.ndarray
    able: np.ndarray
    weights: np.ndarray
    none_rows: np.ndarray


@lru_cache(maxsize=2048)
def _board(seed: int, split: str, team: Team) -> _Board:
    stock = _stock(seed, split)
    found = verdicts(team.told, stock.asked)
    sure = ~(found == UNSURE).any(1)
    right = (found == YES).sum(1)
    most = max(1, int(0.6 * len(team.robots)))
    rows = np.flatnonzero(sure & (right >= 1) & (right <= most))
    often = np.array([len(group) for group in stock.drafts], float)
    weights = np.sqrt(often[rows]) / right[rows]
    # Tasks that part robots which move alike are worth more than those that only part land from water.
    media = [tuple(sorted(told.media)) for told in team.told]
    alike = np.zeros(len(rows), bool)
    for i, one in enumerate(media):
        for j in range(i):
            if media[j] == one:
                alike |= found[rows, i] != found[rows, j]
    weights *= np.where(alike, 4.0, 1.0)
    return _Board(rows, found[rows] == YES, weights, np.flatnonzero(sure & (right == 0)))


def _record(split: str, i: int, seed: int) -> Record:
    rng = random.Random(f"{SOURCE}|{seed}|{split}|{i}")
    if rng.random() < DEFAULT_SHARE:
        return _default_record(rng, split, i, seed)
    while True:
        fleet = team(seed, split, rng.randrange(_TEAMS))
        board = _board(seed, split, fleet)
        if len(board.rows) and (rng.random() >= NONE_SHARE or not len(board.none_rows)):
            return _picked(rng, split, i, seed, fleet, board)
        if len(board.none_rows):
            row = int(board.none_rows[rng.randrange(len(board.none_rows))])
            draft = rng.choice(_stock(seed, split).drafts[row])
            return _finished(rng, split, i, seed, fleet, [draft], [], render(rng, draft, split))


def _picked(rng: random.Random, split: str, i: int, seed: int, team: Team, board: _Board) -> Record:
    """A task for a robot drawn evenly: no robot of a fleet is a good guess. Likeness of words is evened out."""
    stock = _stock(seed, split)
    choices = [j for j in range(len(team.robots)) if board.able[:, j].any()]
    lucky = rng.random()
    best: tuple[float, Draft, np.ndarray, str] | None = None
    for _ in range(4):
        target = rng.choice(choices)
        weights = board.weights * board.able[:, target]
        at = rng.choices(range(len(weights)), weights.tolist())[0]
        draft = rng.choice(stock.drafts[int(board.rows[at])])
        text = render(rng, draft, split)
        able = board.able[at]
        wanted = lucky < able.mean()
        off = abs(_likeness(team.robots, text, able) - wanted)
        if best is None or off < best[0]:
            best = (off, draft, able, text)
        if off == 0:
            break
    assert best is not None
    _, draft, able, text = best
    names = [robot.name for robot, fits in zip(team.robots, able, strict=True) if fits]
    return _finished(rng, split, i, seed, team, [draft], names, text)


@lru_cache(maxsize=50_000)
def _stems_of(robot: Robot) -> frozenset[str]:
    texts = (robot.name, *robot.capabilities, *robot.limitations, *robot.environments)
    return frozenset(stems(" ".join(texts)))


def _likeness(robots: Sequence[Robot], text: str, able: np.ndarray) -> float:
    """The share of the right among the robots that share most words with the text."""
    mine = stems(text)
    shared = np.array([len(mine & _stems_of(robot)) for robot in robots])
    return float(able[shared == shared.max()].mean())


def _default_record(rng: random.Random, split: str, i: int, seed: int) -> Record:
    """A task for the default five, in their published words or in others."""
    stock = _stock(seed, split)
    versions = default_teams(seed, split, _DEFAULTS)
    team = versions[0] if rng.random() < _PLAIN_SHARE else rng.choice(versions[1:])
    wished = rng.choice(default_teams(seed, split, _DEFAULTS)[0].robots).name
    parts: list[tuple[Draft, list[str]]] = []
    count = 2 if rng.random() < _TEAM_SHARE else 1
    for attempt in range(400):
        draft = rng.choice(rng.choice(stock.drafts))
        names = suited(draft.asks, draft.main.fields)
        # The first part is for a robot drawn evenly; the second for whom the first is not.
        if not names or len(names) > 3 or (not parts and wished not in names and attempt < 300):
            continue
        if parts and (set(names) & set(parts[0][1]) or draft.sort != "job"):
            continue
        parts.append((draft, names))
        if len(parts) == count:
            break
    if not parts:
        raise RuntimeError(f"no task for the default five among the drafts of {split}")
    text = render(rng, parts[0][0], split)
    if len(parts) == 2:
        text = _joined(rng, text, parts[1][0])
    known = dict(zip([robot.name for robot in versions[0].robots], team.robots, strict=True))
    labels = [known[name].name for _, names in parts for name in names]
    return _finished(rng, split, i, seed, team, [draft for draft, _ in parts], labels, text)


def _joined(rng: random.Random, text: str, second: Draft) -> str:
    """A task of two parts."""
    job = second.main.text
    text = text.rstrip(".")
    return text + rng.choice(
        (f", and then {job}", f". Also {job}", f"; meanwhile {job}", f" and at the same time {job}", f". Second: {job}",
         f". After that somebody else should {job}", f" while another one is to {job}", f" + {job}")
    )  # fmt: skip


def _finished(
    rng: random.Random, split: str, i: int, seed: int, team: Team, parts: list[Draft], labels: list[str], text: str
) -> Record:
    default = team.key.startswith("default")
    order = list(range(len(team.robots)))
    if team.key != "default":
        rng.shuffle(order)
    robots = [team.robots[j] for j in order]
    names = [robot.name for robot in robots if robot.name in labels]
    tags = {
        "wording_unseen": split != "train",
        "robots_unseen": split != "train" and team.key != "default",
        "needs_image": False,
        "category": parts[0].sort,
        "fleet": team.key,
        "free_words": True,
        "asks": sorted(frozenset().union(*(part.asks.named for part in parts))),
        "told": _told(team),
        "phrases": [entry.text for part in parts for entry in part.phrases],
    }
    if len(parts) == 1 and not default and all(KIND.get(atom, "medium") for atom in parts[0].asks.atoms):
        tags |= _reasons(team, parts[0].asks)
    sent = [f"[{name}]" for name in names]
    listed = sent[0] if len(sent) == 1 else f"{', '.join(sent[:-1])} and {sent[-1]}" if sent else ""
    return Record(
        id=f"{SOURCE}-{seed}-{split}-{i:07d}",
        source=SOURCE,
        kind="selection",
        split=split,
        image=None,
        instruction=text,
        response=f"send {listed}." if sent else "none of these.",
        robots=[robot.to_dict() for robot in robots],
        labels=names,
        tags=tags,
    )


@lru_cache(maxsize=4096)
def _told(team: Team) -> dict[str, dict[str, list[str]]]:
    """What each robot's description says it lacks, and what it leaves open, of all that may be asked for."""
    found = {}
    for robot, told in zip(team.robots, team.told, strict=True):
        verdicts = {name: told.meets(name) for name in NAMED}
        found[robot.name] = {
            key: [name for name, verdict in verdicts.items() if verdict == wanted]
            for key, wanted in (("lacks", NO), ("unsure", UNSURE))
        }
    return found


def _reasons(team: Team, asks: Asks) -> dict[str, object]:
    """What is asked for, and what each robot lacks of it, by the kinds that all of EmberWorld knows."""
    lacks: dict[str, list[str]] = {}
    for robot, told in zip(team.robots, team.told, strict=True):
        verdict, missing = told.judge(asks)
        kinds = Counter(KIND[atom] for atom in missing)
        lacks[robot.name] = [kind for kind in REQUIREMENTS if verdict == NO and kinds[kind]]
    return {"needs": asks.kinds(), "lacks": lacks}


__all__ = ["DEFAULT_SHARE", "GENERATOR_VERSION", "NONE_SHARE", "SOURCE", "WORD_LIMIT", "build"]
