"""Stage 3, robot selection: one colour, marker, dash and hatch per robot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from embervlm.evaluation.calibration import expected_calibration_error, reliability
from embervlm.monitoring import statistics as st
from embervlm.monitoring.data import (
    PART_KINDS,
    Calibration,
    ConfusionEvolution,
    LayerAccuracy,
    LayerBudget,
    ReasoningQuality,
    RobotPerformance,
    TaskRobot,
    TrainingCurves,
)
from embervlm.monitoring.drawing import parts
from embervlm.monitoring.style import FAINT, INK, Palette, fade, short

Values = NDArray[Any]


def layer_accuracy(figure: Figure, data: LayerAccuracy, palette: Palette) -> None:
    """A surface per robot over layer and step, and the last step's lines over layers."""
    looks = palette.robots(data.robots)
    panels = len(data.robots) + 1
    grid = figure.add_gridspec(-(-panels // 3), min(3, panels))
    last = figure.add_subplot(grid[(panels - 1) // 3, (panels - 1) % 3])
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.set(w_pad=0.1, wspace=0.06)  # type: ignore[call-arg]  # height axes have their labels outside
    for n, (name, look) in enumerate(zip(data.robots, looks, strict=True)):
        labels = ("Layer", "Training step", "Accuracy")
        ax = parts.space(figure, grid[n // 3, n % 3], short(name), labels, (24, -58))
        values = data.accuracy[:, n]
        parts.surface(ax, data.layers, data.steps, values, cmap=fade(look.color), vmin=0, vmax=1)
        ax.set_zlim(0, 1)
        ax.set_box_aspect(None, zoom=0.8)
        ax.set_xticks(data.layers if len(data.layers) < 9 else data.layers[::2])
        parts.step_axis(ax.yaxis, 4)
        parts.percent_axis(ax.zaxis)
        if np.isfinite(values[-1]).any():
            best = int(np.nanargmax(values[-1]))
            parts.note(ax, f"last step: {values[-1, best]:.0%} at layer {data.layers[best]}", 0.0, 0.97, fontsize=7)
        last.plot(
            data.layers,
            values[-1],
            color=look.color,
            marker=look.marker,
            linestyle=look.dash,
            label=short(name),
            markersize=4,
        )
    mean = np.array([np.nan if np.isnan(v).all() else np.nanmean(v) for v in data.accuracy[-1].T])
    last.plot(data.layers, mean, color=INK, linewidth=2.2, label="mean", zorder=1.5)
    last.set(xlabel="Layer", ylabel="Accuracy", ylim=(0, 1.03), title=f"All robots, step {data.steps[-1]:,}")
    last.set_xticks(data.layers if len(data.layers) < 13 else data.layers[::2])
    parts.percent_axis(last.yaxis)
    last.legend(fontsize=7, ncols=2, loc="lower right")
    figure.suptitle(f"Layer-wise robot selection accuracy ({data.method})")


def robot_performance(figure: Figure, data: RobotPerformance, palette: Palette) -> None:
    """A line per robot over checkpoints, with Wilson intervals and the mean over robots."""
    ax = figure.add_subplot()
    accuracy = st.share(data.correct, data.total)
    low, high = st.wilson(data.correct, data.total)
    for n, (name, look) in enumerate(zip(data.robots, palette.robots(data.robots), strict=True)):
        final = "not measured" if np.isnan(accuracy[-1, n]) else f"{accuracy[-1, n]:.0%}"
        ax.plot(
            data.steps,
            accuracy[:, n],
            color=look.color,
            marker=look.marker,
            linestyle=look.dash,
            markersize=5,
            label=f"{short(name)}: {final} (n = {data.total[-1, n]})",
        )
        ax.fill_between(data.steps, low[:, n], high[:, n], color=look.color, alpha=0.12, linewidth=0)
    means = np.array([np.nan if np.isnan(row).all() else np.nanmean(row) for row in accuracy])
    ax.plot(data.steps, means, color=INK, linewidth=2.2, label=f"mean: {means[-1]:.0%}")
    ax.set(xlabel="Training checkpoint (step)", ylabel=data.metric.capitalize(), ylim=(0, 1.02))
    ax.set_xticks(data.steps[parts.chosen(len(data.steps), 10)])
    ax.xaxis.set_major_formatter(lambda value, place: f"{value:,.0f}")
    parts.percent_axis(ax.yaxis)
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), title="last checkpoint; shaded: 95% Wilson", title_fontsize=7)
    ax.set_title("Per-robot performance")


def layer_budget(figure: Figure, data: LayerBudget, palette: Palette) -> None:
    """Importance of attention, FFN and adapter parts, with the rank among all parts on each bar."""
    titles = {"attention": "Attention", "ffn": "FFN", "adapter": "Adapter"}
    hatches = {"attention": "", "ffn": "//", "adapter": ".."}
    looks = dict(zip(PART_KINDS, palette.robots(["Drone", "Humanoid", "Wheeled"]), strict=True))
    # Rank 1 is the most important of all parts on a mini-batch.
    ranks = np.argsort(np.argsort(-data.importance, axis=1, kind="stable"), axis=1) + 1
    kinds = [kind for kind in PART_KINDS if kind in data.kinds]
    sizes = [data.kinds.count(kind) for kind in kinds]
    axes = figure.subplots(1, len(kinds), sharey=True, squeeze=False, width_ratios=[max(2, size) for size in sizes])[0]
    for ax, kind in zip(axes, kinds, strict=True):
        places = [i for i, k in enumerate(data.kinds) if k == kind]
        values = data.importance[:, places]
        ends = np.array([st.mean_interval(column) for column in values.T]).T
        look: dict[str, Any] = {"color": looks[kind].color, "hatch": hatches[kind]}
        parts.grouped_bars(ax, values.mean(0)[None], ends[:1], ends[1:], [look])
        for x, place in enumerate(places):
            low, middle, high = np.quantile(ranks[:, place], [0.05, 0.5, 0.95], method="nearest")
            parts.above(ax, x, float(ends[1, x]), f"#{middle}\n({low}–{high})", 4)
        ax.axhline(float(values.mean()), color=INK, linestyle="--", linewidth=1.0, zorder=1.5)
        ax.set_xticks(range(len(places)), [data.parts[i] for i in places], rotation=40, ha="right")
        ax.set_title(f"{titles[kind]}\n(mean {values.mean():.3g})")
        ax.grid(visible=False, axis="x")
    axes[0].set_ylabel(f"Importance: {data.method}")
    axes[0].set_ylim(0, axes[0].get_ylim()[1] * 1.12)
    figure.suptitle(
        f"Layer budget and rank distribution, step {data.step:,} (#median rank of {len(data.parts)}, 5–95% of "
        f"{len(data.importance)} batches)"
    )


def confusion_matrix(ax: Axes, counts: Values, robots: Sequence[str], title: str, palette: Palette, size: float) -> Any:
    """Row: should have been chosen, column: was chosen; colour is the share of the row, the number the count."""
    total = counts.sum(1, keepdims=True)
    shares = st.share(counts, np.broadcast_to(total, counts.shape))
    names = [short(name) for name in robots]
    texts = [[f"{count}" for count in row] for row in counts]
    image = parts.heatmap(ax, shares, names, names, texts, size, cmap=palette.map("blues"), vmin=0, vmax=1)
    right = np.trace(counts) / max(1, counts.sum())
    ax.set_title(f"{title}: {right:.1%} right (n = {counts.sum()})", fontsize=9)
    ax.set_xticks(range(len(names)), names, rotation=35, ha="right")
    return image


def panel_columns(panels: int) -> int:
    """Columns of up to six panels, without a hole where another grid has none."""
    return 2 if panels == 4 else min(3, panels)


def confusion_evolution(figure: Figure, data: ConfusionEvolution, palette: Palette) -> None:
    """Matrices of at most six steps, the first and the last among them."""
    picked = parts.chosen(len(data.steps), 6)
    columns = panel_columns(len(picked))
    axes = figure.subplots(-(-len(picked) // columns), columns, squeeze=False, sharex=True, sharey=True)
    for ax in axes.flat[len(picked) :]:
        ax.set_axis_off()
    image = None
    for ax, s in zip(axes.flat, picked, strict=False):
        image = confusion_matrix(ax, data.counts[s], data.robots, f"step {data.steps[s]:,}", palette, 7.5)
    for ax in axes[:, 0]:
        ax.set_ylabel("Should be chosen")
    for ax in axes.flat[: len(picked)][-columns:]:
        ax.set_xlabel("Was chosen")
        ax.tick_params(axis="x", labelbottom=True)
    bar = parts.colorbar(figure, image, axes, "Share of the row", shrink=0.7)
    parts.percent_axis(bar.ax.yaxis)
    figure.suptitle("Robot confusion over training")


def confusion_single(figure: Figure, data: ConfusionEvolution, s: int, palette: Palette) -> None:
    """One step's matrix."""
    ax = figure.add_subplot()
    image = confusion_matrix(ax, data.counts[s], data.robots, f"step {data.steps[s]:,}", palette, 9)
    ax.set(xlabel="Was chosen", ylabel="Should be chosen")
    bar = parts.colorbar(figure, image, ax, "Share of the row")
    parts.percent_axis(bar.ax.yaxis)


def calibration(figure: Figure, data: Calibration, palette: Palette, bins: int) -> None:
    """Accuracy per confidence bin against the diagonal, ECE with its interval, and how the confidences lie."""
    ax, below = figure.subplots(2, 1, sharex=True, height_ratios=(3.4, 1))
    blue, red = palette.pair("cross")
    rows = reliability(data.confidence, data.correct, bins)
    middle = np.array([(row["low"] + row["high"]) / 2 for row in rows])
    accuracy, confidence = (np.array([row[key] for row in rows]) for key in ("accuracy", "confidence"))
    counts = np.array([row["count"] for row in rows], dtype=int)
    low, high = st.wilson(np.round(accuracy * counts), counts)
    width = 1 / bins
    ax.bar(middle, accuracy, width * 0.92, color=blue, edgecolor=INK, linewidth=0.5, label="Accuracy (95% Wilson)")
    ax.bar(
        middle,
        confidence - accuracy,
        width * 0.92,
        bottom=accuracy,
        color="none",
        edgecolor=red,
        hatch="///",
        linewidth=0.6,
        label="Gap to the bin's confidence",
    )
    ax.errorbar(middle, accuracy, [accuracy - low, high - accuracy], fmt="none", ecolor=INK, elinewidth=0.8, capsize=2)
    ax.plot([0, 1], [0, 1], color=INK, linestyle="--", linewidth=1.2, label="Perfect calibration")
    ece = expected_calibration_error(data.confidence, data.correct, bins)
    mass = expected_calibration_error(data.confidence, data.correct, bins, equal_mass=True)
    ends = st.ece_interval(data.confidence, data.correct, bins)
    ax.set(ylabel="Accuracy", ylim=(0, 1.02), xlim=(0, 1))
    parts.subtitle(
        ax,
        f"Confidence calibration, step {data.step:,}",
        f"ECE = {ece:.3f} (95% bootstrap {ends[0]:.3f}–{ends[1]:.3f}) · equal mass {mass:.3f} · {bins} bins, "
        f"n = {len(data.confidence)}",
    )
    below.bar(middle, counts, width * 0.92, color=FAINT)
    below.axvline(
        data.confidence.mean(), color=red, linestyle="-", label=f"mean confidence {data.confidence.mean():.3f}"
    )
    below.axvline(data.correct.mean(), color=blue, linestyle="--", label=f"accuracy {data.correct.mean():.3f}")
    below.set(xlabel="Confidence", ylabel="Count (log)", yscale="log", ylim=(0.7, 3 * max(1, counts.max())))
    handles, labels = (a + b for a, b in zip(*(x.get_legend_handles_labels() for x in (ax, below)), strict=True))
    below.legend(handles, labels, fontsize=7.5, loc="upper center", bbox_to_anchor=(0.5, -0.45), ncols=3)


def task_robot(figure: Figure, data: TaskRobot, palette: Palette) -> None:
    """Selection accuracy by task type (x) and robot (y), with counts."""
    values = st.share(data.correct, data.total)
    texts = [
        [f"{v:.0%}\nn = {n}" for v, n in zip(row, counts, strict=True)]
        for row, counts in zip(values, data.total, strict=True)
    ]
    ax = figure.add_subplot()
    columns = [
        f"{task}\n({v:.0%})" if np.isfinite(v) else f"{task}\n(–)"
        for task, v in zip(data.tasks, st.share(data.correct.sum(0), data.total.sum(0)), strict=True)
    ]
    rows = [
        f"{short(name)} ({v:.0%})" if np.isfinite(v) else f"{short(name)} (–)"
        for name, v in zip(data.robots, st.share(data.correct.sum(1), data.total.sum(1)), strict=True)
    ]
    image = parts.heatmap(ax, values, rows, columns, texts, cmap=palette.map("stage3"), vmin=0, vmax=1)
    for label, look in zip(ax.get_yticklabels(), palette.robots(data.robots), strict=True):
        label.set_color(look.color)
        label.set_fontweight("bold")
    ax.set(xlabel="Task type (over all robots)", ylabel="Robot (over all tasks)")
    ax.set_title(f"Selection accuracy by task type and robot, step {data.step:,}")
    bar = parts.colorbar(figure, image, ax, "Selection accuracy")
    parts.percent_axis(bar.ax.yaxis)


def reasoning_quality(figure: Figure, data: ReasoningQuality, palette: Palette) -> None:
    """Step counts, coherence against accuracy, and how well the task's keywords are taken over."""
    blue, red = palette.pair("cross")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1.3, 1.1))
    values, counts = np.unique(data.step_counts, return_counts=True)
    left.bar(values, counts, color=blue, edgecolor=INK, linewidth=0.5)
    for x, count in zip(values, counts, strict=True):
        parts.above(left, x, count, f"{count / counts.sum():.0%}")
    mean, median = data.step_counts.mean(), np.median(data.step_counts)
    parts.mark_line(left, mean, f"mean {mean:.2f}", red)
    parts.mark_line(left, median, f"median {median:g}", INK, ":")
    left.set(xlabel="Reasoning steps", ylabel="Chains", title="Step count", ylim=(0, counts.max() * 1.3), xticks=values)
    left.legend(loc=parts.free_corner(values, counts))
    _coherence_against_accuracy(middle, data, blue, red)
    shares, (low, high) = (
        st.share(data.keyword_correct, data.keyword_total),
        st.wilson(data.keyword_correct, data.keyword_total),
    )
    places = np.arange(len(shares))
    right.barh(places, shares, color=palette.robots(["Wheeled"])[0].color, edgecolor=INK, linewidth=0.5, hatch="..")
    right.errorbar(
        shares, places, xerr=[shares - low, high - shares], fmt="none", ecolor=INK, elinewidth=0.9, capsize=2.5
    )
    for place, value in enumerate(shares):
        right.text(high[place] + 0.03, place, f"{value:.0%}", va="center", fontsize=7.5, bbox=parts.PLATE)
    overall = data.keyword_correct.sum() / data.keyword_total.sum()
    right.axvline(overall, color=red, linestyle="--", linewidth=1.2)
    right.set_yticks(places, [f"{k}\nn = {n}" for k, n in zip(data.keywords, data.keyword_total, strict=True)])
    right.invert_yaxis()
    right.set(xlim=(0, 1.15), xlabel="Share taken over rightly")
    right.set_title(f"Task keyword extraction\n(all {overall:.0%}, dashed)")
    right.set_xticks(np.linspace(0, 1, 5))
    parts.percent_axis(right.xaxis)
    figure.suptitle(f"Chain-of-thought reasoning quality, step {data.step:,}")


def _coherence_against_accuracy(ax: Axes, data: ReasoningQuality, blue: str, red: str) -> None:
    """Single chains at 0 and 1 (spread to be seen), the accuracy of five equal groups, and the trend."""
    spread = np.random.default_rng(0).uniform(-0.035, 0.035, len(data.coherence))
    ax.scatter(
        data.coherence,
        data.correct + spread,
        s=9,
        color=blue,
        alpha=0.45,
        linewidths=0,
        label="chains",
        rasterized=True,
    )
    groups = [g for g in np.array_split(np.argsort(data.coherence, kind="stable"), 5) if g.size]
    centre = [data.coherence[g].mean() for g in groups]
    accuracy = [data.correct[g].mean() for g in groups]
    low, high = st.wilson([data.correct[g].sum() for g in groups], [g.size for g in groups])
    error = np.abs(np.array([np.array(accuracy) - low, high - np.array(accuracy)]))
    ax.errorbar(
        centre, accuracy, error, fmt="D", color=INK, markerfacecolor="white", capsize=2.5, label="fifths, 95% Wilson"
    )
    line = st.trend(data.coherence, data.correct)
    if line is not None:
        ends = np.array([data.coherence.min(), data.coherence.max()])
        ax.plot(ends, line.slope * ends + line.intercept, color=red, linestyle="--", label=line.equation())
    r = st.correlation(data.coherence, data.correct)
    ax.set(xlabel=data.coherence_means.capitalize(), ylabel="Selection right (0 or 1)", ylim=(-0.08, 1.5))
    ax.set_yticks(np.linspace(0, 1, 5))
    parts.percent_axis(ax.yaxis)
    ax.set_title(f"Coherence and accuracy ({st.r_text(r)})")
    ax.legend(loc="upper left", fontsize=7)


def training_curves(figure: Figure, data: TrainingCurves, until: int, palette: Palette) -> None:
    """Losses and validation metrics up to a step."""
    left, right = figure.subplots(1, 2)
    seen, judged = data.steps <= until, data.evaluations <= until
    looks = palette.robots(["Drone", "Humanoid", "Wheeled", "Legged", "Underwater", *data.losses[5:]])
    for k, name in enumerate(data.losses):
        values, look = data.values[seen, k], looks[k]
        known = np.isfinite(values)
        if not known.any():
            continue
        mean, _ = st.rolling(values[known], parts.smooth_steps(int(known.sum())))
        left.plot(data.steps[seen][known], values[known], color=look.color, alpha=0.2, linewidth=0.7)
        label = f"{name}: {mean[-1]:.3f}"
        left.plot(data.steps[seen][known], mean, color=look.color, linestyle=look.dash, linewidth=1.5, label=label)
    left.set(xlabel="Training step", ylabel="Loss (running mean)", title="Losses")
    for m, name in enumerate(data.metrics):
        values, look = data.scores[judged, m], looks[m % 5]
        last = f"{values[-1]:.3f}" if len(values) and np.isfinite(values[-1]) else "–"
        right.plot(
            data.evaluations[judged],
            values,
            color=look.color,
            linestyle=look.dash,
            marker=look.marker,
            label=f"{name}: {last}",
        )
    right.set(xlabel="Training step", ylabel="Validation metric", title="Validation", ylim=(0, 1.02))
    for ax, place in ((left, "upper right"), (right, "lower right")):
        parts.step_axis(ax.xaxis)
        ax.set_xlim(0, until * 1.02)
        ax.legend(fontsize=7, loc=place)
    figure.suptitle(f"Robot selection, until step {until:,}")
