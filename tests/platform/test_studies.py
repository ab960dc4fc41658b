"""Both studies of a run, trained for real with the smallest models: what they leave, and that they are done once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ember_platform import studies
from ember_platform.config import RunConfig
from ember_platform.data.ingest import prepare
from ember_platform.train.plan import PlanError
from embervlm.monitoring.data import Ablation, DistillationGap, FigureStore
from tests.models.fakes import tiny

STEPS, BATCH = 4, 4


def settings(folder: Path) -> RunConfig:
    counts = {"train": 6 * BATCH, "validation": 4, "test": 4}
    stage = {"epochs": 2, "batch_size": BATCH, "learning_rate": 1e-3, "precision": "fp32", "log_every": 1}
    return RunConfig.model_validate(
        {
            "output_dir": str(folder / "run"),
            "data": {
                "dir": str(folder / "data"),
                "image_size": 64,
                "shard_rows": 2 * BATCH,
                "workers": 1,
                "loader": "actor",
                "counts": {"stage2": counts, "stage3": counts},
            },
            "cluster": {"num_workers": 2, "cpus_per_worker": 0.5},
            "stages": {"2": stage, "3": stage},
            "figures": {"ablation_steps": STEPS, "distillation_steps": STEPS},
        }
    )


@pytest.mark.cluster
def test_both_are_trained_and_leave_their_figures_data(
    ray_cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(tmp_path)
    prepare(config, runner=lambda specs, make: map(make, specs), say=lambda line: None)
    monkeypatch.setattr(studies, "ARMS", {name: studies.ARMS[name] for name in (studies.WHOLE, "QK Norm")})
    assert studies.due(config) == {}, "nothing to start from"
    model = tiny()
    for stage in (1, 2):
        final = tmp_path / "run" / f"stage{stage}" / "final"
        model.save_pretrained(final)
        model.processor.save_pretrained(final)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert studies.due(config) == {"distillation": STEPS, "ablation": STEPS}
    said: list[str] = []
    for name, steps in studies.due(config).items():
        studies.carry_out(config, name, steps, said.append)
    assert studies.due(config) == {}

    store = FigureStore(tmp_path / "run")
    gap = store.read(DistillationGap)
    assert isinstance(gap, DistillationGap)
    assert gap.steps.tolist() == [1, 2, 3, 4]
    assert (gap.divergence > 0).all()
    assert gap.evaluations.tolist() == [1, 2, 3, 4]
    assert np.isfinite(gap.accuracy).all()
    assert "stage-2 model" in gap.teacher
    assert f"{STEPS} steps" in gap.source
    ablation = store.read(Ablation)
    assert isinstance(ablation, Ablation)
    assert ablation.components == ("QK Norm",)
    assert np.isfinite(ablation.scores).all()
    # The teacher read as many shards as the steps have batches for, and the run's own models are as they were.
    taught = next((tmp_path / "data").glob("taught-*"))
    assert len(list(taught.glob("stage2/train/*.parquet"))) == 2
    assert all(path.read_bytes() == content for path, content in before.items())


def test_without_a_model_to_start_from_it_says_which(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"stage2/final: no model; .* train the run to stage 2 first"):
        studies.ablation(settings(tmp_path), STEPS)
