"""Stage 3, robot selection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from embervlm.evaluation.calibration import BINS
from embervlm.monitoring.canvas import Canvas, Drawn
from embervlm.monitoring.data import (
    Calibration,
    ConfusionEvolution,
    LayerAccuracy,
    LayerBudget,
    ReasoningQuality,
    RobotPerformance,
    RobotRadar,
    TaskRobot,
    TrainingCurves,
)
from embervlm.monitoring.drawing import examples, radar
from embervlm.monitoring.drawing import stage3 as draw
from embervlm.monitoring.visualizers.inputs import checked, places, step_name


class Stage3Visualizer(Canvas):
    """Figures of robot selection. Every method returns the figure and its picture; `save` writes the files."""

    def plot_layer_accuracy(self, data: LayerAccuracy, save: bool = True) -> Drawn:
        """Accuracy by layer and step, a surface per robot (layer_accuracy_3d_surface)."""
        fill = partial(draw.layer_accuracy, data=data, palette=self.palette)
        size = (11.0, 3.5 * -(-(len(data.robots) + 1) // 3) + 0.5)
        return self.draw(data.name, size, fill, data.source, save)

    def plot_robot_performance(self, data: RobotPerformance, save: bool = True) -> Drawn:
        """Accuracy per robot over checkpoints (robot_performance_lines)."""
        fill = partial(draw.robot_performance, data=data, palette=self.palette)
        return self.draw(data.name, (8.4, 4.6), fill, data.source, save)

    def plot_layer_budget(self, data: LayerBudget, save: bool = True) -> Drawn:
        """Importance and rank of attention, FFN and adapter parts (layer_budget_ranks)."""
        size = (max(8.0, 0.55 * len(data.parts) + 3.0), 4.4)
        return self.draw(
            data.name, size, partial(draw.layer_budget, data=data, palette=self.palette), data.source, save
        )

    def plot_confusion_evolution(self, data: ConfusionEvolution, save: bool = True) -> Drawn:
        """Confusion matrices over training, as panels and as animation (confusion_evolution)."""
        panels = min(6, len(data.steps))
        columns = draw.panel_columns(panels)
        size = (3.5 * columns + 1.2, 3.1 * -(-panels // columns) + 0.8)
        fill = partial(draw.confusion_evolution, data=data, palette=self.palette)
        caption = self._truth(data)
        drawn = self.draw(data.name, size, fill, caption, save)
        if save:
            frames = [
                partial(draw.confusion_single, data=data, s=s, palette=self.palette) for s in range(len(data.steps))
            ]
            self.animate(data.name, (6.2, 5.2), frames, caption)
        return drawn

    def plot_confusion_step(self, data: ConfusionEvolution, place: int, save: bool = True) -> Drawn:
        """One step's matrix out of a series (confusion_matrices/step_…)."""
        fill = partial(draw.confusion_single, data=data, s=place, palette=self.palette)
        name = f"confusion_matrices/{step_name(int(data.steps[place]))}"
        return self.draw(name, (6.2, 5.2), fill, self._truth(data), save, vector=False)

    def plot_calibration(self, data: Calibration, n_bins: int = BINS, save: bool = True) -> Drawn:
        """Reliability diagram with ECE (confidence_calibration)."""
        fill = partial(draw.calibration, data=data, palette=self.palette, bins=n_bins)
        return self.draw(data.name, (6.4, 6.2), fill, data.source, save)

    def plot_robot_radar(self, data: RobotRadar, save: bool = True) -> Drawn:
        """Precision, recall, F1, confidence and support per robot (robot_radar_chart)."""
        fill = partial(radar.robot_radar, data=data, palette=self.palette)
        return self.draw(data.name, (7.6, 5.4), fill, data.source, save)

    def plot_task_robot(self, data: TaskRobot, save: bool = True) -> Drawn:
        """Accuracy by task type and robot (task_robot_heatmap)."""
        size = (2.8 + 1.05 * len(data.tasks), 2.0 + 0.62 * len(data.robots))
        return self.draw(data.name, size, partial(draw.task_robot, data=data, palette=self.palette), data.source, save)

    def plot_reasoning_quality(self, data: ReasoningQuality, save: bool = True) -> Drawn:
        """Step count, coherence against accuracy, keyword extraction (reasoning_quality)."""
        fill = partial(draw.reasoning_quality, data=data, palette=self.palette)
        return self.draw(data.name, (12.0, 4.4), fill, data.source, save)

    def plot_training_curves(self, data: TrainingCurves, until: int | None = None, save: bool = True) -> Drawn:
        """Losses and validation metrics up to a step, the last one where None (training_curves/step_…)."""
        last = max(int(data.steps[-1]), int(data.evaluations[-1])) if until is None else until
        fill = partial(draw.training_curves, data=data, until=last, palette=self.palette)
        name = f"training_curves/{step_name(last)}"
        return self.draw(name, (9.6, 3.9), fill, data.source, save, vector=False)

    # ------------------------------------------------------- single moments

    def plot_robot_confusion_matrix(
        self,
        predictions: Sequence[Any],
        ground_truth: Sequence[Any],
        robot_names: Sequence[str],
        step: int,
        save: bool = True,
    ) -> Drawn:
        """Which robot was chosen for which (confusion_matrices/step_…).

        Args:
            predictions, ground_truth: (R,) places in `robot_names`, or the names.
            robot_names: of rows and columns, in order.
            step: training step.
        """
        checked("predictions and ground_truth", len(predictions), len(ground_truth))
        chosen = places("predictions", predictions, robot_names)
        due = places("ground_truth", ground_truth, robot_names)
        counts = np.zeros((1, len(robot_names), len(robot_names)), int)
        np.add.at(counts[0], (due, chosen), 1)
        return self.plot_confusion_step(
            ConfusionEvolution(steps=np.array([step]), robots=tuple(robot_names), counts=counts), 0, save
        )

    def plot_per_robot_radar(
        self, metrics: Mapping[str, Mapping[str, float]] | RobotRadar, step: int, save: bool = True
    ) -> Drawn:
        """Radar of one step (radar_charts/step_…).

        Args:
            metrics: {robot: {"precision": …, "recall": …, "f1": …, "confidence": …, "support": …}}; what was not
                measured may be absent, support may not.
            step: training step.

        Raises:
            KeyError: a robot without support.
        """
        if isinstance(metrics, RobotRadar):
            data = metrics
        else:
            precision, recall, f1, confidence = (
                np.array([row.get(key, np.nan) for row in metrics.values()])
                for key in ("precision", "recall", "f1", "confidence")
            )
            support = np.array([row["support"] for row in metrics.values()])
            data = RobotRadar(tuple(metrics), precision, recall, f1, confidence, support, step)
        fill = partial(radar.robot_radar, data=data, palette=self.palette)
        return self.draw(f"radar_charts/{step_name(step)}", (7.6, 5.4), fill, data.source, save, vector=False)

    def plot_confidence_calibration(
        self, confidences: Any, correct: Any, step: int, n_bins: int = BINS, source: str = "", save: bool = True
    ) -> Drawn:
        """Reliability diagram of one step (calibration_plots/step_…); (R,) confidences 0 to 1, (R,) outcomes."""
        data = Calibration(confidence=confidences, correct=correct, step=step, source=source)
        fill = partial(draw.calibration, data=data, palette=self.palette, bins=n_bins)
        return self.draw(f"calibration_plots/{step_name(step)}", (6.4, 6.2), fill, source, save, vector=False)

    def plot_reasoning_examples(
        self,
        tasks: Sequence[str],
        reasoning_chains: Sequence[Sequence[str] | str],
        predictions: Sequence[str],
        ground_truth: Sequence[str],
        correct: Sequence[bool],
        step: int,
        n_examples: int = 4,
        save: bool = True,
    ) -> Drawn:
        """Tasks with the chain that was written and the choice (reasoning_examples/step_…)."""
        sizes = [len(column) for column in (tasks, reasoning_chains, predictions, ground_truth, correct)]
        checked("tasks, chains, predictions, ground_truth and correct", *sizes)
        cards = [
            examples.Card(
                task,
                [chain] if isinstance(chain, str) else list(chain),
                f"chosen: {chosen} · can do it: {due}",
                bool(right),
            )
            for task, chain, chosen, due, right in zip(
                tasks, reasoning_chains, predictions, ground_truth, correct, strict=True
            )
        ][:n_examples]
        fill = partial(examples.cards, entries=cards, title=f"Reasoning examples, step {step:,}")
        size = examples.size_of(cards)
        return self.draw(f"reasoning_examples/{step_name(step)}", size, fill, "", save, vector=False)

    @staticmethod
    def _truth(data: ConfusionEvolution) -> str:
        return "\n".join(line for line in (f"Rows: {data.truth}" if data.truth else "", data.source) if line)
