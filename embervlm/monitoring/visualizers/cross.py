"""Across stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from embervlm.monitoring.canvas import Canvas, Drawn
from embervlm.monitoring.data import (
    Ablation,
    BenchmarkProgression,
    CarbonFootprint,
    EdgePareto,
    EfficiencyPareto,
    FigureDataError,
    StageMetrics,
    TrainingDynamics,
)
from embervlm.monitoring.drawing import cross as draw
from embervlm.monitoring.drawing import pareto

#: Ends of the scales of benchmarks whose scores are not percentages.
SCALES: dict[str, tuple[float, float]] = {"MME": (0, 2800), "MME-P": (0, 2000), "MME-C": (0, 800)}
PERCENT = (0.0, 100.0)


class CrossStageVisualizer(Canvas):
    """Figures across stages. Every method returns the figure and its picture; `save` writes the files."""

    png_folder: ClassVar[bool] = True

    def __init__(
        self, output_dir: str | Path, *, dpi: int = 300, safe_colors: bool = False, vector: bool = True
    ) -> None:
        super().__init__(output_dir, dpi=dpi, safe_colors=safe_colors, vector=vector)
        self._metrics: dict[int, dict[str, float]] = {}

    def plot_training_dynamics(self, data: TrainingDynamics, save: bool = True) -> Drawn:
        """Loss and accuracy of every stage (training_dynamics_all_stages)."""
        rows = -(-len(data.stages) // 2)
        fill = partial(draw.training_dynamics, data=data, palette=self.palette)
        return self.draw(data.name, (11.0, 3.6 * rows + 0.5), fill, data.source, save)

    def plot_parameter_efficiency_pareto(
        self,
        models_data: EfficiencyPareto | Sequence[Mapping[str, Any]],
        benchmark: str = "Accuracy",
        save: bool = True,
    ) -> Drawn:
        """Parameters against accuracy (parameter_efficiency_pareto).

        Args:
            models_data: figure data, or a mapping per model: name, parameters, accuracy (0 to 100), ours, origin (how
                measured, or the citation), and where known memory_mb and deployability (0 to 1).
            benchmark: what accuracy was measured on, where `models_data` is no figure data.
        """
        data = models_data if isinstance(models_data, EfficiencyPareto) else _models(models_data, benchmark)
        fill = partial(pareto.parameter_efficiency, data=data, palette=self.palette)
        return self.draw(data.name, (9.0, 6.0), fill, _cited(data), save)

    def plot_benchmark_progression_heatmap(
        self,
        benchmark_scores: BenchmarkProgression | Mapping[str, Mapping[str, float]],
        scales: Mapping[str, tuple[float, float]] | None = None,
        save: bool = True,
    ) -> Drawn:
        """Benchmarks × stages (benchmark_progression_heatmap).

        Args:
            benchmark_scores: figure data, or {benchmark: {"stage1": score, …}}; a stage may be absent.
            scales: {benchmark: (lowest, highest)}; else those of `SCALES`, else 0 to 100.
        """
        if isinstance(benchmark_scores, BenchmarkProgression):
            data = benchmark_scores
        else:
            data = _benchmarks(benchmark_scores, {**SCALES, **(scales or {})})
        size = (3.6 + 1.3 * len(data.stages), 2.2 + 0.5 * len(data.benchmarks))
        fill = partial(draw.benchmark_progression, data=data, palette=self.palette)
        return self.draw(data.name, size, fill, data.source, save)

    def plot_carbon_footprint(
        self,
        emissions_per_stage: CarbonFootprint | Mapping[str, Mapping[str, float]],
        accounting: str = "",
        save: bool = True,
    ) -> Drawn:
        """Treemap of the emissions (carbon_footprint_treemap).

        Args:
            emissions_per_stage: figure data, or {"stage1": {"grams": …, "kwh": …, "gain": …}}; gain may be absent.
            accounting: how it was measured, where `emissions_per_stage` is no figure data.
        """
        if isinstance(emissions_per_stage, CarbonFootprint):
            data = emissions_per_stage
        else:
            rows = {_stage(name): row for name, row in emissions_per_stage.items()}
            stages = sorted(rows)
            data = CarbonFootprint(
                stages=np.array(stages),
                gain=np.array([rows[s].get("gain", np.nan) for s in stages]),
                parts=("training",) * len(stages),
                stage=np.arange(len(stages)),
                grams=np.array([rows[s]["grams"] for s in stages]),
                kwh=np.array([rows[s]["kwh"] for s in stages]),
                accounting=accounting,
            )
        caption = "\n".join(line for line in (data.accounting, data.source) if line)
        fill = partial(draw.carbon_footprint, data=data, palette=self.palette)
        return self.draw(data.name, (9.0, 5.2), fill, caption, save)

    def plot_ablation_tornado(
        self,
        ablation_results: Ablation | Mapping[str, float | Sequence[float]],
        baseline_score: float | Sequence[float] | None = None,
        metric: str = "score",
        save: bool = True,
    ) -> Drawn:
        """Impact of leaving components out (ablation_tornado).

        Args:
            ablation_results: figure data, or {component: its score or scores without it}.
            baseline_score: score or scores of the whole model, where `ablation_results` is no figure data.
            metric: what the score is, likewise.
        """
        data = ablation_results
        if not isinstance(data, Ablation):
            if baseline_score is None:
                raise FigureDataError("baseline_score: needed where ablation_results is a mapping")
            runs = {name: np.atleast_1d(np.asarray(scores, float)) for name, scores in data.items()}
            whole = np.atleast_1d(np.asarray(baseline_score, float))
            most = max(len(whole), *(len(row) for row in runs.values()))
            padded = [np.pad(row, (0, most - len(row)), constant_values=np.nan) for row in (*runs.values(), whole)]
            data = Ablation(
                components=tuple(runs),
                scores=np.array(padded[:-1]),
                baseline=padded[-1],
                metric=metric,
                replaced=("",) * len(runs),
            )
        fill = partial(draw.ablation, data=data, palette=self.palette)
        return self.draw(data.name, (8.6, 1.8 + 0.6 * len(data.components)), fill, data.source, save)

    def plot_edge_deployment_pareto(self, data: EdgePareto, save: bool = True) -> Drawn:
        """Latency against accuracy (edge_deployment_pareto)."""
        fill = partial(pareto.edge_deployment, data=data, palette=self.palette)
        return self.draw(data.name, (9.0, 6.0), fill, _cited(data), save)

    # -------------------------------------------------------------- summary

    def update_stage_metrics(self, stage: int | str, metrics: Mapping[str, float]) -> None:
        """Remember a stage's final metrics for `plot_stage_progression` and `plot_training_summary`."""
        self._metrics.setdefault(_stage(stage), {}).update({name: float(value) for name, value in metrics.items()})

    def plot_stage_progression(self, data: StageMetrics | None = None, save: bool = True) -> Drawn:
        """Metrics over stages (stage_progression); of what `update_stage_metrics` was told, or of `data`."""
        data = data or self._collected()
        fill = partial(draw.stage_progression, data=data, palette=self.palette)
        return self.draw("stage_progression", (8.0, 4.4), fill, data.source, save)

    def plot_training_summary(self, data: StageMetrics | None = None, save: bool = True) -> Drawn:
        """Metrics of every stage as a table (training_summary)."""
        data = data or self._collected()
        fill = partial(draw.training_summary, data=data, palette=self.palette)
        return self.draw("training_summary", (8.0, 1.4 + 0.28 * len(set(data.metrics))), fill, data.source, save)

    def _collected(self) -> StageMetrics:
        rows = [(s, name, value) for s in sorted(self._metrics) for name, value in self._metrics[s].items()]
        if not rows:
            raise FigureDataError("no metrics yet: call update_stage_metrics(stage, metrics) first")
        stage, metrics, values = zip(*rows, strict=True)
        return StageMetrics(stage=np.array(stage), metrics=metrics, values=np.array(values))


