"""Stage 2, instruction tuning: purples and oranges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from embervlm.monitoring import statistics as st
from embervlm.monitoring.data import (
    DistillationGap,
    InstructionComplexity,
    PerplexityByPosition,
    ResponseLengths,
    TokenProbability,
)
from embervlm.monitoring.drawing import parts
from embervlm.monitoring.style import FAINT, INK, Palette

Values = NDArray[Any]
#: Probabilities from which a token counts as confident, and below which as uncertain.
CONFIDENT, UNCERTAIN = 0.8, 0.5


def instruction_complexity(figure: Figure, data: InstructionComplexity, palette: Palette) -> None:
    """Bars per instruction type, with and without vision; bootstrap intervals and overall means."""
    members = [np.flatnonzero(data.category == c) for c in range(len(data.categories))]
    heights = np.full((2, len(members)), np.nan)
    low, high = heights.copy(), heights.copy()
    for g, scores in enumerate((data.with_vision, data.without_vision)):
        for c, rows in enumerate(members):
            if rows.size:
                heights[g, c] = scores[rows].mean()
                low[g, c], high[g, c] = st.mean_interval(scores[rows])
    ax = figure.add_subplot()
    purple, orange = palette.pair("stage2")
    looks = [
        {"label": "With vision", "color": purple},
        {"label": "Without vision", "color": orange, "hatch": "//"},
    ]
    parts.grouped_bars(ax, heights, low, high, looks)
    size = 7.5 if len(members) < 9 else 6.5
    for g, offset in ((0, -0.2), (1, 0.2)):
        for c in range(len(members)):
            if np.isfinite(heights[g, c]):
                parts.above(ax, c + offset, high[g, c], f"{heights[g, c]:.0%}", size=size)
    means = (data.with_vision.mean(), data.without_vision.mean())
    for mean, which, color, dash in zip(means, ("with", "without"), (purple, orange), ("--", ":"), strict=True):
        ax.axhline(mean, color=color, linestyle=dash, linewidth=1.2, zorder=1.5, label=f"mean {which} {mean:.1%}")
    names = [f"{name}\nn = {rows.size}" for name, rows in zip(data.categories, members, strict=True)]
    ax.set_xticks(range(len(names)), names)
    ax.set(ylim=(0, 1.12), ylabel=data.metric.capitalize(), xlabel="Instruction type", yticks=np.linspace(0, 1, 6))
    parts.percent_axis(ax.yaxis)
    ax.grid(visible=False, axis="x")
    ax.set_title(f"Instruction complexity and performance, step {data.step:,}")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), title="bars: mean, 95% bootstrap", title_fontsize=7)


def _confidence_spans(ax: Axes, mean: Values, palette: Palette) -> None:
    """Shade the stretches of positions that are confident or uncertain on average."""
    purple, orange = palette.pair("stage2")
    kinds = np.where(mean >= CONFIDENT, 1, np.where(mean < UNCERTAIN, -1, 0))
    start = 0
    for t in range(1, len(kinds) + 1):
        if t == len(kinds) or kinds[t] != kinds[start]:
            if kinds[start]:
                color, alpha, hatch = (purple, 0.12, None) if kinds[start] > 0 else (orange, 0.18, "//")
                ax.axvspan(start + 0.5, t + 0.5, color=color, alpha=alpha, linewidth=0, hatch=hatch, zorder=0.5)
            start = t


def token_probability(figure: Figure, data: TokenProbability, palette: Palette) -> None:
    """Mean probability of the ground-truth and of the generated token at each position, with intervals."""
    ax, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    places = np.arange(1, data.truth.shape[1] + 1)
    purple, orange = palette.pair("stage2")
    lines = (("Ground truth", data.truth, purple, "-", "o"), ("Generated", data.generated, orange, "--", "^"))
    for label, values, color, dash, marker in lines:
        count = np.isfinite(values).sum(0)
        mean = np.divide(np.nansum(values, 0), count, out=np.full(len(places), np.nan), where=count > 0)
        low, high = st.column_interval(values)
        ax.plot(places, mean, color=color, linestyle=dash, marker=marker, markersize=3.5, label=f"{label} (mean, 95%)")
        ax.fill_between(places, low, high, color=color, alpha=0.22, linewidth=0)
        below.step(places, count, where="mid", color=color, linestyle=dash, label=label)
        if label == "Ground truth":
            _confidence_spans(ax, mean, palette)
            overall = float(np.nanmean(values)), float(np.nanmedian(values))
            parts.level_line(ax, overall[0], f"mean {overall[0]:.2f}", INK, ":")
            parts.level_line(ax, overall[1], f"median {overall[1]:.2f}", FAINT, "-.", side="left")
    spans = [
        Patch(color=purple, alpha=0.12, label=f"confident (mean ≥ {CONFIDENT})"),
        Patch(facecolor=orange, alpha=0.3, hatch="//", label=f"uncertain (mean < {UNCERTAIN})"),
    ]
    handles = [*ax.get_legend_handles_labels()[0], *spans]
    ax.set(ylim=(0, 1.02), ylabel="Token probability", xlim=(0.5, len(places) + 0.5))
    ax.set_title(f"Token probability over the sequence, step {data.step:,}")
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1, 1))
    below.set(ylabel="Answers", xlabel="Token position", ylim=(0, None))
    parts.step_axis(below.xaxis, 12)


def distillation_gap(figure: Figure, data: DistillationGap, palette: Palette) -> None:
    """Divergence from the teacher (left) and the student's accuracy (right) over training."""
    purple, orange = palette.pair("stage2")
    ax = figure.add_subplot()
    ax.plot(data.steps, data.divergence, color=purple, linewidth=1.6, label="KL divergence")
    ax.set(xlabel="Training step", ylabel=f"KL({data.teacher} ‖ student), nats per token", ylim=(0, None))
    ax.yaxis.label.set_color(purple)
    parts.step_axis(ax.xaxis)
    right = ax.twinx()
    right.spines["right"].set_visible(True)
    right.grid(visible=False)
    right.plot(
        data.evaluations,
        data.accuracy,
        color=orange,
        linestyle="--",
        marker="s",
        markersize=5,
        markeredgecolor=INK,
        label="Student accuracy",
    )
    right.set(ylabel="Student accuracy", ylim=(0, 1))
    right.yaxis.label.set_color(orange)
    parts.percent_axis(right.yaxis)
    inside = (data.evaluations >= data.steps[0]) & (data.evaluations <= data.steps[-1])
    matched = np.interp(data.evaluations[inside], data.steps, data.divergence)
    r = st.correlation(matched, data.accuracy[inside])
    tied = f"{st.r_text(r)} between the two (n = {inside.sum()})" if inside.sum() > 2 else "too few evaluations for r"
    parts.subtitle(
        ax,
        "Teacher–student distillation gap",
        f"KL {data.divergence[0]:.3f} → {data.divergence[-1]:.3f} · accuracy {data.accuracy[0]:.1%} → "
        f"{data.accuracy[-1]:.1%} · {tied}",
    )
    handles = [*ax.get_lines(), *right.get_lines()]
    names = [str(line.get_label()) for line in handles]
    ax.legend(handles, names, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)


