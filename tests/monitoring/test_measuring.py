"""What figures are drawn from, measured on a small untrained model: compared with what the model itself says."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embervlm import EmberVLM, EmberVLMConfig, EmberVLMProcessor
from embervlm.data.schema import Record
from embervlm.evaluation import evaluate_stage
from embervlm.monitoring import data as d
from embervlm.monitoring.entries import GALLERY
from embervlm.monitoring.measuring import Moment, StageRun, measure_across, measure_stage, stage4
from embervlm.monitoring.measuring import attention as a
from embervlm.monitoring.measuring import chains as c
from embervlm.monitoring.measuring import selecting as s
from embervlm.monitoring.measuring.moments import evenly, has_default_fleet, token_probabilities
from embervlm.monitoring.measuring.stage4 import flow_of
from embervlm.stages.losses import info_nce
from embervlm.world.dataset import build, corpus

KINDS = {1: "caption", 2: "instruction", 3: "selection", 4: "reasoning"}
COUNT = 8


@pytest.fixture(scope="module")
def model() -> EmberVLM:
    """A nano model that has learned nothing, with a tokenizer that knows the world's words."""
    config = EmberVLMConfig.preset("embervlm-nano")
    processor = EmberVLMProcessor.build(config, corpus(0, 600))
    torch.manual_seed(7)
    model = EmberVLM.from_parts(config, len(processor.tokenizer)).eval()
    model.processor = processor
    torch.manual_seed(0)
    # An untrained answer head changes nothing; this one reads the chain.
    torch.nn.init.normal_(model.reasoning.answer_score.weight, std=0.5)
    return model


@pytest.fixture(scope="module")
def records() -> dict[int, list[Record]]:
    found = {n: list(build("validation", kind, COUNT, 3, 128)) for n, kind in KINDS.items()}
    for n in (3, 4):
        more = [r for r in build("validation", KINDS[n], 60, 4, 128) if has_default_fleet(r)]
        found[n] = [*more[:5], *found[n][:4]]
    return found


def history(steps: int = 6) -> dict[str, np.ndarray]:
    count = np.arange(1.0, steps + 1)
    nothing = np.where(count == steps, 0.5, np.nan)
    columns = {"step": count, "phase": (count > steps / 2) * 1.0, "samples": np.full(steps, 8.0), "loss": 1 / count}
    columns |= {"contrastive_loss": 2 / count, "logit_scale": 14 + count, "positive_distance": 1 / count}
    columns |= {"negative_distance": 1 - 0.1 / count, "team_loss": 0.5 / count}
    names = ("retrieval_1_of_64", "answer_accuracy", "first_choice")
    return columns | {f"val_{name}": nothing for name in names}


@pytest.fixture(scope="module")
def runs(model: EmberVLM, records: dict[int, list[Record]]) -> dict[int, StageRun]:
    def made(number: int) -> StageRun:
        asked = records[number]
        found = evaluate_stage(model, model.processor, number, asked, baselines=False)
        return StageRun(
            number=number,
            moments=[Moment(step, Path("nowhere")) for step in (0, 3, 6)],
            load=lambda path: (model, model.processor),
            validation=asked,
            test=asked,
            tables=found["tables"],
            metrics=found["metrics"],
            history=history(),
            phase_ends=[3] if number == 4 else [],
            emissions=[{"part": "training", "kwh": 0.001 * number, "grams": 0.2 * number, "accounting": "a meter"}],
        )

    return {number: made(number) for number in KINDS}


@pytest.fixture(scope="module")
def measured(runs: dict[int, StageRun], tmp_path_factory: pytest.TempPathFactory) -> tuple[d.FigureStore, Any]:
    store = d.FigureStore(tmp_path_factory.mktemp("run"))
    gains = {number: measure_stage(store, run) for number, run in runs.items()}
    measure_across(store, list(runs.values()), gains, "a test's machine")
    return store, gains


def data(measured: tuple[d.FigureStore, Any], kind: type[d.FigureData]) -> Any:
    found = measured[0].read(kind)
    assert found is not None, measured[0].reason(kind)
    return found


