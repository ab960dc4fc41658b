"""Readers of words: what is trained is what the whole model then says, and nothing else of it moves."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ember_platform.config import RunConfig, load_config
from ember_platform.train.plan import PlanError
from ember_platform.train.words import WordsTrainer, by_fleet
from embervlm import EmberVLM
from embervlm.data.schema import Record
from embervlm.world.lexicon.dataset import build
from tests.models.fakes import start, tiny

CONFIG = Path(__file__).parents[3] / "configs" / "words.yaml"


def config(**words: float | str) -> RunConfig:
    own = [f"words.{name}={value}" for name, value in words.items()]
    return load_config(CONFIG, ["device=cpu", "words.upper=null", *own])


def readers() -> EmberVLM:
    """A model whose selection tokens add nothing yet, as a new one of the preset."""
    model = tiny("bert")
    assert model.asking is not None
    assert model.lacking is not None
    model.selection.start_as_similarity(2.0)
    model.reference.start_as_mean()
    for reader in (model.asking, model.lacking):
        start(reader)
    return model


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return [record for record in build("train", 40, 0) if len(record.robots) < 9]


def chunks(records: list[Record]) -> Iterator[list[Record]]:
    return (list(part) for part in itertools.cycle([records[:8], records[8:16]]))


def test_the_whole_model_says_what_its_readers_were_trained_to(records: list[Record]) -> None:
    model = readers()
    trainer = WordsTrainer(config(steps=12, eval_every=6, learning_rate=0.02), model, model.processor, lambda _: None)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer.read(records)
    sets = by_fleet(records[16:])
    trainer.train(chunks(records), sets)
    assert [row["step"] for row in trainer.rows] == [0, 6, 12]
    assert trainer.rows[-1]["lacking_loss"] < trainer.rows[1]["lacking_loss"]
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert all(
        name.startswith(("asking.", "lacking.", "selection.score.bias", "selection.closeness")) for name in moved
    )
    best = max(row["first_choice"] for row in trainer.rows)
    assert np.mean([trainer.right(some) for some in sets.values()]) == pytest.approx(best, abs=1e-4)
    requests = [{"image": None, "task": r.instruction, "fleet": r.robots} for r in records[:6]]
    for mine, whole in zip(trainer.scores(records[:6]), model.score_many(requests), strict=True):
        np.testing.assert_allclose(mine, whole, atol=2e-2)  # states are kept in half precision


def test_upper_layers_train_after_the_readers_and_lower_ones_never(records: list[Record]) -> None:
    model = readers()
    upper = "{layers: 1, steps: 4, eval_every: 2, learning_rate: 0.02, pretrained_rate: 0.5}"
    trainer = WordsTrainer(config(steps=4, eval_every=4, upper=upper), model, model.processor, lambda _: None)
    trainer.read(records)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rows: list[dict[str, bool]] = []
    judge = trainer.judge

    def watched(step: int, *rest: Any) -> None:
        judge(step, *rest)
        rows.append({name: not torch.equal(value, before[name]) for name, value in model.state_dict().items()})
        trainer.rows[-1]["first_choice"] = float(step)  # every step is the best so far

    trainer.judge = watched  # type: ignore[method-assign]
    trainer.train(chunks(records), by_fleet(records[16:]))
    assert [row["step"] for row in trainer.rows] == [0, 4, 6, 8]
    layers = len(model.language.layers)
    of_text = [{name for name, moved in row.items() if moved and name.startswith("language.")} for row in rows]
    assert of_text[0] == of_text[1] == set()
    assert of_text[3]
    assert all(f".layer.{layers - 1}." in name for name in of_text[3])
    # What was kept is what the whole model answers with.
    requests = [{"image": None, "task": r.instruction, "fleet": r.robots} for r in records[:6]]
    model.eval()
    for mine, whole in zip(trainer.scores(records[:6]), model.score_many(requests), strict=True):
        np.testing.assert_allclose(mine, whole, atol=2e-2)


def test_layers_that_made_it_no_better_are_as_they_were(records: list[Record]) -> None:
    model = readers()
    upper = "{layers: 1, steps: 2, eval_every: 1, learning_rate: 0.02}"
    trainer = WordsTrainer(config(steps=2, eval_every=2, upper=upper), model, model.processor, lambda _: None)
    trainer.read(records)
    before = {name: value.clone() for name, value in model.language.state_dict().items()}
    trainer.right = lambda _: 1.0 / (1 + len(trainer.rows))  # type: ignore[method-assign]  # ever worse
    trainer.train(chunks(records), by_fleet(records[16:]))
    assert all(torch.equal(value, before[name]) for name, value in model.language.state_dict().items())


def test_more_layers_than_there_are_is_refused() -> None:
    model = readers()
    with pytest.raises(PlanError, match=r"words\.upper\.layers: 99, and the text side has"):
        WordsTrainer(config(upper="{layers: 99}"), model, model.processor)


def test_a_hidden_word_is_not_read(records: list[Record]) -> None:
    model = readers()
    trainer = WordsTrainer(config(), model, model.processor)
    trainer.read(records[:2])
    texts = [record.instruction for record in records[:2]]
    _, whole = trainer.tasks.padded(texts)
    torch.manual_seed(0)
    _, some = trainer.tasks.padded(texts, 0.5)
    assert bool(some[:, 0].all())
    assert bool((some <= whole).all())
    assert int(some.sum()) < int(whole.sum())


def test_a_model_without_readers_is_refused() -> None:
    model = tiny()
    with pytest.raises(PlanError, match=r"model\.word_kinds: 0"):
        WordsTrainer(config(), model, model.processor)


def test_tasks_that_anybody_can_do_judge_nothing(records: list[Record]) -> None:
    found = by_fleet(records)
    assert set(found) == {"the five", "free fleets"}
    assert all(0 < len(r.labels) < len(r.robots) for some in found.values() for r in some)


def test_the_job_leaves_a_tracked_and_registered_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ember_platform import mlflow_store
    from ember_platform.train import words

    def untrained(_: RunConfig) -> tuple[EmberVLM, Any]:
        model = readers()
        return model, model.processor

    monkeypatch.setattr(words, "new_model", untrained)
    settings = load_config(
        CONFIG,
        [
            "device=cpu",
            f"output_dir={tmp_path}",
            f"data.dir={tmp_path}/data",
            "data.words={train: 24, validation: 16, test: 16}",
            "data.image_size=64",
            "words={steps: 2, eval_every: 1, batch_size: 8}",
        ],
    )
    content = words.train_words(settings, lambda _: None)
    assert json.loads((tmp_path / "words" / "metrics.json").read_text()) == content
    assert EmberVLM.from_pretrained(tmp_path / "words" / "final").config.calibration
    client = mlflow_store.open_store(settings)
    version = client.get_model_version("embervlm-stage3", str(content["version"]))
    assert version.tags["phase"] == "words"
    assert client.get_run(version.run_id).info.status == "FINISHED"
    assert [row.step for row in client.get_metric_history(version.run_id, "first_choice")] == [0, 1, 2]
    logged = client.get_run(version.run_id).data.metrics
    assert logged["test_free fleets"] == content["metrics"]["free fleets"]
    assert logged["baseline_similarity free fleets"] == content["baselines"]["similarity free fleets"]
    assert [model.name for model in client.search_registered_models()] == ["embervlm-stage3"]  # none is served
    monkeypatch.setattr(words.WordsTrainer, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        words.train_words(settings, lambda _: None)
    assert json.loads((tmp_path / "words" / "metrics.json").read_text()) == content  # what was there stays
    runs = client.search_runs([client.get_run(version.run_id).info.experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED", "KILLED"}


def interrupted(*_: Any) -> None:
    raise KeyboardInterrupt
