"""Cross-validation on robot-selection files: every record is tested once, by who never saw its task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ember_platform.config import RunConfig, load_config
from ember_platform.data.ingest import prepare
from ember_platform.data.manifest import Manifest
from ember_platform.train import flags, folds
from ember_platform.train.main import folds as job
from ember_platform.train.pipeline import Outcome
from ember_platform.train.plan import PlanError, train_rows
from ember_platform.train.setup import split_records
from tests.platform.train.robot_files import TASKS, write_robot_files

FOLDS = 3


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_robot_files(tmp_path_factory.mktemp("robots"))


def config(root: Path, files: Path, output: Path, *overrides: str) -> RunConfig:
    given = [
        f"data.robot_data={files}",
        f"output_dir={output}",
        f"data.robot_folds={FOLDS}",
        "data.robot_augment=1",
        *overrides,
    ]
    return load_config(root / "configs" / "robot_selection.yaml", given)


class Trainer:
    """Stands for `run_pipeline`: prepares a fold's data for real, and reports a figure that tells the fold."""

    def __init__(self, problem: str | None = None) -> None:
        self.runs: list[tuple[RunConfig, dict[str, Any]]] = []
        self.problem = problem

    def __call__(self, config: RunConfig, stages: list[int], **named: Any) -> Outcome:
        self.runs.append((config, {"stages": stages, **named}))
        manifest = prepare(config, runner=lambda specs, make: map(make, specs), say=lambda line: None)
        share = 0.1 * (1 + config.data.robot_fold)
        metrics = {"first_choice": share, "team_iou": share, "team_exact": share, "only_first": 1.0}
        if config.data.robot_fold:
            del metrics["only_first"]
        content = {"samples": manifest.rows(3, "test"), "metrics": metrics, "data_digest": manifest.stage_digest(3)}
        return Outcome("final", stages, {3: content}, problems=[self.problem] if self.problem else [])


def test_every_record_is_tested_once_and_never_trained_on_there(root: Path, files: Path, tmp_path: Path) -> None:
    trainer = Trainer()
    settings = config(root, files, tmp_path)
    content = folds.run_folds(settings, "start", say=lambda line: None, train=trainer)
    tested: list[str] = []
    for run, named in trainer.runs:
        assert named["stages"] == [3]
        assert named["resume_from"] == "start"
        assert named["register"] is False
        manifest = Manifest.load(run.data.dir)
        splits = {s: split_records(manifest, 3, s, None, 0) for s in ("train", "validation", "test")}
        test = {r.instruction for r in splits["test"]}
        assert not test & {r.instruction for s in ("train", "validation") for r in splits[s]}
        assert sum(map(len, splits.values())) == TASKS, "the two files share tasks, and each is one record"
        assert sum(train_rows(run, [3])[3].values()) == len(splits["train"])
        tested += sorted(test)
    assert len(tested) == len(set(tested)) == TASKS
    assert len({run.output_dir for run, _ in trainer.runs}) == FOLDS
    assert len({run.tracking.mlflow_uri for run, _ in trainer.runs}) == 1

    assert json.loads((tmp_path / "metrics.json").read_text()) == content
    assert content["samples"] == TASKS
    sizes = [fold["samples"] for fold in content["folds"]]
    expected = sum(n * 0.1 * (k + 1) for k, n in enumerate(sizes)) / TASKS
    assert content["metrics"] == pytest.approx(dict.fromkeys(folds.COMPARED, expected)), "what one fold lacks: out"
    assert [fold["metrics"]["first_choice"] for fold in content["folds"]] == pytest.approx([0.1, 0.2, 0.3])
    assert content["baselines"]["tfidf_first_choice"] > 0.9, "in these files the words tell everything"
    assert content["baselines"]["majority_first_choice"] < 0.7
    assert "TF-IDF + logistic regression" in folds.table(content)


def test_a_fold_that_could_not_be_measured_is_an_error(root: Path, files: Path, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="fold 0: the judge is ill; the same command goes on"):
        folds.run_folds(config(root, files, tmp_path), say=print, train=Trainer("the judge is ill"))
    assert not (tmp_path / "metrics.json").exists()


def test_other_records_have_no_place_in_the_folds(root: Path, files: Path, tmp_path: Path) -> None:
    counts = "data.counts={stage3: {train: 4, validation: 1, test: 1}}"
    mixed = config(root, files, tmp_path, "data.sources=[emberworld]", counts)
    with pytest.raises(PlanError, match=r"data\.sources: emberworld would be trained on"):
        folds.check_folds(mixed)
    none = config(root, files, tmp_path)
    with pytest.raises(PlanError, match="nothing to fold"):
        folds.check_folds(none.model_copy(update={"data": none.data.model_copy(update={"robot_data": None})}))


def test_the_command_line(
    root: Path, files: Path, tmp_path: Path, nano_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--config", str(root / "configs" / "robot_selection.yaml"), "--output_dir", str(tmp_path), "--dry-run"]
    made = flags.parser("", stages=None)
    assert job(made, [*given, "--robot_data", str(files), "--resume_from", str(nano_folder)]) == 0
    shown = capsys.readouterr().out
    assert "5 folds; the first:" in shown
    assert f"starts from {nano_folder}" in shown
    assert job(made, [*given, "--robot_data", str(tmp_path / "none.json")]) == 2
    assert "no JSON there; expected a file or a folder" in capsys.readouterr().err
    assert job(made, [*given, "--robot_data", str(files), "--resume_from", str(tmp_path)]) == 2
    assert "neither a checkpoint" in capsys.readouterr().err
