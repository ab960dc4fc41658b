"""The loop on two real processes does what it does on one, and goes on with another number of them."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from ember_platform.train import checkpoint as ck
from ember_platform.train.loop import train
from ember_platform.train.optimizer import make_optimizer, set_rate
from tests.platform.train.fakes import Run, settings

#: ZeRO stage and optimizer.
WAYS = ((0, "adamw"), (1, "adamw"), (2, "adamw"), (3, "adamw"), (0, "muon"))
Way = tuple[int, str]


def run(folder: Path, way: Way, resume: Path | None = None, *, exchanges: bool = False, accumulation: int = 1) -> Run:
    """Six steps: 42 samples in batches of 8, so that the shares of some steps are not even.

    There is dropout, so that random numbers would show if they depended on who runs a share.
    """
    folder.mkdir(exist_ok=True)
    changes = {"epochs": 1, "save_every": 2, "clip": 0.5, "keep": 9, "gradient_accumulation": accumulation}
    made = Run(folder, settings(zero_stage=way[0], optimizer=way[1], **changes), count=42, shares=2)
    made.model.exchanges = exchanges
    train(made.job, resume)
    return made


def place(folder: Path, name: str, way: Way) -> Path:
    return folder / f"{name}-{way[0]}-{way[1]}"


def workers(rank: int, folder: str, parts: tuple[Any, ...]) -> None:
    os.environ["LOCAL_RANK"] = str(rank)
    store = f"file://{folder}/store-{parts[0].__name__}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    for part, way in itertools.product(parts, WAYS):
        found = part(Path(folder), way)
        if rank == 0:
            torch.save(found, place(Path(folder), part.__name__, way).with_suffix(".pt"))
        dist.barrier()
    dist.destroy_process_group()


def whole(folder: Path, way: Way) -> tuple[Any, Any]:
    """Two workers from the beginning to the end, and again from the middle."""
    first = run(place(folder, "whole", way), way)
    again = run(place(folder, "again", way), way, first.folder / "checkpoint-0-000004")
    return first.weights(), again.weights()


def exchanging(folder: Path, way: Way) -> tuple[Any, Any]:
    """Two workers whose losses need each other's rows, in one pass and in two."""
    one = run(place(folder, "exchanging", way), way, exchanges=True)
    two = run(place(folder, "accumulating", way), way, accumulation=2)
    return one.weights(), two.weights()


def alone(folder: Path, way: Way) -> None:
    """One worker goes on where two were after two steps."""
    run(place(folder, "alone", way), way, place(folder, "whole", way) / "checkpoint-0-000002")


def last(folder: Path, way: Way) -> Any:
    """Two workers again, from where the one was after four."""
    return run(place(folder, "last", way), way, place(folder, "alone", way) / "checkpoint-0-000004").weights()


def stepping(folder: Path, way: Way) -> Any:
    """Weights and optimizer state after three steps of equal gradients on every rank, which only the optimizer sees."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(*(torch.nn.Linear(a, b) for a, b in ((16, 48), (48, 48), (48, 17), (17, 3))))
    optimizer = make_optimizer(way[1], module, 0.1)
    for rate in (0.03, 0.02, 0.01):
        for parameter in module.parameters():
            parameter.grad = torch.randn_like(parameter)
        set_rate(optimizer, rate)
        optimizer.step()
    assert all(parameter.grad is not None for parameter in module.parameters())
    return module.state_dict(), optimizer.state_dict()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    torch.multiprocessing.spawn(workers, (str(folder), (whole, exchanging, stepping)), nprocs=2)
    for way in WAYS:
        alone(folder, way)
    torch.multiprocessing.spawn(workers, (str(folder), (last,)), nprocs=2)
    return folder


def load(results: Path, name: str, way: Way) -> Any:
    return torch.load(place(results, name, way).with_suffix(".pt"), weights_only=True)


def assert_close(found: Any, expected: Any) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.allclose(found[name], value, atol=2e-5), name


@pytest.mark.parametrize("way", WAYS)
def test_two_workers_equal_one_and_resume_exactly(results: Path, tmp_path: Path, way: Way) -> None:
    first, again = load(results, "whole", way)
    assert_close(first, run(tmp_path / "alone", (0, way[1])).weights())
    for name, value in first.items():
        assert torch.equal(again[name], value), name


@pytest.mark.parametrize("way", WAYS)
def test_workers_that_share_a_step_out_come_to_what_each_would(results: Path, tmp_path: Path, way: Way) -> None:
    (weights, state), (mine, kept) = load(results, "stepping", way), stepping(tmp_path, way)
    assert all(torch.equal(weights[name], value) for name, value in mine.items())
    assert state["state"].keys() == kept["state"].keys()
    for number, values in kept["state"].items():
        assert all(torch.equal(state["state"][number][name], value) for name, value in values.items())


@pytest.mark.parametrize("way", WAYS)
def test_one_worker_runs_the_shares_of_two(results: Path, tmp_path: Path, way: Way) -> None:
    """Also where a share's loss needs the rows of the other, and where a share is run in parts."""
    exchanged, accumulated = load(results, "exchanging", way)
    assert_close(exchanged, run(tmp_path / "one", (0, way[1]), exchanges=True).weights())
    assert_close(accumulated, run(tmp_path / "two", (0, way[1]), accumulation=2).weights())


@pytest.mark.parametrize("way", WAYS)
def test_the_number_of_workers_may_change_on_the_way(results: Path, way: Way) -> None:
    """2 → 1 → 2: the same samples at the same steps, the same losses and weights but for rounding."""
    assert_close(load(results, "last", way), load(results, "whole", way)[0])
    _, history, samples = ck.read_state(place(results, "whole", way) / "checkpoint-0-000006")
    state, other_history, other_samples = ck.read_state(place(results, "last", way) / "checkpoint-0-000006")
    assert state.world_size == 2
    assert samples == other_samples
    assert sorted(i for row in samples for i in row["indices"]) == list(range(42))
    for row, other in zip(history, other_history, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-5)
    parts = place(results, "alone", way) / "checkpoint-0-000004"
    assert [p.name for p in parts.glob("engine-*")] == ["engine-0-of-1.safetensors"]


def test_another_zero_stage_reads_the_same_files(results: Path, tmp_path: Path) -> None:
    way = (3, "adamw")
    start = place(results, "whole", way) / "checkpoint-0-000004"
    assert_close(run(tmp_path / "other", (0, "adamw"), start).weights(), load(results, "whole", way)[0])