def test_everything_is_measured_but_what_needs_a_training_of_its_own(measured: tuple[d.FigureStore, Any]) -> None:
    missing = {
        entry.kind.name: measured[0].reason(entry.kind) for entry in GALLERY if not measured[0].stems(entry.kind)
    }
    # A model that learned nothing may not write one whole chain; see the next test.
    assert missing.pop("reasoning_step_importance_3d", "no chain has all four steps") == "no chain has all four steps"
    assert set(missing) == {"ablation_tornado", "distillation_gap"}
    assert "jobs/ablate.py" in missing["ablation_tornado"]
    assert "the run had no teacher (teacher.model)" in missing["distillation_gap"]


def test_step_importance_is_the_change_without_the_step(
    model: EmberVLM, records: dict[int, list[Record]], tmp_path: Path
) -> None:
    store, asked = d.FigureStore(tmp_path), records[4][:3]
    own = c.written(model, asked)
    chains = [dataclasses.replace(x, steps=list(r.reasoning)) for x, r in zip(own, asked, strict=True)]
    short = dataclasses.replace(own[0], steps=["only one"])
    stage4.importance(store, model, Moment(6, Path("nowhere")), [*chains, short])
    found = store.read(d.StepImportance)
    assert found is not None
    (whole,) = a.confidences(model, chains, [chain.steps for chain in chains])
    for q in range(4):
        steps = [[*chain.steps[:q], "", *chain.steps[q + 1 :]] for chain in chains]
        (without,) = a.confidences(model, chains, steps)
        due = np.mean([np.abs(x - y).mean() for x, y in zip(whole, without, strict=True)])
        assert found.importance[0, q] == pytest.approx(due, rel=1e-4)
    assert (found.importance > 0).any()
    assert "3 whole chains" in found.source


def test_choices_are_those_of_the_model(
    measured: tuple[d.FigureStore, Any], model: EmberVLM, records: dict[int, list[Record]]
) -> None:
    five = [r for r in records[3] if has_default_fleet(r)]
    answers = model.select_many([{"image": r.image, "task": r.instruction, "fleet": r.robots} for r in five])
    performance, confusion = data(measured, d.RobotPerformance), data(measured, d.ConfusionEvolution)
    for n, robot in enumerate(performance.robots):
        sent = [robot in x["team"] and robot in r.labels for x, r in zip(answers, five, strict=True)]
        assert performance.correct[-1, n] == sum(sent)
        assert performance.total[-1, n] == sum(robot in r.labels for r in five)
        assert confusion.counts[-1, :, n].sum() == sum(
            x["robots"][0]["robot"] == robot for x, r in zip(answers, five, strict=True) if r.labels
        )
    right = sum(x["robots"][0]["robot"] in r.labels for x, r in zip(answers, five, strict=True))
    assert np.trace(confusion.counts[-1]) == right
    assert list(confusion.steps) == [0, 3, 6]


def test_last_layer_gives_the_scores_themselves(model: EmberVLM, records: dict[int, list[Record]]) -> None:
    five = [r for r in records[3] if has_default_fleet(r)]
    layers = s.layer_scores(model, five)
    assert layers.shape == (model.config.text_config.num_hidden_layers + 1, len(five), 5)
    np.testing.assert_allclose(layers[-1], s.choices(model, five).scores, atol=1e-4)
    assert np.abs(layers[0] - layers[-1]).max() > 0.01


def test_probabilities_are_those_of_the_loss(model: EmberVLM, records: dict[int, list[Record]]) -> None:
    asked = records[2]
    requests = [{"image": r.image, "prompt": r.instruction} for r in asked]
    found = np.concatenate(token_probabilities(model, requests, [r.response for r in asked]))
    from embervlm.stages import get_stage

    stage = get_stage(2)
    loss = stage.module(model)(stage.collate(model.processor, asked, None))["loss"]
    assert -np.log(found).mean() == pytest.approx(float(loss), abs=1e-4)


def test_retrieval_is_that_of_the_evaluation(measured: tuple[d.FigureStore, Any], runs: dict[int, StageRun]) -> None:
    found = data(measured, d.RetrievalAccuracy)
    assert found.image_to_text[0, 0] == pytest.approx(runs[1].metrics["i2t_recall_at_1"])
    assert found.text_to_image[0, 1] == pytest.approx(runs[1].metrics["t2i_recall_at_5"])