def response_lengths(figure: Figure, data: ResponseLengths, palette: Palette) -> None:
    """Split violins per task: generated left, reference right, with means and medians."""
    ax = figure.add_subplot()
    looks: tuple[tuple[str, Values, str, Literal["low", "high"], str], ...] = (
        ("Generated", data.generated, palette.pair("stage2")[0], "low", ""),
        ("Reference", data.target, palette.pair("stage2")[1], "high", "//"),
    )
    for place in range(len(data.tasks)):
        rows = data.task == place
        for _, lengths, color, side, hatch in looks:
            _half_violin(ax, lengths[rows].astype(float), place, color, side, hatch)
    names = [f"{name}\nn = {int((data.task == c).sum())}" for c, name in enumerate(data.tasks)]
    ax.set_xticks(range(len(names)), names)
    top = max(int(data.generated.max()), int(data.target.max()), 1)
    ax.set(
        ylim=(0, top * 1.08), ylabel=f"Response length ({data.unit})", xlabel="Task", xlim=(-0.75, len(names) - 0.35)
    )
    ax.grid(visible=False, axis="x")
    shapes: list[Any] = [Patch(facecolor=c, hatch=h, alpha=0.6, label=label) for label, _, c, _, h in looks]
    shapes += [ax.plot([], [], color=INK, linewidth=2, label="median")[0]]
    shapes += [ax.plot([], [], color=INK, marker="D", linestyle="", markerfacecolor="white", label="mean")[0]]
    ax.legend(handles=shapes, loc="upper left", bbox_to_anchor=(1, 1))
    ax.set_title(f"Response length by task, step {data.step:,}")


