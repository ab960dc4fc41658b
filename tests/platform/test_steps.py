"""From a step's number to its batch, and batches as bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ember_platform.data.manifest import DataError
from ember_platform.data.order import Plan
from ember_platform.data.packing import pack, unpack
from ember_platform.data.steps import StepMaker


class Stage:
    number = 3


def maker(rank: int, world_size: int, micro_batches: int = 1, batch_size: int = 8) -> StepMaker:
    plan = Plan(np.arange(50), ["a"] * 50, batch_size, 2, 0, "x", {})
    return StepMaker(plan, (), Stage(), None, rank, world_size, micro_batches)


@pytest.mark.parametrize(("world_size", "micro_batches"), [(1, 1), (2, 1), (1, 2), (3, 1), (2, 2)])
def test_the_global_batch_does_not_depend_on_the_workers(world_size: int, micro_batches: int) -> None:
    for step in (0, 6, 7, 13):
        whole = maker(0, 1).info(step)
        parts = [maker(rank, world_size, micro_batches).info(step) for rank in range(world_size)]
        assert tuple(i for part in parts for i in part.indices) == whole.indices
        assert {part.samples for part in parts} == {whole.samples} == {sum(parts[0].shares)}
        assert (whole.epoch, whole.last_of_epoch, whole.steps) == (step // 7, step in (6, 13), 14)


def test_a_batch_too_small_for_the_workers() -> None:
    with pytest.raises(DataError, match="cannot be shared by 9"):
        maker(0, 9).info(0)


def test_tensors_of_every_type_survive_packing_and_may_be_written() -> None:
    batch: dict[str, Any] = {
        "pixels": torch.arange(24, dtype=torch.uint8).reshape(2, 3, 4).transpose(0, 2),
        "ids": torch.tensor([[1, 2]]),
        "half": torch.randn(3, 2).bfloat16(),
        "mask": torch.tensor(True),
        "empty": torch.zeros(0, 4),
        "names": ["a", "b"],
    }
    back = unpack(memoryview(pack(batch)))
    for name, value in batch.items():
        if isinstance(value, torch.Tensor):
            assert back[name].dtype == value.dtype
            assert torch.equal(back[name], value)
            back[name].zero_()
        else:
            assert back[name] == value
