"""What a stage is to the loop.

Shape legend: B batch, N robots, T tokens, K entries of a teacher's distribution, D width.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from embervlm.data.processor import EmberVLMProcessor
from embervlm.data.schema import Record
from embervlm.stages.losses import Gather

if TYPE_CHECKING:
    # Processes that only make batches need no model.
    from embervlm.models.modeling import EmberVLM

__all__ = ["Batch", "Gather", "Stage", "StageModule", "chunks", "draws", "to_device"]

T = TypeVar("T")
Batch = dict[str, Any]


class StageModule(nn.Module):
    """A model with a stage's loss around it: what the training engine wraps.

    `forward(batch, progress, gather)` returns scalars (float32, means over the local batch); "loss" is optimised.
    `progress` runs from 0 to 1 over the phase. `gather` concatenates a tensor over all parts of the step along its
    first dimension and is differentiable; None where there is one part. A phase that uses it is in `Stage.exchanges`.
    """

    def __init__(self, model: EmberVLM, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.model = model
        self.weights = dict(weights)

    def image_features(self, batch: Batch) -> Tensor | None:
        """The encoder's features (B, P, V) of a batch's pictures: computed, or computed before; None without any."""
        if "image_features" in batch:
            return torch.as_tensor(batch["image_features"]).float()
        return self.model.visual_features(batch["pixel_values"]) if "pixel_values" in batch else None

    def forward(self, batch: Batch, progress: float = 0.0, gather: Gather | None = None) -> dict[str, Tensor]:
        """The losses of a batch."""
        raise NotImplementedError  # pragma: no cover - every stage has its own


class Stage(ABC):
    """One stage: what trains, on what, towards what, and how it is judged."""

    number: int
    name: str
    #: Kind of record it reads (`embervlm.data.schema.KINDS`).
    kind: str
    phases: tuple[str, ...] = ("main",)
    #: Phases in which the vision encoder trains; in the others its features may come from a cache.
    trains_vision: tuple[str, ...] = ()
    #: Phases whose loss exchanges rows between workers (`gather`).
    exchanges: tuple[str, ...] = ()
    #: Validation metrics by which models can be compared, and which way is better.
    judged: Mapping[str, Literal["max", "min"]]
    #: That of them by which the best checkpoint is kept; a configuration may name another (`get_stage(n, best=…)`).
    metric: str
    #: The loss terms' weights; a configuration may set others (`get_stage(n, losses=…)`).
    weights: Mapping[str, float] = MappingProxyType({})
    #: The share of training's photographs that are blended with another; only where a stage has a teacher of pictures.
    mixup: float = 0.0
    #: Training records that `finish` compares others with.
    compared: int = 0

    @property
    def mode(self) -> Literal["max", "min"]:
        """Which way `metric` is better."""
        return self.judged[self.metric]

    @abstractmethod
    def trained(self, model: EmberVLM, phase: str) -> list[nn.Module | nn.Parameter]:
        """The parts that train in a phase."""

    @abstractmethod
    def module(self, model: EmberVLM) -> StageModule:
        """The model with this stage's loss."""

    @abstractmethod
    def collate(self, processor: EmberVLMProcessor, records: Sequence[Record], seed: int | None) -> Batch:
        """Records to a batch of CPU tensors. With a seed, training's random choices are made from it alone."""

    @abstractmethod
    def evaluate(
        self, module: StageModule, processor: EmberVLMProcessor, records: Sequence[Record], batch_size: int = 64
    ) -> dict[str, float]:
        """Validation metrics: cheap, and none is read from tokens that hold the answer."""

    def prepare(self, model: EmberVLM, phase: str) -> None:
        """Set what trains and what is frozen; frozen parts are in eval mode, batch statistics included."""
        model.train()
        model.familiarity = None  # it belongs to the weights as they were
        model.requires_grad_(False)
        for part in self.trained(model, phase):
            part.requires_grad_(True)
        vision_trains = any(p.requires_grad for p in model.vision.parameters())
        model.vision.freeze(parameters=not vision_trains, statistics=self.number != 0)

    def finish(
        self,
        module: StageModule,
        processor: EmberVLMProcessor,
        records: Sequence[Record],
        training: Sequence[Record] = (),
    ) -> dict[str, float]:
        """Fit what is fitted after training, before the model is saved: calibration, and how far inputs may lie.

        Args:
            records: validation records.
            training: `compared` training records.

        Returns:
            What was found on the validation records and is not in the model to read; most stages have nothing to fit.
        """
        return {}

    def group(self, record: Record) -> str:
        """Records of one group share work when they share a batch (a fleet is read once); "" where none do."""
        return ""

    def length(self, record: Record) -> int:
        """A cheap estimate of a record's cost, in characters; batches are bucketed by it."""
        return len(record.instruction) + len(record.response)


def draws(records: Sequence[Record], seed: int, count: int) -> np.ndarray:
    """Random numbers in [0, 1), (B, count), that depend on the seed and each record alone, not on its neighbours."""
    keys = [[seed, zlib.crc32(record.id.encode())] for record in records]
    return np.array([np.random.default_rng(key).random(count) for key in keys]).reshape(len(records), count)


def chunks(records: Iterable[T], size: int) -> Iterator[list[T]]:
    """Consecutive groups of at most `size` records."""
    group: list[T] = []
    for record in records:
        group.append(record)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on a device."""
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
