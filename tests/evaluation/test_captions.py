"""Text metrics against values of the published implementations and answers known by hand."""

from __future__ import annotations

import pytest

from embervlm.evaluation import captions as t
from embervlm.evaluation.metrics import MetricError

CANDIDATES = [
    "a red crate stands on the stairs",
    "the drone flies over water at night",
    "a man with a dog",
    "smoke above the roof of a house",
]
REFERENCES = [
    ["a red crate on the stairs", "one red crate is standing on stairs"],
    ["a drone flies above the water", "the drone flies over the water at night"],
    ["a woman with a dog walks"],
    ["smoke rises above the house", "there is smoke above the roof of a house today"],
]


def test_cider_d_equals_the_published_code() -> None:
    # aac_metrics 0.5.4: cider_d(CANDIDATES, REFERENCES, return_all_scores=False)
    assert t.cider_d(CANDIDATES, REFERENCES) == pytest.approx(3.8449548966176312, abs=1e-12)
    assert t.cider_d(["valve", "a blue valve"], [["a valve"], ["a blue valve near the pump"]]) == pytest.approx(
        1.8007961882835084, abs=1e-12
    )


def test_cider_d_perfect_and_worst() -> None:
    texts = ["a cat on a mat", "the dog runs in the park", "one red crate by that wall"]
    assert t.cider_d(texts, [[x] for x in texts]) == pytest.approx(10.0)
    assert t.cider_d(["zz yy xx ww"] * 3, [[x] for x in texts]) == 0.0
    with pytest.raises(MetricError, match="at least two"):
        t.cider_d(["a"], [["a"]])
    with pytest.raises(MetricError, match=r"references\[0\] must be a list"):
        t.cider_d(["a", "b"], ["a", "b"])  # type: ignore[list-item]


def test_bleu4() -> None:
    assert t.bleu4(["a cat on a mat today"], [["A cat on a mat, today."]]) == pytest.approx(1.0)
    assert t.bleu4(["nothing in common here"], [["a cat on a mat"]]) == 0.0
    # Papineni et al. by hand: precisions 5/6, 4/5, 3/4, 2/3 and no brevity penalty.
    value = t.bleu4(["the red crate on the stairs"], [["a red crate on the stairs"]])
    assert value == pytest.approx((5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** 0.25)
    assert 0 < t.bleu4(CANDIDATES, REFERENCES) < 1, "references of different counts"


def test_answers_are_compared_after_normalisation() -> None:
    assert t.normalise_answer("The Stairs.") == "stairs"
    assert t.normalise_answer("Two") == t.normalise_answer(" 2 ") == "2"
    assert t.answer_hits(["a red one", "no"], ["Red 1", "yes"]).tolist() == [True, False]
    with pytest.raises(MetricError, match="1 answers against 2"):
        t.answer_hits(["a"], ["a", "b"])


def test_vqa_score_is_full_from_four_of_ten_and_averages_over_the_people_left_out() -> None:
    ten = ["two"] * 6 + ["3"] * 2 + ["a crane", "Crane."]
    assert t.vqa_score("2", ten) == 1.0
    assert t.vqa_score("crane", ten) == pytest.approx((8 * 2 / 3 + 2 * 1 / 3) / 10)
    assert t.vqa_score("dog", ten) == 0.0
    assert t.vqa_score("dog", []) == 0.0
