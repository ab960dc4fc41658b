"""The lexicon is broad and sound, and what is made of it is true, split cleanly and free of cues."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from embervlm.data.schema import Record, to_table
from embervlm.fleet import default_fleet
from embervlm.world.lexicon.asks import ALLOWED, ATOMS, KIND, MEDIA, NAMED, Asks, merge, parse
from embervlm.world.lexicon.dataset import build
from embervlm.world.lexicon.drafts import draft
from embervlm.world.lexicon.entries import CONTENT, FIELDS, entries, lexicon, rare_words, stems, word_split
from embervlm.world.lexicon.five import FIVE, suited
from embervlm.world.lexicon.render import WORD_LIMIT, render
from embervlm.world.lexicon.teams import team, verdicts
from embervlm.world.lexicon.telling import NO, UNSURE, YES, Told, words
from embervlm.world.ontology import REQUIREMENTS

SEED = 3
SPLITS = ("train", "validation", "test")


@lru_cache(maxsize=4)
def records(split: str = "train", count: int = 900) -> tuple[Record, ...]:
    return tuple(build(split, count, SEED))


def random_fleets(split: str = "train", count: int = 900) -> list[Record]:
    return [r for r in records(split, count) if not r.tags["fleet"].startswith("default")]


def test_the_lexicon_is_broad() -> None:
    content = [entry for section in CONTENT for entry in lexicon()[section]]
    assert len({entry.text for entry in content}) >= 2500
    asked: Counter[str] = Counter()
    fields: Counter[str] = Counter()
    for entry in content:
        if entry.section != "denial":
            asked.update(entry.asks.atoms)
            fields.update(entry.fields)
    few = {"radiation", "atex", "clean", "cold", "deep", "quiet", "afloat", "gap", "rain", "storm"}
    for atom in (*(a for a in ATOMS if a not in ("ground", "air", "afloat", "under")), *MEDIA[1:], "kg"):
        assert asked[atom] >= (10 if atom in few else 25), atom
    assert {KIND[atom] for atom in asked if KIND.get(atom)} | {"medium"} == set(REQUIREMENTS)
    assert all(fields[field] >= 30 for field in FIELDS), fields


def test_no_phrase_stands_twice() -> None:
    for section, found in lexicon().items():
        if section not in ("frame", "article"):  # where the plain form is more common than others
            texts = Counter(" ".join(sorted(stems(e.text))) + e.text for e in found)
            assert max(texts.values()) == 1, (section, texts.most_common(1))
    for section, table in words().items():
        phrases = [p for entry in table.values() for group in entry.by_split.values() for p in group]
        assert len(set(phrases)) >= len(phrases) - 1, section


def test_robots_are_told_in_dozens_of_words() -> None:
    table = words()
    for atom in ("air", "under", "rough", "stairs", "narrow", "high", "hand", "fast", "long"):
        assert sum(map(len, table["has"][atom].by_split.values())) >= 20, atom
    for section in ("has", "lacks"):
        for atom, phrases in table[section].items():
            assert len(phrases.by_split["train"]) >= 2, atom
    assert sum(len(g) for t in table.values() for p in t.values() for g in p.by_split.values()) >= 700


@pytest.mark.parametrize("ties", ["hgih", "kg=x", "indoor"])
def test_an_unknown_tie_is_an_error(ties: str) -> None:
    with pytest.raises(ValueError, match=ties.split("=")[0] if "=" not in ties else "float"):
        parse(ties)


def test_words_of_the_test_split_are_unseen_in_training() -> None:
    rare = rare_words()
    for section in CONTENT:
        for entry in entries(section, "train"):
            assert all(word_split(word) == "train" for word in stems(entry.text) & rare), entry.text
    texts = {split: " ".join(r.instruction.lower() for r in records(split, 300)) for split in ("train", "test")}
    phrases = {split: {p for r in records(split, 300) for p in r.tags["phrases"]} for split in ("train", "test")}
    owned = {e.text for section in CONTENT for e in lexicon()[section] if e.split == "test"}
    assert not phrases["train"] & owned
    assert all(set(r.tags["phrases"]) & owned for r in records("test", 300))
    assert texts["train"] != texts["test"]


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(SPLITS))
def test_a_draft_asks_for_what_its_phrases_ask(seed: int, split: str) -> None:
    rng = random.Random(seed)
    made = draft(rng, split)
    for entry in (made.main, *([made.place] if made.place else []), *made.modifiers):
        assert entry.asks.atoms - set(MEDIA) - {"uneven", "rain", "grip"} <= made.asks.atoms, entry
        assert set(ALLOWED[made.asks.medium]) <= set(ALLOWED[entry.asks.medium])
    for entry in made.denials:
        assert entry.ties.split("=")[0] not in made.asks.atoms, entry
    text = render(rng, made, split)
    assert 0 < len(text.split()) <= WORD_LIMIT
    assert "{" not in text


asks = st.builds(
    Asks, st.sampled_from(MEDIA), st.integers(0, 2), st.integers(0, 2), st.integers(0, 2), st.just(None),
    st.frozensets(st.sampled_from(["high", "stairs", "narrow", "fire", "fast", "dark", "in"]), max_size=3),
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(asks, asks)
def test_asking_for_more_suits_nobody_else(one: Asks, other: Asks) -> None:
    both = merge(one, other)
    assert both == merge(other, one)
    if both is not None:
        for told in team(SEED, "train", 1).told:
            if told.judge(both)[0] == YES:
                assert told.judge(one)[0] == told.judge(other)[0] == YES


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 300), st.lists(asks, min_size=1, max_size=5), st.floats(0.1, 300))
def test_the_matrix_is_the_judge(i: int, found: list[Asks], kg: float) -> None:
    asked = (*found, Asks(kg=(kg, kg)))
    told = team(SEED, "train", i).told
    matrix = verdicts(told, asked)
    assert [[one.judge(a)[0] for one in told] for a in asked] == matrix.tolist()


def test_what_is_left_unsaid() -> None:
    wheels = Told(frozenset({"ground"}), 0)
    assert wheels.judge(parse("stairs"))[0] == NO
    assert wheels.judge(parse("hand"))[0] == NO
    assert wheels.judge(parse("under"))[0] == NO
    assert wheels.judge(parse("fast"))[0] == UNSURE
    assert wheels.judge(parse("in"))[0] == YES
    legs = Told(frozenset({"ground"}), 2, {"stairs": True, "hand": False}, (10, 12))
    assert legs.judge(parse("rough stairs kg=5"))[0] == YES
    assert legs.judge(parse("kg=40")) == (NO, frozenset({"kg"}))
    assert legs.judge(parse("overwater"))[0] == NO
    drone = Told(frozenset({"air"}), 0, {"storm": False})
    assert drone.judge(parse("high stairs rough"))[0] == YES
    assert drone.judge(parse("high storm"))[0] == NO
    assert drone.judge(parse("ground"))[0] == NO


def test_what_is_asked_for_by_itself() -> None:
    drone, diver = Told(frozenset({"air"})), Told(frozenset({"under"}))
    assert [drone.meets(name) for name in ("dry", "air", "overwater", "ground", "under")] == [YES, YES, YES, NO, NO]
    assert [diver.meets(name) for name in ("dry", "overwater", "under", "stairs", "dark")] == [NO, NO, YES, YES, YES]
    assert [drone.meets(name) for name in ("stairs", "hand", "long", "kg")] == [YES, NO, UNSURE, UNSURE]
    legs = Told(frozenset({"ground"}), 2, {"stairs": True, "rain": False}, (0, 0))
    assert [legs.meets(name) for name in ("stairs", "rough", "rain", "storm", "kg")] == [YES, YES, NO, NO, NO]


def test_who_lacks_what_is_asked_for_is_not_able() -> None:
    lacking = 0
    for record in random_fleets():
        for name, told in record.tags["told"].items():
            missing = set(record.tags["asks"]) & set(told["lacks"])
            lacking += bool(missing)
            assert not (missing and name in record.labels), (record.id, name, missing)
            assert not set(told["lacks"]) & set(told["unsure"])
            assert {*told["lacks"], *told["unsure"]} <= set(NAMED)
    assert lacking > 900


def test_records_repeat_and_fit_the_schema() -> None:
    whole = list(build("test", 40, SEED))
    parts = [r for start in (30, 0, 10, 20) for r in build("test", 10, SEED, start)]
    as_text = [json.dumps(r.to_row(), sort_keys=True) for r in whole]
    assert [json.dumps(r.to_row(), sort_keys=True) for r in (*parts[10:], *parts[:10])] == as_text
    assert to_table(whole).num_rows == 40
    assert [json.dumps(r.to_row(), sort_keys=True) for r in build("test", 40, SEED + 1)] != as_text
    for split in ("no", ""):
        with pytest.raises(ValueError, match="split"):
            build(split, 1, 0)


def test_fleets_are_of_all_sizes_and_some_are_of_no_use() -> None:
    found = random_fleets()
    sizes = [len(r.robots) for r in found]
    assert min(sizes) == 2
    assert max(sizes) == 40
    assert 0.05 < np.mean([not r.labels for r in found]) < 0.15
    assert all(set(r.labels) < {q["name"] for q in r.robots} for r in found)
    shape = Counter((len(q["capabilities"]) == 1, not q["limitations"]) for r in found for q in r.robots)
    assert len(shape) >= 3
    for record in found:
        for robot in record.robots:
            texts = (robot["name"], *robot["capabilities"], *robot["limitations"], *robot["environments"])
            assert len(" ".join(texts)) < 420
            assert "{" not in " ".join(texts)


def test_lacks_agree_with_labels() -> None:
    for record in random_fleets():
        if "lacks" in record.tags:
            for robot in record.robots:
                assert bool(record.tags["lacks"][robot["name"]]) == (robot["name"] not in record.labels)
                assert set(record.tags["lacks"][robot["name"]]) <= set(record.tags["needs"])


def test_near_twins_decide() -> None:
    close = 0
    for i in range(60):
        told = team(SEED, "train", i).told
        pairs = ((a, b) for j, a in enumerate(told) for b in told[:j] if a.media == b.media)
        close += any(len(set(a.abilities.items()) ^ set(b.abilities.items())) + (a.kg != b.kg) <= 2 for a, b in pairs)
    assert close > 30


def _words(robot: dict[str, Any]) -> str:
    return " ".join((*robot["capabilities"], *robot["limitations"], *robot["environments"]))


CUES: dict[str, Callable[[Record], list[float]]] = {
    "longest description": lambda r: [len(_words(q).split()) for q in r.robots],
    "shortest description": lambda r: [-len(_words(q).split()) for q in r.robots],
    "most capabilities": lambda r: [len(q["capabilities"]) for q in r.robots],
    "fewest limitations": lambda r: [-len(" ".join(q["limitations"])) for q in r.robots],
    "most limitations": lambda r: [len(" ".join(q["limitations"])) for q in r.robots],
    "word overlap": lambda r: [len(stems(_words(q)) & stems(r.instruction)) for q in r.robots],
    "first": lambda r: [-i for i in range(len(r.robots))],
    "last": lambda r: list(range(len(r.robots))),
    "longest name": lambda r: [len(q["name"]) for q in r.robots],
}


def lift(cue: Callable[[Record], list[float]], found: list[Record]) -> float:
    """How much better than chance the best robot by a cue is right."""
    gains = []
    for record in found:
        values = np.array(cue(record), float)
        best = np.flatnonzero(values == values.max())
        right = np.array([q["name"] in record.labels for q in record.robots])
        gains.append(right[best].mean() - right.mean())
    return float(np.mean(gains))


@pytest.mark.parametrize("cue", CUES)
def test_no_surface_cue_finds_the_robot(cue: str) -> None:
    assert lift(CUES[cue], [r for r in random_fleets(count=1500) if r.labels]) < 0.06


def test_likeness_of_words_does_not_find_the_robot() -> None:
    found = [r for r in random_fleets(count=1500) if r.labels]
    texts = [_words(q) for r in found[:600] for q in r.robots] + [r.instruction for r in found[:600]]
    for grams in ((1, 1), (1, 2)):
        vectors = TfidfVectorizer(ngram_range=grams, sublinear_tf=True).fit(texts)

        def similar(record: Record, fitted: TfidfVectorizer = vectors) -> list[float]:
            robots = fitted.transform([_words(q) for q in record.robots])
            scores: list[float] = (robots @ fitted.transform([record.instruction]).T).toarray()[:, 0].tolist()
            return scores

        assert lift(similar, found) < 0.07


def test_no_robot_of_a_fleet_is_a_good_guess() -> None:
    found = random_fleets(count=1500)
    assert np.mean([len(r.labels) / len(r.robots) for r in found]) < 0.45


def test_the_default_five_are_sent_where_people_would_send_them() -> None:
    cases = {
        ("high out", "home"): {"Drone"},
        ("under", "sea"): {"Underwater Robot"},
        ("hand in", "care"): {"Humanoid"},
        ("talk in", "event"): {"Humanoid"},
        ("kg=60 in", "logistics"): {"Robot with Wheels"},
        ("rough out kg=15", "rescue"): {"Robot with Legs"},
        ("air out", "farm"): {"Drone"},
        ("long in", "logistics"): {"Robot with Wheels"},
        ("stairs kg=10 in", "home"): {"Humanoid", "Robot with Legs"},
        ("narrow rough", "rescue"): {"Robot with Legs"},
        ("hand high out", "road"): set(),
    }
    for (ties, field), names in cases.items():
        assert set(suited(parse(ties), frozenset({field})) or ()) == names, ties
    assert tuple(FIVE) == tuple(default_fleet().names)


def test_tasks_of_the_default_five_call_for_each_of_them() -> None:
    found = [r for r in records(count=1500) if r.tags["fleet"].startswith("default")]
    assert 0.28 < len(found) / 1500 < 0.4
    plain = [r for r in found if r.tags["fleet"] == "default"]
    assert all([q["name"] for q in r.robots] == default_fleet().names for r in plain)
    counts = Counter(name for r in plain for name in r.labels)
    assert all(counts[name] / len(plain) > 0.12 for name in default_fleet().names), counts
    assert max(counts.values()) / len(plain) < 0.45
    assert np.mean([len(r.labels) for r in plain]) < 2
