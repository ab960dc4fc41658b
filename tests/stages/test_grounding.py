"""Stage 4's grounding where some workers have pictures and others have none."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
import torch.distributed as dist

from ember_platform.train import collectives
from embervlm.data.schema import Record
from embervlm.stages import get_stage
from embervlm.world.dataset import build
from tests.models.fakes import tiny

PARTS = ("fusion", "image_pool", "text_pool", "logit_scale")


def records() -> list[Record]:
    """Three with a picture, then three without."""
    made = list(build("train", "reasoning", 6, 0, 64, fleets=2))
    return [*made[:3], *(dataclasses.replace(record, image=None) for record in made[3:])]


def grounding(mine: list[Record], gathered: bool) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss and what it alone sends to the parts that it trains."""
    model = tiny()
    stage = get_stage(4, {"reasoning": 0.0, "consistency": 0.0, "answer": 0.0, "grounding": 1.0})
    module = stage.module(model)
    stage.prepare(model, "joint")
    batch = stage.collate(model.processor, mine, None)
    losses = module(batch, 0.0, collectives.gather_rows if gathered else None)
    losses["loss"].backward()
    # No gradient counts as zero, as the engine has it: a worker without pictures does not use the temperature.
    trained = {n: p for n, p in model.named_parameters() if n.startswith(PARTS)}
    grads = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in trained.items()}
    return float(losses["grounding_loss"]), grads


def worker(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    share = records()
    value, grads = grounding(share[:3] if rank == 0 else share[3:], True)
    mean = collectives.mean_over_ranks({"loss": value})["loss"]
    for name in sorted(grads):
        dist.all_reduce(grads[name])
        grads[name] /= 2
    # None of the workers has a picture: nothing to learn, and nobody waits.
    assert grounding(share[3:], True)[0] == 0
    if rank == 0:
        torch.save((mean, grads), f"{folder}/found.pt")
    dist.destroy_process_group()


def test_a_worker_without_pictures_takes_part(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(worker, (str(tmp_path),), nprocs=2)
    mean, grads = torch.load(tmp_path / "found.pt", weights_only=True)
    value, expected = grounding(records(), False)
    assert value > 0
    assert abs(mean - value) < 1e-5
    assert grads.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.allclose(grads[name], gradient, atol=1e-5), name


def test_alone_and_without_pictures_it_is_nothing() -> None:
    value, _ = grounding(records()[3:], False)
    assert value == 0
