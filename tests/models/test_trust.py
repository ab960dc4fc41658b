"""Calibration by mode, "none of these" and familiarity: from scores to the answer, and through a model folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from embervlm import EmberVLM
from embervlm.models import trust
from embervlm.models.trust import FILE, PARTS, Familiarity, fitted, mode_of, none_log_odds
from embervlm.stages import get_stage
from embervlm.stages.trusting import Scored, calibrate, kinds_of, none_examples
from embervlm.world.dataset import build

TASK = "inspect the roof"


def test_the_chance_that_nobody_is_able_is_the_product() -> None:
    odds = np.array([-1.0, 0.5, 2.0])
    product = np.prod(1 / (1 + np.exp(odds)))
    assert none_log_odds(odds) == pytest.approx(np.log(product / (1 - product)))
    assert none_log_odds(np.array([-80.0])) > 15, "nobody at all is finite"
    assert none_log_odds(np.array([500.0])) < -400


def test_a_mode_falls_back_to_its_input_without_a_chain_and_then_to_all() -> None:
    table = {"picture": [2.0, 1.0]}
    assert mode_of(pictured=True, reasoned=True) == "picture_reasoned"
    assert fitted(table, "picture_reasoned", (3.0, 0.0)) == (2.0, 1.0)
    assert fitted(table, "text_reasoned", (3.0, 0.0)) == (3.0, 0.0)
    assert fitted(None, "picture", (3.0, 0.0)) == (3.0, 0.0)


def test_none_examples_are_equally_large_and_even() -> None:
    log_odds = [np.array([3.0, -2.0, -1.0]), np.array([4.0, 5.0]), np.array([-1.0, -3.0])]
    labels = [np.array([1.0, 0.0, 0.0]), np.ones(2), np.zeros(2)]
    odds, empty = none_examples(log_odds, labels)
    assert empty == [True, False]
    assert odds[0] == pytest.approx(none_log_odds(np.array([-2.0, -1.0])))
    assert odds[1] in [pytest.approx(none_log_odds(np.array([3.0, other]))) for other in (-1.0, -2.0)]


def test_answers_use_the_calibration_of_their_mode(nano_folder: Path) -> None:
    model = EmberVLM.from_pretrained(nano_folder).eval()
    picture = Image.new("RGB", (64, 64), "green")
    asked = [{"image": picture, "task": TASK}, {"image": None, "task": TASK}]
    model.config.calibration = {"picture": [2.0, 1.0], "text": [1.0, -1.0], "text_reasoned": [1.0, 3.0]}
    model.config.none_calibration = {"text": [2.0, 0.5]}
    for reasoning, modes in ((False, ("picture", "text")), (True, ("picture_reasoned", "text_reasoned"))):
        for answer, mode in zip(model.select_many(asked, reasoning, max_new_tokens=2), modes, strict=True):
            expected = model.confidences(answer["scores"], mode)
            assert sorted(r["confidence"] for r in answer["robots"]) == pytest.approx(sorted(expected.tolist()))
            if mode.startswith("picture"):
                assert answer["none_of_these"] is None, "not fitted for this kind of input"
                continue
            # Of the direct scores: what a chain adds belongs to the fleet that it was written about.
            product = float(np.prod(1 - model.confidences(answer.get("direct_scores", answer["scores"]), "text")))
            odds = np.log(product / (1 - product)) / 2 + 0.5
            assert answer["none_of_these"] == pytest.approx(1 / (1 + np.exp(-odds)), abs=1e-4)


def test_a_folder_of_before_answers_with_its_one_temperature_and_without_the_rest(
    nano_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(nano_folder, tmp_path / "old")
    path = tmp_path / "old" / "config.json"
    content = json.loads(path.read_text())
    content |= {"score_temperature": 1.7, "score_bias": -0.3}
    for name in ("calibration", "none_calibration"):
        del content[name]
    path.write_text(json.dumps(content))
    model = EmberVLM.from_pretrained(tmp_path / "old").eval()
    for image in (None, Image.new("RGB", (64, 64), "green")):
        (answer,) = model.select_many([{"image": image, "task": TASK}])
        expected = 1 / (1 + np.exp(-(answer["scores"] / 1.7 - 0.3)))
        assert sorted(r["confidence"] for r in answer["robots"]) == pytest.approx(sorted(expected.tolist()), abs=1e-6)
        assert answer["none_of_these"] is answer["familiarity"] is None


def test_a_folder_never_keeps_the_familiarity_of_other_weights(
    fitted_folder: Path, nano_folder: Path, tmp_path: Path
) -> None:
    EmberVLM.from_pretrained(fitted_folder).save_pretrained(tmp_path)
    assert (tmp_path / FILE).is_file()
    EmberVLM.from_pretrained(nano_folder).save_pretrained(tmp_path)
    assert EmberVLM.from_pretrained(tmp_path).familiarity is None


def test_familiarity_comes_from_the_hub_s_revision_that_the_weights_come_from(
    nano_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(trust, "cached_file", lambda name, file, **where: asked.append(where))
    EmberVLM.from_pretrained(nano_folder, revision="v2", local_files_only=True)
    assert {key: value for key, value in asked[0].items() if not key.startswith("_")} == {
        "revision": "v2",
        "local_files_only": True,
    }


def test_familiarity_is_a_share_of_validation_and_falls_with_distance() -> None:
    rng = np.random.default_rng(0)
    inputs = [{part: torch.tensor(rng.normal(0, [1, 5, 0.1], (4, 3))) for part in PARTS} for _ in range(600)]
    known = Familiarity.fit({"text": inputs[:400]}, {"text": inputs[400:], "picture": inputs[:2]})
    near, far = torch.zeros(1, 3), torch.tensor([[0.0, 0.0, 2.0]])  # far where training hardly varies
    assert known.share("picture", {"states": near, "words": near}) is None, "no training input of that kind"
    assert np.mean([known.share("text", one) for one in inputs[400:]]) == pytest.approx(0.5, abs=0.02)
    assert known.share("text", {"states": near, "words": near}) == 1.0
    assert known.share("text", {"states": far, "words": near}) == pytest.approx(1 / 201)
    assert known.share("text", {"states": near, "words": far}) == pytest.approx(1 / 201)


def test_words_that_no_task_had_are_unfamiliar(fitted_folder: Path) -> None:
    model = EmberVLM.from_pretrained(fitted_folder).eval()
    own = build("validation", "selection", 8, 0, 64, fleets=2)
    known = [model.select_robots(task=r.instruction, fleet=r.robots)["familiarity"] for r in own]
    assert min(known) > 1.5 / 9, "at least two of nine: the furthest of the eight, and the input itself"
    assert model.select_robots(task="?!? %%% ###")["familiarity"] == pytest.approx(1 / 9)


@pytest.mark.parametrize("number", [3, 4])
def test_finish_fits_every_mode_and_a_folder_keeps_it(number: int, nano_folder: Path, tmp_path: Path) -> None:
    model = EmberVLM.from_pretrained(nano_folder).eval()
    assert model.familiarity is None
    stage = get_stage(number)
    validation = list(build("validation", stage.kind, 8, 0, 64, fleets=2))
    training = list(build("train", stage.kind, 8, 0, 64, fleets=2))
    stage.finish(stage.module(model).eval(), model.processor, validation, training)
    direct = {"picture", "text"}
    assert set(model.config.calibration) == (direct if number == 3 else direct | {"picture_reasoned", "text_reasoned"})
    assert set(model.config.none_calibration) == direct
    processor = model.processor
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = EmberVLM.from_pretrained(tmp_path).eval()
    asked = {"image": validation[0].image, "task": TASK, "fleet": validation[0].robots}
    first, again = model.select_many([asked])[0], loaded.select_many([asked])[0]
    assert 0 < first["familiarity"] <= 1
    assert again["familiarity"] == first["familiarity"]
    reasoned = loaded.select_many([asked], reasoning=True, max_new_tokens=2)[0]
    for name in ("none_of_these", "familiarity"):
        assert again[name] == pytest.approx(first[name])
        assert reasoned[name] == pytest.approx(first[name], abs=1e-4), "read before the chain"
    assert (tmp_path / FILE).is_file()
    stage.prepare(loaded, stage.phases[0])
    assert loaded.familiarity is None, "training changes the states that it was measured on"


def test_text_is_calibrated_on_real_text_where_there_is_enough() -> None:
    from tests.evaluation import fakes

    seen, unseen = fakes.selection_records(40), fakes.selection_records(40, image=False)
    assert kinds_of([*seen, *unseen]) == {"picture": seen, "text": unseen}
    assert len(kinds_of([*seen, *unseen[:5]])["text"]) == 45
    assert kinds_of(unseen[:3]) == {"text": unseen[:3]}
    assert kinds_of([]) == {}


def test_none_calibration_corrects_dependence() -> None:
    """Robots that stand or fall together: the product alone would be far too sure."""
    from tests.models.fakes import tiny

    model, rng = tiny(), np.random.default_rng(0)
    labels = [np.array([1.0, 0, 0, 0, 0, 0]) for _ in range(800)]
    scores = [np.where(row > 0, 1.0, -1.0) + rng.normal(0, 0.5) + rng.normal(0, 1, 6) for row in labels]
    calibrate(model, {"text": Scored(scores, labels)})
    odds, empty = none_examples([model.log_odds(row, "text") for row in scores], labels, seed=1)
    temperature, bias = model.config.none_calibration["text"]
    chance = 1 / (1 + np.exp(-(np.array(odds) / temperature + bias)))
    assert np.abs(np.mean(chance) - 0.5) < 0.02
    top = chance > 0.7
    assert np.mean(np.array(empty)[top]) == pytest.approx(np.mean(chance[top]), abs=0.06)
