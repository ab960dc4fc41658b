"""Stage 1, alignment: blues and greens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from embervlm.monitoring.data import (
    EmbeddingEvolution,
    FeatureMaps,
    LossLandscape,
    RetrievalAccuracy,
    SimilarityEvolution,
)
from embervlm.monitoring.drawing import parts
from embervlm.monitoring.style import FAINT, INK, Palette

Values = NDArray[Any]


def similarity_evolution(figure: Figure, data: SimilarityEvolution, palette: Palette) -> None:
    """Surface: visual token position × training step → cosine similarity, with the mean over tokens."""
    tokens = np.arange(1, data.similarity.shape[1] + 1)
    mean, median = data.similarity.mean(1), np.median(data.similarity, 1)
    labels = ("Visual token position", "Training step", "Cosine similarity")
    ax = parts.space(figure, 111, "Image–text similarity evolution", labels, (27, -58))
    # The colours span the heights; by themselves they would span the means of the few faces between two steps.
    span = {"vmin": float(data.similarity.min()), "vmax": float(data.similarity.max())}
    drawn = parts.surface(ax, tokens, data.steps, data.similarity, cmap=palette.map("stage1"), alpha=0.95, **span)
    edge = np.full(len(data.steps), tokens[-1] * 1.03)
    ax.plot(edge, data.steps, mean, color=INK, linewidth=2, marker="o", markersize=3, label="Mean over tokens")
    ax.plot(edge, data.steps, median, color=FAINT, linewidth=1.5, linestyle="--", label="Median over tokens")
    ax.set_xlim(1, tokens[-1] * 1.03)
    parts.step_axis(ax.yaxis, 5)
    ax.legend(loc="upper right")
    side = round(len(tokens) ** 0.5)
    parts.note(
        ax,
        f"{len(tokens)} tokens ({side}×{side} grid)\nmean {mean[0]:.3f} → {mean[-1]:.3f} ({mean[-1] - mean[0]:+.3f})\n"
        f"median {median[0]:.3f} → {median[-1]:.3f}",
    )
    if len(data.steps) > 1:
        parts.colorbar(figure, drawn, ax, "Cosine similarity", shrink=0.6, pad=0.08)


def similarity_matrix(figure: Figure, similarity: Values, step: int, palette: Palette) -> None:
    """Cosine of every image (rows) with every text (columns); pairs stand on the diagonal."""
    ax = figure.add_subplot()
    image = ax.imshow(similarity, cmap=palette.map("stage1"), aspect="equal")
    ax.grid(visible=False)
    ax.set(xlabel="Text", ylabel="Image", title=f"Image–text similarity, step {step:,}")
    pairs = np.diag(similarity)
    others = similarity[~np.eye(len(similarity), dtype=bool)]
    hits = (similarity.argmax(1) == np.arange(len(similarity))).mean()
    ax.text(
        0.5,
        -0.14,
        f"pairs: mean {pairs.mean():.3f} · others: mean {others.mean():.3f} · image→text R@1 {hits:.1%}",
        transform=ax.transAxes,
        ha="center",
        va="top",
        fontsize=8,
    )
    parts.colorbar(figure, image, ax, "Cosine similarity")


# ------------------------------------------------------------------ embeddings


def layouts(data: EmbeddingEvolution, pairs: int, seed: int = 0) -> tuple[Values, Values]:
    """t-SNE of every step: image and text positions, (S, pairs, 2) each.

    Images and texts of a step are laid out together, by cosine distance; each step starts from the layout before it, so
    that a point stays about where it was. Positions have no unit and no meaning beyond neighbourhood.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    pick = np.sort(np.random.default_rng(seed).permutation(data.image.shape[1])[:pairs])
    found: list[Values] = []
    for image, text in zip(data.image[:, pick], data.text[:, pick], strict=True):
        points = np.concatenate([_unit(image), _unit(text)])
        start: Any = "pca" if points.shape[1] > 1 else "random"
        if found:
            start = (1e-4 * found[-1] / max(float(found[-1][:, 0].std()), 1e-12)).astype(np.float32)
        perplexity = min(30.0, (len(points) - 1) / 3)
        tsne = TSNE(2, perplexity=perplexity, init=start, metric="cosine", random_state=seed, max_iter=500, n_jobs=1)
        # So few points take longer in several threads than in one.
        with threadpool_limits(1):
            found.append(tsne.fit_transform(points))
    both = np.stack(found)
    return both[:, : len(pick)], both[:, len(pick) :]


def _unit(vectors: Values) -> Values:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def pair_figures(image: Values, text: Values) -> tuple[float, float]:
    """Mean cosine of the pairs, and the share of images whose nearest text is their own; (P, D) embeddings."""
    cosine = _unit(image) @ _unit(text).T
    return float(np.diag(cosine).mean()), float((cosine.argmax(1) == np.arange(len(cosine))).mean())


