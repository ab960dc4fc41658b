"""What crosses stages: dynamics, benchmarks, emissions, size and speed of the model that the run made, ablations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from embervlm.data.schema import Record
from embervlm.evaluation import captions as t
from embervlm.evaluation.asking import Asker, request, subset
from embervlm.monitoring import data as d
from embervlm.monitoring.measuring import stage2
from embervlm.monitoring.measuring.moments import StageRun
from embervlm.monitoring.measuring.stage1 import distinct
from embervlm.monitoring.measuring.stage4 import latencies

if TYPE_CHECKING:
    from embervlm.models.modeling import EmberVLM

PAIRS = 64
SUITE = 96
RACED = 128
TIMED = 7
TITLES = {1: "alignment", 2: "instruction", 3: "robot selection", 4: "reasoning"}
#: What the edge runtime of this model may take, MB.
BUDGET_MB = 85.0


def measure_across(
    store: d.FigureStore, runs: Sequence[StageRun], gains: Mapping[int, Mapping[str, Any]], machine: str
) -> None:
    """Write the data of the figures across stages, for the stages that the run has.

    Args:
        store: of the run.
        runs: its stages in order.
        gains: what `measure_stage` found of each.
        machine: what the latencies are measured on, in words.
    """
    # Ablations are trainings of their own, which write their data themselves.
    store.clear("cross", keep=(d.Ablation,))
    if not store.stems(d.Ablation):
        store.note(d.Ablation, "no ablation was trained (figures.ablation_steps, or jobs/ablate.py)")
    stages = {run.number: run for run in runs}
    stage2.lengths(store, stages)
    dynamics(store, runs)
    benchmarks(store, runs)
    carbon(store, runs, gains)
    pareto(store, stages, machine)


def dynamics(store: d.FigureStore, runs: Sequence[StageRun]) -> None:
    """Loss of every step, the stage's validation metric at every evaluation."""
    with_metric = [run for run in runs if len(run.evaluations()[0])]
    if not with_metric:
        return store.note(d.TrainingDynamics, "no stage has a history with evaluations")
    found = [(run, *run.evaluations()) for run in with_metric]
    store.write(
        d.TrainingDynamics(
            stages=np.array([run.number for run in with_metric]),
            titles=tuple(TITLES[run.number] for run in with_metric),
            steps=tuple(np.asarray(run.history["step"]).astype(int) for run in with_metric),
            loss=tuple(np.asarray(run.history["loss"], float) for run in with_metric),
            evaluations=tuple(when for _, when, _ in found),
            accuracy=tuple(metrics[run.definition.metric] for run, _, metrics in found),
            samples=np.array([len(run.validation) for run in with_metric]),
            metrics=tuple(run.definition.metric.replace("_", " ") for run in with_metric),
            transitions=tuple(np.array(list(run.phase_ends) or [-1]) for run in with_metric),
            source="histories of the run; the metric is the one that chooses each stage's best, validation split",
        )
    )
    return None


# -------------------------------------------------------------------- benchmarks


def benchmarks(store: d.FigureStore, runs: Sequence[StageRun]) -> None:
    """Every stage's product on the test records of all stages."""
    suites = [_SUITES[min(run.number, 3)](run) for run in runs]
    highest = {name: top for named, _ in suites for name, top in named.items()}
    columns = []
    for run in runs:
        model, _ = run.opened(run.product)
        columns.append([value for _, scored in suites for value in scored(model)])
    store.write(
        d.BenchmarkProgression(
            benchmarks=tuple(highest),
            stages=np.array([run.number for run in runs]),
            scores=np.array(columns).T,
            lowest=np.zeros(len(highest)),
            highest=np.array(list(highest.values())),
            source=f"at most {SUITE} test records per suite, the same for every stage's product; a suite before its "
            "stage is what an untrained head gives",
        )
    )


#: Name → best value that there can be, and the values of a model in the same order.
Suite = tuple[dict[str, float], Callable[["EmberVLM"], list[float]]]


