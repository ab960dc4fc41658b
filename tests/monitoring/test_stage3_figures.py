"""Stage 3: what is drawn is what was given, robot by robot."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from embervlm.evaluation.calibration import expected_calibration_error
from embervlm.monitoring.data import Calibration, FigureDataError
from embervlm.monitoring.stage_visualizations import Stage3Visualizer
from embervlm.monitoring.style import SHORT
from tests.monitoring import reading as read
from tests.monitoring import samples
from tests.monitoring.samples import ROBOTS

DRAW = Stage3Visualizer(read.NOWHERE, dpi=read.DPI)
NAMES = [SHORT[name] for name in ROBOTS]


def test_every_robot_has_its_own_surface_over_layers_and_steps() -> None:
    data = samples.layer_accuracy()
    figure, _ = DRAW.plot_layer_accuracy(data, save=False)
    for n, name in enumerate(NAMES):
        ax = read.panel(figure, name)
        surface = read.surface(ax)
        assert (min(surface), max(surface)) == ((0.0, float(data.steps[0])), (6.0, float(data.steps[-1])))
        for s, layer in ((0, 0), (4, 6), (2, 3)):
            assert surface[float(layer), float(data.steps[s])] == pytest.approx(data.accuracy[s, n, layer])
        assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_zlabel()) == ("Layer", "Training step", "Accuracy")
    flat = read.panel(figure, "All robots")
    for n, name in enumerate(NAMES):
        np.testing.assert_allclose(read.line(flat, name)[1], data.accuracy[-1, n])
    np.testing.assert_allclose(read.line(flat, "mean")[1], data.accuracy[-1].mean(0))
    assert "linear probe" in figure.get_suptitle()


def test_performance_lines_belong_to_their_robot() -> None:
    data = samples.performance()
    figure, _ = DRAW.plot_robot_performance(data, save=False)
    (ax,) = figure.axes
    for n, name in enumerate(NAMES):
        x, y = read.line(ax, name)
        np.testing.assert_array_equal(x, data.steps)
        np.testing.assert_allclose(y, data.correct[:, n] / data.total[:, n])
    assert read.legend(ax)[2] == f"Humanoid: {data.correct[-1, 2] / 30:.0%} (n = 30)"
    colors = dict(zip(NAMES, (color for color, _, _ in read.looks(ax)), strict=False))
    red, green, blue = (
        tuple(int(colors[name][i : i + 2], 16) for i in (1, 3, 5)) for name in ("Legged", "Wheeled", "Drone")
    )
    assert red[0] == max(red)
    assert green[1] == max(green)
    assert blue[2] == max(blue)


def test_robots_differ_without_colour() -> None:
    figure, _ = DRAW.plot_robot_performance(samples.performance(), save=False)
    plain = [(str(dash), marker) for _, dash, marker in read.looks(figure.axes[0])[:5]]
    assert len(set(plain)) == 5
    assert len({marker for _, marker in plain}) == 5


def test_robot_that_never_occurs_is_said_not_drawn_as_zero() -> None:
    data = samples.performance()
    total, correct = data.total.copy(), data.correct.copy()
    total[:, 1] = correct[:, 1] = 0
    figure, _ = DRAW.plot_robot_performance(replace(data, total=total, correct=correct), save=False)
    assert np.isnan(read.line(figure.axes[0], "Underwater")[1]).all()
    assert "Underwater: not measured (n = 0)" in read.legend(figure.axes[0])


def test_budget_bars_and_ranks() -> None:
    data = samples.budget()
    figure, _ = DRAW.plot_layer_budget(data, save=False)
    for title, kind in (("Attention", "attention"), ("FFN", "ffn"), ("Adapter", "adapter")):
        places = [i for i, k in enumerate(data.kinds) if k == kind]
        ax = read.panel(figure, title)
        np.testing.assert_allclose(read.bars(ax)[0], data.importance[:, places].mean(0))
        assert read.ticks(ax.xaxis) == [data.parts[i] for i in places]
    ranks = (-data.importance).argsort(1).argsort(1) + 1
    assert read.words(read.panel(figure, "Adapter"))[0].startswith(f"#{int(np.median(ranks[:, 8]))}\n")


def test_confusion_panels_keep_rows_and_columns() -> None:
    data = samples.confusion()
    figure, _ = DRAW.plot_confusion_evolution(data, save=False)
    for s in (0, 4):
        ax = read.panel(figure, f"step {data.steps[s]}:")
        counts = data.counts[s]
        np.testing.assert_allclose(read.cells(ax), counts / counts.sum(1, keepdims=True))
        assert read.grid_words(ax) == [[str(count) for count in row] for row in counts]
        assert f"{np.trace(counts) / counts.sum():.1%} right (n = {counts.sum()})" in ax.get_title()
    assert read.ticks(figure.axes[0].yaxis) == NAMES
    assert figure.axes[0].get_ylabel() == "Should be chosen"


def test_confusion_matrix_from_predictions_and_names() -> None:
    truth = ["Drone", "Drone", "Humanoid", "Robot with Legs"]
    chosen = [0, 4, 2, 0]
    figure, _ = DRAW.plot_robot_confusion_matrix(chosen, truth, ROBOTS, step=5, save=False)
    words = read.grid_words(figure.axes[0])
    assert (words[0][0], words[0][4], words[2][2], words[4][0]) == ("1", "1", "1", "1")
    assert words[1] == ["–"] * 5, "a robot that never was due has no shares"
    with pytest.raises(FigureDataError, match=r"predictions\[0\]: 'Boat' is not one of Drone"):
        DRAW.plot_robot_confusion_matrix(["Boat"], [0], ROBOTS, step=5, save=False)


def test_calibration_bars_diagonal_and_ece() -> None:
    data = Calibration(confidence=[0.95] * 10 + [0.55] * 10, correct=[1] * 9 + [0] + [1] * 4 + [0] * 6, step=5)
    figure, _ = DRAW.plot_calibration(data, n_bins=10, save=False)
    top, below = figure.axes
    assert read.bar_groups(top)["Accuracy (95% Wilson)"] == pytest.approx([0.4, 0.9])
    assert read.bar_groups(top)["Gap to the bin's confidence"] == pytest.approx([0.15, 0.05])
    assert [bar.get_x() + bar.get_width() / 2 for bar in top.containers[0]] == pytest.approx([0.55, 0.95])
    assert read.bars(below)[0] == [10, 10]
    x, y = read.line(top, "Perfect")
    np.testing.assert_array_equal(x, y)
    (note,) = read.words(top)
    ece = expected_calibration_error(data.confidence, data.correct, 10)
    assert ece == pytest.approx(0.1)
    assert f"ECE = {ece:.3f}" in note
    assert "n = 20" in note


def test_radar_spokes_and_missing_values() -> None:
    data = samples.radar()
    figure, _ = DRAW.plot_robot_radar(data, save=False)
    ax = read.panel(figure, "Per-robot")
    assert [label.split("\n")[0] for label in read.ticks(ax.xaxis)] == [
        "Precision",
        "Recall",
        "F1",
        "Confidence",
        "Support",
    ]
    for n, name in enumerate(NAMES):
        _, values = read.line(ax, name)
        due = [data.precision[n], data.recall[n], data.f1[n], data.confidence[n], data.support[n] / 80]
        np.testing.assert_allclose(values, [*due, due[0]])
    assert read.legend(ax)[0] == "Drone (n = 73)"
    assert "Legged: no precision" in read.words(ax)


def test_radar_from_metrics_of_robots() -> None:
    metrics = {
        "Drone": {"precision": 1.0, "recall": 0.5, "f1": 2 / 3, "confidence": 0.8, "support": 4},
        "Humanoid": {"recall": 0.0, "f1": 0.0, "support": 2},
    }
    figure, _ = DRAW.plot_per_robot_radar(metrics, step=5, save=False)
    np.testing.assert_allclose(read.line(figure.axes[0], "Drone")[1], [1, 0.5, 2 / 3, 0.8, 1, 1])
    np.testing.assert_allclose(read.line(figure.axes[0], "Humanoid")[1], [np.nan, 0, 0, np.nan, 0.5, np.nan])


def test_task_cells_belong_to_robot_and_task() -> None:
    data = samples.task_robot()
    figure, _ = DRAW.plot_task_robot(data, save=False)
    ax = figure.axes[0]
    values = read.cells(ax)
    assert values[3, 1] == data.correct[3, 1] / 10
    assert np.isnan(values[1, 4])
    assert read.grid_words(ax)[0][3] == "60%\nn = 10"
    assert read.grid_words(ax)[1][4] == "–"
    assert [label.split(" ")[0] for label in read.ticks(ax.yaxis)] == NAMES
    assert [label.split("\n")[0] for label in read.ticks(ax.xaxis)] == list(data.tasks)
    assert ax.get_xlabel().startswith("Task type")


def test_reasoning_quality_panels() -> None:
    data = samples.reasoning_quality()
    figure, _ = DRAW.plot_reasoning_quality(data, save=False)
    steps = read.panel(figure, "Step count")
    assert read.bars(steps)[0] == [int((data.step_counts == n).sum()) for n in (2, 3, 4)]
    assert f"mean {data.step_counts.mean():.2f}" in read.legend(steps)
    scatter = read.panel(figure, "Coherence and accuracy")
    shown = read.points(scatter, "chains")
    np.testing.assert_allclose(shown[:, 0], data.coherence)
    np.testing.assert_array_equal(shown[:, 1].round(), data.correct)
    assert f"(r = {np.corrcoef(data.coherence, data.correct)[0, 1]:.2f})" in scatter.get_title()
    slope, intercept = np.polyfit(data.coherence, data.correct, 1)
    assert f"y = {slope:.3f}x {'+' if intercept > 0 else '−'} {abs(intercept):.3f}" in read.legend(scatter)
    keywords = read.panel(figure, "keyword")
    np.testing.assert_allclose([bar.get_width() for bar in keywords.containers[0]], [0.95, 120 / 180, 0.75, 0.5])
    assert read.ticks(keywords.yaxis)[1] == "terrain\nn = 180"


def test_training_curves_end_where_told() -> None:
    data = samples.curves()
    figure, _ = DRAW.plot_training_curves(data, until=300, save=False)
    left, right = figure.axes
    x, _ = read.line(left, "loss")
    assert x[-1] == 300
    x, y = read.line(right, "first_choice")
    np.testing.assert_array_equal(x, [100, 200, 300])
    np.testing.assert_allclose(y, data.scores[:3, 0])


def test_no_two_curves_look_alike() -> None:
    names = ("loss", *(f"term{i}_loss" for i in range(6)))
    data = replace(samples.curves(), losses=names, values=np.ones((len(samples.curves().steps), 7)))
    figure, _ = DRAW.plot_training_curves(data, until=300, save=False)
    shown = [line for line in figure.axes[0].lines if not str(line.get_label()).startswith("_")]
    assert len({line.get_color() for line in shown}) == len(names)


def test_reasoning_examples_say_what_was_right() -> None:
    figure, _ = DRAW.plot_reasoning_examples(
        ["look at the pier", "carry the box"], [["a", "b"], "c"], ["Drone", "Humanoid"], ["Drone", "Robot with Legs"],
        [True, False], step=5, save=False,
    )  # fmt: skip
    said = read.words(figure.axes[0])
    assert said[0] == "✓ look at the pier"
    assert said[1] == "a\nb"
    assert said[3] == "✗ carry the box"
    assert said[5] == "chosen: Humanoid · can do it: Robot with Legs"
