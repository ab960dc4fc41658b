"""The ablation: what each arm takes out of the model, that the comparison reaches the run's figure, and the job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ember_platform import studies
from ember_platform.config import load_config
from ember_platform.data.ingest import prepare
from ember_platform.mlflow_store import tracking_uri
from ember_platform.train.folders import write_json
from ember_platform.train.setup import load_model
from embervlm.monitoring.data import Ablation, FigureStore
from embervlm.stages import get_stage
from embervlm.world.dataset import build
from jobs import ablate
from tests.models.fakes import tiny

PARTS = {"Pretrained LLM": "language.", "Fusion Adapter": "fusion.", "RepViT": "vision."}


@pytest.mark.parametrize("name", PARTS)
def test_an_arm_renews_its_part_and_no_other(name: str, nano_folder: Path) -> None:
    model, _ = load_model(nano_folder)
    # As if trained: nothing is what a new model has.
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.01)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    change = studies.ARMS[name][0]
    assert change is not None
    after = change(model).state_dict()
    changed = {key for key, value in before.items() if not torch.equal(value, after[key])}
    assert changed
    assert all(key.startswith(PARTS[name]) for key in changed)


def test_without_norms_the_model_is_saved_read_and_chooses(nano_folder: Path, tmp_path: Path) -> None:
    model, processor = load_model(nano_folder)
    plain = studies.without_qk_norm(model)
    own = model.config.text_config.to_dict()["rope_parameters"]
    assert plain.config.text_config.to_dict()["rope_parameters"]["rope_theta"] == own["rope_theta"]
    assert not any("q_norm" in key or "k_norm" in key for key in plain.state_dict())
    plain.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, processor = load_model(tmp_path)
    again.processor = processor
    assert again.config.text_config.model_type == "llama"
    records = list(build("validation", "selection", 3, 5, again.config.image_size))
    asked = [{"image": r.image, "task": r.instruction, "fleet": r.robots} for r in records]
    for first, second in zip(plain_scores(plain, processor, asked), again.score_many(asked), strict=True):
        torch.testing.assert_close(torch.as_tensor(first), torch.as_tensor(second))
    # And it trains: every loss is a number.
    stage = get_stage(studies.STAGE)
    stage.prepare(again, stage.phases[0])
    losses = stage.module(again)(stage.collate(processor, records, 0))
    losses["loss"].backward()
    assert all(bool(torch.isfinite(value).all()) for value in losses.values())


def plain_scores(model: Any, processor: Any, asked: list[dict[str, Any]]) -> Any:
    model.processor = processor
    return model.score_many(asked)


class Arms:
    """Stands for training and measuring: notes what is asked for, and lets each arm score by its name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: Path, output: Path) -> None:
        self.asked: dict[str, tuple[Any, str]] = {}
        self.trained = 0
        self.overrides = [f"output_dir={output}", f"data.dir={output}/data", "data.workers=1"]
        for n in (1, 2, 3, 4):
            self.overrides += [f"data.counts.stage{n}.{split}=2" for split in ("train", "validation", "test")]
        self.config = load_config(root / "configs" / "laptop.yaml", self.overrides)
        prepare(self.config, runner=lambda specs, make: map(make, specs), say=lambda line: None)
        monkeypatch.setattr(studies, "_trained", self._train)
        monkeypatch.setattr("ember_platform.measure.measure_stage", self._measure)

    def _train(self, config: Any, stage: int, digest: str, parent: str, data_dir: str) -> str:
        assert stage == studies.STAGE
        assert data_dir == self.config.data.dir
        self.trained += 1
        self.asked[Path(config.output_dir).name] = (config, parent)
        return parent

    def _measure(self, config: Any, stage: int, folder: Path) -> dict[str, Any]:
        score = {"whole-model": 0.9, "reasoning-module": 0.8}.get(Path(config.output_dir).name, 0.5)
        return {"metrics": {studies.METRIC: score}, "samples": 64}


