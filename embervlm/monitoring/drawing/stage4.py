"""Stage 4, reasoning: reds and yellows."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from embervlm.monitoring import statistics as st
from embervlm.monitoring.data import (
    AttentionMaps,
    ChainAgainstDirect,
    PhaseComparison,
    ReasoningConsistency,
    ReasoningDashboard,
    StepImportance,
)
from embervlm.monitoring.drawing import parts
from embervlm.monitoring.style import FAINT, INK, Palette, short

Values = NDArray[Any]


def phase_comparison(figure: Figure, data: PhaseComparison, palette: Palette) -> None:
    """Bars of both phases: metrics from 0 to 1 on one axis, every other unit on an axis of its own."""
    units = list(dict.fromkeys(data.units))
    units.sort(key=lambda unit: unit != "")
    places = [[m for m, own in enumerate(data.units) if own == unit] for unit in units]
    axes = figure.subplots(1, len(units), squeeze=False, width_ratios=[len(rows) + 0.4 for rows in places])[0]
    red, yellow = palette.pair("stage4")
    looks = [
        {"label": "Phase 1: frozen backbone", "color": yellow, "hatch": "//"},
        {"label": "Phase 2: joint fine-tuning", "color": red},
    ]
    for ax, unit, rows in zip(axes, units, places, strict=True):
        values, low, high = data.values[:, rows], data.low[:, rows], data.high[:, rows]
        parts.grouped_bars(ax, values, low, high, looks)
        top = float(np.nanmax(np.concatenate([values, np.nan_to_num(high)]), initial=0.01))
        for (phase, x), value in np.ndenumerate(values):
            end = value if np.isnan(high[phase, x]) else high[phase, x]
            words = "not\nmeasured" if np.isnan(value) else f"{value:.1f}" if unit else f"{value:.3f}"
            height = (0 if np.isnan(value) else end) + top * 0.02
            ax.text(x + (phase - 0.5) * 0.4, height, words, ha="center", va="bottom", fontsize=7.5)
        names = [f"{data.metrics[m]}\n({data.better[m]} is better)" for m in rows]
        ax.set_xticks(range(len(rows)), names)
        ax.set(ylabel=unit or "Score", ylim=(0, top * 1.28), xlim=(-0.6, len(rows) - 0.4))
        ax.grid(visible=False, axis="x")
    axes[0].legend(loc="upper center", ncols=2)
    figure.suptitle("Phase 1 and phase 2 of reasoning training")


def phase_histories(
    figure: Figure, first: dict[str, list[float]], second: dict[str, list[float]], step: int, palette: Palette
) -> None:
    """Curves of both phases one after the other, a panel per metric that either has."""
    metrics = list(dict.fromkeys([*first, *second]))
    columns = min(3, len(metrics))
    axes = figure.subplots(-(-len(metrics) // columns), columns, squeeze=False)
    red, yellow = palette.pair("stage4")
    for ax in axes.flat[len(metrics) :]:
        ax.set_axis_off()
    for ax, metric in zip(axes.flat, metrics, strict=False):
        before, after = first.get(metric, []), second.get(metric, [])
        start = len(before)
        ax.plot(range(1, start + 1), before, color=yellow, marker="s", label="Phase 1: frozen backbone")
        ax.plot(
            range(start + 1, start + len(after) + 1),
            after,
            color=red,
            marker="o",
            linestyle="--",
            label="Phase 2: joint",
        )
        ax.axvline(start + 0.5, color=FAINT, linestyle=":", linewidth=1)
        ax.set(title=metric, xlabel="Evaluation")
    axes.flat[0].legend(fontsize=7)
    figure.suptitle(f"Phase comparison, step {step:,}")


def step_importance(figure: Figure, data: StepImportance, palette: Palette) -> None:
    """Surface: reasoning step × training step → contribution to the selection."""
    labels = ("Reasoning step", "Training step", "Contribution")
    ax = parts.space(figure, 111, "Reasoning step importance", labels, (26, -54))
    places = np.arange(len(data.reasoning))
    drawn = parts.surface(ax, places, data.steps, data.importance, cmap=palette.map("stage4"), alpha=0.95)
    mean = data.importance.mean(1)
    ax.plot(
        np.full(len(data.steps), places[-1] + 0.15),
        data.steps,
        mean,
        color=INK,
        marker="o",
        markersize=3,
        label="Mean over steps",
    )
    ax.set_xticks(places, [name.replace(" ", "\n") for name in data.reasoning])
    ax.xaxis.labelpad = 14
    # Contributions may be of any size: long numbers keep clear of the axis, and of its label.
    ax.tick_params(axis="z", pad=7)
    ax.zaxis.labelpad = 14
    parts.step_axis(ax.yaxis, 5)
    last = data.importance[-1]
    order = np.argsort(-last)
    parts.note(
        ax, "last step:\n" + "\n".join(f"{data.reasoning[i]}: {parts.number(last[i])}" for i in order), 0.0, 0.98
    )
    ax.legend(loc="upper right")
    if len(data.steps) > 1:
        parts.colorbar(figure, drawn, ax, data.method, shrink=0.6, pad=0.1)


def chain_against_direct(figure: Figure, data: ChainAgainstDirect, palette: Palette) -> None:
    """Paired bars per robot and over all, with the difference and its paired bootstrap interval."""
    groups = [np.flatnonzero(data.robot == n) for n in range(len(data.robots))] + [np.arange(len(data.robot))]
    names = [*(short(name) for name in data.robots), "All"]
    heights = np.full((2, len(groups)), np.nan)
    low, high = heights.copy(), heights.copy()
    for g, outcome in enumerate((data.direct, data.chain)):
        for x, rows in enumerate(groups):
            if rows.size:
                heights[g, x] = outcome[rows].mean()
                low[g, x], high[g, x] = st.mean_interval(outcome[rows])
    ax = figure.add_subplot()
    red, yellow = palette.pair("stage4")
    looks = [
        {"label": "Direct prediction", "color": yellow, "hatch": "//"},
        {"label": "With reasoning chain", "color": red},
    ]
    parts.grouped_bars(ax, heights, low, high, looks)
    for x, rows in enumerate(groups):
        if rows.size:
            gain = data.chain[rows].astype(float) - data.direct[rows]
            words = f"{100 * gain.mean():+.1f} pts"
            if names[x] == "All":
                ends = st.mean_interval(gain)
                words += f"\n({100 * ends[0]:+.1f} to {100 * ends[1]:+.1f})"
            ax.text(x, np.nanmax(high[:, x]) + 0.02, words, ha="center", va="bottom", fontsize=7.5)
    ax.axvline(len(groups) - 1.5, color=FAINT, linewidth=0.8, linestyle=":")
    ax.set_xticks(range(len(groups)), [f"{name}\nn = {rows.size}" for name, rows in zip(names, groups, strict=True)])
    ax.set(ylabel="Selection accuracy", ylim=(0, 1.18), yticks=np.linspace(0, 1, 6))
    parts.percent_axis(ax.yaxis)
    ax.grid(visible=False, axis="x")
    ax.set_title(f"With and without chain of thought, step {data.step:,}")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), title="95% bootstrap", title_fontsize=7)


def reasoning_consistency(figure: Figure, data: ReasoningConsistency, palette: Palette) -> None:
    """Task categories × early or late mention of the robot."""
    texts = [
        [f"{value:.2f}\nn = {count}" for value, count in zip(row, counts, strict=True)]
        for row, counts in zip(data.score, data.count, strict=True)
    ]
    total = data.count.sum(0)
    means = [float(np.nansum(data.score[:, c] * data.count[:, c]) / total[c]) if total[c] else np.nan for c in (0, 1)]
    columns = [
        f"{name} robot mention\n" + ("(none)" if np.isnan(mean) else f"(mean {mean:.2f})")
        for name, mean in zip(("Early", "Late"), means, strict=True)
    ]
    ax = figure.add_subplot()
    image = parts.heatmap(ax, data.score, data.tasks, columns, texts, 9, cmap=palette.map("stage4"), vmin=0, vmax=1)
    ax.set(ylabel="Task category", xlabel=f"Early and late: {data.boundary}")
    ax.set_title(f"Reasoning consistency, step {data.step:,}")
    parts.colorbar(figure, image, ax, "Consistency score")


def consistency_bars(figure: Figure, data: ReasoningConsistency, palette: Palette) -> None:
    """The same as bars, for the series over training."""
    ax = figure.add_subplot()
    red, yellow = palette.pair("stage4")
    blank = np.full((2, len(data.tasks)), np.nan)
    looks = [{"label": "Early mention", "color": red}, {"label": "Late mention", "color": yellow, "hatch": "//"}]
    parts.grouped_bars(ax, data.score.T, blank, blank, looks)
    total = data.count.sum()
    overall = float(np.nansum(data.score * data.count) / max(1, total))
    parts.level_line(ax, overall, f"mean {overall:.2f}", INK)
    counts = data.count
    ax.set_xticks(range(len(data.tasks)), [f"{t}\nn = {a} / {b}" for t, (a, b) in zip(data.tasks, counts, strict=True)])
    ax.set(
        ylim=(0, 1.05),
        ylabel="Consistency score",
        xlabel=f"Task category (chains with early / late mention: {data.boundary})",
    )
    ax.grid(visible=False, axis="x")
    ax.set_title(f"Reasoning consistency, step {data.step:,}")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))


def dashboard(figure: Figure, data: ReasoningDashboard, palette: Palette) -> None:
    """Distributions of coherence, consistency and step count, and coherence against steps with its trend."""
    (a, b), (c, d) = figure.subplots(2, 2)
    red, yellow = palette.pair("stage4")
    _histogram(a, data.coherence, "Coherence", red, "")
    _histogram(b, data.consistency, "Consistency", yellow, "//")
    values, counts = np.unique(data.step_counts, return_counts=True)
    c.bar(values, counts, color=palette.robots(["Humanoid"])[0].color, edgecolor=INK, linewidth=0.5, hatch="..")
    for x, count in zip(values, counts, strict=True):
        parts.above(c, x, count, f"{count / counts.sum():.0%}")
    parts.mark_line(c, data.step_counts.mean(), f"mean {data.step_counts.mean():.2f}", INK)
    parts.mark_line(c, float(np.median(data.step_counts)), f"median {np.median(data.step_counts):g}", FAINT, ":")
    c.set(xlabel="Reasoning steps", ylabel="Chains", title="Step count", xticks=values, ylim=(0, counts.max() * 1.25))
    c.legend(loc=parts.free_corner(values, counts))
    spread = np.random.default_rng(0).uniform(-0.12, 0.12, len(data.step_counts))
    d.scatter(data.step_counts + spread, data.coherence, s=11, color=red, alpha=0.5, linewidths=0, rasterized=True)
    line = st.trend(data.step_counts, data.coherence)
    if line is not None:
        ends = np.array([values.min(), values.max()])
        d.plot(
            ends,
            line.slope * ends + line.intercept,
            color=INK,
            linestyle="--",
            label=f"{line.equation()}, {st.r_text(line.r)}",
        )
        d.legend(loc="lower right")
    else:
        parts.note(d, "no trend line: the step count does not vary", 0.02, 0.05)
    d.set(
        xlabel="Reasoning steps (spread to be seen)",
        ylabel="Coherence",
        ylim=(-0.02, 1.02),
        title="Coherence and steps",
    )
    d.set_xticks(values)
    figure.suptitle(f"Reasoning quality, step {data.step:,} (n = {len(data.coherence)})")


def _histogram(ax: Axes, values: Values, name: str, color: str, hatch: str) -> None:
    """Twenty bins from 0 to 1 with mean, its bootstrap interval, and median."""
    ax.hist(values, np.linspace(0, 1, 21).tolist(), color=color, edgecolor=INK, linewidth=0.5, hatch=hatch)
    low, high = st.mean_interval(values)
    ax.axvspan(low, high, color=INK, alpha=0.15, linewidth=0)
    parts.mark_line(ax, float(values.mean()), f"mean {values.mean():.3f} ({low:.3f}–{high:.3f})", INK)
    parts.mark_line(ax, float(np.median(values)), f"median {np.median(values):.3f}", FAINT, ":")
    ax.set(xlabel=name, ylabel="Chains", title=name, xlim=(0, 1))
    ax.legend(loc="upper left")


def attention_maps(figure: Figure, data: AttentionMaps, palette: Palette) -> None:
    """The picture, and what each query looks at in it."""
    columns = min(5, len(data.queries) + 1)
    axes = figure.subplots(-(-(len(data.queries) + 1) // columns), columns, squeeze=False)
    picture = data.images[0]
    extent = (0, picture.shape[1], picture.shape[0], 0)
    for ax in axes.flat:
        ax.set_axis_off()
    axes.flat[0].imshow(picture, extent=extent)
    axes.flat[0].set_title("Input", fontsize=9)
    image = None
    for ax, query, weight in zip(axes.flat[1:], data.queries, data.attention, strict=False):
        ax.imshow(picture, extent=extent)
        shown = weight / max(float(weight.max()), 1e-12)
        image = ax.imshow(shown, extent=extent, cmap=palette.map("stage4"), alpha=0.65, vmin=0, vmax=1)
        ax.set_title(f"{short(query)}\nlargest {weight.max():.3f}", fontsize=8)
    parts.colorbar(figure, image, axes, "Attention, share of the map's largest", shrink=0.7)
    figure.suptitle(f"Attention, step {data.step:,}: {data.task}", fontsize=9.5)
