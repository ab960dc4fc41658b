"""Records: repeatable, split cleanly, true to the oracle, and not to be answered without looking."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from embervlm.data.schema import STEPS, Record, to_table
from embervlm.fleet import Fleet
from embervlm.world.chains import parse_chain
from embervlm.world.dataset import build, corpus
from embervlm.world.language import normalised, wording_counts
from embervlm.world.ontology import CATEGORIES
from embervlm.world.questions import QUESTION_TYPES
from embervlm.world.tasks import split_of

SEED = 5


@lru_cache(maxsize=32)
def records(split: str, kind: str, count: int = 600, fleets: int = 12) -> tuple[Record, ...]:
    return tuple(build(split, kind, count, SEED, images=False, fleets=fleets))


def selections(split: str = "test") -> tuple[Record, ...]:
    return records(split, "selection")


@pytest.mark.parametrize("kind", ["caption", "instruction", "selection", "reasoning"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_record_depends_on_its_index_alone(split: str, kind: str) -> None:
    whole = list(build(split, kind, 30, SEED, images=False, fleets=8))
    parts = [r for start in (20, 0, 10) for r in build(split, kind, 10, SEED, start=start, images=False, fleets=8)]
    parts = parts[10:] + parts[:10]
    assert [json.dumps(r.to_row(), sort_keys=True) for r in parts] == [
        json.dumps(r.to_row(), sort_keys=True) for r in whole
    ]
    assert to_table(whole).num_rows == 30
    assert len({r.id for r in whole}) == 30
    other = list(build(split, kind, 30, SEED + 1, images=False, fleets=8))
    assert [r.instruction + r.response for r in other] != [r.instruction + r.response for r in whole]


def test_pictures_repeat_to_the_byte() -> None:
    first = [r.image for r in build("train", "selection", 2, SEED, 48, start=6, fleets=4)]
    again = [r.image for r in build("train", "selection", 1, SEED, 48, start=7, fleets=4)]
    assert first[1] == again[0]
    assert all(isinstance(image, bytes) and len(image) > 200 for image in first)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="split: unknown 'dev'"):
        build("dev", "caption", 1, 0)
    with pytest.raises(ValueError, match="kind: unknown 'poem'"):
        build("train", "poem", 1, 0)
    with pytest.raises(ValueError, match="must not be negative"):
        build("train", "caption", -1, 0)


def test_splits_share_no_task_text_and_no_scene() -> None:
    texts: dict[str, set[str]] = {}
    for split in ("train", "validation", "test"):
        both = [*records(split, "selection"), *records(split, "reasoning", 200)]
        texts[split] = {normalised(r.instruction) for r in both}
        assert all(split_of(r.instruction) == split for r in both)
    assert not texts["train"] & texts["test"]
    assert not texts["train"] & texts["validation"]
    assert not texts["validation"] & texts["test"]


def test_unseen_things_occur_in_the_test_split_only() -> None:
    for split in ("train", "validation"):
        for kind in ("caption", "instruction", "selection"):
            assert not any(r.tags["wording_unseen"] for r in records(split, kind, 600 if kind == "selection" else 300))
        assert not any(r.tags["robots_unseen"] for r in selections(split))
    assert 0.4 < np.mean([r.tags["wording_unseen"] for r in selections()]) < 0.6
    assert 0.25 < np.mean([r.tags["robots_unseen"] for r in selections()]) < 0.5
    total = np.array(list(wording_counts().values())).sum(0)
    assert total[0] >= 300
    assert total[1] / total.sum() > 1 / 3


def test_labels_are_some_of_the_fleet_and_the_chain_says_so() -> None:
    for record in (*selections(), *records("train", "reasoning", 200)):
        names = Fleet.of(record.robots).names
        assert 0 < len(record.labels) < len(names)
        assert set(record.labels) < set(names)
        assert len(record.reasoning) == len(STEPS)
        read = parse_chain(record.reasoning)
        assert sorted(read["decision"]) == sorted(read["able"]) == sorted(record.labels)
        assert read["category"] == record.tags["category"]
        assert not set(read.get("reasons", {})) & set(record.labels)
        facts = record.tags["scene"]
        told = {k: v for k, v in read["environment"].items() if k != "weight_kg"}
        assert told == {k: facts[k] for k in told}
        assert ("access" in told) == (facts["site"] != "underwater")
        assert parse_chain(" ".join(record.reasoning)) == read
        assert len(" ".join(record.reasoning).split()) <= 70
        assert len(record.instruction.split()) <= 30
        assert 1 <= len(record.plan) <= 3
        assert [step["order"] for step in record.plan] == list(range(1, len(record.plan) + 1))
        assert all(step["robot"] in record.labels for step in record.plan)


def test_pairs_share_the_text_and_the_fleet_but_not_the_answer() -> None:
    pairs: dict[str, list[Record]] = {}
    for record in selections():
        if "pair" in record.tags:
            pairs.setdefault(record.tags["pair"], []).append(record)
    assert 0.4 < 2 * len(pairs) / len(selections()) < 0.6
    for first, second in pairs.values():
        assert first.instruction == second.instruction
        assert first.robots == second.robots
        assert set(first.labels) != set(second.labels)
        a, b = first.tags["scene"], second.tags["scene"]
        assert 1 <= sum(a[f] != b[f] for f in a) <= 2
        assert all(a[f] == b[f] for f in ("environment", "light", "kind", "color"))
        assert first.tags["needs_image"]


def test_most_tasks_need_the_picture_and_a_third_of_the_robots_is_able() -> None:
    for split in ("train", "test"):
        found = selections(split)
        assert np.mean([r.tags["needs_image"] for r in found]) > 0.6
        assert 0.3 < np.mean([len(r.labels) / len(r.robots) for r in found]) < 0.4
        assert {r.tags["category"] for r in found} == set(CATEGORIES)
        assert 0.2 < np.mean([r.tags["fleet"] == "default" for r in found]) < 0.4


def _words(robot: dict[str, Any]) -> str:
    return " ".join([robot["name"], *robot["capabilities"], *robot["limitations"], *robot["environments"]])


def _tokens(text: str) -> set[str]:
    return set(re.findall("[a-z]+", text.lower()))


CUES: dict[str, Callable[[list[dict[str, Any]], str], Sequence[float]]] = {
    "longest": lambda robots, task: [len(_words(r)) for r in robots],
    "shortest": lambda robots, task: [-len(_words(r)) for r in robots],
    "most capabilities": lambda robots, task: [len(r["capabilities"]) for r in robots],
    "fewest capabilities": lambda robots, task: [-len(r["capabilities"]) for r in robots],
    "most limitations": lambda robots, task: [len(r["limitations"]) for r in robots],
    "fewest limitations": lambda robots, task: [-len(r["limitations"]) for r in robots],
    "most environments": lambda robots, task: [len(r["environments"]) for r in robots],
    "word overlap": lambda robots, task: [len(_tokens(_words(r)) & _tokens(task)) for r in robots],
    "first": lambda robots, task: [-i for i in range(len(robots))],
    "last": lambda robots, task: list(range(len(robots))),
    "longest name": lambda robots, task: [len(r["name"]) for r in robots],
    "first name": lambda robots, task: [-ord(r["name"][0]) for r in robots],
}


@pytest.mark.parametrize("cue", CUES)
def test_no_surface_cue_finds_the_robot(cue: str) -> None:
    found = records("train", "selection", 2500, fleets=60)
    hits, chance = [], []
    for record in found:
        values = np.array(CUES[cue](record.robots, record.instruction), float)
        best = np.flatnonzero(values == values.max())
        hits.append(np.mean([record.robots[i]["name"] in record.labels for i in best]))
        chance.append(len(record.labels) / len(record.robots))
    assert np.mean(hits) - np.mean(chance) < 0.06


def test_no_robot_of_a_fleet_is_a_good_guess() -> None:
    found = build("train", "selection", 2000, SEED, images=False, fleets=6)
    fleets: dict[str, list[Record]] = {}
    for record in found:
        fleets.setdefault(record.tags["fleet"], []).append(record)
    best = [max(Counter(n for r in group for n in r.labels).values()) / len(group) for group in fleets.values()]
    assert np.mean(best) < 0.5


def test_questions_cover_every_type_with_balanced_answers() -> None:
    answers: dict[str, Counter[str]] = {}
    for record in build("train", "instruction", 3000, SEED, images=False):
        assert 1 <= len(record.response.split()) <= 4
        answers.setdefault(record.tags["question_type"], Counter())[record.response] += 1
    assert set(answers) == set(QUESTION_TYPES)
    for kind, counts in answers.items():
        assert counts.most_common(1)[0][1] / counts.total() < 1.4 / len(counts) + 0.05, kind


def test_captions_tell_apart() -> None:
    captions = [r.response for r in records("train", "caption", 600)]
    assert len(set(captions)) > 590
    assert max(len(text.split()) for text in captions) <= 40


def test_the_corpus_holds_every_kind_of_text() -> None:
    texts = list(corpus(SEED, 80))
    assert texts == list(corpus(SEED, 80))
    joined = " ".join(texts)
    assert "send [" in joined
    assert any(text.endswith("?") for text in texts)
    assert all(texts)