def test_similarity_of_a_single_token_is_that_of_its_pooling(model: EmberVLM, records: dict[int, list[Record]]) -> None:
    from embervlm.monitoring.measuring.stage1 import encoded_images

    images = [r.image for r in records[1]]
    vectors, tokens = encoded_images(model, images)
    np.testing.assert_allclose(vectors, model.encode_images(images), atol=1e-5)
    with torch.inference_mode():
        fused = model.fusion(model.visual_features(model.processor.images(images)["pixel_values"]))
        alone = model.image_pool(fused[:, 5:6])
    np.testing.assert_allclose(tokens[:, 5], alone.numpy(), atol=1e-5)


def test_attention_is_taken_apart_without_loss(model: EmberVLM, records: dict[int, list[Record]]) -> None:
    chains = c.written(model, [r for r in records[4] if r.image is not None][:4])
    (before,) = a.confidences(model, chains, [chain.steps for chain in chains])
    for rolled, chain in zip(a.rollouts(model, chains), chains, strict=True):
        weights = rolled.weights.numpy()
        np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-4)
        place = rolled.columns()
        assert place["selection"].stop == len(weights)
        assert weights[place["task"], place["chain"]].max() == 0, "the task cannot see the chain"
        strength = flow_of(rolled, chain)
        assert strength[:, 12:].sum() == pytest.approx(1)
        for node in range(7, 12):
            leaves = strength[node].sum()
            assert strength[:, node].sum() == pytest.approx(leaves if strength[:, node].any() else 0)
        assert strength[:4].sum() == pytest.approx(strength[4].sum())
    (after,) = a.confidences(model, chains, [chain.steps for chain in chains])
    np.testing.assert_allclose(np.concatenate(before), np.concatenate(after), atol=1e-6)


def test_forced_chain_gives_the_answer_that_the_model_gave(model: EmberVLM, records: dict[int, list[Record]]) -> None:
    reference = [
        dataclasses.replace(
            c.read(r, {"steps": r.reasoning, "plan": r.plan, "team": r.labels, "robots": [{"robot": r.labels[0]}]})
        )
        for r in records[4]
        if r.labels
    ]
    requests = [
        {"image": x.record.image, "task": x.record.instruction, "fleet": x.record.robots, "reasoning_text": x.steps}
        for x in reference
    ]
    given = [x.steps for x in reference], [c.ablated(x.steps)[2] for x in reference]
    found, empty = a.confidences(model, reference, *given)
    for together, steps in zip((found, empty), given, strict=True):
        (alone,) = a.confidences(model, reference, steps)
        np.testing.assert_allclose(np.concatenate(together), np.concatenate(alone), atol=1e-6)
    assert max(np.abs(one - two).max() for one, two in zip(found, empty, strict=True)) > 1e-5
    assert len(requests) == len(found)