def _stage(name: int | str) -> int:
    """3 from 3, "3" or "stage3"."""
    text = str(name).removeprefix("stage").strip("_ ")
    if not text.isdigit():
        raise FigureDataError(f"{name!r} is no stage; write 3 or 'stage3'")
    return int(text)


def _benchmarks(
    scores: Mapping[str, Mapping[str, float]], scales: Mapping[str, tuple[float, float]]
) -> BenchmarkProgression:
    rows = {name: {_stage(stage): score for stage, score in row.items()} for name, row in scores.items()}
    stages = sorted({stage for row in rows.values() for stage in row})
    ends = [scales.get(name, PERCENT) for name in rows]
    return BenchmarkProgression(
        benchmarks=tuple(rows),
        stages=np.array(stages),
        scores=np.array([[row.get(stage, np.nan) for stage in stages] for row in rows.values()]),
        lowest=np.array([low for low, _ in ends]),
        highest=np.array([high for _, high in ends]),
    )


def _models(rows: Sequence[Mapping[str, Any]], benchmark: str) -> EfficiencyPareto:
    return EfficiencyPareto(
        models=tuple(row["name"] for row in rows),
        parameters=np.array([row["parameters"] for row in rows]),
        accuracy=np.array([row["accuracy"] for row in rows]),
        memory_mb=np.array([row.get("memory_mb", np.nan) for row in rows]),
        deployability=np.array([row.get("deployability", np.nan) for row in rows]),
        ours=np.array([bool(row.get("ours")) for row in rows]),
        origins=tuple(row.get("origin", "") for row in rows),
        benchmark=benchmark,
    )


def _cited(data: EfficiencyPareto | EdgePareto) -> str:
    return "\n".join(line for line in (data.source, pareto.citations(data)) if line)
