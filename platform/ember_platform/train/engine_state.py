"""Weights and optimizer of a DeepSpeed engine as tensors that any number of workers can read.

Every rank writes what it holds, each stretch of a parameter under the parameter's name and its place in it, and a
reader takes the stretches that it needs out of all ranks' files. So the same files serve the same number of workers
(bit for bit), another number, and another ZeRO stage, without a conversion between.

DeepSpeed's own universal checkpoints do the same in three steps: save, convert with `ds_to_universal` (a program of
its own that rewrites everything, once per change of the number of workers), load. They work on CPU for ZeRO 1-3, but
not for ZeRO 0; they are pickles, which cannot be checked before they are run; they are written in the training step,
between collectives; and they need a folder on a disk. These are safetensors, copied between two steps and written
beside the following ones.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ember_platform.train import collectives
from ember_platform.train.checkpoint import CheckpointError

_FILES = "engine-*-of-*.safetensors"
WEIGHT, BUFFER, NUMBERS = "weight", "buffer", "numbers"


def file_name(rank: int, world_size: int) -> str:
    """The name of a rank's file in a checkpoint."""
    return f"engine-{rank}-of-{world_size}.safetensors"


@dataclass(frozen=True)
class Snapshot:
    """One rank's share, copied to the CPU: it stays as it is while training goes on.

    `numbers` are what an optimizer remembers of a parameter beside tensors of its size (AdamW: the steps).
    """

    tensors: dict[str, Tensor]
    numbers: dict[str, dict[str, float]]

    def write(self, path: Path) -> None:
        """Write it to a file."""
        save_file(self.tensors, path, {NUMBERS: json.dumps(self.numbers)})


@dataclass(frozen=True)
class _Piece:
    """A stretch of a trained parameter whose optimizer state this rank has: in `flat` from `offset`."""

    name: str
    flat: Tensor
    offset: int
    start: int  # in the parameter
    count: int

    def of(self, tensor: Tensor) -> Tensor:
        return tensor.detach().reshape(-1)[self.offset : self.offset + self.count]


def snapshot(module: nn.Module, optimizer: Any, zero_stage: int) -> Snapshot:
    """What this rank has to write, so that all ranks' files together hold every number once.

    Args:
        module: the one that is trained.
        optimizer: of the DeepSpeed engine on it.
        zero_stage: of that engine.
    """
    memory = _memory(optimizer)
    owner = _owners(module, zero_stage)
    rank = collectives.rank()
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, dict[str, float]] = {}
    for piece in _pieces(module, optimizer, zero_stage):
        if piece.count == 0 or owner.get(piece.name, rank) != rank:
            continue
        tensors[f"{WEIGHT}/{piece.name}@{piece.start}"] = _copy(piece.of(piece.flat))
        for kind, value in memory.get(piece.flat, {}).items():
            if isinstance(value, Tensor) and value.shape == piece.flat.shape and kind != "step":
                tensors[f"{kind}/{piece.name}@{piece.start}"] = _copy(piece.of(value))
            else:
                numbers.setdefault(piece.name, {})[kind] = float(value)
    for name, parameter in module.named_parameters():
        if parameter.requires_grad or owner.get(name, rank) != rank:
            continue
        stretch, start = _held(parameter, zero_stage)
        if len(stretch):
            tensors[f"{WEIGHT}/{name}@{start}"] = _copy(stretch)
    if rank == 0:
        for name, buffer in _buffers(module):
            tensors[f"{BUFFER}/{name}@0"] = _copy(buffer.reshape(-1))
    return Snapshot(tensors, numbers)


def restore(folder: Path, module: nn.Module, optimizer: Any, zero_stage: int) -> None:
    """Put a checkpoint's weights and optimizer into a new engine, whatever workers and ZeRO stage wrote it.

    Raises:
        CheckpointError: files or parameters are missing.
    """
    memory = _memory(optimizer)
    with contextlib.ExitStack() as stack, torch.no_grad():
        parts = _Parts(folder, stack)
        if zero_stage == 3:
            optimizer.checkpoint_event_prologue()  # small parameters, which stay whole, are taken apart
        for name, parameter in module.named_parameters():
            stretch, start = _held(parameter, zero_stage)
            found = parts.read(WEIGHT, name, start, len(stretch))
            if zero_stage == 3:
                stretch.copy_(found)
            else:
                parameter.data.copy_(found.view(parameter.shape))
        for name, buffer in _buffers(module):
            buffer.copy_(parts.read(BUFFER, name, 0, buffer.numel()).view(buffer.shape))
        for piece in _pieces(module, optimizer, zero_stage):
            if zero_stage:
                piece.of(piece.flat).copy_(parts.read(WEIGHT, piece.name, piece.start, piece.count))
            for kind in parts.remembered(piece.name):
                state = memory.setdefault(piece.flat, {})
                if kind not in state:
                    state[kind] = torch.zeros_like(piece.flat)
                piece.of(state[kind]).copy_(parts.read(kind, piece.name, piece.start, piece.count))
            for kind, number in parts.numbers.get(piece.name, {}).items():
                value = torch.tensor(number, dtype=torch.float32, device=piece.flat.device)
                memory.setdefault(piece.flat, {})[kind] = value
        if zero_stage == 3:
            optimizer.checkpoint_event_epilogue()  # and gathered again


