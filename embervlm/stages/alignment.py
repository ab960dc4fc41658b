"""Stage 1: vision-language alignment. 0.5 InfoNCE over the global batch + 0.5 captioning."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from embervlm.data.processor import EmberVLMProcessor
from embervlm.data.prompts import CAPTION_PROMPT
from embervlm.data.schema import Record
from embervlm.stages.base import Batch, Gather, Stage, StageModule, chunks
from embervlm.stages.losses import info_nce, language_loss, rows_before

if TYPE_CHECKING:
    # Processes that only make batches need no model.
    from embervlm.models.modeling import EmberVLM


class AlignmentModule(StageModule):
    """Contrast and captioning of the same pictures."""

    def forward(self, batch: Batch, progress: float = 0.0, gather: Gather | None = None) -> dict[str, Tensor]:
        """The two losses and the batch's retrieval accuracy."""
        model = self.model
        features = self.image_features(batch)
        assert features is not None  # without pictures there is nothing to align
        images = model.embed_images(features)
        texts = model.embed_texts(batch["caption_ids"], batch["caption_mask"])
        images_all, texts_all = (gather(images), gather(texts)) if gather else (images, texts)
        contrast = info_nce(images, texts, model.logit_scale, images_all, texts_all, rows_before(gather, images))
        output = model(**{**batch, "image_features": features})
        captioning, _ = language_loss(model, output.text_hidden, batch["labels"])
        contrastive = contrast.pop("loss")
        return {
            "loss": self.weights["contrastive"] * contrastive + self.weights["captioning"] * captioning,
            "contrastive_loss": contrastive.detach(),
            "captioning_loss": captioning.detach(),
            "logit_scale": model.logit_scale.detach().exp(),
            **contrast,
        }


class Alignment(Stage):
    """Fusion and language learn what pictures show; the vision encoder stays as it is."""

    number, name, kind = 1, "align", "caption"
    exchanges = ("main",)
    judged = MappingProxyType({"retrieval_1_of_64": "max"})
    metric = "retrieval_1_of_64"
    weights = MappingProxyType({"contrastive": 0.5, "captioning": 0.5})

    def trained(self, model: EmberVLM, phase: str) -> list[nn.Module | nn.Parameter]:
        """Fusion, language and the shared embedding."""
        embedding: list[nn.Module | nn.Parameter] = [model.image_pool, model.text_pool, model.logit_scale]
        return [model.fusion, model.language, *model.writing_parts(), *embedding]

    def module(self, model: EmberVLM) -> AlignmentModule:
        """The model with the alignment loss."""
        return AlignmentModule(model, self.weights)

    def collate(self, processor: EmberVLMProcessor, records: Sequence[Record], seed: int | None) -> Batch:
        """Pictures, captions to embed and captions to write."""
        captions = [r.response for r in records]
        written = [processor.pieces([("words", c), ("special", "eos")]) for c in captions]
        batch: Batch = processor.texts([CAPTION_PROMPT] * len(records)) | processor.generated(written)
        batch |= processor.images([r.image for r in records])
        batch["caption_ids"], batch["caption_mask"] = processor.segments(captions)
        return batch

    @torch.inference_mode()
    def evaluate(
        self, module: StageModule, processor: EmberVLMProcessor, records: Sequence[Record], batch_size: int = 64
    ) -> dict[str, float]:
        """Image-to-text retrieval at rank 1 among consecutive groups of 64."""
        model = module.model
        model.processor = processor
        hits: list[bool] = []
        for group in chunks(records, 64):
            images = model.encode_images([r.image for r in group])
            texts = model.encode_texts([r.response for r in group])
            hits.extend((images @ texts.T).argmax(axis=1) == np.arange(len(group)))
        return {"retrieval_1_of_64": float(np.mean(hits))}
