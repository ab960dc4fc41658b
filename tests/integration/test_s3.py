"""Everything on S3: a published dataset is prepared, a stage trained, killed and resumed, registered, loaded."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from benchmarks.killable import tiny_config
from tests.s3 import BUCKET, LocalS3, local_s3

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]
ROOT = Path(__file__).parents[2]
BASE = f"s3://{BUCKET}"
PICTURES = 40


class KillOnce:
    """Ends rank 1's process after a step, as a lost machine would; only the first time."""

    def __init__(self, marker: str, step: int) -> None:
        self.marker, self.step = marker, step

    def __call__(self, info: Any, row: dict[str, Any]) -> None:
        import torch

        if torch.distributed.get_rank() == 1 and row["step"] == self.step and not os.path.exists(self.marker):
            Path(self.marker).touch()
            os._exit(1)


def upload(server: LocalS3) -> None:
    """A small COCO of pictures in two colours."""
    from PIL import Image

    client = server.client()
    names = [f"{number:012d}.jpg" for number in range(PICTURES)]
    for number, name in enumerate(names):
        picture = Image.new("RGB", (80, 60), (number * 6, 0, 200))
        picture.paste((0, 250 - number * 6, 0), (0, 0, 40, 60))
        sink = io.BytesIO()
        picture.save(sink, "JPEG")
        if number:  # the first one is missing
            client.put_object(Bucket=BUCKET, Key=f"coco/pictures/{name}", Body=sink.getvalue())
    captions = {
        "images": [{"id": number, "file_name": name} for number, name in enumerate(names)],
        "annotations": [
            {"image_id": n, "id": 2 * n + k, "caption": f"number {n} is {('seen', 'there')[k]}"}
            for n in range(PICTURES)
            for k in range(2)
        ],
    }
    client.put_object(Bucket=BUCKET, Key="coco/captions_train2017.json", Body=json.dumps(captions).encode())


def settings(folder: Path) -> dict[str, Any]:
    """Eight steps of stage 1 with a tiny model, in fp32; only the tracking database is local."""
    coco = {
        "annotations": f"{BASE}/coco/captions_train2017.json",
        "images": f"{BASE}/coco/pictures",
        "validation": 0.2,
        "test": 0.2,
        "max_bad_share": 0.1,
    }
    stage = {"epochs": 2, "batch_size": 12, "learning_rate": 1e-3, "precision": "fp32", "save_every": 2, "log_every": 1}
    return {
        "name": "on-s3",
        "output_dir": f"{BASE}/run",
        "preset": "embervlm-nano",
        "model": tiny_config(folder, folder, epochs=1)["model"],
        "data": {
            "dir": f"{BASE}/data",
            "sources": [],
            "datasets": {"coco": coco},
            "image_size": 64,
            "shard_rows": 20,
            "loader": "actor",
            "feature_cache": "on",
        },
        "cluster": {"num_workers": 2, "cpus_per_worker": 0.5},
        "stages": {"1": stage},
        "figures": {"enabled": False},
        "tracking": {"mlflow_uri": f"sqlite:///{folder}/mlflow.db", "wandb_mode": "disabled"},
    }


def drive(folder: str) -> None:
    """Run in a process of its own, whose cluster has the environment of the local S3."""
    import ray
    from ray import cloudpickle

    from ember_platform.config import RunConfig
    from ember_platform.data.ingest import prepare
    from ember_platform.registry import load
    from ember_platform.train.checkpoint import HISTORY, read_history
    from ember_platform.train.folders import fetched
    from ember_platform.train.pipeline import run_pipeline
    from embervlm import EmberVLM

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    config = RunConfig.model_validate(settings(Path(folder)))
    temporary = tempfile.mkdtemp(prefix="s3-", dir="/tmp")
    ray.init(address="local", num_cpus=8, include_dashboard=False, object_store_memory=300_000_000, _temp_dir=temporary)
    try:
        said: list[str] = []
        manifest = prepare(config, say=said.append)
        outcome = run_pipeline(config, [1], say=said.append, observers=[KillOnce(f"{folder}/killed", 5)])
        again = run_pipeline(config, [1], say=said.append)
        with fetched(outcome.final) as local:
            parameters = EmberVLM.from_pretrained(local).num_parameters()
        with fetched(f"{BASE}/run/stage1") as local:
            steps = [row["step"] for row in read_history(local / HISTORY)]
        model = load(config, "models:/embervlm-stage1/1")
        found = {
            "counts": manifest.counts(),
            "quarantined": manifest.quarantined,
            "said": said,
            "problems": outcome.problems + again.problems,
            "metrics": sorted(outcome.metrics[1]["metrics"]),
            "final": outcome.final,
            "parameters": parameters,
            "steps": steps,
            "artifacts": model.metadata.model_uuid is not None,
        }
    finally:
        ray.shutdown()
        shutil.rmtree(temporary, ignore_errors=True)
    print("FOUND " + json.dumps(found))


def test_prepare_train_kill_resume_register_load(tmp_path: Path) -> None:
    with local_s3(AWS_MAX_ATTEMPTS="6") as server:
        upload(server)
        server.every = 40  # one request in forty fails, all the time
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}"}
        code = "import sys; from tests.integration.test_s3 import drive; drive(sys.argv[1])"
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=1100,
        )
        assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
        found = json.loads(done.stdout.split("FOUND ")[-1].splitlines()[0])
        server.every = 0
        keys = [
            one["Key"]
            for page in server.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
            for one in page["Contents"]
        ]

    assert found["problems"] == []
    train = found["counts"]["stage1"]["train"]
    assert train >= 12
    assert found["quarantined"] == {"image": 2} or found["quarantined"] == {"image": 1}
    assert (tmp_path / "killed").exists()
    # Once per step, although a worker was lost in the middle: what was counted went on from the checkpoint.
    steps = 2 * -(-train // 12)
    assert found["steps"] == list(range(1, steps + 1))
    assert any("stage 1: done before" in line for line in found["said"])
    assert found["parameters"] > 1e4
    assert found["final"] == f"{BASE}/run/final"
    assert "cider" in found["metrics"]
    for wanted in ("data/manifest.json", "run/stage1/final/model.safetensors", "run/final/model.safetensors"):
        assert wanted in keys
    assert any(key.startswith("run/mlartifacts/") and key.endswith("model.safetensors") for key in keys)
    whole = {key.split("/")[2] for key in keys if key.endswith("/checkpoint.json")}
    assert f"checkpoint-0-{steps:06d}" in whole
    assert any(key.startswith("data/features-") and key.endswith(".arrow") for key in keys)
    injected = [fault for _, _, fault in server.seen if fault]
    assert {"500", "503", "reset"} <= set(injected)
