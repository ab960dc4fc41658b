"""Gradients through the gather, on two real processes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

from ember_platform.train import collectives


def towers() -> nn.ModuleDict:
    torch.manual_seed(3)
    return nn.ModuleDict({"left": nn.Linear(5, 4), "right": nn.Linear(6, 4)})


def contrast(model: nn.ModuleDict, x: torch.Tensor, y: torch.Tensor, offset: int, gathered: bool) -> torch.Tensor:
    """InfoNCE of local rows against all rows, as stage 1 has it."""
    left, right = F.normalize(model["left"](x), dim=1), F.normalize(model["right"](y), dim=1)
    left_all, right_all = left, right
    if gathered:
        left_all, right_all = collectives.gather_rows(left), collectives.gather_rows(right)
    target = torch.arange(len(x)) + offset
    return (F.cross_entropy(5 * left @ right_all.T, target) + F.cross_entropy(5 * right @ left_all.T, target)) / 2


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(7, 5, generator=generator), torch.randn(7, 6, generator=generator)


def worker(rank: int, folder: str, shares: list[list[int]]) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    for number, sizes in enumerate(shares):
        x, y = (rows[: sum(sizes)] for rows in data())
        start = sum(sizes[:rank])
        mine = slice(start, start + sizes[rank])
        model = towers()
        loss = contrast(model, x[mine], y[mine], start, True)
        (loss * sizes[rank] * 2 / sum(sizes)).backward()  # as the loop weights uneven shares
        for parameter in model.parameters():
            dist.all_reduce(parameter.grad)
            parameter.grad /= 2  # as the engine averages
        if rank == 0:
            torch.save({k: p.grad for k, p in model.named_parameters()}, f"{folder}/grads-{number}.pt")
        mean = collectives.mean_over_ranks({"a": float(rank), "b": 2.0})
        assert mean == {"a": 0.5, "b": 2.0}
        assert collectives.from_rank_zero(f"from {rank}") == "from 0"
    norm = nn.BatchNorm1d(2)
    norm.running_mean += rank
    collectives.average_buffers(norm)
    assert norm.running_mean.tolist() == [0.5, 0.5]
    dist.destroy_process_group()


def test_the_gradient_of_two_workers_is_that_of_the_whole_batch() -> None:
    shares = [[3, 3], [3, 4]]
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(worker, (folder, shares), nprocs=2)
        for number, sizes in enumerate(shares):
            model = towers()
            x, y = (rows[: sum(sizes)] for rows in data())
            contrast(model, x, y, 0, False).backward()
            found = torch.load(Path(folder) / f"grads-{number}.pt", weights_only=True)
            for name, parameter in model.named_parameters():
                assert torch.allclose(found[name], parameter.grad, atol=1e-6), (sizes, name)


def test_alone_nothing_is_exchanged() -> None:
    if dist.is_initialized():
        pytest.skip("another test of this process made a process group")
    assert collectives.world_size() == 1
    assert collectives.mean_over_ranks({"a": 1.5}) == {"a": 1.5}
    assert collectives.all_objects("x") == ["x"]
