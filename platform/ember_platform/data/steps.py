"""From the number of a step to its batch: pure, and the same wherever it runs."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from ember_platform.config import RunConfig
from ember_platform.data.feature_rows import FeatureRows
from ember_platform.data.manifest import DataError, Manifest
from ember_platform.data.order import Plan, share_edges
from ember_platform.data.rows import Rows
from embervlm.data.images import EncodedImage
from embervlm.data.schema import Record


@dataclass(frozen=True)
class StepInfo:
    """Where a step is.

    `step` counts optimizer steps of the phase from 0, `steps` is their number, `epoch` counts from 0. `samples` is the
    size of the global batch and `shares` the sizes of all its micro-batches, ordered by rank, then micro-batch: equal
    but where `samples` does not divide, and then a mean over the global batch weights each by its share. `indices` are
    this worker's samples (places among the stage's training rows), in the order of its micro-batches.
    """

    step: int
    steps: int
    epoch: int
    last_of_epoch: bool
    samples: int
    shares: tuple[int, ...]
    indices: tuple[int, ...]


def plan_of(config: RunConfig, stage: Any, phase: str, manifest: Manifest) -> Plan:
    """The order of one phase of a stage (of `embervlm.stages.get_stage`).

    Raises:
        DataError: no training records, or batches too small for the workers.
        ConfigError: the configuration has no such stage.
    """
    settings = config.stage(stage.number)
    rows = Rows(manifest.paths(stage.number, "train"))
    costs = [(stage.length(record), stage.group(record)) for record in rows.texts()]
    lengths = np.array([length for length, _ in costs], np.int64)
    numbers: dict[str, int] = {}
    groups = np.array([numbers.setdefault(group, len(numbers)) for _, group in costs], np.int64)
    plan = Plan(
        lengths=lengths,
        sources=[s.source for s in manifest.select(stage.number, "train") for _ in range(s.rows)],
        batch_size=settings.batch_size,
        epochs=settings.epochs_of(stage.phases.index(phase), len(stage.phases)),
        seed=config.seed,
        salt=f"{stage.name}/{phase}",
        mixing=settings.mixing,
        max_steps=settings.max_steps,
        groups=groups if len(numbers) > 1 else None,
    )
    parts = config.cluster.num_workers * settings.gradient_accumulation
    if plan.steps and plan.smallest_batch < parts:
        raise DataError(
            f"stage {stage.number}: a batch of {plan.smallest_batch} samples ({len(rows)} training records, batch_size "
            f"{settings.batch_size}) cannot be shared by {parts} (cluster.num_workers × gradient_accumulation); "
            "prepare more records or use fewer workers"
        )
    return plan


@dataclass(frozen=True)
class StepMaker:
    """Makes one worker's part of any step. It holds everything that this needs, and goes to the data tasks.

    `features` are the files of a cache, one per shard in their order, where the encoder has seen the pictures already.
    """

    plan: Plan
    paths: tuple[str, ...]
    stage: Any
    processor: Any
    rank: int
    world_size: int
    micro_batches: int
    features: tuple[str, ...] | None = None

    def info(self, step: int) -> StepInfo:
        """The place of a step and this worker's share of it.

        Raises:
            DataError: the global batch has fewer samples than there are workers × micro-batches.
        """
        starts = self.plan.epoch_starts
        epoch = int(np.searchsorted(starts, step, side="right")) - 1
        batch = _epoch(self.plan, epoch)[step - starts[epoch]]
        parts = self.world_size * self.micro_batches
        if len(batch) < parts:
            raise DataError(
                f"stage {self.stage.number}, step {step}: {len(batch)} samples cannot be shared by {parts} "
                "(workers × accumulation)"
            )
        edges = share_edges(len(batch), parts)
        first, last = self.rank * self.micro_batches, (self.rank + 1) * self.micro_batches
        return StepInfo(
            step=step,
            steps=self.plan.steps,
            epoch=epoch,
            last_of_epoch=step + 1 == starts[epoch + 1],
            samples=len(batch),
            shares=tuple(np.diff(edges).tolist()),
            indices=tuple(batch[edges[first] : edges[last]]),
        )

    def __call__(self, step: int) -> tuple[StepInfo, list[Any]]:
        """The place of a step and this worker's micro-batches, each as `stage.collate` made it."""
        info = self.info(step)
        seed = int.from_bytes(hashlib.sha256(f"{self.plan.seed}/{self.plan.salt}/{step}".encode()).digest()[:4], "big")
        mine = info.shares[self.rank * self.micro_batches : (self.rank + 1) * self.micro_batches]
        ends = np.cumsum(mine)
        parts = [info.indices[end - size : end] for size, end in zip(mine, ends, strict=True)]
        return info, [self.stage.collate(self.processor, self.records(part), seed) for part in parts]

    def records(self, indices: tuple[int, ...]) -> list[Record]:
        """The records at some places, their pictures as they are or as the encoder saw them."""
        if self.features is None:
            return _rows(self.paths).take(indices)
        records = _rows(self.paths).take(indices, pictures=False)
        for record, bits in zip(records, _features(self.features).take(indices), strict=True):
            record.image = None if bits is None else EncodedImage(bits)  # type: ignore[assignment]
        return records


@functools.lru_cache(maxsize=8)
def _features(paths: tuple[str, ...]) -> FeatureRows:
    return FeatureRows(paths)


@functools.lru_cache(maxsize=8)
def _rows(paths: tuple[str, ...]) -> Rows:
    return Rows(paths)


@functools.lru_cache(maxsize=4)
def _epoch(plan: Plan, epoch: int) -> list[list[int]]:
    return plan.epoch(epoch)
