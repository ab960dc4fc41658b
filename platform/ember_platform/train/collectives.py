"""What the loop needs from the other workers: a differentiable gather, sums, agreement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _Gather(torch.autograd.Function):
    """All ranks' rows, with every rank's gradient for a row summed on the rank that owns it.

    With the engine averaging parameter gradients over ranks, the sum is what makes the result the gradient of the mean
    over ranks of the local losses, whether a rank's loss covers its own rows or the whole batch.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        sizes = _row_counts(rows)
        most = max(sizes)
        padded = (
            rows if rows.shape[0] == most else torch.cat([rows, rows.new_zeros(most - rows.shape[0], *rows.shape[1:])])
        )
        parts = [torch.empty_like(padded, memory_format=torch.contiguous_format) for _ in sizes]
        dist.all_gather(parts, padded.contiguous())
        ctx.start = sum(sizes[: dist.get_rank()])
        ctx.rows = rows.shape[0]
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return total[ctx.start : ctx.start + ctx.rows]


def _row_counts(rows: Tensor) -> list[int]:
    """Every rank's number of rows; batches that do not divide give some ranks one more."""
    counts = [torch.zeros(1, dtype=torch.int64, device=_device()) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, torch.tensor([rows.shape[0]], device=_device()))
    return [int(count) for count in counts]


def world_size() -> int:
    """Workers of the run; 1 where there is no process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This worker's number; 0 where there is no process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def _device() -> torch.device:
    """Where tensors must be for the process group: NCCL only takes those of a GPU."""
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")


class _GatherRows:
    """(n, …) on each rank → (sum of n, …) on all, in rank order, differentiable. Ranks may have different n."""

    @property
    def place(self) -> int:
        """This worker's number among those that exchange."""
        return rank()

    @property
    def parts(self) -> int:
        """How many exchange."""
        return world_size()

    def __call__(self, rows: Tensor) -> Tensor:
        return torch.as_tensor(_Gather.apply(rows))


gather_rows = _GatherRows()


def mean_over_ranks(values: dict[str, float]) -> dict[str, float]:
    """The mean over ranks of each value; every rank passes the same names."""
    if world_size() == 1 or not values:
        return values
    names = sorted(values)
    total = torch.tensor([values[name] for name in names], dtype=torch.float64, device=_device())
    dist.all_reduce(total)
    return dict(zip(names, (total / world_size()).tolist(), strict=True))


def from_owners(tensors: Sequence[Tensor], owners: Sequence[int]) -> None:
    """Make every tensor what it is on the rank that owns it; all ranks pass the same ones in one order, of one type."""
    sizes = [0] * world_size()
    places: list[slice] = []
    for tensor, owner in zip(tensors, owners, strict=True):
        places.append(slice(sizes[owner], sizes[owner] + tensor.numel()))
        sizes[owner] += tensor.numel()
    parts = [tensors[0].new_empty(max(sizes)) for _ in sizes]
    for tensor, owner, place in zip(tensors, owners, places, strict=True):
        if owner == rank():
            parts[owner][place] = tensor.detach().reshape(-1)
    dist.all_gather(parts, parts[rank()].clone())
    for tensor, owner, place in zip(tensors, owners, places, strict=True):
        if owner != rank():
            tensor.detach().copy_(parts[owner][place].view_as(tensor))


def all_objects(value: Any) -> list[Any]:
    """Every rank's picklable object, in rank order."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def from_rank_zero(value: Any) -> Any:
    """Rank 0's picklable object, on every rank. Ranks wait for it without using a core."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def average_buffers(module: torch.nn.Module) -> None:
    """Make floating-point buffers (BatchNorm statistics) the mean over ranks, the others rank 0's.

    Done before a module is evaluated or saved: then what is saved is what every rank goes on with.
    """
    if world_size() == 1:
        return
    for buffer in module.buffers():
        if buffer.is_floating_point():
            dist.all_reduce(buffer)
            buffer /= world_size()
        else:
            dist.broadcast(buffer, src=0)
