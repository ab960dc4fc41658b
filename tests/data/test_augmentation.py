"""Other wordings: of training tasks only, all different, never a task of another split, always the same."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from embervlm.data.augmentation import reworded, variants
from embervlm.data.readers.base import Dataset, plain
from embervlm.data.schema import Record
from embervlm.fleet import default_fleet


def record(task: str, split: str = "train", identity: str = "a") -> Record:
    robots = default_fleet().to_dicts()
    plan = [{"order": 1, "subtask": "fly", "robot": "Drone"}]
    return Record(identity, "s", "selection", split, None, task, "Drone", robots=robots, labels=["Drone"], plan=plan)


def test_only_the_wording_changes() -> None:
    original = record("Inspect the large roof and deliver supplies to the crew.")
    made = list(variants(original, 9))
    assert len(made) == 9
    texts = [v.instruction for v in made]
    assert len({plain(text) for text in [*texts, original.instruction]}) == 10
    assert len({v.id for v in [*made, original]}) == 10
    for variant in made:
        assert (variant.labels, variant.plan, variant.robots) == (original.labels, original.plan, original.robots)
        assert variant.tags == {"variant_of": "a"}
        assert "roof" in variant.instruction
        assert "crew" in variant.instruction
    assert any("big" in text for text in texts)  # a synonym
    assert any(text.startswith("Please") for text in texts)  # another way to ask
    assert texts == [v.instruction for v in variants(original, 9)]
    assert texts != [v.instruction for v in variants(record(original.instruction, identity="b"), 9)]


def test_nothing_is_made_of_what_is_not_trained_on() -> None:
    for split in ("validation", "test"):
        assert list(variants(record("Inspect the roof.", split), 5)) == []


def test_a_verb_is_exchanged_only_where_it_is_one() -> None:
    texts = {reworded("Bring the survey of the search party to the track.", str(i)) for i in range(60)}
    assert all("the survey of the search party to the track." in text.lower() for text in texts)


def test_a_short_task_has_as_many_as_it_has() -> None:
    made = list(variants(record("Zzz."), 50))
    assert 1 <= len(made) < 50


WORDS = ["inspect", "monitor", "the", "roof", "large", "supplies", "and", "to", "near", "rubble"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(WORDS), min_size=1))
def test_no_wording_is_a_task_of_another_split(words: list[str]) -> None:
    dataset = Dataset("s", "robot_selection", "x", folds=3)
    task = " ".join(words)
    original = record(task, dataset.split_of(plain(task)))
    for variant in variants(original, 6, lambda text: dataset.split_of(plain(text)) == "train"):
        assert dataset.split_of(plain(variant.instruction)) == original.split == "train"
