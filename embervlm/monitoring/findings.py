"""One sentence on what a figure's data shows, computed from it and from nothing else."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import numpy as np

from embervlm.evaluation.calibration import expected_calibration_error
from embervlm.monitoring import data as d
from embervlm.monitoring import statistics as st
from embervlm.monitoring.drawing.parts import number
from embervlm.monitoring.style import short


@singledispatch
def finding(data: d.FigureData) -> str:
    """What the data shows.

    Raises:
        TypeError: there is no sentence for this kind of data.
    """
    raise TypeError(f"no sentence for {type(data).__name__}")


def _best(values: Any) -> int:
    return int(np.nanargmax(values))


def _worst(values: Any) -> int:
    return int(np.nanargmin(values))


# --------------------------------------------------------------------- stage 1


@finding.register
def _(data: d.SimilarityEvolution) -> str:
    mean, side = data.similarity.mean(1), round(data.similarity.shape[1] ** 0.5)
    token = _best(data.similarity[-1])
    return (
        f"Mean cosine went from {mean[0]:.3f} (step {data.steps[0]:,}) to {mean[-1]:.3f} (step {data.steps[-1]:,}); "
        f"closest to the text at the end is token {token + 1}, row {token // side + 1}, column {token % side + 1} "
        f"({data.similarity[-1, token]:.3f})."
    )


@finding.register
def _(data: d.EmbeddingEvolution) -> str:
    ends = [_pairs(data.image[i], data.text[i]) for i in (0, -1)]
    return (
        f"The cosine of pairs went from {ends[0][0]:.2f} to {ends[1][0]:.2f}; an image's nearest text is its own in "
        f"{ends[1][1]:.0%} of {data.image.shape[1]} pairs ({ends[0][1]:.0%} at first)."
    )


def _pairs(image: Any, text: Any) -> tuple[float, float]:
    from embervlm.monitoring.drawing.stage1 import pair_figures

    return pair_figures(image, text)


@finding.register
def _(data: d.RetrievalAccuracy) -> str:
    both = np.stack([data.image_to_text[:, 0], data.text_to_image[:, 0]])
    n = _best(np.nan_to_num(both, nan=-1).mean(0))
    rank = int(data.ranks[0])
    place = "the first" if rank == 1 else f"among the first {rank}"
    best = "Best on" if len(data.datasets) > 1 else "On"
    return (
        f"{best} {data.datasets[n]}: the right text is {place} for {both[0, n]:.1%} of the images, the "
        f"right image for {both[1, n]:.1%} of the texts (chance {rank / data.pool[n]:.1%})."
    )


@finding.register
def _(data: d.FeatureMaps) -> str:
    last = data.maps[-1]
    peak = float(np.mean(last.max((1, 2)) / np.maximum(last.mean((1, 2)), 1e-12)))
    return (
        f"In {data.layers[-1]} the strongest place answers {peak:.1f} times as strongly as the average place "
        f"(mean of {len(last)} pictures)."
    )


@finding.register
def _(data: d.LossLandscape) -> str:
    return (
        f"The loss went from {data.loss[0]:.3f} to {data.loss[-1]:.3f}: pairs from distance {data.positive[0]:.2f} to "
        f"{data.positive[-1]:.2f}, non-pairs from {data.negative[0]:.2f} to {data.negative[-1]:.2f}."
    )


# --------------------------------------------------------------------- stage 2


@finding.register
def _(data: d.InstructionComplexity) -> str:
    gain = data.with_vision - data.without_vision
    types = [
        gain[data.category == c].mean() if (data.category == c).any() else np.nan for c in range(len(data.categories))
    ]
    best = _best(types)
    return (
        f"With the picture {data.with_vision.mean():.1%}, without {data.without_vision.mean():.1%}; vision helps "
        "most in "
        f"'{data.categories[best]}' ({100 * types[best]:+.1f} points)."
    )


@finding.register
def _(data: d.TokenProbability) -> str:
    return (
        f"The true token gets {np.nanmean(data.truth):.2f} on average (median {np.nanmedian(data.truth):.2f}), "
        "the token "
        f"that the model writes itself {np.nanmean(data.generated):.2f}."
    )


@finding.register
def _(data: d.DistillationGap) -> str:
    return (
        f"The divergence from {data.teacher} went from {data.divergence[0]:.3f} to {data.divergence[-1]:.3f} nats "
        "per token, "
        f"the student's accuracy from {data.accuracy[0]:.1%} to {data.accuracy[-1]:.1%}."
    )


@finding.register
def _(data: d.ResponseLengths) -> str:
    parts = []
    for c, task in enumerate(data.tasks):
        rows = data.task == c
        if rows.any():
            parts.append(f"{task} {np.median(data.generated[rows]):g} against {np.median(data.target[rows]):g}")
    return f"Median {data.unit}, generated against reference: {', '.join(parts)}."


@finding.register
def _(data: d.PerplexityByPosition) -> str:
    first, last = (float(np.nanmedian(data.perplexity[i])) for i in (0, -1))
    hard = _best(data.perplexity[-1])
    return (
        f"The median went from {number(first)} to {number(last)}; hardest at the end is position {hard + 1} "
        f"({number(data.perplexity[-1, hard])})."
    )


# --------------------------------------------------------------------- stage 3


@finding.register
def _(data: d.LayerAccuracy) -> str:
    means = np.array([np.nan if np.isnan(v).all() else np.nanmean(v) for v in data.accuracy[-1].T])
    best = _best(means)
    return (
        f"At step {data.steps[-1]:,} robots are best read from layer {data.layers[best]} ({means[best]:.1%} on "
        "average); "
        f"layer {data.layers[0]} has {means[0]:.1%}."
    )


@finding.register
def _(data: d.RobotPerformance) -> str:
    last = st.share(data.correct[-1], data.total[-1])
    high, low = _best(last), _worst(last)
    if last[high] == last[low]:
        return f"At step {data.steps[-1]:,} all robots are alike: {last[high]:.1%}."
    return (
        f"At step {data.steps[-1]:,} {short(data.robots[high])} is best ({last[high]:.1%} of "
        f"{data.total[-1, high]}) and "
        f"{short(data.robots[low])} weakest ({last[low]:.1%} of {data.total[-1, low]})."
    )


@finding.register
def _(data: d.LayerBudget) -> str:
    mean = data.importance.mean(0)
    best = _best(mean)
    first = float((data.importance.argmax(1) == best).mean())
    return (
        f"Most important is {data.parts[best]} ({data.kinds[best]}): {mean[best]:.3g} on average, first in "
        f"{first:.0%} of "
        f"{len(data.importance)} mini-batches."
    )


@finding.register
def _(data: d.ConfusionEvolution) -> str:
    right = [np.trace(c) / max(1, c.sum()) for c in (data.counts[0], data.counts[-1])]
    off = data.counts[-1] * (1 - np.eye(len(data.robots), dtype=int))
    row, column = np.unravel_index(int(off.argmax()), off.shape)
    most = (
        f"most often {short(data.robots[column])} is chosen for {short(data.robots[row])} ({off[row, column]} times)"
        if off.any()
        else "no robot is taken for another"
    )
    return f"Right choices went from {right[0]:.1%} to {right[1]:.1%}; at the end {most}."


@finding.register
def _(data: d.Calibration) -> str:
    ece = expected_calibration_error(data.confidence, data.correct)
    low, high = st.ece_interval(data.confidence, data.correct)
    gap = float(data.confidence.mean() - data.correct.mean())
    lean = "too sure" if gap > 0 else "too cautious"
    return (
        f"ECE {ece:.3f} (95% {low:.3f} to {high:.3f}) over {len(data.confidence)} decisions; on average the model is "
        f"{lean} by {abs(gap):.3f}."
    )


@finding.register
def _(data: d.RobotRadar) -> str:
    if np.isnan(data.f1).all():
        return "No robot has an F1."
    high, low = _best(data.f1), _worst(data.f1)
    if data.f1[high] == data.f1[low]:
        return f"All robots have the same F1: {data.f1[high]:.3f}."
    ends = (f"{short(data.robots[n])} {data.f1[n]:.3f}" for n in (high, low))
    return "Highest F1: {}; lowest: {}.".format(*ends)


@finding.register
def _(data: d.TaskRobot) -> str:
    values = st.share(data.correct, data.total)
    robot, task = np.unravel_index(_worst(values), values.shape)
    overall = data.correct.sum() / max(1, data.total.sum())
    if np.nanmin(values) == np.nanmax(values):
        return f"{overall:.1%} of all decisions are right, for every robot and task type."
    return (
        f"{overall:.1%} of all decisions are right; weakest is {short(data.robots[robot])} for '{data.tasks[task]}' "
        f"({values[robot, task]:.0%} of {data.total[robot, task]})."
    )


@finding.register
def _(data: d.ReasoningQuality) -> str:
    r = st.correlation(data.coherence, data.correct)
    taken = data.keyword_correct.sum() / data.keyword_total.sum()
    return (
        f"{data.step_counts.mean():.2f} steps on average; coherence and right selection: {st.r_text(r)}; "
        f"{taken:.0%} of the "
        "facts are taken over rightly."
    )


# --------------------------------------------------------------------- stage 4


@finding.register
def _(data: d.PhaseComparison) -> str:
    parts = []
    for m, name in enumerate(data.metrics):
        first, second = data.values[:, m]
        if np.isnan(first) or np.isnan(second):
            parts.append(f"{name} was not measured in both phases")
            continue
        better = (second > first) == (data.better[m] == "higher")
        word = "same" if first == second else "better" if better else "worse"
        parts.append(f"{name} {first:.3g} → {second:.3g}{data.units[m] and ' ' + data.units[m]} ({word})")
    return f"From phase 1 to phase 2: {'; '.join(parts)}."


@finding.register
def _(data: d.StepImportance) -> str:
    last = data.importance[-1]
    high, low = _best(last), _worst(last)
    return (
        f"At step {data.steps[-1]:,} {data.reasoning[high]} matters most ({last[high]:.3f}), "
        f"{data.reasoning[low]} least "
        f"({last[low]:.3f})."
    )


@finding.register
def _(data: d.ChainAgainstDirect) -> str:
    gain = data.chain.astype(float) - data.direct
    low, high = st.mean_interval(gain)
    sure = "an interval that holds zero" if low <= 0 <= high else "an interval that excludes zero"
    return (
        f"{data.direct.mean():.1%} directly, {data.chain.mean():.1%} with the chain: {100 * gain.mean():+.1f} points "
        f"(95% {100 * low:+.1f} to {100 * high:+.1f}, {sure})."
    )


@finding.register
def _(data: d.AttentionFlow) -> str:
    place = int(data.strength.argmax())
    into = data.column[data.end] == 3
    direct = into & (data.column[data.start] < 2)
    part = data.strength[direct].sum() / data.strength[into].sum() if into.any() else float("nan")
    return (
        f"The strongest flow is {data.nodes[data.start[place]]} → {data.nodes[data.end[place]]} "
        f"({data.strength[place]:.3g}); {part:.0%} of what reaches the selection does not pass through the reasoning."
    )


@finding.register
def _(data: d.ReasoningConsistency) -> str:
    total = data.count.sum(0)
    means = [f"{np.nansum(data.score[:, c] * data.count[:, c]) / total[c]:.2f}" if total[c] else "–" for c in (0, 1)]
    return f"Mean consistency {means[0]} with early mention ({total[0]} chains), {means[1]} with late ({total[1]})."


@finding.register
def _(data: d.ReasoningDashboard) -> str:
    line = st.trend(data.step_counts, data.coherence)
    tail = f"coherence against steps: {line.equation()}" if line else "the step count does not vary"
    return (
        f"Mean coherence {data.coherence.mean():.3f}, consistency {data.consistency.mean():.3f}, "
        f"{data.step_counts.mean():.2f} steps; {tail}."
    )


# ---------------------------------------------------------------------- across


@finding.register
def _(data: d.TrainingDynamics) -> str:
    parts = [
        f"stage {stage} {metric or 'accuracy'} {accuracy[-1]:.1%}"
        for stage, metric, accuracy in zip(data.stages, data.metrics, data.accuracy, strict=True)
    ]
    return f"At the end of training: {', '.join(parts)} (validation)."


@finding.register(d.EfficiencyPareto)
@finding.register(d.EdgePareto)
def _(data: d.EfficiencyPareto | d.EdgePareto) -> str:
    cost = data.parameters if isinstance(data, d.EfficiencyPareto) else data.latency_ms
    front = set(st.pareto(cost, data.accuracy))
    ours = [i for i in range(len(data.models)) if data.ours[i]]
    on = [data.models[i] for i in ours if i in front]
    beaten = [data.models[i] for i in ours if i not in front]
    said = f"On the frontier: {', '.join(on) or 'none of ours'}"
    return said + (f"; beaten: {', '.join(beaten)}." if beaten else ".")


@finding.register
def _(data: d.BenchmarkProgression) -> str:
    parts = []
    for name, row in zip(data.benchmarks, data.scores, strict=True):
        known = np.flatnonzero(np.isfinite(row))
        if known.size:
            parts.append(f"{name} {row[known[0]]:.4g} → {row[known[-1]]:.4g}")
    return f"First to last measured stage: {', '.join(parts) or 'nothing was measured'}."


@finding.register
def _(data: d.CarbonFootprint) -> str:
    grams = np.bincount(data.stage, data.grams, len(data.stages))
    most = _best(grams)
    return (
        f"{grams.sum():.3g} g CO2eq and {1000 * data.kwh.sum():.3g} Wh in all; stage {data.stages[most]} made "
        f"{grams[most] / grams.sum():.0%} of it."
    )


@finding.register
def _(data: d.Ablation) -> str:
    impact = np.nanmean(data.scores, 1) - np.nanmean(data.baseline)
    worst = _worst(impact)
    if impact[worst] >= 0:
        return f"No component's removal lowers {data.metric}."
    return f"Most is lost without {data.components[worst]}: {impact[worst]:+.3f} {data.metric}."
