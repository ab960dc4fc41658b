"""Both studies of a run, trained for real with the smallest models: what they leave, and that they are done once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from ember_platform import studies
from ember_platform.config import RunConfig
from ember_platform.data.ingest import prepare
from ember_platform.train.plan import PlanError
from embervlm.monitoring.data import Ablation, DistillationGap, FigureStore
from tests.models.fakes import tiny

ROOT = Path(__file__).parents[2]
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


def drive(folder: Path) -> None:
    """Run in a process of its own, as training in this one leaves a process group behind."""
    import ray
    import torch

    temporary = tempfile.mkdtemp(prefix="studies-", dir="/tmp")
    ray.init(address="local", num_cpus=8, include_dashboard=False, object_store_memory=300_000_000, _temp_dir=temporary)
    try:
        config = settings(folder)
        prepare(config, runner=lambda specs, make: map(make, specs), say=lambda line: None)
        studies.ARMS = {name: studies.ARMS[name] for name in (studies.WHOLE, "QK Norm")}
        assert studies.due(config) == {}, "nothing to start from"
        model = tiny()
        for stage in (1, 2):
            final = folder / "run" / f"stage{stage}" / "final"
            model.save_pretrained(final)
            model.processor.save_pretrained(final)
            with torch.no_grad():
                for value in model.language.parameters():
                    value.mul_(1.2)  # the teacher is another one than the student
        before = {path: path.read_bytes() for path in (folder / "run").rglob("*") if path.is_file()}
        assert studies.due(config) == {"distillation": STEPS, "ablation": STEPS}
        for name, steps in studies.due(config).items():
            studies.carry_out(config, name, steps)
        assert studies.due(config) == {}
        assert all(path.read_bytes() == content for path, content in before.items()), "the run's own models"
    finally:
        ray.shutdown()
        shutil.rmtree(temporary, ignore_errors=True)


@pytest.mark.cluster
def test_both_are_trained_and_leave_their_figures_data(tmp_path: Path) -> None:
    code = "import pathlib, sys; from tests.platform.test_studies import drive; drive(pathlib.Path(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    store = FigureStore(tmp_path / "run")
    gap = store.read(DistillationGap)
    assert isinstance(gap, DistillationGap)
    assert gap.steps.tolist() == [1, 2, 3, 4]
    assert (gap.divergence > 0).all()
    assert gap.evaluations.tolist() == [1, 2, 3, 4]
    assert np.isfinite(gap.accuracy).all()
    assert gap.teacher == "stage-2 model"
    assert f"{STEPS} steps" in gap.source
    ablation = store.read(Ablation)
    assert isinstance(ablation, Ablation)
    assert ablation.components == ("QK Norm",)
    assert np.isfinite(ablation.scores).all()
    # The teacher read as many shards as the steps have batches for.
    taught = next((tmp_path / "data").glob("taught-*"))
    assert len(list(taught.glob("stage2/train/*.parquet"))) == 2


def test_without_a_model_to_start_from_it_says_which(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"stage2/final: no model; .* train the run to stage 2 first"):
        studies.ablation(settings(tmp_path), STEPS)
