"""Both studies of a run, trained for real with the smallest models: what they leave, and that they are done once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ember_platform import storage, studies
from ember_platform.config import RunConfig
from ember_platform.data.ingest import prepare
from ember_platform.train.plan import PlanError
from embervlm.monitoring.data import Ablation, DistillationGap, FigureStore
from tests.models.fakes import tiny
from tests.s3 import BUCKET, local_s3

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
            if stage == 2:
                assert studies.due(config) == {"distillation": STEPS}, "an ablation is of a run that trains stage 3"
                shutil.copytree(final, folder / "run" / "stage3" / "final")
            with torch.no_grad():
                for value in model.language.parameters():
                    value.mul_(1.2)  # the teacher is another one than the student
        before = {path: path.read_bytes() for path in (folder / "run").rglob("*") if path.is_file()}
        assert studies.due(config) == {"distillation": STEPS, "ablation": STEPS}
        for name, steps in studies.due(config).items():
            studies.carry_out(config, name, steps)
        assert studies.due(config) == {}
        stores = [path.relative_to(folder).as_posix() for path in folder.rglob("mlflow.db")]
        assert stores == ["run/mlflow.db"], "one for all trainings"
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


def test_on_s3_of_a_training_only_its_history_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"step": [1, 2], "distill_loss": [4.0, 2.0], "val_answer_accuracy": [0.25, 0.5]}
    pq.write_table(pa.table(rows), tmp_path / "history.parquet")
    asked: list[RunConfig] = []
    monkeypatch.setattr(studies, "final_of", lambda config, stage: f"stage{stage}-model")
    monkeypatch.setattr(studies, "_first", lambda manifest, stage, records: manifest)
    monkeypatch.setattr(studies.Manifest, "load", lambda path: path)
    monkeypatch.setattr(studies, "distillation_digest", lambda config, steps: "digest")
    monkeypatch.setattr(studies, "_trained", lambda config, *rest: asked.append(config) or "best")
    monkeypatch.setattr("ember_platform.train.teach.teach", lambda *given, **named: "taught")
    with local_s3() as server:
        run = f"s3://{BUCKET}/run"
        history = "studies/distillation/stage2/history.parquet"
        for key in (history, "stage1/final/model", "studies/distillation/stage2/checkpoint-0-000002/model"):
            server.client().upload_file(str(tmp_path / "history.parquet"), BUCKET, f"run/{key}")
        config = settings(tmp_path).model_copy(update={"output_dir": run})
        studies.distillation(config, STEPS, say=lambda line: None)
        read = {path for method, path, _ in server.seen if method == "GET" and "list-type" not in path}
        assert {path.split("/run/")[-1] for path in read if "/run/" in path} == {history}
        put = storage.list_files(f"{run}/stage2/figure_data")
        assert {path.rsplit(".", 1)[-1] for path in put} == {"json", "npz"}
        assert storage.exists(f"{run}/studies/distillation.json")
    assert asked[0].name == "embervlm-distillation"
    assert asked[0].tracking.mlflow_uri is None, "without a store that all can reach the tracker says what is missing"
