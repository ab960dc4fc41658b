"""Model, processor and records of a stage, as workers and evaluation load them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ember_platform.config import RunConfig
from ember_platform.data.manifest import Manifest
from ember_platform.data.order import permutation
from ember_platform.data.rows import Rows

if TYPE_CHECKING:
    from embervlm.data.schema import Record
    from embervlm.stages import Stage

#: Records' worth of text that a tokenizer of our own is trained on.
CORPUS_RECORDS = 4000


def device_of(config: RunConfig) -> str:
    """`cuda` where this process has a GPU and the configuration does not forbid it, else `cpu`."""
    if config.device == "cpu":
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if config.device == "cuda" or config.cluster.use_gpu:
        raise RuntimeError("device: cuda is asked for, and this worker sees no GPU; set device=cpu or give it one")
    return "cpu"


def threads_of(config: RunConfig, local_workers: int) -> int:
    """Compute threads of one of so many workers on this machine: its share of the cores it may really use."""
    if config.cluster.threads_per_worker != "auto":
        return config.cluster.threads_per_worker
    return max(1, len(os.sched_getaffinity(0)) // max(1, local_workers))


def stage_of(config: RunConfig, number: int) -> Stage:
    """A stage with what a configuration gives it: loss weights, metric, blended pictures.

    Raises:
        ValueError: see `embervlm.stages.get_stage`.
    """
    from embervlm.stages import get_stage

    settings = config.stage(number)
    return get_stage(number, settings.losses, settings.best, settings.mixup)


def model_config(config: RunConfig) -> Any:
    """The `EmberVLMConfig` that a configuration asks for.

    Raises:
        ValueError: an unknown preset or field.
    """
    from embervlm.models.config import EmberVLMConfig

    overrides = dict(config.model)
    overrides.setdefault("image_size", config.data.image_size)
    return EmberVLMConfig.preset(config.preset, **overrides)


def new_model(config: RunConfig) -> tuple[Any, Any]:
    """A model and its processor at their beginning: the same ones for the same configuration."""
    import torch

    from embervlm import EmberVLM, EmberVLMProcessor
    from embervlm.world.dataset import corpus

    wanted = model_config(config)
    texts = None if wanted.language else corpus(config.seed, CORPUS_RECORDS)
    processor = EmberVLMProcessor.build(wanted, texts)
    torch.manual_seed(config.seed)
    model = EmberVLM.from_parts(wanted, len(processor.tokenizer))
    return model, processor


def load_model(folder: Any) -> tuple[Any, Any]:
    """The model and the processor of a folder."""
    from embervlm import EmberVLM, EmberVLMProcessor

    return EmberVLM.from_pretrained(folder), EmberVLMProcessor.from_pretrained(folder)


def split_records(manifest: Manifest, stage: int, split: str, count: int | None, seed: int) -> list[Record]:
    """Records of a split: all, or a choice of so many that the seed decides, in their order."""
    rows = Rows(manifest.paths(stage, split))
    if count is None or count >= len(rows):
        return rows.take(range(len(rows)))
    return rows.take(sorted(permutation(len(rows), seed, "choice", split)[:count].tolist()))