def test_every_arm_is_trained_alike_and_the_figure_has_the_difference(
    nano_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    arms, said = Arms(monkeypatch, root, tmp_path), list[str]()
    for number, due in ((2, {}), (3, {"ablation": 40})):
        (tmp_path / f"stage{number}").mkdir()
        (tmp_path / f"stage{number}" / "final").symlink_to(nano_folder)
        assert studies.due(arms.config) == due, "it compares trainings of stage 3; no stage-1 model, so nobody to teach"
    monkeypatch.setattr("ember_platform.data.rayed.ensure_ray", lambda config: None)
    monkeypatch.setattr(ablate.figures, "draw", lambda config, report: ["drawn"])
    given = ["--config", str(root / "configs" / "laptop.yaml"), "--steps", "7", *arms.overrides]
    assert ablate.main(given) == 0
    assert set(arms.asked) == {name.lower().replace(" ", "-") for name in studies.ARMS}
    for name, (config, start) in arms.asked.items():
        assert config.stage(studies.STAGE).max_steps == 7
        assert not config.figures.enabled
        assert tracking_uri(config) == tracking_uri(arms.config), "one store for all"
        assert config.name == f"laptop-ablation-{name}"
        fresh = name in ("whole-model", "reasoning-module")
        if fresh:
            assert Path(start) == tmp_path / "stage2" / "final"
        else:
            assert Path(start).parent == tmp_path / "studies" / "ablation" / name
            assert Path(start).name.startswith("start-")
        assert load_model(start)[0].config.text_config.model_type == ("llama" if name == "qk-norm" else "qwen3")
    weights = {name: get_stage(3, dict(config.stage(3).losses)).weights for name, (config, _) in arms.asked.items()}
    assert weights["reasoning-module"]["consistency"] == 0
    assert weights["whole-model"]["consistency"] > 0
    found = FigureStore(tmp_path).read(Ablation)
    assert isinstance(found, Ablation)
    assert found.baseline.tolist() == pytest.approx([90])
    scores = dict(zip(found.components, found.scores[:, 0].tolist(), strict=True))
    assert scores["Reasoning Module"] == pytest.approx(80)
    assert "7 steps" in found.source
    # Nothing is trained twice; other steps are another study.
    studies.ablation(arms.config, 7, said.append)
    assert arms.trained == len(studies.ARMS)
    assert sum("trained before" in line for line in said) == len(studies.ARMS)
    assert studies.due(arms.config) == {"ablation": 40}
    studies.ablation(arms.config, 40, said.append)
    assert arms.trained == 2 * len(studies.ARMS)
    assert studies.due(arms.config) == {}


def test_dry_run_says_what_and_how_long_and_trains_nothing(
    nano_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arms = Arms(monkeypatch, root, tmp_path)
    given = ["--config", str(root / "configs" / "laptop.yaml"), "--dry-run", "--steps", "20", *arms.overrides]
    assert ablate.main(given) == 1
    assert "stage2/final: no model" in capsys.readouterr().err
    (tmp_path / "stage2").mkdir()
    (tmp_path / "stage2" / "final").symlink_to(nano_folder)
    assert ablate.main(given) == 0
    assert "no estimate of the time" in capsys.readouterr().out
    own = tmp_path / "stage3"
    own.mkdir()
    (own / "done.json").write_text(json.dumps({"startup_seconds": {"imports": 5, "model": 15}}))
    pq.write_table(pa.table({"seconds": [9.0, 2.0, 2.0]}), own / "history.parquet")
    rows = [{"part": "training", "seconds": 900.0}, {"part": "evaluation", "seconds": 60.0}]
    (own / "emissions.json").write_text(json.dumps(rows))
    repvit = {"digest": studies.ablation_digest(arms.config, 20), "percent": 50.0, "tasks": 64}
    write_json(f"{studies.arm_folder(arms.config, 'RepViT')}/score.json", repvit)
    before = sorted(tmp_path.rglob("*"))
    assert ablate.main(given) == 0
    said = capsys.readouterr().out
    # 20 s to start, 20 steps of 2 s, 60 s to evaluate; five of six arms are not trained yet.
    assert "about 10 minutes for the 5 that are not trained (going by the run's own stage 3, 120 s each)" in said
    assert "RepViT: random weights, frozen, trained before" in said
    assert sorted(tmp_path.rglob("*")) == before
    assert not arms.trained


def test_a_decoder_without_qk_norm_has_no_such_arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    config = Arms(monkeypatch, root, tmp_path).config
    model = tiny("gpt2")
    model.save_pretrained(tmp_path / "stage2" / "final")
    model.processor.save_pretrained(tmp_path / "stage2" / "final")
    assert studies.arms(config) == [name for name in studies.ARMS if name != "QK Norm"]
    with pytest.raises(ValueError, match="QK Norm: a gpt2 decoder has none to leave out"):
        studies.without_qk_norm(model)