def test_what_the_evaluation_answered_is_not_asked_again(
    runs: dict[int, StageRun], measured: tuple[d.FigureStore, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = runs[4]
    rows = {row["id"]: row for row in run.tables["predictions"]}
    kept = c.evaluated(run)
    assert list(kept) == [r.id for r in run.test]
    model, _ = run.opened(run.product)
    for asked, chain in zip(c.written(model, run.test), kept.values(), strict=True):
        assert (asked.steps, asked.chosen, asked.correct) == (chain.steps, chain.chosen, chain.correct)
        assert (asked.coherence, asked.consistency, asked.place) == (chain.coherence, chain.consistency, chain.place)
    old = [{name: value for name, value in row.items() if name != "steps"} for row in rows.values()]
    assert c.evaluated(dataclasses.replace(run, tables={"predictions": old})) == {}
    # Scores that the model would never give come back as its choices, so they were read and not asked for.
    five = [r for r in runs[3].test if has_default_fleet(r)]
    known = {r.id: np.where([robot["name"] == "Drone" for robot in r.robots], 9.0, -9.0) for r in five}
    monkeypatch.setattr(type(model), "select_many", lambda *given, **named: [])
    found = s.choices(model, five, known)
    assert (np.array(found.robots)[found.first] == "Drone").all()
    assert (found.sent.sum(axis=1) == 1).all()


def test_before_and_after_are_the_evaluation_of_the_stage(
    runs: dict[int, StageRun], measured: tuple[d.FigureStore, Any]
) -> None:
    for number, run in runs.items():
        model, processor = run.opened(run.moments[0])
        due = run.definition.evaluate(run.definition.module(model), processor, run.validation)[run.definition.metric]
        assert measured[1][number]["before"] == pytest.approx(due), number


def test_chain_of_the_data_is_coherent_and_a_broken_one_is_not(records: dict[int, list[Record]]) -> None:
    record = next(r for r in records[4] if r.labels and r.plan)
    first = c.best_robot(record)
    answer = {"steps": record.reasoning, "plan": record.plan, "team": record.labels, "robots": [{"robot": first}]}
    whole = c.read(record, answer)
    assert (whole.coherence, whole.consistency, whole.correct) == (1.0, 1.0, True)
    assert whole.place is not None
    assert 0 < whole.place < 1
    broken = c.read(record, {**answer, "steps": record.reasoning[:2]})
    assert broken.coherence == 0.0
    assert broken.consistency == 0.0
    assert all(right == total for right, total in c.facts([whole]).values())
    assert c.facts([broken])["requirements"][0] == 0


def test_what_crosses_stages(measured: tuple[d.FigureStore, Any], runs: dict[int, StageRun]) -> None:
    gains = measured[1]
    carbon = data(measured, d.CarbonFootprint)
    np.testing.assert_allclose(carbon.grams, [0.2, 0.4, 0.6, 0.8])
    assert carbon.gain[2] == pytest.approx(100 * (gains[3]["after"] - gains[3]["before"]))
    dynamics = data(measured, d.TrainingDynamics)
    assert list(dynamics.stages) == [1, 2, 3, 4]
    assert dynamics.transitions[3].tolist() == [3]
    edge = data(measured, d.EdgePareto)
    assert edge.device == "a test's machine"
    assert (edge.latency_ms > 0).all()
    benchmarks = data(measured, d.BenchmarkProgression)
    scores = dict(zip(benchmarks.benchmarks, benchmarks.scores[:, -1], strict=True))
    assert scores["Robot selection, first choice (%)"] == pytest.approx(100 * runs[3].metrics["first_choice"])
    assert scores["Robot selection, exact team (%)"] == pytest.approx(100 * runs[3].metrics["team_exact"])
    direct = runs[4].metrics["first_choice_without_reasoning"]
    assert scores["Tasks of stage 4, first choice (%)"] == pytest.approx(100 * direct)
    raced = dict(zip(edge.models, edge.accuracy, strict=True))
    assert raced["EmberVLM, direct, fp32"] == pytest.approx(100 * direct)
    assert raced["EmberVLM, with chain, fp32"] == pytest.approx(100 * runs[4].metrics["first_choice"])
    lengths = data(measured, d.ResponseLengths)
    assert lengths.tasks[:2] == ("captioning", "VQA")
    assert (lengths.task == 1).sum() == len(runs[2].tables["answers"])


def test_distances_are_those_of_the_batch() -> None:
    torch.manual_seed(1)
    left, right = (torch.nn.functional.normalize(torch.randn(6, 5), dim=1) for _ in range(2))
    found = info_nce(left, right, torch.tensor(2.0), left, right, 0)
    cosine = left @ right.T
    assert float(found["positive_distance"]) == pytest.approx(float(1 - cosine.diag().mean()), abs=1e-6)
    others = cosine[~torch.eye(6, dtype=torch.bool)]
    assert float(found["negative_distance"]) == pytest.approx(float(1 - others.mean()), abs=1e-6)


def test_notes_are_read_back_and_forgotten(tmp_path: Path) -> None:
    store = d.FigureStore(tmp_path)
    assert "nothing was recorded" in store.reason(d.Ablation)
    store.note(d.Ablation, "nobody trained it")
    store.note(d.CarbonFootprint, "no meter")
    assert store.reason(d.Ablation) == "nobody trained it"
    store.clear("cross", keep=(d.Ablation,))
    assert store.reason(d.Ablation) == "nobody trained it"
    assert "nothing was recorded" in store.reason(d.CarbonFootprint)


def test_evenly_keeps_both_ends() -> None:
    assert evenly(list(range(10)), 4) == [0, 3, 6, 9]
    assert evenly([1, 2], 4) == [1, 2]
