"""Shards to the batches of a step, through Ray Data, in an order that only seed and epoch decide.

One streaming pipeline per worker runs over the remaining steps: a data task reads the records of that worker's share
of a step, decodes and tokenises them (`stage.collate`) and hands over finished tensors, so that the training process
does neither. The position in the data is the number of the step; nothing else needs to be remembered.
"""

from __future__ import annotations

import functools
import uuid
from collections import deque
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ember_platform.config import RunConfig
from ember_platform.data.feature_rows import file_of
from ember_platform.data.manifest import Manifest
from ember_platform.data.order import Plan, epoch_order, epoch_samples
from ember_platform.data.packing import pack, unpack
from ember_platform.data.rayed import ensure_ray, quiet
from ember_platform.data.rows import Rows
from ember_platform.data.steps import StepInfo, StepMaker, plan_of

__all__ = ["Plan", "Rows", "StepInfo", "batches", "epoch_order", "epoch_samples", "plan_of"]

#: Steps that one data task makes. Ray Data's executor costs the training process tens of milliseconds a task.
_STEPS_PER_TASK = 16
#: Logical CPUs of a data task: little, so that a small cluster whose workers hold the rest can still run one.
_TASK_CPUS = 0.1
#: Loader processes that nobody uses at the moment.
_idle: list[Any] = []

Steps = Generator[tuple[StepInfo, list[Any]], None, None]


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
    micro_batches: int | None = None,
    features: str | None = None,
    keep: bool = False,
) -> Steps:
    """The remaining steps of a phase, each with this worker's micro-batches; they are made from this call on.

    Close the iterator (`.close()`) where it is not read to its end.

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
        micro_batches: that a worker's share of a step is cut into; None for the stage's accumulation.
        features: folder with what the encoder saw in the pictures (`feature_rows`); None for the pictures.
        keep: leave the loader's processes to the next call in this process; their start is most of a first batch.

    Raises:
        DataError: no training records, or a global batch too small to be shared.
    """
    plan = plan or plan_of(config, stage, phase, manifest)
    shards = manifest.select(stage.number, "train")
    maker = StepMaker(
        plan=plan,
        paths=tuple(manifest.paths(stage.number, "train")),
        stage=stage,
        processor=processor,
        rank=rank,
        world_size=world_size,
        micro_batches=micro_batches or config.stage(stage.number).gradient_accumulation,
        features=tuple(file_of(features, shard.sha256) for shard in shards) if features else None,
    )
    if start_step >= plan.steps:
        return _no_steps()
    ensure_ray(config)
    workers, prefetch = max(1, config.data.workers // world_size), config.data.prefetch
    if config.data.loader == "ray_data":
        return _ahead(through_ray_data(maker, start_step, workers, prefetch))
    return _ahead(through_actors(maker, start_step, workers, prefetch, keep))


def _no_steps() -> Steps:
    yield from ()


def through_ray_data(maker: StepMaker, start_step: int, workers: int, prefetch: int) -> Steps:
    """Steps made by the tasks of one streaming Ray Data pipeline, in order."""
    quiet()
    remaining = maker.plan.steps - start_step
    dataset = ray.data.range(remaining, override_num_blocks=-(-remaining // _STEPS_PER_TASK)).map_batches(
        _Task(ray.put(maker), start_step), batch_size=1, num_cpus=_TASK_CPUS, compute=ray.data.TaskPoolStrategy(workers)
    )
    dataset.context.execution_options.preserve_order = True
    for batch in dataset.iter_batches(batch_size=None, prefetch_batches=prefetch, batch_format="pyarrow"):
        for packed in batch.column("packed"):  # type: ignore[union-attr]
            yield unpack(packed.as_buffer())


def through_actors(maker: StepMaker, start_step: int, workers: int, prefetch: int, keep: bool = False) -> Steps:
    """Steps made by actors of this worker, on its node where they fit; at most `prefetch` are made ahead.

    With `keep` the actors stay for the next call in this process.
    """
    held = [ray.put(maker)]
    # `soft` alone is for a node that is gone: where training workers fill the node, an actor would wait for ever.
    here = ray.get_runtime_context().get_node_id()
    node = NodeAffinitySchedulingStrategy(here, soft=True, _spill_on_unavailable=True)
    # A step is a pure function, so a maker that dies is started again and asked again.
    options = {"num_cpus": _TASK_CPUS, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": node}
    makers = [_idle.pop() for _ in range(min(workers, len(_idle)))] if keep else []
    makers += [_Maker.options(**options).remote() for _ in range(workers - len(makers))]  # type: ignore[attr-defined]
    try:
        waiting: deque[ray.ObjectRef] = deque()
        for step in range(start_step, maker.plan.steps + prefetch):
            if step < maker.plan.steps:
                waiting.append(makers[step % workers].make.remote(held, step))
            if len(waiting) > prefetch or step >= maker.plan.steps:
                if not waiting:
                    return
                yield unpack(ray.get(waiting.popleft()))
    finally:
        if keep:
            _idle.extend(makers)
        for actor in makers if not keep else []:
            ray.kill(actor)


def _ahead(source: Steps) -> Steps:
    """The same steps, the next one always being fetched on a thread; the first from the moment of the call."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
    following = pool.submit(next, source, None)

    def steps() -> Steps:
        pending = following
        try:
            while (item := pending.result()) is not None:
                pending = pool.submit(next, source, None)
                yield item
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            source.close()

    return steps()


@ray.remote
class _Maker:
    """An actor that makes steps."""

    def __init__(self) -> None:
        self.held: ray.ObjectRef | None = None
        self.maker: StepMaker | None = None

    def make(self, held: list[ray.ObjectRef], step: int) -> bytes:
        """A step of the maker in the list (Ray fetches what is not in one anew for every call)."""
        if self.maker is None or held[0] != self.held:
            self.held, self.maker = held[0], ray.get(held[0])
        return pack(self.maker(step))


class _Task:
    """What a data task runs: it fetches the maker once per process, whatever number of steps it then makes."""

    def __init__(self, maker: ray.ObjectRef, start_step: int) -> None:
        self.maker = maker
        self.token = uuid.uuid4().hex
        self.start_step = start_step

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
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
