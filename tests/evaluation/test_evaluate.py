"""`evaluate_stage` against a model whose every answer is known."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from embervlm.data.schema import Record
from embervlm.evaluation import MetricError, evaluate_stage, format_table, metrics_content, read_metrics, write_json
from embervlm.evaluation.asking import other_images, subset
from embervlm.evaluation.reasoning import shifted
from tests.evaluation import fakes


def test_stage_3_reads_every_figure_from_the_answers() -> None:
    records, train = fakes.selection_records(32), fakes.selection_records(16, split="train")
    found = evaluate_stage(fakes.FakeModel(), None, 3, records, train)
    metrics, base = found["metrics"], found["baselines"]
    for name in ("first_choice", "team_iou", "team_exact", "macro_f1", "counterfactual_both_right"):
        assert metrics[name] == 1.0, name
    for name in ("unseen_wordings", "unseen_robots", "needs_image"):
        assert metrics[f"first_choice_{name}"] == 1.0
    assert metrics["infeasible_rate"] == 0.0
    assert metrics["ece"] == pytest.approx(0.1)
    assert metrics["brier"] == pytest.approx(4 * 0.01)
    # Without the picture it always says Crawler: right once in four, never on both twins.
    assert base["text_only_first_choice"] == 0.25
    assert base["text_only_counterfactual_both_right"] == 0.0
    assert base["image_only_first_choice"] == 1.0
    assert base["shuffled_image_first_choice"] < 0.6
    assert base["majority_first_choice"] <= 0.5
    assert base["tfidf_first_choice"] <= 0.5, "the words decide nothing here"
    assert found["samples"] == 32
    assert found["tables"]["slices"] == {
        "unseen_wordings": 16,
        "unseen_robots": 16,
        "needs_image": 32,
        "text_suffices": 0,
    }
    assert "first_choice_text_suffices" not in metrics, "an empty slice is absent"
    assert not [name for name in metrics if name.startswith("drone_")], "no default fleet here"
    json.dumps(found)


def test_stage_3_tells_sources_apart_and_leaves_out_what_nobody_can_do() -> None:
    world, others = fakes.selection_records(16), fakes.selection_records(12)
    others = [dataclasses.replace(r, id=f"words-{r.id}", source="emberwords") for r in others]
    nobody = [dataclasses.replace(r, id=f"nobody-{r.id}", labels=[]) for r in others]
    found = evaluate_stage(fakes.FakeModel(), None, 3, [*world, *others, *nobody], None, baselines=False)
    sizes = found["tables"]["slices"]
    assert (sizes[world[0].source], sizes["emberwords"]) == (16, 12)
    assert found["metrics"]["first_choice"] == found["metrics"]["first_choice_emberwords"] == 1.0
    assert "emberwords" not in evaluate_stage(fakes.FakeModel(), None, 3, others, None)["tables"]["slices"]


def test_text_only_records_leave_out_what_needs_a_picture() -> None:
    records = [dataclasses.replace(r, tags={}, robots=fakes.FLEET) for r in fakes.selection_records(16, image=False)]
    found = evaluate_stage(fakes.FakeModel(), None, 3, records, records)
    assert found["metrics"]["first_choice"] == 0.25
    assert "counterfactual_both_right" not in found["metrics"]
    assert not [k for k in found["metrics"] if "needs_image" in k]
    assert {k.rsplit("_first_choice", 1)[0] for k in found["baselines"] if k.endswith("_first_choice")} == {
        "majority",
        "tfidf",
    }


def test_default_fleet_gets_figures_per_robot() -> None:
    from embervlm.fleet import default_fleet

    class Five(fakes.FakeModel):
        def _answer(self, request: dict[str, Any], reasoning: bool) -> dict[str, Any]:
            names = [r["name"] for r in request["fleet"]]
            robots = [{"robot": n, "confidence": 0.8 if n == "Drone" else 0.3} for n in names]
            robots.sort(key=lambda r: -r["confidence"])
            return {"robots": robots, "team": ["Drone"], "plan": [], "reasoning": ""}

    records = [
        Record(
            str(i), "t", "selection", "test", None, f"task {i}", "", robots=default_fleet().to_dicts(), labels=labels
        )
        for i, labels in enumerate([["Drone"], ["Humanoid"], ["Drone", "Humanoid"], ["Drone"]])
    ]
    metrics = evaluate_stage(Five(), None, 3, records, baselines=False)["metrics"]
    assert metrics["drone_precision"] == 0.75
    assert metrics["drone_recall"] == 1.0
    assert metrics["humanoid_f1"] == 0.0
    assert metrics["humanoid_support"] == 2.0
    assert "humanoid_precision" not in metrics, "it was never sent"
    assert metrics["macro_f1"] == pytest.approx((6 / 7 + 0) / 2)


@pytest.mark.parametrize("follows", [True, False])
def test_stage_4_tells_a_faithful_chain_from_a_decorative_one(follows: bool) -> None:
    records = fakes.selection_records(32, kind="reasoning")
    metrics = evaluate_stage(fakes.FakeModel(follows), None, 4, records, baselines=False)["metrics"]
    assert metrics["chain_completeness"] == metrics["chain_consistency"] == 1.0
    assert metrics["plan_assignment_accuracy"] == metrics["plan_order_tau"] == metrics["plan_feasible"] == 1.0
    assert metrics["counterfactual_both_change"] == 1.0
    assert metrics["reasoning_gain"] == 0.0
    assert metrics["mistake_followed"] == (1.0 if follows else 0.0)
    assert metrics["mistake_changes_answer"] == (1.0 if follows else 0.0)
    assert metrics["early_answer_same_0"] == 1.0
    assert metrics["first_choice_without_reasoning"] == 1.0


def test_stage_4_counts_broken_chains() -> None:
    class Broken(fakes.FakeModel):
        def _answer(self, request: dict[str, Any], reasoning: bool) -> dict[str, Any]:
            answer = super()._answer(request, reasoning)
            answer["steps"] = answer["steps"][:3]
            return answer

    metrics = evaluate_stage(Broken(), None, 4, fakes.selection_records(8, kind="reasoning"), baselines=False)[
        "metrics"
    ]
    assert metrics["chain_completeness"] == metrics["chain_consistency"] == 0.0
    assert "mistake_changes_answer" not in metrics, "no whole chain to intervene on"


def test_stages_1_and_2() -> None:
    captions = [
        Record(str(i), "t", "caption", "test", bytes([0, i]), "", f"a picture of number {i}") for i in range(80)
    ]
    found = evaluate_stage(fakes.FakeModel(), None, 1, captions)
    assert found["metrics"]["i2t_recall_at_1"] == found["metrics"]["t2i_recall_1_of_64"] == 1.0
    assert found["metrics"]["bleu4"] == pytest.approx(1.0)
    assert found["metrics"]["cider"] > 9
    assert found["baselines"]["chance_i2t_recall_1_of_64"] == 1 / 64
    assert found["baselines"]["shuffled_image_cider"] < found["metrics"]["cider"]

    questions = [
        dataclasses.replace(r, kind="instruction", instruction="what is it?", tags={"question_type": f"type {i % 2}"})
        for i, r in enumerate(captions)
    ]
    found = evaluate_stage(fakes.FakeModel(), None, 2, questions, questions[:10])
    assert found["metrics"]["answer_accuracy"] == found["metrics"]["answer_accuracy_type_1"] == 1.0
    assert found["metrics"]["answer_accuracy_without_image"] == 0.0
    assert found["baselines"] == {
        "text_only_answer_accuracy": 0.0,
        "shuffled_image_answer_accuracy": 0.0,
        "majority_answer_accuracy": 1 / 80,
    }


def test_errors_and_subsets() -> None:
    records = fakes.selection_records(32)
    with pytest.raises(MetricError, match="stage 7 has no evaluation"):
        evaluate_stage(fakes.FakeModel(), None, 7, records)
    with pytest.raises(MetricError, match="no test records"):
        evaluate_stage(fakes.FakeModel(), None, 3, [])
    some = subset(records, 10, seed=1)
    assert len(some) == 10
    assert all(sum(r.tags["pair"] == s.tags["pair"] for s in some) == 2 for r in some), "pairs stay whole"
    assert [r.id for r in subset(records, 10, seed=1)] == [r.id for r in some]
    own = [r.image for r in records]
    assert all(a != b for a, b in zip(other_images(records), own, strict=True))


def test_shifted_moves_every_mention() -> None:
    assert shifted(["[A] cannot", "send [B]"], ["A", "B"]) == ["[B] cannot", "send [A]"]


def test_metrics_file_and_table(tmp_path: Path) -> None:
    path = tmp_path / "stage3" / "metrics.json"
    written = metrics_content(3, "test", 32, {"first_choice": 0.9}, {"tfidf_first_choice": 0.5}, "c", "d")
    write_json(path, written)
    assert read_metrics(path) == written
    assert list(written) == ["stage", "split", "samples", "metrics", "baselines", "config_digest", "data_digest"]
    with pytest.raises(MetricError, match="ece is nan"):
        metrics_content(3, "test", 1, {"ece": float("nan")}, {}, "c", "d")
    with pytest.raises(MetricError, match="cannot be read"):
        read_metrics(tmp_path / "missing.json")
    assert format_table({"first_choice": 0.9, "ece": 0.02}, {"tfidf_first_choice": 0.5, "chance_x": 0.1}) == (
        "first choice  0.900  tfidf 0.500\nece           0.020\nchance x      0.100  baseline"
    )
