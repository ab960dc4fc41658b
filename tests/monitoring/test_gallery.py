"""Drawing a whole run again from what it recorded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from embervlm.cli import main
from embervlm.monitoring import data as d
from embervlm.monitoring import gallery as g
from embervlm.monitoring.entries import GALLERY, GROUPS
from embervlm.monitoring.findings import finding
from tests.monitoring import samples
from tests.monitoring.samples import SAMPLES

#: The files that the documentation of the figures names.
DUE = {
    "stage1": [
        "similarity_evolution_3d.png",
        "tsne_embedding_evolution.gif",
        "retrieval_accuracy_heatmap.png",
        "vision_feature_maps.png",
        "contrastive_loss_landscape.png",
    ],
    "stage2": [
        "instruction_complexity_bars.png",
        "token_probability_sequence.png",
        "distillation_gap.png",
        "response_length_violin.png",
        "perplexity_heatmap.png",
    ],
    "stage3": [
        "layer_accuracy_3d_surface.png",
        "robot_performance_lines.png",
        "layer_budget_ranks.png",
        "confusion_evolution.gif",
        "confidence_calibration.png",
        "robot_radar_chart.png",
        "task_robot_heatmap.png",
        "reasoning_quality.png",
    ],
    "stage4": [
        "phase_comparison_bars.png",
        "reasoning_step_importance_3d.png",
        "cot_vs_direct_accuracy.png",
        "attention_flow_sankey.png",
        "reasoning_consistency_heatmap.png",
        "reasoning_quality_dashboard.png",
    ],
    "cross": [
        "training_dynamics_all_stages.png",
        "parameter_efficiency_pareto.png",
        "benchmark_progression_heatmap.png",
        "carbon_footprint_treemap.png",
        "ablation_tornado.png",
        "edge_deployment_pareto.png",
    ],
}
QUICK = g.Options(dpi=20, vector=False)


def recorded(folder: Path) -> Path:
    """A run that recorded everything."""
    store = d.FigureStore(folder)
    for make in SAMPLES.values():
        store.write(make())
    return folder


def test_gallery_has_every_figure_once_with_keys_and_methods() -> None:
    assert len(GALLERY) == 30
    found = {home: [] for home in DUE}
    for entry in GALLERY:
        found[entry.kind.home].append(f"{entry.kind.name}.{'gif' if entry.animated else 'png'}")
        assert callable(getattr(g.VISUALIZERS[entry.kind.home], entry.method))
        assert entry.key.startswith(f"{entry.kind.home}/")
        assert entry.reading.endswith(".")
    assert found == DUE
    assert len({entry.key for entry in GALLERY}) == 30
    keys = {entry.key for entry in GALLERY}
    assert {"stage1/similarity_3d", "stage2/instruction_complexity", "stage3/robot_radar"} <= keys
    assert {"stage4/reasoning_quality", "cross/benchmark_heatmap"} <= keys
    assert set(GROUPS) == set(DUE)


def test_whole_run_is_drawn_with_the_documented_names(tmp_path: Path) -> None:
    report = g.draw_run(recorded(tmp_path), QUICK)
    assert report.missing() == {}
    assert len(report.drawn()) == 37
    for home, names in DUE.items():
        folder = tmp_path / "figures" if home == "cross" else tmp_path / home / "visualizations"
        assert [name for name in names if not (folder / name).is_file()] == []
    three, four = tmp_path / "stage3/visualizations", tmp_path / "stage4/visualizations"
    assert sorted(p.name for p in (three / "confusion_matrices").iterdir()) == [
        f"step_{step:06d}.png" for step in samples.STEPS
    ]
    for place in (
        three / "radar_charts/step_000785.png",
        three / "calibration_plots/step_000785.png",
        three / "training_curves/step_000500.png",
        four / "reasoning_quality/step_000282.png",
        four / "attention_maps/step_000282.png",
        four / "consistency_plots/step_000282.png",
    ):
        assert place.is_file(), place
    rows = json.loads((tmp_path / "figures/figures.json").read_text())
    assert rows[0]["figure"] == "stage1/similarity_evolution_3d"
    assert rows[0]["files"] == ["stage1/visualizations/similarity_evolution_3d.png"]
    assert rows[0]["source"] == samples.NOTE
    assert (rows[0]["key"], rows[0]["group"]) == ("stage1/similarity_3d", "stage1_align")
    assert all(row["finding"] for row in rows[:30])


def test_what_was_not_recorded_is_not_drawn_and_named(tmp_path: Path) -> None:
    d.FigureStore(tmp_path).write(samples.task_robot())
    report = g.draw_run(tmp_path, QUICK)
    assert [o.name for o in report.drawn()] == ["task_robot_heatmap"]
    assert len(report.missing()) == 36
    assert report.missing()["stage4/attention_flow_sankey"] == (
        "nothing was recorded in stage4/figure_data/attention_flow_sankey/"
    )
    assert not (tmp_path / "stage1").exists()
    assert "1 of 37 figures and series drawn, 1 files" in report.text()


def test_figure_does_not_outlive_its_data(tmp_path: Path) -> None:
    store = d.FigureStore(tmp_path)
    entry = next(e for e in GALLERY if e.kind is d.ConfusionEvolution)
    store.write(samples.confusion())
    assert not g.draw_entry(tmp_path, entry, QUICK).reason
    g.draw_series(tmp_path, "confusion_matrices", QUICK)
    for path in store.folder(d.ConfusionEvolution).iterdir():
        path.unlink()
    assert g.draw_entry(tmp_path, entry, QUICK).reason
    g.draw_series(tmp_path, "confusion_matrices", QUICK)
    assert [p for p in (tmp_path / "stage3/visualizations").rglob("*") if p.is_file()] == []


def test_damaged_data_is_the_reason_and_does_not_stop_the_others(tmp_path: Path) -> None:
    store = d.FigureStore(tmp_path)
    store.write(samples.task_robot())
    path = store.write(samples.radar()).with_suffix(".npz")
    path.write_bytes(b"broken")
    report = g.draw_run(tmp_path, replace(QUICK, series=False))
    assert "cannot be read as figure data" in report.missing()["stage3/robot_radar_chart"]
    assert [o.name for o in report.drawn()] == ["task_robot_heatmap"]


def test_failure_of_drawing_is_raised_after_the_rest_was_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: object, data: object) -> None:
        raise RuntimeError("a mistake in drawing")

    store = d.FigureStore(tmp_path)
    store.write(samples.radar())
    store.write(samples.task_robot())
    monkeypatch.setattr(g.VISUALIZERS["stage3"], "plot_robot_radar", broken)
    with pytest.raises(ExceptionGroup) as raised:
        g.draw_run(tmp_path, replace(QUICK, series=False))
    assert raised.value.exceptions[0].__notes__ == ["while drawing stage3/robot_radar_chart"]
    assert (tmp_path / "stage3/visualizations/task_robot_heatmap.png").is_file()
    assert "a mistake in drawing" in (tmp_path / "figures/figures.json").read_text()


def test_two_processes_draw_the_same(tmp_path: Path) -> None:
    for name, workers in (("one", 1), ("two", 2)):
        store = d.FigureStore(tmp_path / name)
        store.write(samples.task_robot())
        store.write(samples.benchmarks())
        g.draw_run(tmp_path / name, QUICK, workers)
    one, two = (sorted((tmp_path / name).rglob("*.png")) for name in ("one", "two"))
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in two]
    assert len(one) == 2


def test_command_draws_and_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    d.FigureStore(tmp_path).write(samples.task_robot())
    command = ["figures", "--run", str(tmp_path), "--dpi", "20", "--workers", "1"]
    assert main([*command, "--safe-colors", "--no-series"]) == 0
    said = capsys.readouterr().out
    assert "1 of 30 figures and series drawn, 3 files" in said
    assert "not drawn: cross/ablation_tornado: nothing was recorded" in said
    assert main([*command, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert list(said["drawn"]) == ["stage3/task_robot_heatmap"]
    assert main(["figures", "--run", str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (samples.instructions, "With the picture 62.5%, without 25.0%; vision helps most in 'compare' (+75.0 points)."),
        (samples.retrieval, "Best on EmberWorld: the right text is the first for 87.0% of the images"),
        (samples.chain, "50.0% directly, 65.0% with the chain: +15.0 points"),
        (samples.radar, "Highest F1: Underwater 0.930; lowest: Humanoid 0.650."),
        (samples.task_robot, "weakest is Drone for 'inspect' (0% of 10)"),
        (samples.phases, "ECE 0.11 → 0.06 (better); Latency 41 → 43 ms (worse)"),
        (samples.ablation, "Most is lost without RepViT: -0.400 first choice."),
        (samples.edge, "On the frontier: EmberVLM fp32, EmberVLM int8."),
        (samples.efficiency, "On the frontier: EmberVLM-nano, EmberVLM-37M."),
        (samples.carbon, "57 g CO2eq and 150 Wh in all; stage 3 made 40% of it."),
        (samples.benchmarks, "TextVQA 20 → 33"),
        (samples.consistency, "Mean consistency 0.86 with early mention (145 chains), 0.61 with late (53)."),
        (samples.importance, "At step 500 Decision matters most (0.300), Task Analysis least (0.060)."),
        (samples.layer_accuracy, "best read from layer 6 (68.0% on average); layer 0 has 20.0%"),
    ],
)
def test_findings_are_computed_from_the_data(make: object, said: str) -> None:
    assert callable(make)
    assert said in finding(make())


def test_every_figure_has_a_finding_and_unknown_data_none() -> None:
    for entry in GALLERY:
        assert finding(SAMPLES[entry.kind]()).endswith(".")
    with pytest.raises(TypeError, match="no sentence for StageMetrics"):
        finding(samples.stage_metrics())


def test_only_what_changed_is_drawn_again(tmp_path: Path) -> None:
    store = d.FigureStore(tmp_path)
    for make in (samples.task_robot, samples.calibration):
        store.write(make())
    g.draw_run(tmp_path, QUICK)
    pictures = {
        name: tmp_path / "stage3/visualizations" / f"{name}.png"
        for name in ("task_robot_heatmap", "confidence_calibration", "calibration_plots/step_000785")
    }
    before = {name: path.stat().st_mtime_ns for name, path in pictures.items()}
    store.write(replace(samples.task_robot(), source="measured anew"))
    report = g.draw_run(tmp_path, replace(QUICK, changed=True))
    after = {name: path.stat().st_mtime_ns for name, path in pictures.items()}
    assert after["task_robot_heatmap"] > before["task_robot_heatmap"]
    for name in ("confidence_calibration", "calibration_plots/step_000785"):
        assert after[name] == before[name]
    kept = next(o for o in report.drawn() if o.name == "confidence_calibration")
    assert kept.files == (pictures["confidence_calibration"],)
    assert kept.finding
    assert kept.source == samples.NOTE
