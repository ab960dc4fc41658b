"""The product's size takes real steps: every stage of the 37M preset on two workers, its loss falling."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from ember_platform.config import RunConfig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

STEPS, RECORDS, BATCH = 20, 8, 8


def config(folder: Path) -> RunConfig:
    """Twenty steps of each phase on a handful of records and small pictures, at the preset's own width and depth."""
    stage = {
        "epochs": STEPS * BATCH // RECORDS,
        "batch_size": BATCH,
        "learning_rate": 3e-4,
        "warmup_ratio": 0.1,
        "eval_every": STEPS,
        "save_every": STEPS,
        "eval_samples": 2,
        "log_every": 5,
    }
    counts = {"train": RECORDS, "validation": 2, "test": 1}
    return RunConfig.model_validate(
        {
            "name": "full-size",
            "output_dir": str(folder),
            "preset": "embervlm-37m",
            "data": {
                "dir": str(folder / "data"),
                "image_size": 64,
                "counts": {f"stage{n}": counts for n in (1, 2, 3, 4)},
                "loader": "actor",
            },
            "cluster": {"num_workers": 2, "cpus_per_worker": 0.5},
            "stages": {
                **{str(n): stage for n in (0, 1, 2, 3)},
                "4": {**stage, "epochs": 2 * STEPS, "phase_epochs": [STEPS, STEPS]},
            },
        }
    )


def test_every_stage_of_the_37m_preset_learns(ray_cluster: Any, tmp_path: Path) -> None:
    from ember_platform.data.ingest import prepare
    from ember_platform.train.checkpoint import read_history
    from ember_platform.train.models import ModelDesk
    from ember_platform.train.stage_run import run_stage

    settings = config(tmp_path)
    manifest = prepare(settings)
    parent = ModelDesk(settings, manifest.dir).begin(str(tmp_path / "begin"))
    fallen: dict[tuple[int, int], tuple[float, float]] = {}
    for number in range(5):
        parent = run_stage(settings, number, digest=f"stage{number}", parent=parent).best
        rows = read_history(tmp_path / f"stage{number}" / "history.parquet")
        for phase in sorted({row["phase"] for row in rows}):
            losses = [row["loss"] for row in rows if row["phase"] == phase]
            assert len(losses) == STEPS
            fallen[number, phase] = fmean(losses[:5]), fmean(losses[-5:])
    assert sorted(fallen) == [(0, 0), (1, 0), (2, 0), (3, 0), (4, 0), (4, 1)]
    assert {place: means for place, means in fallen.items() if means[1] >= means[0]} == {}, fallen
