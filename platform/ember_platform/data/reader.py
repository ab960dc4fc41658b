"""Shards to the batches of a step, through Ray Data, in an order that only seed and epoch decide.

One streaming pipeline per worker runs over the remaining steps: a data task reads the records of that worker's share
of a step, decodes and tokenises them (`stage.collate`) and hands over finished tensors, so that the training process
does neither. The position in the data is the number of the step; nothing else needs to be remembered.
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import Iterator
from typing import Any

import ray

from ember_platform.config import RunConfig
from ember_platform.data.manifest import Manifest
from ember_platform.data.order import Plan, epoch_order, epoch_samples
from ember_platform.data.packing import pack, unpack
from ember_platform.data.rayed import ensure_ray, quiet
from ember_platform.data.rows import Rows
from ember_platform.data.steps import StepInfo, StepMaker, plan_of

__all__ = ["Plan", "Rows", "StepInfo", "batches", "epoch_order", "epoch_samples", "plan_of"]

#: Data tasks of a pipeline at most; past this, one task makes the batches of several steps.
_MOST_TASKS = 2000
#: Logical CPUs of a data task: little, so that a small cluster whose workers hold the rest can still run one.
_TASK_CPUS = 0.1


def batches(
    config: RunConfig,
    stage: Any,
    phase: str,
    manifest: Manifest,
    processor: Any,
    *,
    rank: int = 0,
    world_size: int = 1,
    start_step: int = 0,
    plan: Plan | None = None,
) -> Iterator[tuple[StepInfo, list[Any]]]:
    """The remaining steps of a phase, each with this worker's micro-batches.

    The global batch of a step does not depend on `world_size`; a worker has a contiguous share of it. Collating is
    seeded by (seed, stage, phase, step), so that it too is the same wherever it happens.

    Args:
        config: of the run.
        stage: from `embervlm.stages.get_stage`.
        phase: one of `stage.phases`.
        manifest: of the prepared data.
        processor: handed to `stage.collate`; picklable.
        rank: of this worker.
        world_size: number of workers.
        start_step: the first step that is wanted, as a checkpoint remembers it.
        plan: the order, where `plan_of` was already called.

    Raises:
        DataError: no training records, or a global batch too small to be shared.
    """
    plan = plan or plan_of(config, stage, phase, manifest)
    maker = StepMaker(
        plan=plan,
        paths=tuple(manifest.paths(stage.number, "train")),
        stage=stage,
        processor=processor,
        rank=rank,
        world_size=world_size,
        micro_batches=config.stage(stage.number).gradient_accumulation,
    )
    remaining = plan.steps - start_step
    if remaining <= 0:
        return
    ensure_ray(config)
    quiet()
    dataset = ray.data.range(remaining, override_num_blocks=min(remaining, _MOST_TASKS)).map_batches(
        _Task(ray.put(maker), start_step),
        batch_size=1,
        num_cpus=_TASK_CPUS,
        concurrency=max(1, config.data.workers // world_size),
    )
    dataset.context.execution_options.preserve_order = True
    for batch in dataset.iter_batches(
        batch_size=None, prefetch_batches=config.data.prefetch, batch_format="pyarrow"
    ):
        for packed in batch.column("packed"):
            yield unpack(packed.as_buffer())


class _Task:
    """What a data task runs: it fetches the maker once per process, whatever number of steps it then makes."""

    def __init__(self, maker: ray.ObjectRef, start_step: int) -> None:
        self.maker = maker
        self.token = uuid.uuid4().hex
        self.start_step = start_step

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        import pyarrow as pa

        maker = _maker(self)
        packed = [pack(maker(int(number) + self.start_step)) for number in batch["id"]]
        return pa.table({"packed": pa.array(packed, pa.large_binary())})

    def __hash__(self) -> int:
        return hash(self.token)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Task) and other.token == self.token


@functools.lru_cache(maxsize=4)
def _maker(task: _Task) -> StepMaker:
    return ray.get(task.maker)
