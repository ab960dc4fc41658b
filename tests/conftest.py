"""What every test gets: a quiet, offline environment, and a Ray cluster of its own where it asks for one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Set before any test imports a library: no test reaches a hub, and no Ray attaches to somebody's running cluster.
os.environ.update(
    HF_HUB_OFFLINE="1",
    MLFLOW_DISABLE_TELEMETRY="true",
    WANDB_MODE="offline",
    TOKENIZERS_PARALLELISM="false",
    MPLBACKEND="Agg",
    RAY_AUTH_MODE="disabled",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_ENABLE_UV_RUN_RUNTIME_ENV="0",
    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",  # loopback only, whatever the system; see cluster/local.py
    RAY_enable_metrics_collection="false",
    RAY_TRAIN_HEALTH_CHECK_INTERVAL_S="0.2",
)
os.environ.pop("RAY_ADDRESS", None)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository root."""
    return ROOT


@pytest.fixture(scope="session")
def nano_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A nano model with random weights and its processor, saved as a run saves them. Read only.

    The tokenizer sees enough text that a description of EmberWorld fits what the model reads.
    """
    import torch

    from embervlm import EmberVLM, EmberVLMConfig, EmberVLMProcessor
    from embervlm.data.prompts import robot_text
    from embervlm.fleet import default_fleet
    from embervlm.world.dataset import corpus

    torch.manual_seed(0)
    config = EmberVLMConfig.preset("embervlm-nano")
    words = [*(robot_text(robot) for robot in default_fleet()), *corpus(seed=1, count=1500)]
    processor = EmberVLMProcessor.build(config, words)
    folder = tmp_path_factory.mktemp("nano")
    EmberVLM.from_parts(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def fitted_folder(nano_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`nano_folder` with "none of these" and familiarity fitted: on its answers to a few records. Read only."""
    from embervlm import EmberVLM
    from embervlm.stages.trusting import calibrate, finish_direct
    from embervlm.world.dataset import build

    model = EmberVLM.from_pretrained(nano_folder).eval()
    validation, training = (list(build(split, "selection", 8, 0, 64, fleets=2)) for split in ("validation", "train"))
    calibrate(model, finish_direct(model, validation, training))
    folder = tmp_path_factory.mktemp("fitted")
    processor = model.processor
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Any]:
    """One local Ray of 8 logical CPUs for all tests of the session that are marked `cluster`.

    Its sockets need a short path, so it does not live below pytest's temporary folder.
    """
    import ray

    folder = tempfile.mkdtemp(prefix="ray-test-", dir="/tmp")
    context = ray.init(
        address="local",
        num_cpus=8,
        object_store_memory=500_000_000,
        include_dashboard=False,
        log_to_driver=True,
        _temp_dir=folder,
    )
    yield context
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that use the shared cluster are marked `cluster`, so that `-m "not cluster"` means it.

    What starts a cluster has more time: another process may be starting one on the same cores.
    """
    for item in items:
        if "ray_cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.cluster)
        if item.get_closest_marker("cluster") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def material_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Panoramas as `make material` leaves them, tiny and drawn: sky above, ground below, another hue each."""
    import hashlib

    import cv2
    import numpy as np

    from embervlm.world.material import SKIES, write_manifest

    folder = tmp_path_factory.mktemp("material")
    files: dict[str, str] = {}
    for number, (name, kind) in enumerate(SKIES.items()):
        picture = np.random.default_rng(number).integers(60, 90, (32, 64, 3)).astype(np.uint8)
        picture[:16] += np.uint8(100)
        picture[:, :, number % 3] += np.uint8(60)
        sky = np.zeros((32, 64), np.uint8)
        sky[:16] = 255
        for file, pixels in ((f"{name}.png", picture), (f"{name}-sky.png", sky)):
            if kind == "none" and file.endswith("-sky.png"):
                continue
            content = cv2.imencode(".png", pixels)[1].tobytes()
            (folder / file).write_bytes(content)
            files[file] = hashlib.sha256(content).hexdigest()
    write_manifest(folder, files)
    return folder
