"""Stage 2: what is drawn is what was given."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from embervlm.monitoring.data import FigureDataError
from embervlm.monitoring.stage_visualizations import Stage2Visualizer
from tests.monitoring import reading as read
from tests.monitoring import samples

DRAW = Stage2Visualizer(read.NOWHERE, dpi=read.DPI)


def test_instruction_bars_are_the_means_of_their_type() -> None:
    figure, _ = DRAW.plot_instruction_complexity(samples.instructions(), save=False)
    (ax,) = figure.axes
    assert read.bar_groups(ax) == {"With vision": [0.75, 0.5, 0.25, 1.0], "Without vision": [0.25, 0.5, 0.0, 0.25]}
    assert [label.splitlines()[0] for label in read.ticks(ax.xaxis)] == ["describe", "explain", "analyze", "compare"]
    assert "mean with 62.5%" in read.legend(ax)
    assert "mean without 25.0%" in read.legend(ax)
    assert {"75%", "50%", "25%", "100%", "0%"} <= set(read.words(ax))


def test_instruction_type_without_answers_has_no_bar() -> None:
    data = replace(samples.instructions(), category=[0] * 16)
    figure, _ = DRAW.plot_instruction_complexity(data, save=False)
    assert "explain\nn = 0" in read.ticks(figure.axes[0].xaxis)
    assert len(read.words(figure.axes[0])) == 2, "only the two bars of the one type are labelled"


def test_token_lines_average_over_the_answers_that_are_so_long() -> None:
    data = samples.token_probability()
    figure, _ = DRAW.plot_token_probability(data, save=False)
    top, below = figure.axes
    for label, values in (("Ground truth", data.truth), ("Generated", data.generated)):
        x, y = read.line(top, label)
        np.testing.assert_array_equal(x, np.arange(1, 21))
        np.testing.assert_allclose(
            y[:8], values[:, :8].mean(0) if label == "Ground truth" else np.nanmean(values, 0)[:8]
        )
        _, count = read.line(below, label)
        np.testing.assert_array_equal(count, np.isfinite(values).sum(0))
    assert f"mean {np.nanmean(data.truth):.2f}" in read.words(top)
    assert f"median {np.nanmedian(data.truth):.2f}" in read.words(top)


def test_confident_and_uncertain_stretches_are_where_they_are() -> None:
    truth = np.array([[0.9, 0.95, 0.3, 0.2, 0.6]] * 4)
    figure, _ = DRAW.plot_token_probability(
        replace(samples.token_probability(), truth=truth, generated=truth), save=False
    )
    spans = [(p.get_x(), p.get_x() + p.get_width(), p.get_hatch()) for p in figure.axes[0].patches]
    assert spans == [(0.5, 2.5, None), (2.5, 4.5, "//")]


def test_distillation_gap_has_two_axes() -> None:
    data = samples.distillation()
    figure, _ = DRAW.plot_distillation_gap(data, save=False)
    left, right = figure.axes
    np.testing.assert_allclose(read.line(left, "KL")[1], data.divergence)
    x, y = read.line(right, "Student")
    np.testing.assert_array_equal(x, data.evaluations)
    np.testing.assert_allclose(y, data.accuracy)
    assert "KL(a teacher ‖ student)" in left.get_ylabel()
    assert right.get_ylabel() == "Student accuracy"
    assert "too few evaluations for r" in read.words(left)[0], "one evaluation lies beyond the measured divergence"


def test_distillation_gap_correlates_where_both_were_measured() -> None:
    data = replace(samples.distillation(), evaluations=[10, 90, 180])
    figure, _ = DRAW.plot_distillation_gap(data, save=False)
    matched = [data.divergence[list(data.steps).index(s)] for s in (10, 90, 180)]
    r = np.corrcoef(matched, data.accuracy)[0, 1]
    assert f"r = {r:.2f} between the two (n = 3)" in read.words(figure.axes[0])[0]


def test_violins_name_median_and_mean_of_each_side() -> None:
    data = samples.lengths()
    figure, _ = DRAW.plot_response_lengths(data, save=False)
    (ax,) = figure.axes
    due = []
    for task in range(3):
        for values in (data.generated, data.target):
            rows = values[data.task == task]
            due.append(f"{np.median(rows):g} / {rows.mean():.1f}")
    assert read.words(ax) == due
    assert read.legend(ax) == ["Generated", "Reference", "median", "mean"]
    centres = [c.get_paths()[0].vertices[:, 0] for c in ax.collections]
    assert len(centres) == 6
    assert centres[0].max() <= 0 <= centres[1].min(), "generated left of the middle, reference right"
    assert centres[4].max() <= 2 <= centres[5].min()


def test_violin_of_equal_lengths_is_a_line() -> None:
    data = replace(samples.lengths(), generated=np.full(180, 5), target=np.full(180, 5))
    figure, _ = DRAW.plot_response_lengths(data, save=False)
    assert read.words(figure.axes[0]) == ["5 / 5.0"] * 6


def test_perplexity_has_positions_right_and_steps_up() -> None:
    data = samples.perplexity()
    figure, _ = DRAW.plot_perplexity(data, save=False)
    ax = figure.axes[0]
    np.testing.assert_array_equal(read.cells(ax), data.perplexity)
    assert read.ticks(ax.xaxis)[0] == "1"
    assert read.ticks(ax.yaxis) == ["100", "200", "300", "400", "500"]
    low, high = ax.get_ylim()
    assert low < high, "the first step is at the bottom"
    assert f"median {np.nanmedian(data.perplexity[0]):.3g}" in ax.get_title()
    assert f"→ {np.nanmedian(data.perplexity[-1]):.3g}" in ax.get_title()
    assert read.grid_words(ax)[0][0] == f"{data.perplexity[0, 0]:.3g}"
    assert read.grid_words(ax)[3][15] == "–"


def test_token_probability_from_logits() -> None:
    labels = np.array([[-100, 1, 0], [2, -100, -100]])
    logits = np.log(np.array([[[0.1, 0.7, 0.2], [0.2, 0.5, 0.3], [0.6, 0.3, 0.1]]] * 2))
    figure, _ = DRAW.plot_token_probability_distribution(logits, labels, step=3, save=False)
    np.testing.assert_allclose(read.line(figure.axes[0], "Ground truth")[1], [(0.5 + 0.2) / 2, 0.6])
    np.testing.assert_allclose(read.line(figure.axes[0], "Generated")[1], [(0.5 + 0.7) / 2, 0.6])
    with pytest.raises(FigureDataError, match="logits and labels"):
        DRAW.plot_token_probability_distribution(logits, labels[:, :2], step=3, save=False)


def test_response_length_distribution_of_one_step() -> None:
    figure, _ = DRAW.plot_response_length_distribution([1, 2, 3, 6], [2, 2, 2, 2], step=3, save=False)
    assert read.words(figure.axes[0]) == ["2.5 / 3.0", "2 / 2.0"]


def test_generation_examples_stand_beside_their_picture() -> None:
    pictures = [np.full((4, 4, 3), v, np.uint8) for v in (10, 200)]
    figure, _ = DRAW.plot_generation_examples(pictures, ["q1", "q2"], ["a", "b"], ["a", "c"], step=3, save=False)
    assert figure.axes[2].images[0].get_array()[0, 0, 0] == 200
    (said,) = read.words(figure.axes[3])
    assert "q2" in said
    assert "≠ b" in said
    assert "= a" in read.words(figure.axes[1])[0]
