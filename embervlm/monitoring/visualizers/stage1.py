"""Stage 1, alignment."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from embervlm.monitoring.canvas import Canvas, Drawn
from embervlm.monitoring.data import (
    EmbeddingEvolution,
    FeatureMaps,
    LossLandscape,
    RetrievalAccuracy,
    SimilarityEvolution,
)
from embervlm.monitoring.drawing import stage1 as draw
from embervlm.monitoring.visualizers.inputs import checked, matrix, pictures, step_name


class Stage1Visualizer(Canvas):
    """Figures of image-text alignment. Every method returns the figure and its picture; `save` writes the files."""

    def plot_similarity_evolution(self, data: SimilarityEvolution, save: bool = True) -> Drawn:
        """Surface of cosine similarity over visual tokens and training steps (similarity_evolution_3d)."""
        fill = partial(draw.similarity_evolution, data=data, palette=self.palette)
        return self.draw(data.name, (8.2, 6.2), fill, data.source, save)

    def plot_embedding_evolution(self, data: EmbeddingEvolution, n_samples: int = 150, save: bool = True) -> Drawn:
        """t-SNE of images and texts, a panel per step, and as animation (tsne_embedding_evolution).

        Args:
            data: embeddings of at least 3 pairs.
            n_samples: pairs drawn at most (a seeded choice).
            save: write the panels and the GIF.
        """
        places = draw.layouts(data, n_samples)
        panels = min(8, len(data.steps))
        columns = draw.panel_columns(panels)
        size = (max(7.4, 3.0 * columns), 3.1 * -(-panels // columns) + 0.6)
        fill = partial(draw.embedding_evolution, data=data, places=places, palette=self.palette)
        drawn = self.draw(data.name, size, fill, data.source, save)
        if save:
            frames = [
                partial(draw.embedding_frame, data=data, places=places, s=s, palette=self.palette)
                for s in range(len(data.steps))
            ]
            self.animate(data.name, (6.0, 5.6), frames, data.source)
        return drawn

    def plot_retrieval_accuracy(self, data: RetrievalAccuracy, save: bool = True) -> Drawn:
        """Retrieval accuracy per dataset, both directions (retrieval_accuracy_heatmap)."""
        size = (3.6 + 1.6 * len(data.ranks), 2.4 + 0.65 * len(data.datasets))
        fill = partial(draw.retrieval_accuracy, data=data, palette=self.palette)
        return self.draw(data.name, size, fill, data.source, save)

    def plot_feature_maps(self, data: FeatureMaps, save: bool = True) -> Drawn:
        """Activations of the vision encoder's layers (vision_feature_maps)."""
        size = (1.65 * (len(data.layers) + 2) + 1.0, 1.55 * len(data.images) + 1.0)
        return self.draw(
            data.name, size, partial(draw.feature_maps, data=data, palette=self.palette), data.source, save
        )

    def plot_loss_landscape(self, data: LossLandscape, save: bool = True) -> Drawn:
        """Contrastive loss over positive and negative distance (contrastive_loss_landscape)."""
        fill = partial(draw.loss_landscape, data=data, palette=self.palette)
        return self.draw(data.name, (9.4, 6.4), fill, data.source, save)

    # ------------------------------------------------------- single moments

    def plot_similarity_matrix(self, image_embeds: Any, text_embeds: Any, step: int, save: bool = True) -> Drawn:
        """Cosine of every image with every text (similarity_matrix/step_…).

        Args:
            image_embeds, text_embeds: (P, D); row p of both is one pair.
            step: training step.
        """
        image, text = matrix("image_embeds", image_embeds), matrix("text_embeds", text_embeds)
        checked("image_embeds and text_embeds", image.shape, text.shape)
        cosine = _cosine(image, text)
        fill = partial(draw.similarity_matrix, similarity=cosine, step=step, palette=self.palette)
        return self.draw(f"similarity_matrix/{step_name(step)}", (6.4, 6.0), fill, "", save, vector=False)

    def plot_embedding_tsne(
        self, image_embeds: Any, text_embeds: Any, step: int, n_samples: int = 150, save: bool = True
    ) -> Drawn:
        """t-SNE of one step (embedding_tsne/step_…); (P, D) embeddings, row p of both is one pair."""
        image, text = matrix("image_embeds", image_embeds), matrix("text_embeds", text_embeds)
        data = EmbeddingEvolution(steps=np.array([step]), image=image[None], text=text[None])
        places = draw.layouts(data, n_samples)
        fill = partial(draw.embedding_frame, data=data, places=places, s=0, palette=self.palette)
        return self.draw(f"embedding_tsne/{step_name(step)}", (6.0, 5.6), fill, "", save, vector=False)

    def plot_retrieval_examples(
        self,
        images: Sequence[Any],
        captions: Sequence[str],
        image_embeds: Any,
        text_embeds: Any,
        step: int,
        top_k: int = 5,
        n_queries: int = 4,
        save: bool = True,
    ) -> Drawn:
        """The captions nearest to the first `n_queries` pictures (retrieval_examples/step_…).

        Args:
            images: P pictures, (height, width, 3) bytes or PIL.
            captions: P captions; caption p belongs to picture p.
            image_embeds, text_embeds: (P, D) embeddings of both.
        """
        image, text = matrix("image_embeds", image_embeds), matrix("text_embeds", text_embeds)
        checked("images, captions and embeddings", len(images), len(captions), len(image), len(text))
        shown = pictures("images", images[:n_queries])
        fill = partial(
            draw.retrieval_examples,
            images=shown,
            captions=captions,
            cosine=_cosine(image, text),
            step=step,
            top_k=min(top_k, len(captions)),
        )
        size = (8.5, 1.5 * len(shown) + 0.5)
        return self.draw(f"retrieval_examples/{step_name(step)}", size, fill, "", save, vector=False)

    def plot_cross_attention(
        self, attention_weights: Any, image: Any, text_tokens: Sequence[str], step: int, save: bool = True
    ) -> Drawn:
        """Where each text token looks in the picture (cross_attention/step_…).

        Args:
            attention_weights: (tokens, V) or (tokens, rows, columns) over the visual tokens; V a square.
            image: (height, width, 3) bytes or PIL.
            text_tokens: the tokens' texts.
        """
        weights = np.asarray(attention_weights, float)
        if weights.ndim == 2:
            side = round(weights.shape[1] ** 0.5)
            checked("visual tokens and a square grid", weights.shape[1], side * side)
            weights = weights.reshape(len(weights), side, side)
        checked("attention_weights and text_tokens", len(weights), len(text_tokens))
        (picture,) = pictures("image", [image])
        size = (1.7 * min(6, len(text_tokens) + 1), 2.1 * -(-(len(text_tokens) + 1) // 6) + 0.5)
        fill = partial(
            draw.cross_attention, weights=weights, image=picture, tokens=text_tokens, step=step, palette=self.palette
        )
        return self.draw(f"cross_attention/{step_name(step)}", size, fill, "", save, vector=False)


def _cosine(image: Any, text: Any) -> Any:
    unit = [v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12) for v in (image, text)]
    return unit[0] @ unit[1].T
