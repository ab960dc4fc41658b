"""A stage on two Ray workers: killed and gone on, it ends where an uninterrupted run ends."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ray import cloudpickle

from ember_platform.config import RunConfig
from ember_platform.train.checkpoint import read_state

# Workers need not be able to import the tests.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

pytestmark = pytest.mark.timeout(900)


class KillOnce:
    """Ends rank 1's process after a step, as a lost machine would; only the first time."""

    def __init__(self, marker: Path, step: int) -> None:
        self.marker, self.step = marker, step

    def __call__(self, info: Any, row: dict[str, Any]) -> None:
        rank = torch.distributed.get_rank()
        if rank == 1 and row["step"] == self.step and not self.marker.exists():
            self.marker.touch()
            os._exit(1)


class Seen:
    """Writes down which samples every rank trained on, at which step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, info: Any, row: dict[str, Any]) -> None:
        with (self.folder / f"rank-{torch.distributed.get_rank()}").open("a") as file:
            file.write(f"{info.step} {' '.join(map(str, info.indices))}\n")


def config(folder: Path, data: Path) -> RunConfig:
    """Six steps of stage 3 with a small model, in fp32."""
    return RunConfig.model_validate(
        {
            "name": "kill",
            "output_dir": str(folder),
            "preset": "embervlm-nano",
            "data": {
                "dir": str(data),
                "image_size": 64,
                "counts": {"stage3": {"train": 48, "validation": 8, "test": 8}},
            },
            "cluster": {"num_workers": 2, "cpus_per_worker": 0.5},
            "stages": {
                "3": {
                    "epochs": 1,
                    "batch_size": 8,
                    "learning_rate": 1e-3,
                    "precision": "fp32",
                    "save_every": 2,
                    "eval_every": 6,
                    "log_every": 1,
                }
            },
        }
    )


def test_a_killed_worker_costs_no_sample_and_no_bit(ray_cluster: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from ember_platform.data.ingest import prepare
    from ember_platform.train.models import ModelDesk
    from ember_platform.train.stage_run import run_stage

    settings = config(tmp_path / "a", tmp_path / "data")
    manifest = prepare(settings, say=lambda line: None)
    begin = ModelDesk(settings, manifest.dir).begin(str(tmp_path / "begin"))
    seen = tmp_path / "seen"
    seen.mkdir()
    whole = run_stage(settings, 3, digest="d", parent=begin)
    cut = run_stage(
        config(tmp_path / "b", tmp_path / "data"),
        3,
        digest="d",
        parent=begin,
        observers=[Seen(seen), KillOnce(tmp_path / "killed", 5)],
    )
    assert (tmp_path / "killed").exists()
    assert cut.state.total_step == whole.state.total_step == 6
    assert cut.state.best == whole.state.best
    first, second = (load_file(Path(result.best) / "model.safetensors") for result in (whole, cut))
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    # What was repeated are the steps since the checkpoint; in what counts, every sample comes once.
    counted: dict[tuple[int, int], list[int]] = {}
    for rank in (0, 1):
        for line in (seen / f"rank-{rank}").read_text().splitlines():
            step, *indices = map(int, line.split())
            assert counted.setdefault((rank, step), indices) == indices
    assert sorted(i for indices in counted.values() for i in indices) == list(range(48))
    _, history = read_state(tmp_path / "b" / "stage3" / cut.state.name)
    assert [row["step"] for row in history] == [1, 2, 3, 4, 5, 6]
    assert whole.startup["first_step"] > 0
