"""Across stages: what is drawn is what was given."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from embervlm.monitoring.data import EdgePareto, FigureDataError
from embervlm.monitoring.drawing.cross import grams_per_point
from embervlm.monitoring.drawing.pareto import bubble
from embervlm.monitoring.stage_visualizations import CrossStageVisualizer
from tests.monitoring import reading as read
from tests.monitoring import samples

DRAW = CrossStageVisualizer(read.NOWHERE, dpi=read.DPI)


def test_dynamics_panel_per_stage_with_both_curves() -> None:
    data = samples.dynamics()
    figure, _ = DRAW.plot_training_dynamics(data, save=False)
    left, right = figure.axes[:4], figure.axes[4:]
    assert [ax.get_title() for ax in left] == [f"Stage {s}: {t}" for s, t in zip(data.stages, data.titles, strict=True)]
    for g, (ax, twin) in enumerate(zip(left, right, strict=True)):
        x, _ = read.line(ax, "Loss")
        np.testing.assert_array_equal(x, data.steps[g])
        loss = next(entry for entry in ax.get_lines() if str(entry.get_label()).startswith("Loss"))
        assert loss.get_linestyle() == "-"
        x, y = read.line(twin, data.metrics[g].capitalize())
        np.testing.assert_array_equal(x, data.evaluations[g])
        np.testing.assert_allclose(y, data.accuracy[g])
        assert twin.get_lines()[0].get_linestyle() == "--"
    assert read.words(left[0]) == ["→ stage 2"]
    assert read.words(left[3]) == ["next phase", "end of training"]


def test_loss_curve_is_the_running_mean() -> None:
    data = samples.dynamics()
    figure, _ = DRAW.plot_training_dynamics(data, save=False)
    _, y = read.line(figure.axes[0], "Loss")
    assert y[100] == pytest.approx(data.loss[0][95:106].mean())


def test_efficiency_bubbles_frontier_and_citations() -> None:
    data = samples.efficiency()
    figure, _ = DRAW.plot_parameter_efficiency_pareto(data, save=False)
    ax = figure.axes[0]
    assert ax.get_xscale() == "log"
    ours = read.points(ax, "EmberVLM (this run)")
    np.testing.assert_allclose(ours, [[5.1e6, 42], [37.2e6, 55]])
    np.testing.assert_allclose(read.points(ax, "Cited"), [[256e6, 44], [0.9e9, 52.1]])
    np.testing.assert_allclose(read.points(ax, "Cited, colour unknown"), [[1.7e9, 53.2]])
    x, y = read.line(ax, "Pareto")
    assert (list(x), list(y)) == ([5.1e6, 37.2e6], [42, 55]), "nothing larger is better than the second"
    assert any(text.startswith("EmberVLM-37M *\n55.0, 150 MB") for text in read.words(ax))
    assert any("MobileVLM-1.7B\n53.2, memory unknown" in text for text in read.words(ax))
    caption = figure.get_supxlabel()
    assert "SmolVLM-256M: paper A" in caption
    assert "MobileVLM-1.7B: paper B" in caption


def test_names_leave_the_frontier_free() -> None:
    rows = [
        {"name": "EmberVLM, no picture, fp32", "parameters": 2.6e6, "accuracy": 71.1, "ours": True, "origin": "a run"},
        {"name": "EmberVLM, direct, fp32", "parameters": 3.7e6, "accuracy": 97.7, "ours": True, "origin": "a run"},
    ]
    figure, _ = DRAW.plot_parameter_efficiency_pareto(rows, save=False)
    ax, renderer = figure.axes[0], FigureCanvasAgg(figure).get_renderer()
    (start, low), (end, high) = ax.transData.transform(np.column_stack(read.line(ax, "Pareto")))
    names = [text for text in ax.texts if text.get_text().startswith("EmberVLM")]
    assert len(names) == 2
    for text in names:
        box = text.get_window_extent(renderer)
        assert not (box.y0 < low < box.y1 and box.x0 < end and box.x1 > start), text.get_text()
        assert not (box.x0 < end < box.x1 and box.y0 < high and box.y1 > low), text.get_text()


def test_bubble_area_is_memory() -> None:
    np.testing.assert_allclose(bubble(np.array([100.0, 50.0, np.nan])), [500, 250, 40])


def test_peers_without_citation_are_refused() -> None:
    rows = [{"name": "ours", "parameters": 1e6, "accuracy": 50, "ours": True, "origin": "this run"}]
    peer = {"name": "peer", "parameters": 2e6, "accuracy": 60}
    with pytest.raises(FigureDataError, match="'peer' needs a citation"):
        DRAW.plot_parameter_efficiency_pareto([*rows, peer], save=False)
    figure, _ = DRAW.plot_parameter_efficiency_pareto([*rows, peer | {"origin": "arXiv 1"}], "VQA", save=False)
    assert figure.axes[0].get_ylabel() == "VQA (%)"


def test_edge_frontier_goes_through_the_unbeaten() -> None:
    data = samples.edge()
    figure, _ = DRAW.plot_edge_deployment_pareto(data, save=False)
    x, y = read.line(figure.axes[0], "Pareto")
    assert list(zip(x, y, strict=True)) == [(14, 54), (33, 55), (120, 58)]
    assert "peer A: paper A" in figure.get_supxlabel()
    assert figure.axes[0].get_xlabel() == "Latency per request (ms), 2 cores"
    assert isinstance(data, EdgePareto)


def test_benchmarks_by_stage_normalised_by_their_scale() -> None:
    figure, _ = DRAW.plot_benchmark_progression_heatmap(samples.benchmarks(), save=False)
    ax = figure.axes[0]
    values = read.cells(ax)
    assert values[0, 0] == pytest.approx(1200 / 2800)
    assert values[3, 3] == pytest.approx(0.57)
    assert np.isnan(values[2, 3])
    assert read.grid_words(ax)[1] == ["58.3", "62.1", "65.8", "68.2"]
    assert [label.split(" (")[0] for label in read.ticks(ax.yaxis)] == ["MME", "MMBench", "TextVQA", "ScienceQA"]
    assert [label.split("\n")[0] for label in read.ticks(ax.xaxis)] == ["Stage 1", "Stage 2", "Stage 3", "Stage 4"]


def test_benchmarks_from_a_plain_mapping() -> None:
    scores = {"MME": {"stage1": 1400, "stage3": 2100}, "MMBench": {"stage2": 50}}
    figure, _ = DRAW.plot_benchmark_progression_heatmap(scores, save=False)
    np.testing.assert_allclose(read.cells(figure.axes[0]), [[0.5, np.nan, 0.75], [np.nan, 0.5, np.nan]])
    with pytest.raises(FigureDataError, match=r"'MyBench': \[180.0\] is not within its scale 0 to 100"):
        DRAW.plot_benchmark_progression_heatmap({"MyBench": {"stage1": 180}}, save=False)


def test_treemap_areas_are_emissions() -> None:
    data = samples.carbon()
    figure, _ = DRAW.plot_carbon_footprint(data, save=False)
    ax = figure.axes[0]
    stages = [p for p in ax.patches if p.get_linewidth() == 4]
    areas = sorted((p.get_width() * p.get_height() for p in stages), reverse=True)
    np.testing.assert_allclose(areas, np.array([23, 14, 11, 9]) / 57 * 160 * 100)
    said = "\n".join(read.words(ax))
    assert "Stage 3: 23 g (40%)" in said
    assert "gain not measured" in said
    assert "57 g CO2eq" in ax.get_title()
    assert "codecarbon" in figure.get_supxlabel()


def test_grams_per_point() -> None:
    data = replace(samples.carbon(), gain=[28, 0, -3, np.nan])
    np.testing.assert_allclose(grams_per_point(data), [0.5, np.inf, np.inf, np.nan])


def test_tornado_bars_are_losses_sorted_with_the_worst_on_top() -> None:
    data = samples.ablation()
    figure, _ = DRAW.plot_ablation_tornado(data, save=False)
    ax = figure.axes[0]
    widths = [bar.get_width() for group in ax.containers for bar in group]
    np.testing.assert_allclose(widths, [0.02, 0.01, -0.04, -0.24, -0.40])
    names = [label.split("\n")[0] for label in read.ticks(ax.yaxis)]
    assert names == ["− Reasoning Module", "− QK Norm", "− Pretrained LLM", "− Fusion Adapter", "− RepViT"]
    assert read.words(ax)[-1] == "-0.400 (n = 1)"
    assert "whole model's 0.850" in ax.get_xlabel()


def test_tornado_from_a_plain_mapping() -> None:
    figure, _ = DRAW.plot_ablation_tornado({"RepViT": 0.5, "QK Norm": [0.7, 0.8]}, baseline_score=0.9, save=False)
    widths = [bar.get_width() for group in figure.axes[0].containers for bar in group]
    np.testing.assert_allclose(widths, [-0.15, -0.4])
    with pytest.raises(FigureDataError, match="baseline_score"):
        DRAW.plot_ablation_tornado({"RepViT": 0.5}, save=False)


def test_summary_of_collected_metrics() -> None:
    visualizer = CrossStageVisualizer(read.NOWHERE, dpi=read.DPI)
    with pytest.raises(FigureDataError, match="no metrics yet"):
        visualizer.plot_training_summary(save=False)
    visualizer.update_stage_metrics("stage4", {"accuracy": 0.83})
    visualizer.update_stage_metrics(3, {"accuracy": 0.86, "ece": 0.05})
    figure, _ = visualizer.plot_stage_progression(save=False)
    x, y = read.line(figure.axes[0], "accuracy")
    assert (list(x), list(y)) == ([3, 4], [0.86, 0.83])
    figure, _ = visualizer.plot_training_summary(save=False)
    table = figure.axes[0].tables[0].get_celld()
    assert table[1, 0].get_text().get_text() == "0.86"
    assert table[2, 1].get_text().get_text() == "–"
    with pytest.raises(FigureDataError, match="'first' is no stage"):
        visualizer.update_stage_metrics("first", {})