def _seeing(run: StageRun) -> Suite:
    from embervlm.data.prompts import CAPTION_PROMPT

    pairs = distinct(run.test)[:PAIRS]
    asked = [{"image": r.image, "prompt": r.instruction or CAPTION_PROMPT} for r in pairs]

    def scored(model: EmberVLM) -> list[float]:
        cosine = model.encode_images([r.image for r in pairs]) @ model.encode_texts([r.response for r in pairs]).T
        found = 100 * float((cosine.argmax(axis=1) == np.arange(len(pairs))).mean())
        told = model.generate_texts(asked)
        return [found, t.cider_d(told, [r.tags.get("captions") or [r.response] for r in pairs])]

    return {f"Retrieval, 1 of {len(pairs)} (%)": 100.0, "Captions (CIDEr-D)": 10.0}, scored


def _asking(run: StageRun) -> Suite:
    asked = run.test[:SUITE]

    def scored(model: EmberVLM) -> list[float]:
        answers = model.generate_texts([{"image": r.image, "prompt": r.instruction} for r in asked], max_new_tokens=24)
        return [100 * float(t.answer_hits(answers, [r.response for r in asked]).mean())]

    return {"Questions, exact (%)": 100.0}, scored


def _choosing(run: StageRun) -> Suite:
    asked = subset(run.test, SUITE)
    name = "Robot selection" if run.number == 3 else "Tasks of stage 4"

    def scored(model: EmberVLM) -> list[float]:
        answers = Asker(model).select([request(r) for r in asked])
        first = np.mean([a["robots"][0]["robot"] in r.labels for a, r in zip(answers, asked, strict=True)])
        team = np.mean([set(a["team"]) == set(r.labels) for a, r in zip(answers, asked, strict=True)])
        return [100 * float(first), 100 * float(team)]

    return {f"{name}, first choice (%)": 100.0, f"{name}, exact team (%)": 100.0}, scored


_SUITES: dict[int, Callable[[StageRun], Suite]] = {1: _seeing, 2: _asking, 3: _choosing}


# --------------------------------------------------------------------- emissions


def carbon(store: d.FigureStore, runs: Sequence[StageRun], gains: Mapping[int, Mapping[str, Any]]) -> None:
    """Measured emissions per stage and part, and the points of its own metric that the stage gained."""
    rows = [(g, row) for g, run in enumerate(runs) for row in run.emissions]
    if not rows or not sum(row["grams"] for _, row in rows):
        return store.note(d.CarbonFootprint, "no energy was measured while the run trained")
    totals: dict[tuple[int, str], list[float]] = {}
    for g, row in rows:
        total = totals.setdefault((g, row["part"]), [0.0, 0.0])
        total[0] += row["grams"]
        total[1] += row["kwh"]
    gain = [
        100 * (gains[run.number]["after"] - gains[run.number]["before"]) if run.number in gains else np.nan
        for run in runs
    ]
    metrics = "; ".join(f"stage {run.number}: {run.definition.metric.replace('_', ' ')}" for run in runs)
    store.write(
        d.CarbonFootprint(
            stages=np.array([run.number for run in runs]),
            gain=np.array(gain),
            parts=tuple(part for _, part in totals),
            stage=np.array([g for g, _ in totals]),
            grams=np.array([grams for grams, _ in totals.values()]),
            kwh=np.array([kwh for _, kwh in totals.values()]),
            accounting="; ".join(sorted({str(row["accounting"]) for _, row in rows})),
            source=f"points gained on validation by each stage's own metric ({metrics})",
        )
    )
    return None


# ------------------------------------------------------------------ size and speed


