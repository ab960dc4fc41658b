"""Robot-selection files through the real thing: two folds, and mixed with EmberWorld in one stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ember_platform.config import load_config
from ember_platform.train.checkpoint import read_history
from ember_platform.train.folds import run_folds
from ember_platform.train.pipeline import run_pipeline
from tests.platform.train.robot_files import TASKS, write_robot_files

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def test_folds_train_evaluate_and_are_found_again(
    ray_cluster: Any, root: Path, nano_folder: Path, tmp_path: Path
) -> None:
    files = write_robot_files(tmp_path / "files")
    overrides = [
        f"output_dir={tmp_path}/out",
        f"data.robot_data={files}",
        "data.robot_folds=2",
        "stages.3.max_steps=3",
        "stages.3.batch_size=4",
    ]
    config = load_config(root / "configs" / "robot_selection.yaml", overrides)
    content = run_folds(config, str(nano_folder))
    assert content["samples"] == TASKS
    assert len(content["folds"]) == 2
    for name in ("first_choice", "team_iou", "team_exact", "ece"):
        assert 0 <= content["metrics"][name] <= 1
    history = tmp_path / "out" / "fold0" / "stage3" / "history.parquet"
    assert len(read_history(history)) == 3
    lines: list[str] = []
    again = run_folds(config, str(nano_folder), say=lines.append)
    assert again == content
    assert sum("done before" in line for line in lines) == 2


def test_stage_3_trains_on_both_worlds(ray_cluster: Any, root: Path, nano_folder: Path, tmp_path: Path) -> None:
    files = write_robot_files(tmp_path / "files")
    counts = "{train: 16, validation: 8, test: 8}"
    overrides = [
        f"output_dir={tmp_path}/out",
        f"data.dir={tmp_path}/data",
        f"data.robot_data={files}",
        f"data.counts={{stage1: {counts}, stage2: {counts}, stage3: {counts}, stage4: {counts}}}",
        "stages.3.max_steps=3",
        "stages.3.batch_size=8",
        "stages.3.mixing.robot_selection=2",
    ]
    config = load_config(root / "configs" / "laptop.yaml", overrides)
    outcome = run_pipeline(config, [3], resume_from=str(nano_folder), register=False)
    assert not outcome.problems
    assert outcome.metrics[3]["samples"] > 8, "both sources are tested"
    assert outcome.versions == {}
    assert (tmp_path / "out" / "final" / "config.json").is_file()
