"""What is known before any work starts: the plan, and the errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ember_platform.config import ConfigError, RunConfig, load_config
from ember_platform.data.order import steps_per_epoch
from ember_platform.train import plan
from ember_platform.train.checkpoint import MODEL, RECORD
from ember_platform.train.flags import parser
from ember_platform.train.main import main
from ember_platform.train.setup import stage_of
from tests.models.fakes import tiny


def config(root: Path, tmp_path: Path, *overrides: str) -> RunConfig:
    places = [f"output_dir={tmp_path}", f"data.dir={tmp_path}/data"]
    return load_config(root / "configs" / "laptop.yaml", [*places, *overrides])


def saved_model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def test_the_plan_counts_steps_and_parameters(root: Path, tmp_path: Path) -> None:
    settings = config(root, tmp_path)
    rows = plan.make_plan(settings, [0, 1, 2, 3, 4])
    assert [row.stage for row in rows] == [0, 1, 2, 3, 4, 4]
    for row in rows:
        stage = settings.stage(row.stage)
        assert row.steps == row.epochs * steps_per_epoch(row.records, stage.batch_size)
        assert 0 < row.trained <= row.total
    joint, modules = rows[-1], rows[-2]
    assert joint.trained == joint.total > modules.trained
    text = "\n".join(plan.plan_lines(settings, [3], plan.Start(None)))
    assert "robot_selection" in text
    assert "not prepared yet" in text


def test_max_steps_end_a_phase(root: Path, tmp_path: Path) -> None:
    rows = plan.make_plan(config(root, tmp_path, "stages.3.max_steps=7"), [3])
    assert rows[0].steps == 7


def test_an_epoch_has_the_samples_that_mixing_gives_it(root: Path, tmp_path: Path) -> None:
    whole, half = (
        plan.make_plan(config(root, tmp_path, *more), [3])[0] for more in ((), ("stages.3.mixing={emberworld: 0.5}",))
    )
    assert half.records == whole.records
    assert half.steps == pytest.approx(whole.steps / 2, abs=whole.epochs)


def test_zero_divides_memory_among_workers() -> None:
    parts = [plan.memory(100, 200, stage, 2) for stage in (0, 1, 2, 3)]
    assert [p["optimizer"] for p in parts] == [parts[0]["optimizer"]] + [parts[0]["optimizer"] / 2] * 3
    assert [p["gradients"] == parts[0]["gradients"] for p in parts] == [True, True, False, False]
    assert [p["weights"] == parts[0]["weights"] for p in parts] == [True, True, True, False]


def test_warm_up_joins_only_an_untrained_encoder(root: Path, tmp_path: Path) -> None:
    assert plan.wanted_stages(config(root, tmp_path), [2, 1]) == [0, 1, 2]
    assert plan.wanted_stages(config(root, tmp_path), [3]) == [3]
    trained = config(root, tmp_path, "model.vision_weights=timm")
    assert plan.wanted_stages(trained, [1]) == [1]


def test_warm_up_does_not_begin_anew_what_has_seen_pictures(root: Path, tmp_path: Path) -> None:
    settings, model = config(root, tmp_path), tiny()
    model.save_pretrained(tmp_path / "blind")
    model.vision.train()
    model.visual_features(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))
    model.save_pretrained(tmp_path / "seeing")
    checkpoint = tmp_path / "checkpoint"
    model.save_pretrained(checkpoint / MODEL)
    (checkpoint / RECORD).write_text("{}")
    for folder, stages in (("blind", [0, 1]), ("nowhere", [0, 1]), ("seeing", [1]), ("checkpoint", [1])):
        assert plan.wanted_stages(settings, [1], str(tmp_path / folder)) == stages, folder
    assert plan.wanted_stages(settings, [0, 1], str(tmp_path / "seeing")) == [0, 1], "asked for is asked for"


def test_numbers_that_are_no_stage(root: Path, tmp_path: Path) -> None:
    with pytest.raises(plan.PlanError, match=r"--stages: 7 is not one of 0, 1, 2, 3, 4"):
        plan.wanted_stages(config(root, tmp_path), [1, 7])


def test_what_a_stage_does_not_have_is_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(
        plan.PlanError, match=r"stages.3.best: 'accuracy' is no metric .* first_choice, team_exact, team_loss"
    ):
        plan.wanted_stages(config(root, tmp_path, "stages.3.best=accuracy"), [3])
    with pytest.raises(plan.PlanError, match=r"stages.3.losses.speed: not a term"):
        plan.wanted_stages(config(root, tmp_path, "stages.3.losses.speed=1"), [3])
    with pytest.raises(plan.PlanError, match=r"stages.0.mixup: only a teacher"):
        plan.wanted_stages(config(root, tmp_path, "stages.0.mixup=0.5"), [0])
    taught = config(root, tmp_path, "stages.0.mixup=0.5", "stages.0.losses.teacher=1")
    assert plan.wanted_stages(taught, [0]) == [0]
    assert stage_of(taught, 0).mixup == 0.5
    # Another stage's settings do not stop this one.
    assert plan.wanted_stages(config(root, tmp_path, "stages.3.best=accuracy"), [2]) == [2]


def test_a_missing_parent_is_named(root: Path, tmp_path: Path) -> None:
    settings = config(root, tmp_path)
    with pytest.raises(plan.PlanError, match=r"stage 3 starts from the model of stage 2.*stage2/final"):
        plan.first_model(settings, [3, 4], None)
    saved_model(tmp_path / "stage2" / "final")
    assert plan.first_model(settings, [3, 4], None).parent == f"{tmp_path}/stage2/final"


def test_what_resume_from_means(root: Path, tmp_path: Path) -> None:
    settings = config(root, tmp_path)
    saved_model(tmp_path / "stage2" / "final")
    checkpoint = tmp_path / "checkpoint-0-000005"
    checkpoint.mkdir()
    (checkpoint / "checkpoint.json").write_text('{"files": {}}')

    def start(stage: int) -> plan.Start:
        (checkpoint / "state.json").write_text(json.dumps({"stage": stage}))
        return plan.first_model(settings, [3], str(checkpoint))

    assert start(2) == plan.Start(f"{checkpoint}/model")
    assert start(3) == plan.Start(f"{tmp_path}/stage2/final", str(checkpoint))
    with pytest.raises(plan.PlanError, match="a checkpoint of stage 4"):
        start(4)
    folder = saved_model(tmp_path / "given")
    assert plan.first_model(settings, [3], str(folder)) == plan.Start(str(folder))
    with pytest.raises(plan.PlanError, match="neither a checkpoint"):
        plan.first_model(settings, [3], str(tmp_path / "nothing"))


def test_more_workers_than_the_cluster_has(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 2.0})
    small = "data.loader=actor"
    plan.check(config(root, tmp_path, small), [3])
    with pytest.raises(plan.PlanError, match=r"cluster\.num_workers: 4 workers.*2\.5 logical CPUs.*has 2"):
        plan.check(config(root, tmp_path, small, "cluster.num_workers=4"), [3])
    with pytest.raises(plan.PlanError, match=r"2 for their data need 3 logical CPUs"):
        plan.check(config(root, tmp_path, "data.loader=ray_data"), [3])
    with pytest.raises(plan.PlanError, match="with a GPU each"):
        plan.check(config(root, tmp_path, "cluster.use_gpu=true", small), [3])


def test_bf16_where_there_is_none(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # With a cluster, as a cluster test before this one may leave it, a worker would be asked; it is not patched.
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ember_platform.train.precision.cpu_has_bf16", lambda: False)
    plan.check_precision(config(root, tmp_path), [3])
    with pytest.raises(plan.PlanError, match=r"stages\.3\.precision: bf16"):
        plan.check_precision(config(root, tmp_path, "stages.3.precision=bf16"), [3])


def test_dry_run_and_errors_through_the_job(root: Path, tmp_path: Path, capsys: Any) -> None:
    arguments = ["--config", str(root / "configs" / "laptop.yaml"), "--output_dir", str(tmp_path), "--dry-run"]
    places = [f"data.dir={tmp_path}/data"]
    assert main(parser(""), [*arguments, *places]) == 0
    assert "vision_warmup" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    assert main(parser(""), [*arguments, "--stages", "3", *places]) == 2
    assert "error: stage 3 starts from the model of stage 2" in capsys.readouterr().err
    assert main(parser(""), [*arguments, "stages.9.epochs=1", *places]) == 2


@pytest.mark.parametrize(("cpus", "found"), [(8.0, 4), (6.4, 4), (4.0, 2), (1.0, 1), (0.0, 1)])
def test_as_many_workers_as_there_is_room_for(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpus: float, found: int
) -> None:
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": cpus})
    wanted = ["data.loader=actor", "cluster.num_workers=4", "cluster.cpus_per_worker=1"]
    settings = config(root, tmp_path, *wanted, "stages.3.batch_size=8", "cluster.min_workers=1")
    assert plan.fitting_workers(settings, 3) == found  # 3 do not divide the batch
    assert plan.fitting_workers(config(root, tmp_path, *wanted), 3) == 4
    with pytest.raises(ConfigError, match=r"cluster\.min_workers"):
        config(root, tmp_path, *wanted, "cluster.min_workers=5")