def _half_violin(ax: Axes, lengths: Values, place: int, color: str, side: Literal["low", "high"], hatch: str) -> None:
    """One half: the density where there is one, the median as a line, the mean as a diamond, both with their value."""
    if not lengths.size:
        return
    sign = -1 if side == "low" else 1
    if np.ptp(lengths) > 0:
        drawn: Any = ax.violinplot(lengths, [place], widths=0.8, showextrema=False, side=side)
        for body in drawn["bodies"]:
            body.set(facecolor=color, edgecolor=INK, linewidth=0.7, alpha=0.6, hatch=hatch)
    median, mean = float(np.median(lengths)), float(lengths.mean())
    ax.plot([place, place + sign * 0.2], [median, median], color=INK, linewidth=2)
    ax.plot([place + sign * 0.1], [mean], color=INK, marker="D", markersize=4.5, markerfacecolor="white", linestyle="")
    ax.annotate(
        f"{median:g} / {mean:.1f}",
        (place + sign * 0.04, lengths.max()),
        xytext=(0, 3),
        textcoords="offset points",
        ha="right" if sign < 0 else "left",
        fontsize=7,
    )


def perplexity(figure: Figure, data: PerplexityByPosition, palette: Palette) -> None:
    """Perplexity by token position (x) and training step (y)."""
    values = data.perplexity
    ax = figure.add_subplot()
    positions = range(1, values.shape[1] + 1)
    norm = LogNorm(max(1.0, float(np.nanmin(values))), max(float(np.nanmax(values)), 1.01))
    crowded = values.size > 240
    texts = None if crowded else [[parts.number(v) for v in row] for row in values]
    rows = [f"{s:,}" for s in data.steps]
    image = parts.heatmap(
        ax, values, rows, [str(p) for p in positions], texts, 6.5, cmap=palette.map("stage2"), norm=norm
    )
    ax.invert_yaxis()
    if len(positions) > 24:
        shown = np.arange(0, len(positions), max(1, len(positions) // 12))
        ax.set_xticks(shown, [str(positions[i]) for i in shown])
    if len(rows) > 20:
        shown = np.array(parts.chosen(len(rows), 12))
        ax.set_yticks(shown, [rows[i] for i in shown])
    ax.set(xlabel="Token position", ylabel="Training step")
    bar = parts.colorbar(figure, image, ax, "Perplexity (log colours)")
    bar.ax.yaxis.set_major_formatter(lambda value, place: f"{value:g}")
    bar.ax.yaxis.set_minor_formatter(lambda value, place: f"{value:g}" if f"{value:g}"[0] in "25" else "")
    ends = [f"{parts.number(np.nanmedian(values[i]))} (mean {parts.number(np.nanmean(values[i]))})" for i in (0, -1)]
    ax.set_title(f"Perplexity by position: median {ends[0]} → {ends[1]}")


def generation_examples(
    figure: Figure, images: Sequence[Values], texts: Sequence[tuple[str, str, str]], step: int
) -> None:
    """Pictures with instruction, generated answer and ground truth; texts are those three."""
    grid = figure.add_gridspec(len(images), 2, width_ratios=(1, 3.2))
    for row, (image, (asked, said, due)) in enumerate(zip(images, texts, strict=True)):
        ax = figure.add_subplot(grid[row, 0])
        ax.imshow(image)
        ax.set_axis_off()
        ax = figure.add_subplot(grid[row, 1])
        ax.set_axis_off()
        same = "=" if said.strip() == due.strip() else "≠"
        ax.text(
            0,
            0.5,
            f"{asked}\n\nanswer {same} {said}\ntruth      {due}",
            transform=ax.transAxes,
            fontsize=8,
            va="center",
            wrap=True,
        )
    figure.suptitle(f"Answers to {len(images)} instructions, step {step:,}")