class _Parts:
    """All ranks' files of a checkpoint, open for reading."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.folder = folder
        self.numbers: dict[str, dict[str, float]] = {}
        self.index: dict[str, list[tuple[int, int, Any, str]]] = {}
        paths = sorted(folder.glob(_FILES))
        if not paths:
            raise CheckpointError(f"{folder}: no engine state there")
        for path in paths:
            file = stack.enter_context(safe_open(path, framework="pt"))
            self.numbers |= json.loads(file.metadata()[NUMBERS])
            for key in file.keys():  # noqa: SIM118  it is no mapping
                name, _, start = key.rpartition("@")
                count = file.get_slice(key).get_shape()[0]
                self.index.setdefault(name, []).append((int(start), count, file, key))

    def remembered(self, name: str) -> list[str]:
        """What an optimizer remembered of a parameter, as tensors of its size."""
        kinds = (key.partition("/")[0] for key in self.index if key.partition("/")[2] == name)
        return [kind for kind in kinds if kind not in (WEIGHT, BUFFER)]

    def read(self, kind: str, name: str, start: int, count: int) -> Tensor:
        """A stretch of a parameter (count,), put together from whatever files hold it."""
        pieces: list[Tensor] = []
        at, end = start, start + count
        for first, length, file, key in sorted(self.index.get(f"{kind}/{name}", []), key=lambda entry: entry[0]):
            if first <= at < min(first + length, end):
                stop = min(first + length, end)
                pieces.append(file.get_slice(key)[at - first : stop - first])
                at = stop
        if at < end:
            raise CheckpointError(
                f"{self.folder}: {kind} of {name} is not there from {at} of {end}; it was written by another model"
            )
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces or [torch.empty(0)])


def _memory(optimizer: Any) -> dict[Tensor, dict[str, Any]]:
    """State of the torch optimizer that is at the bottom of DeepSpeed's."""
    found: dict[Tensor, dict[str, Any]] = getattr(optimizer, "optimizer", optimizer).state
    return found


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()


def _pieces(module: nn.Module, optimizer: Any, zero_stage: int) -> Iterator[_Piece]:
    """Where the trained parameters' fp32 weights and moments are on this rank."""
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        if zero_stage == 0:
            yield _Piece(name, parameter, 0, 0, parameter.numel())
        elif zero_stage < 3:
            place = parameter._hp_mapping  # type: ignore[attr-defined]
            if place is not None:  # else all of it is on other ranks
                flat = optimizer.single_partition_of_fp32_groups[place.param_group_index]
                here, there = place.get_hp_fragment_address(), place.lp_fragment_address
                yield _Piece(name, flat, here.start, there.start, here.numel)
        else:
            group, offset, share = optimizer.grad_position[optimizer.get_param_id(parameter)]
            start = collectives.rank() * share  # the last shares may be padded
            count = max(0, min(share, parameter.ds_numel - start))  # type: ignore[attr-defined]
            yield _Piece(name, optimizer.fp32_partitioned_groups_flat[group], offset, start, count)


def _held(parameter: nn.Parameter, zero_stage: int) -> tuple[Tensor, int]:
    """What this rank has of a parameter's weights, flat, and where in the parameter that begins."""
    if zero_stage < 3:
        return parameter.detach().reshape(-1), 0
    share = parameter.ds_tensor.detach().reshape(-1)  # type: ignore[attr-defined]
    start = collectives.rank() * len(share)
    return share[: max(0, parameter.ds_numel - start)], start  # type: ignore[attr-defined]


def _owners(module: nn.Module, zero_stage: int) -> dict[str, int]:
    """Which rank writes a parameter that every rank has whole: each about the same number of bytes."""
    if zero_stage == 3:
        return {}
    whole = [(n, p.numel()) for n, p in module.named_parameters() if zero_stage == 0 or not p.requires_grad]
    before = itertools.accumulate((count for _, count in whole), initial=0)
    total = max(1, sum(count for _, count in whole))
    return {name: at * collectives.world_size() // total for (name, _), at in zip(whole, before, strict=False)}


def _buffers(module: nn.Module) -> Sequence[tuple[str, Tensor]]:
    """The buffers that a checkpoint keeps."""
    kept = module.state_dict().keys()
    return [(name, buffer) for name, buffer in module.named_buffers() if name in kept]
