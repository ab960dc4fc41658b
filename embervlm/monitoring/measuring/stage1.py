"""Stage 1: similarity per visual token, the embedding space, retrieval, feature maps, the path over the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F

from embervlm.data.images import open_image, to_square
from embervlm.data.schema import Record
from embervlm.evaluation.captions import normalise_answer
from embervlm.monitoring import data as d
from embervlm.monitoring.measuring.moments import BATCH, Array, Moment, StageRun
from embervlm.stages.base import chunks

if TYPE_CHECKING:
    from embervlm.models.modeling import EmberVLM

PAIRS = 128
SHOWN = 4
RANKS = (1, 5, 10)


def distinct(records: list[Record]) -> list[Record]:
    """One record with a picture per caption: two pictures with one caption cannot be told apart by it."""
    seen: dict[str, Record] = {}
    for record in records:
        if record.image is not None:
            seen.setdefault(normalise_answer(record.response), record)
    return list(seen.values())


def measure(store: d.FigureStore, run: StageRun) -> None:
    """Write the data of stage 1's five figures."""
    pairs = distinct(run.validation)[:PAIRS]
    note = f"validation split, {len(pairs)} pairs with different captions"
    steps, similarity, images, texts = [], [], [], []
    for moment, (model, _) in run.models():
        vectors, tokens = encoded_images(model, [r.image for r in pairs])
        words = model.encode_texts([r.response for r in pairs])
        steps.append(moment.step)
        similarity.append(np.einsum("pvd,pd->v", tokens, words) / len(pairs))
        images.append(vectors)
        texts.append(words)
    when = np.array(steps)
    store.write(
        d.SimilarityEvolution(
            when,
            np.array(similarity),
            source=f"{note}; each visual token through the pooling's projection alone, against its own caption",
        )
    )
    store.write(d.EmbeddingEvolution(when, np.array(images), np.array(texts), source=note))
    model, _ = run.opened(run.product)
    retrieval(store, model, run)
    feature_maps(store, model, run.product, run.test)
    landscape(store, run)


@torch.inference_mode()
def encoded_images(model: EmberVLM, images: list[Any]) -> tuple[Array, Array]:
    """Unit vectors of pictures (P, D), and of each of their visual tokens (P, V, D), as if it were pooled alone."""
    vectors, tokens = [], []
    for part in chunks(images, BATCH):
        pixels = model.processor.images(part)["pixel_values"].to(model.device)
        fused = model.fusion(model.visual_features(pixels))
        pool = model.image_pool
        vectors.append(pool(fused).float().cpu().numpy())
        tokens.append(F.normalize(pool.project(pool.norm(fused)).float(), dim=-1).cpu().numpy())
    return np.concatenate(vectors), np.concatenate(tokens)


def retrieval(store: d.FigureStore, model: EmberVLM, run: StageRun) -> None:
    """Recall at several ranks, per source of the test records, among all of its pairs."""
    sources: dict[str, list[Record]] = {}
    for record in distinct(run.test):
        sources.setdefault(record.source, []).append(record)
    sources = {name: records for name, records in sources.items() if len(records) >= 2}
    if not sources:
        return store.note(d.RetrievalAccuracy, "no source of the test split has two pictures with different captions")
    recalls: list[list[list[float]]] = [[], []]
    for records in sources.values():
        cosine = model.encode_images([r.image for r in records]) @ model.encode_texts([r.response for r in records]).T
        for found, table in zip(recalls, (cosine, cosine.T), strict=True):
            place = (table > np.diag(table)[:, None]).sum(axis=1)
            found.append([float((place < k).mean()) if k < len(records) else np.nan for k in RANKS])
    counts = np.array([len(records) for records in sources.values()])
    store.write(
        d.RetrievalAccuracy(
            datasets=tuple(sources),
            ranks=np.array(RANKS),
            image_to_text=np.array(recalls[0]),
            text_to_image=np.array(recalls[1]),
            pool=counts,
            queries=counts,
            step=run.product.step,
            source="test split, every picture with a caption of its own; the stage's product",
        )
    )
    return None


@torch.inference_mode()
def feature_maps(store: d.FigureStore, model: EmberVLM, moment: Moment, records: list[Record]) -> None:
    """Mean absolute activations behind every stage of the encoder."""
    shown = [r for r in records if r.image is not None][:SHOWN]
    backbone = model.vision.backbone
    if not shown or not hasattr(backbone, "stages"):
        return store.note(d.FeatureMaps, "no pictures, or an encoder without stages")
    maps: list[Array] = []
    parts = {"stem": backbone.stem, **{f"stage {i + 1}": part for i, part in enumerate(backbone.stages)}}

    def keep(module: Any, given: Any, output: torch.Tensor) -> None:
        maps.append(output.abs().mean(dim=1).float().cpu().numpy())

    hooks = [part.register_forward_hook(keep) for part in parts.values()]
    try:
        pixels = model.processor.images([r.image for r in shown])["pixel_values"].to(model.device)
        scaled = (pixels.float() / 255 - model.vision.image_mean) / model.vision.image_std
        backbone.forward_features(scaled)
    finally:
        for hook in hooks:
            hook.remove()
    size = model.config.image_size
    images = [to_square(open_image(r.image, r.id), size).transpose(1, 2, 0) for r in shown]
    store.write(
        d.FeatureMaps(
            tuple(images),
            tuple(parts),
            tuple(maps),
            moment.step,
            source="first pictures of the test split; mean over channels of the absolute activation",
        )
    )
    return None


def landscape(store: d.FigureStore, run: StageRun) -> None:
    """The measured path over the contrastive loss, a point per optimizer step of a full batch."""
    h = run.history
    if "positive_distance" not in h:
        return store.note(d.LossLandscape, "the history has no distances of pairs; it is of an older version")
    full = np.asarray(h["samples"]) == np.max(h["samples"])
    full &= np.isfinite(np.asarray(h["positive_distance"], float))
    column = {n: np.asarray(h[n], float)[full] for n in ("contrastive_loss", "logit_scale")}
    store.write(
        d.LossLandscape(
            steps=np.asarray(h["step"])[full].astype(int),
            positive=np.asarray(h["positive_distance"], float)[full],
            negative=np.asarray(h["negative_distance"], float)[full],
            loss=column["contrastive_loss"],
            scale=column["logit_scale"],
            batch=int(np.max(h["samples"])),
            source="the training batches themselves, global batch",
        )
    )
    return None
