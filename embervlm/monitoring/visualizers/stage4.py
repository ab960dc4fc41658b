"""Stage 4, reasoning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from embervlm.monitoring.canvas import Canvas, Drawn
from embervlm.monitoring.data import (
    AttentionFlow,
    AttentionMaps,
    ChainAgainstDirect,
    FigureDataError,
    PhaseComparison,
    ReasoningConsistency,
    ReasoningDashboard,
    StepImportance,
)
from embervlm.monitoring.drawing import examples, sankey
from embervlm.monitoring.drawing import stage4 as draw
from embervlm.monitoring.visualizers.inputs import checked, step_name

History = Mapping[str, Sequence[float]]


class Stage4Visualizer(Canvas):
    """Figures of reasoning. Every method returns the figure and its picture; `save` writes the files."""

    def plot_phase_bars(self, data: PhaseComparison, save: bool = True) -> Drawn:
        """Phase 1 beside phase 2 (phase_comparison_bars)."""
        fill = partial(draw.phase_comparison, data=data, palette=self.palette)
        return self.draw(data.name, (max(7.0, 1.9 * len(data.metrics) + 1.2), 4.6), fill, data.source, save)

    def plot_step_importance(self, data: StepImportance, save: bool = True) -> Drawn:
        """Contribution of each reasoning step over training (reasoning_step_importance_3d)."""
        fill = partial(draw.step_importance, data=data, palette=self.palette)
        return self.draw(data.name, (8.4, 6.2), fill, data.source, save)

    def plot_cot_vs_direct(self, data: ChainAgainstDirect, save: bool = True) -> Drawn:
        """Accuracy with and without the chain, per robot (cot_vs_direct_accuracy)."""
        fill = partial(draw.chain_against_direct, data=data, palette=self.palette)
        return self.draw(data.name, (9.0, 4.6), fill, data.source, save)

    def plot_attention_flow(self, data: AttentionFlow, save: bool = True) -> Drawn:
        """Sankey diagram from visual tokens to the selection (attention_flow_sankey)."""
        fill = partial(sankey.attention_flow, data=data, palette=self.palette)
        return self.draw(data.name, (10.0, 6.0), fill, data.source, save)

    def plot_reasoning_consistency(self, data: ReasoningConsistency, save: bool = True) -> Drawn:
        """Consistency by task category and place of the mention (reasoning_consistency_heatmap)."""
        fill = partial(draw.reasoning_consistency, data=data, palette=self.palette)
        return self.draw(data.name, (6.4, 2.2 + 0.6 * len(data.tasks)), fill, data.source, save)

    def plot_reasoning_dashboard(self, data: ReasoningDashboard, save: bool = True) -> Drawn:
        """Four panels on the chains' quality (reasoning_quality_dashboard)."""
        fill = partial(draw.dashboard, data=data, palette=self.palette)
        return self.draw(data.name, (9.6, 7.0), fill, data.source, save)

    # ------------------------------------------------------- single moments

    def plot_reasoning_quality_metrics(
        self,
        coherence_scores: Any,
        consistency_scores: Any,
        step_counts: Any,
        step: int,
        source: str = "",
        save: bool = True,
    ) -> Drawn:
        """The dashboard of one step (reasoning_quality/step_…); (R,) values each."""
        data = ReasoningDashboard(
            coherence=coherence_scores,
            consistency=consistency_scores,
            step_counts=step_counts,
            step=step,
            source=source,
        )
        fill = partial(draw.dashboard, data=data, palette=self.palette)
        return self.draw(f"reasoning_quality/{step_name(step)}", (9.6, 7.0), fill, source, save, vector=False)

    def plot_attention_maps(self, data: AttentionMaps, save: bool = True) -> Drawn:
        """Where each reasoning step and robot looks in a picture (attention_maps/step_…)."""
        fill = partial(draw.attention_maps, data=data, palette=self.palette)
        rows = -(-(len(data.queries) + 1) // 5)
        name = f"attention_maps/{step_name(data.step)}"
        return self.draw(name, (9.6, 2.1 * rows + 0.6), fill, data.source, save, vector=False)

    def plot_consistency_step(self, data: ReasoningConsistency, save: bool = True) -> Drawn:
        """Consistency of one step as bars (consistency_plots/step_…)."""
        fill = partial(draw.consistency_bars, data=data, palette=self.palette)
        return self.draw(f"consistency_plots/{step_name(data.step)}", (8.4, 4.2), fill, data.source, save, vector=False)

    def plot_phase_comparison(
        self, phase1_history: History, phase2_history: History, step: int, save: bool = True
    ) -> Drawn:
        """Validation metrics of both phases one after the other (phase_comparison/step_…).

        Args:
            phase1_history, phase2_history: {metric: its values, one per evaluation}.
            step: training step.

        Raises:
            FigureDataError: neither has a value.
        """
        first, second = ({k: list(v) for k, v in h.items()} for h in (phase1_history, phase2_history))
        if not any([*first.values(), *second.values()]):
            raise FigureDataError("phase1_history, phase2_history: no values in either")
        metrics = len({*first, *second})
        fill = partial(draw.phase_histories, first=first, second=second, step=step, palette=self.palette)
        size = (3.4 * min(3, metrics) + 0.4, 3.0 * -(-metrics // 3) + 0.5)
        return self.draw(f"phase_comparison/{step_name(step)}", size, fill, "", save, vector=False)

    def plot_cot_examples(
        self,
        tasks: Sequence[str],
        without_cot: Sequence[str],
        with_cot: Sequence[str],
        step: int,
        n_examples: int = 4,
        save: bool = True,
    ) -> Drawn:
        """The same tasks answered directly and with a chain (cot_examples/step_…)."""
        checked("tasks, without_cot and with_cot", len(tasks), len(without_cot), len(with_cot))
        entries = [
            examples.Card(
                task, [f"directly: {direct}", f"with chain: {chain}"], "same" if direct == chain else "differs", None
            )
            for task, direct, chain in zip(tasks, without_cot, with_cot, strict=True)
        ][:n_examples]
        fill = partial(examples.cards, entries=entries, title=f"Answers without and with a chain, step {step:,}")
        size = examples.size_of(entries)
        return self.draw(f"cot_examples/{step_name(step)}", size, fill, "", save, vector=False)
