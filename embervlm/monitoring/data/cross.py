"""What the six figures across stages are drawn from.

Shape legend: G stages, P models (ours and peers), B benchmarks, I parts of the emissions, C components, R repetitions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from embervlm.monitoring.data.base import FREE, Array, Arrays, FigureData, Names, array, arrays, names, text


class _Cross(FigureData):
    home: ClassVar[str] = "cross"


@dataclass(frozen=True, eq=False)
class TrainingDynamics(_Cross):
    """Loss and accuracy of every stage.

    Attributes:
        stages: (G,) stage numbers in the order of training.
        titles: (G,) names for the panels.
        steps, loss: G arrays (steps_g,): every optimizer step and its loss.
        evaluations, accuracy: G arrays (evaluations_g,): steps of the evaluations and the validation metric, 0 to 1.
        samples: (G,) records that the metric is measured on (its uncertainty follows from them).
        metrics: (G,) the metric's name.
        transitions: G arrays: steps at which another phase began; with the single value -1 where there is none.
    """

    name: ClassVar[str] = "training_dynamics_all_stages"

    stages: Array = array("G", dtype="int", low=0, increasing=True)
    titles: Names = names("G")
    steps: Arrays = arrays("G", FREE, dtype="int", low=0)
    loss: Arrays = arrays("G", FREE)
    evaluations: Arrays = arrays("G", FREE, dtype="int", low=0)
    accuracy: Arrays = arrays("G", FREE, low=0, high=1)
    samples: Array = array("G", dtype="int", low=1)
    metrics: Names = names("G", blank=True)
    transitions: Arrays = arrays("G", FREE, dtype="int", low=-1)

    def check(self) -> None:
        for i in range(len(self.stages)):
            for x, y in (("steps", "loss"), ("evaluations", "accuracy")):
                places, values = getattr(self, x)[i], getattr(self, y)[i]
                if places.shape != values.shape or (np.diff(places) <= 0).any():
                    self.fail(f"{x}[{i}]", f"must rise strictly and match {y} ({places.shape}, {values.shape})")


def _check_models(data: EfficiencyPareto | EdgePareto) -> None:
    if not data.ours.any():
        data.fail("ours", "no model is ours")
    for name, own, origin in zip(data.models, data.ours, data.origins, strict=True):
        if not origin.strip():
            kind = "how it was measured" if own else "a citation; a peer without one is not drawn"
            data.fail("origins", f"{name!r} needs {kind}")


@dataclass(frozen=True, eq=False)
class EfficiencyPareto(_Cross):
    """Size against accuracy.

    Attributes:
        models: (P,) names.
        parameters: (P,) count.
        accuracy: (P,) 0 to 100, on the same benchmark.
        memory_mb: (P,) memory to run it, MB; NaN where unknown.
        deployability: (P,) 0 to 1, see `deployability_means`; NaN where unknown.
        ours: (P,) whether it is a model of this run.
        origins: (P,) how ours was measured, and the citation of every peer.
        benchmark: what accuracy is measured on, for the axis.
        deployability_means: what deployability is, for the colour bar.
    """

    name: ClassVar[str] = "parameter_efficiency_pareto"

    models: Names = names("P")
    parameters: Array = array("P", low=1)
    accuracy: Array = array("P", low=0, high=100)
    memory_mb: Array = array("P", low=0, missing=True)
    deployability: Array = array("P", low=0, high=1, missing=True)
    ours: Array = array("P", dtype="bool")
    origins: Names = names("P", blank=True)
    benchmark: str = text()
    deployability_means: str = text("edge deployability")

    def check(self) -> None:
        _check_models(self)


@dataclass(frozen=True, eq=False)
class BenchmarkProgression(_Cross):
    """Benchmark scores after each stage.

    Attributes:
        benchmarks: (B,) names.
        stages: (G,) stage numbers.
        scores: (B, G) raw scores; NaN where not measured.
        lowest, highest: (B,) ends of each benchmark's scale; colour is (score - lowest) / (highest - lowest).
    """

    name: ClassVar[str] = "benchmark_progression_heatmap"

    benchmarks: Names = names("B")
    stages: Array = array("G", dtype="int", low=0, increasing=True)
    scores: Array = array("B", "G", missing=True)
    lowest: Array = array("B")
    highest: Array = array("B")

    def check(self) -> None:
        for name, low, high, row in zip(self.benchmarks, self.lowest, self.highest, self.scores, strict=True):
            known = row[~np.isnan(row)]
            if not low < high or (known.size and (known.min() < low or known.max() > high)):
                self.fail("scores", f"{name!r}: {known.tolist()} is not within its scale {low:g} to {high:g}")


@dataclass(frozen=True, eq=False)
class CarbonFootprint(_Cross):
    """Emissions of every stage and what they are made of.

    Attributes:
        stages: (G,) stage numbers.
        gain: (G,) points of accuracy that the stage gained; NaN where that is not measured.
        parts: (I,) what was done ("training", "evaluation", a phase's name).
        stage: (I,) the stage it was done for, a place in `stages`.
        grams: (I,) CO2-equivalent, g.
        kwh: (I,) energy, kWh.
        accounting: how it was measured, with the country ("codecarbon, offline, DEU").
    """

    name: ClassVar[str] = "carbon_footprint_treemap"

    stages: Array = array("G", dtype="int", low=0, increasing=True)
    gain: Array = array("G", missing=True)
    parts: Names = names("I", blank=True)
    stage: Array = array("I", dtype="int", below="G")
    grams: Array = array("I", low=0)
    kwh: Array = array("I", low=0)
    accounting: str = text()

    def check(self) -> None:
        if not self.grams.sum() > 0:
            self.fail("grams", "no emission at all was measured")


@dataclass(frozen=True, eq=False)
class Ablation(_Cross):
    """What is lost when a component is left out, each a training of its own.

    Attributes:
        components: (C,) names: Pretrained LLM, Fusion Adapter, QK Norm, Reasoning Module, RepViT.
        scores: (C, R) score of each repetition without the component; NaN where there were fewer repetitions.
        baseline: (R,) score of each repetition of the whole model; NaN likewise.
        metric: what the score is, for the axis.
        replaced: (C,) what stood in the component's place, "" where nothing did.
    """

    name: ClassVar[str] = "ablation_tornado"

    components: Names = names("C")
    scores: Array = array("C", "R", missing=True)
    baseline: Array = array("R", missing=True)
    metric: str = text()
    replaced: Names = names("C", blank=True)

    def check(self) -> None:
        if np.isnan(self.baseline).all():
            self.fail("baseline", "was not measured")
        if (bare := np.isnan(self.scores).all(1)).any():
            self.fail("scores", f"{self.components[int(bare.argmax())]!r} was not measured; leave it out")


@dataclass(frozen=True, eq=False)
class EdgePareto(_Cross):
    """Latency on the device against accuracy.

    Attributes:
        models: (P,) names (ours in several precisions, and peers).
        latency_ms: (P,) median latency of one request, ms.
        accuracy: (P,) 0 to 100, on the same benchmark.
        memory_mb: (P,) MB; NaN where unknown.
        power_w: (P,) mean power draw, W; NaN where unknown.
        ours: (P,) whether it is a model of this run.
        origins: (P,) how ours was measured, and the citation of every peer.
        benchmark, device: what and where, for the axes.
    """

    name: ClassVar[str] = "edge_deployment_pareto"

    models: Names = names("P")
    latency_ms: Array = array("P", low=0)
    accuracy: Array = array("P", low=0, high=100)
    memory_mb: Array = array("P", low=0, missing=True)
    power_w: Array = array("P", low=0, missing=True)
    ours: Array = array("P", dtype="bool")
    origins: Names = names("P", blank=True)
    benchmark: str = text()
    device: str = text()

    def check(self) -> None:
        _check_models(self)


@dataclass(frozen=True, eq=False)
class StageMetrics(_Cross):
    """Final metrics of the stages, as `update_stage_metrics` collects them.

    Attributes:
        stage: (M,) stage number of each value.
        metrics: (M,) its name.
        values: (M,) the value.
        split: where it was measured.
    """

    name: ClassVar[str] = "training_summary"

    stage: Array = array("M", dtype="int", low=0)
    metrics: Names = names("M", blank=True)
    values: Array = array("M")
    split: str = text("")
