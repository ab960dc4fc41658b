"""Stage 1: what is drawn is what was given."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from embervlm.monitoring.data import FigureDataError, LossLandscape, SimilarityEvolution
from embervlm.monitoring.drawing.stage1 import infonce
from embervlm.monitoring.stage_visualizations import Stage1Visualizer
from tests.monitoring import reading as read
from tests.monitoring import samples

DRAW = Stage1Visualizer(read.NOWHERE, dpi=read.DPI)
PICTURES = [np.full((8, 8, 3), 40 * i, np.uint8) for i in range(4)]


def test_similarity_surface_has_tokens_steps_and_cosines() -> None:
    data = samples.similarity()
    figure, _ = DRAW.plot_similarity_evolution(data, save=False)
    ax = read.panel(figure, "similarity")
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_zlabel()) == (
        "Visual token position",
        "Training step",
        "Cosine similarity",
    )
    surface = read.surface(ax)
    assert {token for token, _ in surface} == set(range(1, 50))
    steps = [step for _, step in surface]
    assert (min(steps), max(steps)) == (data.steps[0], data.steps[-1])
    for s, token in ((0, 0), (4, 48), (2, 10)):
        assert surface[token + 1.0, float(data.steps[s])] == pytest.approx(data.similarity[s, token])
    steps, mean = read.line(ax, "Mean")
    np.testing.assert_array_equal(steps, data.steps)
    np.testing.assert_allclose(mean, data.similarity.mean(1))
    (note,) = read.words(ax)
    assert "49 tokens (7×7 grid)" in note
    assert f"mean {data.similarity[0].mean():.3f} → {data.similarity[-1].mean():.3f}" in note


def test_one_evaluation_is_a_line_not_an_empty_surface() -> None:
    data = SimilarityEvolution(steps=[10], similarity=[[0.1, 0.2, 0.3, 0.4]])
    figure, _ = DRAW.plot_similarity_evolution(data, save=False)
    z = next(entry.get_data_3d()[2] for entry in figure.axes[0].get_lines() if len(entry.get_data_3d()[2]) == 4)
    np.testing.assert_allclose(z, [0.1, 0.2, 0.3, 0.4])


def test_embedding_panels_hold_pairs_in_their_colours() -> None:
    data = samples.embeddings()
    figure, _ = DRAW.plot_embedding_evolution(data, n_samples=12, save=False)
    panels = [ax for ax in figure.axes if ax.get_title()]
    assert [ax.get_title() for ax in panels] == ["step 100", "step 200", "step 300", "step 400"]
    unit = [v[-1] / np.linalg.norm(v[-1], axis=1, keepdims=True) for v in (data.image, data.text)]
    cosine = (unit[0] * unit[1]).sum(1).mean()
    assert panels[-1].get_xlabel().startswith(f"pair cosine {cosine:.2f}")
    assert [len(read.points(panels[0], name)) for name in ("Images", "Texts")] == [12, 12]
    images, texts = (c for c in panels[0].collections if c.get_label() in ("Images", "Texts"))
    assert images.get_facecolor()[0][2] > images.get_facecolor()[0][0], "images are blue"
    assert texts.get_facecolor()[0][0] > texts.get_facecolor()[0][2], "texts are orange"


def test_retrieval_keeps_datasets_and_directions_apart() -> None:
    data = samples.retrieval()
    figure, _ = DRAW.plot_retrieval_accuracy(data, save=False)
    left, right = read.panel(figure, "Image → Text"), read.panel(figure, "Text → Image")
    np.testing.assert_array_equal(read.cells(left), data.image_to_text)
    np.testing.assert_array_equal(read.cells(right), data.text_to_image)
    assert read.grid_words(left) == [["87.0%", "95.0%", "99.0%"], ["20.0%", "50.0%", "70.0%"], ["10.0%", "30.0%", "–"]]
    assert read.ticks(left.xaxis) == ["R@1", "R@5", "R@10"]
    assert [label.splitlines()[0] for label in read.ticks(left.yaxis)] == list(data.datasets)
    assert "512 queries, 1 of 64" in read.ticks(left.yaxis)[0]


def test_feature_maps_stand_in_layer_order() -> None:
    data = samples.feature_maps()
    figure, _ = DRAW.plot_feature_maps(data, save=False)
    grid = np.array(figure.axes[:15], dtype=object).reshape(3, 5)
    assert [ax.get_title().splitlines()[0] for ax in grid[0]] == ["Input", *data.layers, "Focus of the last layer"]
    assert grid[0, 1].get_title().splitlines()[1] == "12×12"
    for row, col in ((0, 1), (2, 3), (1, 2)):
        shown = grid[row, col].images[0].get_array()
        np.testing.assert_allclose(shown, data.maps[col - 1][row] / data.maps[col - 1].max(), rtol=1e-6)
    np.testing.assert_array_equal(grid[1, 0].images[0].get_array(), data.images[1])


def test_loss_landscape_shows_the_measured_path_over_infonce() -> None:
    data = samples.landscape()
    figure, _ = DRAW.plot_loss_landscape(data, save=False)
    ax = read.panel(figure, "landscape")
    negative, loss = read.line(ax, "Measured")
    np.testing.assert_allclose(negative, data.negative)
    np.testing.assert_allclose(loss, data.loss)
    for (positive, other), z in list(read.surface(ax).items())[::97]:
        # One text of 64 is right: cross-entropy of its logit against 63 equal ones, worked out the long way.
        logits = data.scale[-1] * (1 - np.array([positive] + [other] * 63))
        assert z == pytest.approx(-(logits[0] - np.log(np.exp(logits).sum())), abs=1e-3)
    assert f"step 250: loss {data.loss[-1]:.3f}" in read.legend(ax)


def test_infonce_of_equal_distances_is_chance() -> None:
    assert infonce(np.array(0.4), np.array(0.4), 14.0, 64) == pytest.approx(np.log(64))


def test_similarity_matrix_of_embeddings() -> None:
    image = np.array([[1.0, 0.0], [0.0, 2.0]])
    text = np.array([[3.0, 0.0], [1.0, 1.0]])
    figure, _ = DRAW.plot_similarity_matrix(image, text, step=7, save=False)
    np.testing.assert_allclose(read.cells(figure.axes[0]), [[1, 2**-0.5], [0, 2**-0.5]])
    assert "R@1 100.0%" in read.words(figure.axes[0])[0]
    with pytest.raises(FigureDataError, match=r"sizes \(2, 2\), \(3, 2\) must be equal"):
        DRAW.plot_similarity_matrix(image, np.ones((3, 2)), step=7, save=False)


def test_embedding_tsne_of_one_step() -> None:
    data = samples.embeddings()
    figure, _ = DRAW.plot_embedding_tsne(data.image[0], data.text[0], step=100, n_samples=9, save=False)
    assert "step 100" in figure.axes[0].get_title()
    assert len(read.points(figure.axes[0], "Texts")) == 9


def test_retrieval_examples_mark_the_own_caption() -> None:
    captions = ["a", "b", "c", "d"]
    embeds = np.eye(4) + 0.1
    figure, _ = DRAW.plot_retrieval_examples(
        PICTURES, captions, embeds, embeds[[0, 2, 1, 3]], 5, top_k=2, n_queries=2, save=False
    )
    said = [read.words(ax) for ax in figure.axes]
    assert said[1][0].startswith("✓")
    assert said[1][0].endswith("a")
    assert said[3][0].endswith("c"), "the nearest caption of picture b is c"
    assert not any(entry.startswith("✓") for entry in said[3][:1])


def test_cross_attention_takes_flat_and_square_maps() -> None:
    weights = np.zeros((2, 9))
    weights[0, 5] = 1
    for given in (weights, weights.reshape(2, 3, 3)):
        figure, _ = DRAW.plot_cross_attention(given, PICTURES[0], ["pier", "water"], 5, save=False)
        shown = figure.axes[1].images[1].get_array()
        assert np.argwhere(shown == 1).tolist() == [[1, 2]]
        assert figure.axes[1].get_title().startswith("pier")
    with pytest.raises(FigureDataError, match="square grid"):
        DRAW.plot_cross_attention(np.zeros((2, 10)), PICTURES[0], ["pier", "water"], 5, save=False)


def test_scale_of_the_last_step_makes_the_surface() -> None:
    data = samples.landscape()
    other = replace(data, scale=np.append(data.scale[:-1], 1.0))
    assert isinstance(other, LossLandscape)
    figure, _ = DRAW.plot_loss_landscape(other, save=False)
    assert max(read.surface(read.panel(figure, "landscape")).values()) < 6