def embedding_panel(
    ax: Axes, image: Values, text: Values, title: str, palette: Palette, figures: tuple[float, float]
) -> None:
    """One step: images blue circles, texts orange triangles, a line from each to its partner."""
    blue, orange = palette.pair("modality")
    # One artist for all of them: a line each costs more than everything else in the panel.
    ax.add_collection(LineCollection(list(np.stack([image, text], 1)), colors="#cccccc", linewidths=0.4, zorder=1))
    ax.scatter(image[:, 0], image[:, 1], s=10, color=blue, marker="o", label="Images", zorder=2, linewidths=0)
    ax.scatter(text[:, 0], text[:, 1], s=12, color=orange, marker="^", label="Texts", zorder=3, linewidths=0)
    ax.set_title(title)
    ax.set_xlabel(f"pair cosine {figures[0]:.2f} · R@1 {figures[1]:.0%}", fontsize=8)
    ax.set(xticks=[], yticks=[])
    ax.grid(visible=False)
    ax.spines[:].set(visible=True, color="#cccccc")
    ax.margins(0.06)


def panel_columns(panels: int) -> int:
    """Columns of up to eight panels, as square as can be."""
    return 3 if panels in (5, 6) else min(4, panels)


def embedding_evolution(
    figure: Figure, data: EmbeddingEvolution, places: tuple[Values, Values], palette: Palette
) -> None:
    """A panel per step (at most 8)."""
    picked = parts.chosen(len(data.steps), 8)
    columns = panel_columns(len(picked))
    axes = figure.subplots(-(-len(picked) // columns), columns, squeeze=False)
    for ax in axes.flat[len(picked) :]:
        ax.set_axis_off()
    for ax, s in zip(axes.flat, picked, strict=False):
        figures = pair_figures(data.image[s], data.text[s])
        embedding_panel(ax, places[0][s], places[1][s], f"step {data.steps[s]:,}", palette, figures)
    figure.suptitle("Embedding space evolution (t-SNE)")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=2)


def embedding_frame(
    figure: Figure, data: EmbeddingEvolution, places: tuple[Values, Values], s: int, palette: Palette
) -> None:
    """One step alone: a frame of the animation."""
    ax = figure.add_subplot()
    figures = pair_figures(data.image[s], data.text[s])
    embedding_panel(
        ax, places[0][s], places[1][s], f"Embedding space (t-SNE), step {data.steps[s]:,}", palette, figures
    )
    # Above the frame: inside, some point would lie under it.
    ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, fontsize=7, borderaxespad=0.2, handletextpad=0.1)
    ax.title.set_horizontalalignment("left")
    ax.title.set_x(0)


# ------------------------------------------------------------------- retrieval


def retrieval_accuracy(figure: Figure, data: RetrievalAccuracy, palette: Palette) -> None:
    """Datasets × recall@k, image → text beside text → image."""
    rows = [
        f"{name}\n{asked:,} queries, 1 of {pool:,}"
        for name, asked, pool in zip(data.datasets, data.queries, data.pool, strict=True)
    ]
    columns = [f"R@{k}" for k in data.ranks]
    left, right = figure.subplots(1, 2, sharey=True)
    sides = ((left, "Image → Text", data.image_to_text, "blues"), (right, "Text → Image", data.text_to_image, "greens"))
    for ax, title, values, scheme in sides:
        texts = [[f"{v:.1%}" for v in row] for row in values]
        image = parts.heatmap(ax, values, rows, columns, texts, cmap=palette.map(scheme), vmin=0, vmax=1)
        ax.set(title=title, xlabel="Recall at rank")
        bar = parts.colorbar(figure, image, ax, "Retrieval accuracy", location="bottom", pad=0.02)
        parts.percent_axis(bar.ax.xaxis)
    left.set_ylabel("Dataset")
    firsts = np.concatenate([data.image_to_text[:, 0], data.text_to_image[:, 0]])
    figure.suptitle(
        f"Cross-modal retrieval accuracy, step {data.step:,} (mean R@{data.ranks[0]} {np.nanmean(firsts):.1%})"
    )


def retrieval_examples(
    figure: Figure, images: Sequence[Values], captions: Sequence[str], cosine: Values, step: int, top_k: int
) -> None:
    """Query images with the captions nearest to them; the partner's caption is marked."""
    count = len(images)
    grid = figure.add_gridspec(count, 2, width_ratios=(1, 3.2))
    for row in range(count):
        ax = figure.add_subplot(grid[row, 0])
        ax.imshow(images[row])
        ax.set_axis_off()
        ax = figure.add_subplot(grid[row, 1])
        ax.set_axis_off()
        for rank, place in enumerate(np.argsort(-cosine[row])[:top_k]):
            own = int(place) == row
            words = captions[place] if len(captions[place]) <= 78 else captions[place][:77] + "…"
            ax.text(
                0,
                1 - (rank + 0.5) / top_k,
                f"{'✓' if own else ' '} {cosine[row, place]:.2f}  {words}",
                transform=ax.transAxes,
                fontsize=8,
                va="center",
                weight="bold" if own else "normal",
            )
    figure.suptitle(f"Captions nearest to {count} pictures, step {step:,} (✓ and bold: its own)")


# ---------------------------------------------------------------- feature maps


