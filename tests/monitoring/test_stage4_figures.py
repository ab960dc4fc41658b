"""Stage 4: what is drawn is what was given."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from embervlm.monitoring.data import AttentionFlow, FigureDataError
from embervlm.monitoring.drawing.parts import free_corner
from embervlm.monitoring.drawing.sankey import node_places, throughput
from embervlm.monitoring.stage_visualizations import Stage4Visualizer
from tests.monitoring import reading as read
from tests.monitoring import samples
from tests.monitoring.samples import ROBOTS

DRAW = Stage4Visualizer(read.NOWHERE, dpi=read.DPI)


def test_phase_bars_by_unit() -> None:
    figure, _ = DRAW.plot_phase_bars(samples.phases(), save=False)
    shares, latency = figure.axes
    assert read.bar_groups(shares) == {
        "Phase 1: frozen backbone": [0.78, 0.62, 0.11],
        "Phase 2: joint fine-tuning": [0.86, 0.81, 0.06],
    }
    assert read.bars(latency) == [[41.0], [43.0]]
    assert latency.get_ylabel() == "ms"
    assert [label.split("\n")[0] for label in read.ticks(shares.xaxis)] == [
        "Robot Accuracy",
        "Reasoning Coherence",
        "ECE",
    ]
    assert "(lower is better)" in read.ticks(shares.xaxis)[2]


def test_phase_metric_that_was_not_measured_is_said() -> None:
    data = samples.phases()
    values = data.values.copy()
    values[0, 0] = np.nan
    blank = np.full((2, 4), np.nan)
    figure, _ = DRAW.plot_phase_bars(replace(data, values=values, low=blank, high=blank), save=False)
    assert "not\nmeasured" in read.words(figure.axes[0])


def test_importance_surface_over_steps_of_reasoning() -> None:
    data = samples.importance()
    figure, _ = DRAW.plot_step_importance(data, save=False)
    ax = read.panel(figure, "importance")
    surface = read.surface(ax)
    for s, q in ((0, 0), (4, 3), (2, 1)):
        assert surface[float(q), float(data.steps[s])] == pytest.approx(data.importance[s, q])
    assert [label.replace("\n", " ") for label in read.ticks(ax.xaxis)] == list(data.reasoning)
    assert ax.get_ylabel() == "Training step"
    assert read.words(ax)[0].splitlines()[1] == "Decision: 0.3"


def test_pairs_of_bars_per_robot() -> None:
    figure, _ = DRAW.plot_cot_vs_direct(samples.chain(), save=False)
    (ax,) = figure.axes
    groups = read.bar_groups(ax)
    assert groups["Direct prediction"] == [0.75, 0.5, 0.25, 1.0, 0.0, 0.5]
    assert groups["With reasoning chain"] == [1.0, 0.5, 0.75, 0.75, 0.25, 0.65]
    assert [label.split("\n")[0] for label in read.ticks(ax.xaxis)] == [
        "Drone", "Underwater", "Humanoid", "Wheeled", "Legged", "All",
    ]  # fmt: skip
    assert read.words(ax)[:5] == ["+25.0 pts", "+0.0 pts", "+50.0 pts", "-25.0 pts", "+25.0 pts"]
    assert read.words(ax)[5].startswith("+15.0 pts\n(")


def test_sankey_ribbons_are_as_wide_as_their_attention() -> None:
    data = samples.flow()
    figure, _ = DRAW.plot_attention_flow(data, save=False)
    (ax,) = figure.axes
    ribbons = {patch.get_gid(): patch.get_path().vertices for patch in ax.patches if patch.get_gid()}
    assert len(ribbons) == len(data.strength)
    flow, (low, height) = throughput(data), node_places(data)
    for link in (0, 3, 10, len(data.strength) - 1):
        start, end = data.start[link], data.end[link]
        shape = ribbons[f"{data.nodes[start]} → {data.nodes[end]}"]
        assert shape[0, 1] - shape[-1, 1] == pytest.approx(0)
        assert shape[0, 1] - shape[7, 1] == pytest.approx(height[start] * data.strength[link] / flow[start])
        assert shape[3, 1] - shape[4, 1] == pytest.approx(height[end] * data.strength[link] / flow[end])
        assert low[start] - 1e-9 <= shape[7, 1] <= shape[0, 1] <= low[start] + height[start] + 1e-9
    assert {"Visual tokens", "Fusion", "Reasoning", "Selection"} <= set(read.words(ax))


def test_sankey_says_each_robots_share() -> None:
    data = AttentionFlow(
        nodes=("image", "fused", "Drone", "Humanoid"), column=[0, 1, 3, 3], start=[0, 1, 1], end=[1, 2, 3],
        strength=[4.0, 3.0, 1.0], method="made up",
    )  # fmt: skip
    np.testing.assert_allclose(throughput(data), [4, 4, 3, 1])
    figure, _ = DRAW.plot_attention_flow(data, save=False)
    assert "Drone  75%" in read.words(figure.axes[0])
    assert "Humanoid  25%" in read.words(figure.axes[0])


def test_consistency_rows_are_tasks_and_columns_early_and_late() -> None:
    data = samples.consistency()
    figure, _ = DRAW.plot_reasoning_consistency(data, save=False)
    ax = figure.axes[0]
    np.testing.assert_array_equal(read.cells(ax), data.score)
    assert read.ticks(ax.yaxis) == list(data.tasks)
    assert [label.split(" ")[0] for label in read.ticks(ax.xaxis)] == ["Early", "Late"]
    assert read.grid_words(ax)[1] == ["0.80\nn = 22", "0.65\nn = 18"]
    assert read.grid_words(ax)[4][1] == "–"


def test_consistency_bars_of_one_step() -> None:
    data = samples.consistency()
    figure, _ = DRAW.plot_consistency_step(data, save=False)
    assert read.bar_groups(figure.axes[0])["Early mention"] == pytest.approx(data.score[:, 0])
    overall = np.nansum(data.score * data.count) / data.count.sum()
    assert read.words(figure.axes[0]) == [f"mean {overall:.2f}"]


def test_dashboard_counts_and_trend() -> None:
    data = samples.dashboard()
    figure, _ = DRAW.plot_reasoning_quality_metrics(data.coherence, data.consistency, data.step_counts, 282, save=False)
    a, b, c, d = figure.axes
    for ax, values in ((a, data.coherence), (b, data.consistency)):
        heights = [bar.get_height() for bar in ax.containers[0]]
        np.testing.assert_array_equal(heights, np.histogram(values, np.linspace(0, 1, 21))[0])
        assert f"mean {values.mean():.3f}" in read.legend(ax)[0]
        assert f"median {np.median(values):.3f}" in read.legend(ax)
    assert read.bars(c)[0] == [int((data.step_counts == n).sum()) for n in (1, 2, 3, 4)]
    slope, intercept = np.polyfit(data.step_counts, data.coherence, 1)
    r = np.corrcoef(data.step_counts, data.coherence)[0, 1]
    assert read.legend(d) == [f"y = {slope:.3f}x + {intercept:.3f}, r = {r:.2f}"]
    shown = np.asarray(d.collections[0].get_offsets())
    np.testing.assert_array_equal(shown[:, 0].round(), data.step_counts)
    np.testing.assert_allclose(shown[:, 1], data.coherence)


def test_dashboard_without_variation_has_no_trend() -> None:
    figure, _ = DRAW.plot_reasoning_dashboard(replace(samples.dashboard(), step_counts=[4] * 150), save=False)
    assert any("does not vary" in text for text in read.words(figure.axes[3]))


def test_attention_maps_per_query() -> None:
    data = samples.attention_maps()
    figure, _ = DRAW.plot_attention_maps(data, save=False)
    ax = read.panel(figure, "Drone")
    np.testing.assert_allclose(ax.images[1].get_array(), data.attention[4] / data.attention[4].max(), rtol=1e-6)
    assert data.task in figure.get_suptitle()


def test_phase_histories_follow_each_other() -> None:
    figure, _ = DRAW.plot_phase_comparison({"accuracy": [0.5, 0.6]}, {"accuracy": [0.7], "loss": [1.0]}, 9, save=False)
    ax = read.panel(figure, "accuracy")
    np.testing.assert_array_equal(read.line(ax, "Phase 1")[0], [1, 2])
    x, y = read.line(ax, "Phase 2")
    assert (list(x), list(y)) == ([3], [0.7])
    with pytest.raises(FigureDataError, match="no values in either"):
        DRAW.plot_phase_comparison({}, {"loss": []}, 9, save=False)


def test_cot_examples_compare_answers() -> None:
    figure, _ = DRAW.plot_cot_examples(["t1", "t2"], list(ROBOTS[:2]), [ROBOTS[0], ROBOTS[2]], 9, save=False)
    said = read.words(figure.axes[0])
    assert said[2] == "same"
    assert said[4] == "directly: Underwater Robot\nwith chain: Humanoid"
    assert said[5] == "differs"


@pytest.mark.parametrize(
    ("values", "counts", "corner"),
    [([3, 4], [1, 383], "left"), ([3, 4, 17], [2, 45, 1], "right"), ([4], [9], "left"), ([3, 4], [5, 1], "right")],
)
def test_the_legend_of_step_counts_stands_away_from_the_highest_bar(
    values: list[int], counts: list[int], corner: str
) -> None:
    assert free_corner(np.array(values), np.array(counts)) == f"upper {corner}"