def pareto(store: d.FigureStore, stages: Mapping[int, StageRun], machine: str) -> None:
    """The run's selecting model in several ways of running it, on the same test records."""
    run = stages.get(4) or stages.get(3)
    if run is None:
        for kind in (d.EfficiencyPareto, d.EdgePareto):
            store.note(kind, "the run has no stage that selects robots")
        return
    model, _ = run.opened(run.product)
    asked = subset(run.test, RACED)
    known = _answered(run)
    size = _sizes(model)
    benchmark = f"EmberWorld, first choice, {len(asked)} test tasks"
    ways: list[tuple[str, dict[str, Any], bool, bool]] = [
        ("direct, fp32", {}, False, False),
        ("no picture, fp32", {"image": None}, False, False),
        ("direct, bf16", {}, False, True),
    ]
    if run.number == 4:
        ways.append(("with chain, fp32", {}, True, False))
    rows = []
    for name, changes, chain, half in ways:
        requests = [request(r, **changes) for r in asked]
        with torch.autocast(model.device.type, torch.bfloat16, enabled=half):
            firsts = known[name] if name in known else _firsts(model, asked, requests, chain)
            wait = float(np.median(latencies(model, requests[:TIMED], chain)))
        right = [firsts[r.id] in r.labels for r in asked]
        used = size["all"] - (0 if chain else size["reasoning"]) - (size["seeing"] if "image" in changes else 0)
        rows.append((name, used, 100 * float(np.mean(right)), used * 4 / 1e6, wait))
    names, parameters, accuracy, memory, pace = (np.array(column) for column in zip(*rows, strict=True))
    titles = tuple(f"EmberVLM, {name}" for name in names)
    origins = ("measured by this run",) * len(names)
    single = np.array([not name.endswith("bf16") for name in names])
    note = (
        "published scores of other models are on other benchmarks, so none stands here; memory: the weights used, fp32"
    )
    store.write(
        d.EfficiencyPareto(
            models=tuple(np.array(titles)[single]),
            parameters=parameters[single],
            accuracy=accuracy[single],
            memory_mb=memory[single],
            deployability=(1 - memory[single] / BUDGET_MB).clip(0, 1),
            ours=np.ones(int(single.sum()), bool),
            origins=origins[: int(single.sum())],
            benchmark=benchmark,
            deployability_means=f"share of a budget of {BUDGET_MB:.0f} MB that stays free",
            source=note,
        )
    )
    store.write(
        d.EdgePareto(
            models=titles,
            latency_ms=pace,
            accuracy=accuracy,
            memory_mb=memory,
            power_w=np.full(len(names), np.nan),
            ours=np.ones(len(names), bool),
            origins=origins,
            benchmark=benchmark,
            device=machine,
            source=f"{note}; latency: median of {TIMED} single requests, the fleet's texts read before",
        )
    )


def _firsts(model: EmberVLM, asked: Sequence[Record], requests: list[dict[str, Any]], chain: bool) -> dict[str, str]:
    """Record id → the robot that the model answers first."""
    answers = Asker(model).select(requests, reasoning=chain)
    return {r.id: str(a["robots"][0]["robot"]) for r, a in zip(asked, answers, strict=True)}


def _answered(run: StageRun) -> dict[str, dict[str, str]]:
    """Way of running the product → record id → first choice, as far as its evaluation on the test split asked it."""
    direct = "first_without_reasoning" if run.number == 4 else "first"
    ways = {"direct, fp32": direct} | ({"with chain, fp32": "first"} if run.number == 4 else {})
    asked = {r.id for r in run.test}
    found = {way: {i: str(row[key]) for i, row in run.predicted(key).items()} for way, key in ways.items()}
    return {way: firsts for way, firsts in found.items() if asked <= firsts.keys()}


def _sizes(model: EmberVLM) -> dict[str, int]:
    """Parameters in all, of the parts that only see, and of those that only reason."""

    def count(*parts: nn.Module) -> int:
        return sum(p.numel() for part in parts for p in part.parameters())

    return {
        "all": count(model),
        "seeing": count(model.vision, model.fusion, model.image_pool),
        "reasoning": count(model.reasoning),
    }