def feature_maps(figure: Figure, data: FeatureMaps, palette: Palette) -> None:
    """Pictures × layers: mean absolute activation, and the last layer's laid over the picture."""
    columns = ["Input", *data.layers, "Focus of the last layer"]
    axes = figure.subplots(len(data.images), len(columns), squeeze=False)
    strongest = [max(float(layer.max()), 1e-12) for layer in data.maps]
    cmap, image = palette.map("stage1"), None
    for row, picture in enumerate(data.images):
        height, width = picture.shape[:2]
        extent = (0, width, height, 0)
        axes[row, 0].imshow(picture, extent=extent)
        for col, (layer, most) in enumerate(zip(data.maps, strongest, strict=True), 1):
            image = axes[row, col].imshow(layer[row] / most, extent=extent, cmap=cmap, vmin=0, vmax=1)
        focus = data.maps[-1][row]
        focus = (focus - focus.min()) / max(float(np.ptp(focus)), 1e-12)
        axes[row, -1].imshow(picture, extent=extent)
        axes[row, -1].imshow(
            np.ones_like(focus),
            alpha=0.85 * (1 - focus),
            cmap="gray",
            vmin=0,
            vmax=1,
            extent=extent,
            interpolation="bilinear",
        )
    for col, title in enumerate(columns):
        shape = data.maps[col - 1].shape[1:] if 0 < col <= len(data.layers) else None
        axes[0, col].set_title(title + (f"\n{shape[0]}×{shape[1]}" if shape else ""), fontsize=8.5)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.grid(visible=False)
        ax.spines[:].set_visible(False)
    figure.suptitle(f"Vision encoder feature maps, step {data.step:,}")
    parts.colorbar(figure, image, axes, "Mean |activation| of channels, share of the layer's largest", shrink=0.7)


def cross_attention(
    figure: Figure, weights: Values, image: Values, tokens: Sequence[str], step: int, palette: Palette
) -> None:
    """Where in the picture each text token looks; weights (tokens, rows, columns)."""
    columns = min(6, len(tokens) + 1)
    axes = figure.subplots(-(-(len(tokens) + 1) // columns), columns, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    extent = (0, image.shape[1], image.shape[0], 0)
    axes.flat[0].imshow(image, extent=extent)
    axes.flat[0].set_title("Input", fontsize=9)
    for ax, token, weight in zip(axes.flat[1:], tokens, weights, strict=False):
        ax.imshow(image, extent=extent)
        shown = weight / max(float(weight.max()), 1e-12)
        ax.imshow(shown, extent=extent, cmap=palette.map("stage1"), alpha=0.65, vmin=0, vmax=1)
        ax.set_title(f"{token}\nmax {weight.max():.2f}", fontsize=8)
    figure.suptitle(f"Attention of text tokens over the picture, step {step:,}")


# -------------------------------------------------------------- loss landscape


def infonce(positive: Values, negative: Values, scale: float, batch: int) -> Values:
    """Contrastive loss (nats) of an image whose own text is `positive` away and all others `negative` (1 - cosine)."""
    return np.logaddexp(0.0, np.log(batch - 1) + scale * (positive - negative))


def loss_landscape(figure: Figure, data: LossLandscape, palette: Palette) -> None:
    """Surface of InfoNCE over the two distances, with the path that training took on measured points."""
    ends = []
    for values in (data.positive, data.negative):
        pad = max(0.05, 0.25 * float(np.ptp(values)))
        ends.append(np.linspace(max(0, values.min() - pad), min(2, values.max() + pad), 40))
    scale = float(data.scale[-1])
    z = infonce(ends[0][None, :], ends[1][:, None], scale, data.batch)
    labels = ("Positive distance (1 − cosine)", "Negative distance (1 − cosine)", "Contrastive loss (nats)")
    ax = parts.space(figure, 111, "Contrastive loss landscape", labels, (24, -128))
    ax.computed_zorder = False
    drawn = parts.surface(ax, ends[0], ends[1], z, cmap=palette.map("stage1"), alpha=0.75, zorder=1)
    ax.plot(
        data.positive,
        data.negative,
        data.loss,
        color=INK,
        linewidth=1.4,
        zorder=3,
        label="Measured in training (darker: later)",
    )
    ax.scatter(
        data.positive,
        data.negative,
        data.loss,
        c=data.steps,
        cmap="Greys",
        vmin=0,
        s=14,
        edgecolor=INK,
        linewidth=0.4,
        zorder=4,
        depthshade=False,
    )
    first, last = palette.pair("stage1")
    for place, marker, color in ((0, "s", first), (-1, "*", last)):
        point = (data.positive[place], data.negative[place], data.loss[place])
        ax.scatter(
            *point,
            s=80,
            marker=marker,
            color=color,
            edgecolor=INK,
            zorder=5,
            depthshade=False,
            label=f"step {data.steps[place]:,}: loss {data.loss[place]:.3f}",
        )
    ax.legend(loc="upper right")
    parts.note(
        ax,
        f"Surface: InfoNCE if all {data.batch - 1:,} negatives were\nequally far, scale {scale:.1f} (last step)",
        0.02,
        0.98,
    )
    parts.colorbar(figure, drawn, ax, "Loss of the surface (nats)", shrink=0.55, pad=0.1)
