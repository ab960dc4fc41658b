"""The ablation job: what each arm takes out of the model, and that the comparison reaches the run's figure."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ember_platform.train.setup import load_model
from embervlm.monitoring.data import Ablation, FigureStore
from embervlm.stages import get_stage
from embervlm.world.dataset import build
from jobs import ablate

PARTS = {"Pretrained LLM": "language.", "Fusion Adapter": "fusion.", "RepViT": "vision."}


@pytest.mark.parametrize("name", PARTS)
def test_an_arm_renews_its_part_and_no_other(name: str, nano_folder: Path) -> None:
    model, _ = load_model(nano_folder)
    # As if trained: nothing is what a new model has.
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.01)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    change = ablate.ARMS[name][0]
    assert change is not None
    after = change(model).state_dict()
    changed = {key for key, value in before.items() if not torch.equal(value, after[key])}
    assert changed
    assert all(key.startswith(PARTS[name]) for key in changed)


def test_without_norms_the_model_is_saved_read_and_chooses(nano_folder: Path, tmp_path: Path) -> None:
    model, processor = load_model(nano_folder)
    plain = ablate.without_qk_norm(model)
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
    stage = get_stage(ablate.STAGE)
    stage.prepare(again, stage.phases[0])
    losses = stage.module(again)(stage.collate(processor, records, 0))
    losses["loss"].backward()
    assert all(bool(torch.isfinite(value).all()) for value in losses.values())


def plain_scores(model: Any, processor: Any, asked: list[dict[str, Any]]) -> Any:
    model.processor = processor
    return model.score_many(asked)


def test_every_arm_is_trained_alike_and_the_figure_has_the_difference(
    nano_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    (tmp_path / "stage2").mkdir()
    (tmp_path / "stage2" / "final").symlink_to(nano_folder)
    asked: dict[str, tuple[Any, str]] = {}

    def trained(config: Any, stages: list[int], *, resume_from: str, register: bool) -> Any:
        assert stages == [ablate.STAGE]
        assert not register
        name = Path(config.output_dir).name
        asked[name] = (config, resume_from)
        score = {"whole-model": 0.9, "reasoning-module": 0.8}.get(name, 0.5)
        found = {"metrics": {ablate.METRIC: score}, "samples": 64}
        return SimpleNamespace(problems=[], metrics={ablate.STAGE: found})

    monkeypatch.setattr(ablate, "run_pipeline", trained)
    monkeypatch.setattr(ablate.figures, "draw", lambda config, report: ["drawn"])
    given = ["--config", str(root / "configs" / "laptop.yaml"), "--steps", "7", f"output_dir={tmp_path}"]
    assert ablate.main(given) == 0
    assert set(asked) == {name.lower().replace(" ", "-") for name in ablate.ARMS}
    for name, (config, start) in asked.items():
        assert config.stage(ablate.STAGE).max_steps == 7
        fresh = name in ("whole-model", "reasoning-module")
        assert Path(start) == tmp_path / (Path("stage2", "final") if fresh else Path("ablations", name, "start"))
        assert load_model(start)[0].config.text_config.model_type == ("llama" if name == "qk-norm" else "qwen3")
    weights = {name: get_stage(3, dict(config.stage(3).losses)).weights for name, (config, _) in asked.items()}
    assert weights["reasoning-module"]["consistency"] == 0
    assert weights["whole-model"]["consistency"] > 0
    found = FigureStore(tmp_path).read(Ablation)
    assert isinstance(found, Ablation)
    assert found.baseline.tolist() == pytest.approx([90])
    assert dict(zip(found.components, found.scores[:, 0].tolist(), strict=True))["Reasoning Module"] == pytest.approx(
        80
    )
    assert "7 steps" in found.source


def test_dry_run_says_what_and_how_long_and_trains_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ablate, "run_pipeline", lambda *given, **named: pytest.fail("trained"))
    given = ["--config", str(root / "configs" / "laptop.yaml"), "--dry-run", "--steps", "20", f"output_dir={tmp_path}"]
    assert ablate.main(given) == 1
    assert "stage2/final: no model" in capsys.readouterr().err
    start = tmp_path / "stage2" / "final" / "config.json"
    start.parent.mkdir(parents=True)
    start.write_text("{}")
    assert ablate.main(given) == 0
    assert "no estimate of the time" in capsys.readouterr().out
    own, trained = tmp_path / "stage3", tmp_path / "ablations" / "repvit" / "stage3"
    for folder in (own, trained):
        folder.mkdir(parents=True)
        (folder / "done.json").write_text(json.dumps({"startup_seconds": {"imports": 5, "model": 15}}))
    pq.write_table(pa.table({"seconds": [9.0, 2.0, 2.0]}), own / "history.parquet")
    rows = [{"part": "training", "seconds": 900.0}, {"part": "evaluation", "seconds": 60.0}]
    (own / "emissions.json").write_text(json.dumps(rows))
    before = sorted(tmp_path.rglob("*"))
    assert ablate.main(given) == 0
    said = capsys.readouterr().out
    # 20 s to start, 20 steps of 2 s, 60 s to evaluate; five of six arms are not trained yet.
    assert "about 10 minutes for the 5 that are not trained (going by the run's own stage 3, 120 s each)" in said
    assert "RepViT: random weights, frozen, trained before" in said
    assert sorted(tmp_path.rglob("*")) == before
