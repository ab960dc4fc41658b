"""The loop on two real processes does what it does on one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from ember_platform.train.loop import train
from tests.platform.train.fakes import Run, settings

#: ZeRO stage and optimizer.
WAYS = ((0, "adamw"), (2, "adamw"), (3, "adamw"), (0, "muon"))


def run(folder: Path, zero_stage: int, optimizer: str, resume: Path | None = None) -> Run:
    folder.mkdir(exist_ok=True)
    # 42 samples in batches of 8: the shares of some steps are not even.
    made = Run(folder, settings(zero_stage=zero_stage, optimizer=optimizer, epochs=1, save_every=2, clip=0.5), count=42)
    made.model.dropout.p = 0.0
    if dist.is_initialized() and dist.get_world_size() > 1:
        made.job.report = lambda metrics, checkpoint, name: keep(checkpoint, folder / name)
    train(made.job, resume)
    return made


def keep(checkpoint: Path | None, target: Path) -> None:
    """All ranks' parts of a checkpoint in one folder, as Ray merges them."""
    import shutil

    if checkpoint is not None:
        shutil.copytree(checkpoint, target, dirs_exist_ok=True)
    dist.barrier()


def worker(rank: int, folder: str) -> None:
    os.environ["LOCAL_RANK"] = str(rank)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    for zero_stage, optimizer in WAYS:
        place = Path(folder, f"{optimizer}-{zero_stage}")
        whole = run(place, zero_stage, optimizer)
        again = run(place, zero_stage, optimizer, place / "checkpoint-0-000004")
        if rank == 0:
            torch.save((whole.weights(), again.weights()), Path(folder, f"{optimizer}-{zero_stage}.pt"))
        dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    torch.multiprocessing.spawn(worker, (str(folder),), nprocs=2)
    return folder


@pytest.mark.parametrize(("zero_stage", "optimizer"), WAYS)
def test_two_workers_equal_one_and_resume_exactly(
    results: Path, tmp_path: Path, zero_stage: int, optimizer: str
) -> None:
    whole, again = torch.load(results / f"{optimizer}-{zero_stage}.pt", weights_only=True)
    alone = run(tmp_path / "alone", 0, optimizer).weights()
    for name, value in alone.items():
        assert torch.allclose(whole[name], value, atol=2e-5), name
        assert torch.equal(whole[name], again[name]), name
