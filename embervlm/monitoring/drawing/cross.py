"""Figures across stages: viridis, and red to green where a value is good or bad."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from embervlm.monitoring import statistics as st
from embervlm.monitoring.data import Ablation, BenchmarkProgression, CarbonFootprint, StageMetrics, TrainingDynamics
from embervlm.monitoring.drawing import parts
from embervlm.monitoring.style import FAINT, INK, UNKNOWN, Palette

Values = NDArray[Any]


def training_dynamics(figure: Figure, data: TrainingDynamics, palette: Palette) -> None:
    """A panel per stage: loss solid, accuracy dashed, shaded by their uncertainty."""
    count = len(data.stages)
    columns = min(2, count)
    axes = figure.subplots(-(-count // columns), columns, squeeze=False)
    for ax in axes.flat[count:]:
        ax.set_axis_off()
    for g, ax in enumerate(axes.flat[:count]):
        _stage_panel(ax, data, g, palette)
    figure.suptitle("Training dynamics across all stages")


def _stage_panel(ax: Axes, data: TrainingDynamics, g: int, palette: Palette) -> None:
    blue, red = palette.pair("cross")
    steps, loss = data.steps[g], data.loss[g]
    window = parts.smooth_steps(len(loss))
    mean, spread = st.rolling(loss, window)
    for width in (2.0, 1.5, 1.0, 0.5):
        ax.fill_between(steps, mean - width * spread, mean + width * spread, color=blue, alpha=0.09, linewidth=0)
    ax.plot(steps, mean, color=blue, linewidth=1.5, label=f"Loss (mean of {window} steps, ±0.5–2 σ)")
    ax.set(xlabel="Training step", ylabel="Loss")
    ax.yaxis.label.set_color(blue)
    right = ax.twinx()
    right.spines["right"].set_visible(True)
    right.grid(visible=False)
    accuracy = data.accuracy[g]
    low, high = st.wilson(accuracy * data.samples[g], np.full(len(accuracy), data.samples[g]))
    for part in (1.0, 0.66, 0.33):
        right.fill_between(
            data.evaluations[g],
            accuracy - part * (accuracy - low),
            accuracy + part * (high - accuracy),
            color=red,
            alpha=0.09,
            linewidth=0,
        )
    metric = data.metrics[g] or "Accuracy"
    right.plot(
        data.evaluations[g],
        accuracy,
        color=red,
        linestyle="--",
        marker="o",
        markersize=3.5,
        label=f"{metric.capitalize()} (n = {data.samples[g]}, 95%)",
    )
    right.set(ylim=(0, 1.02), ylabel=metric.capitalize())
    right.yaxis.label.set_color(red)
    parts.percent_axis(right.yaxis)
    for place in data.transitions[g]:
        if place >= 0:
            ax.axvline(place + 0.5, color=INK, linestyle=":", linewidth=1.1)
            _along(ax, place + 0.5, "next phase")
    end = max(float(steps[-1]), float(data.evaluations[g][-1]))
    ax.axvline(end, color=INK, linewidth=1.1)
    following = f"→ stage {data.stages[g + 1]}" if g + 1 < len(data.stages) else "end of training"
    _along(ax, end, following)
    ax.set_xlim(0, end * 1.04)
    parts.step_axis(ax.xaxis)
    ax.set_title(f"Stage {data.stages[g]}: {data.titles[g]}", pad=24)
    handles = [*ax.get_lines()[:1], *right.get_lines()]
    ax.legend(
        handles,
        [str(h.get_label()) for h in handles],
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=2,
        fontsize=6.8,
        borderaxespad=0.2,
    )


def _along(ax: Axes, x: float, words: str) -> None:
    """A text along a vertical line, on its left."""
    ax.text(
        x,
        0.5,
        words,
        transform=ax.get_xaxis_transform(),
        rotation=90,
        ha="right",
        va="center",
        fontsize=7,
        color=INK,
        bbox={"boxstyle": "square,pad=0.1", "fc": (1, 1, 1, 0.7), "ec": "none"},
    )


def benchmark_progression(figure: Figure, data: BenchmarkProgression, palette: Palette) -> None:
    """Benchmarks × stages, coloured by the share of each benchmark's scale; the cells say the raw score."""
    span = (data.highest - data.lowest)[:, None]
    values = (data.scores - data.lowest[:, None]) / span
    texts = [[f"{score:,.{d}f}" for score in row] for row, d in zip(data.scores, _decimals(span[:, 0]), strict=True)]
    means = [row[np.isfinite(row)].mean() if np.isfinite(row).any() else np.nan for row in values.T]
    columns = [
        f"Stage {stage}\n" + ("(none)" if np.isnan(mean) else f"(mean {mean:.2f})")
        for stage, mean in zip(data.stages, means, strict=True)
    ]
    rows = [
        f"{b} ({low:,g}–{high:,g})" for b, low, high in zip(data.benchmarks, data.lowest, data.highest, strict=True)
    ]
    ax = figure.add_subplot()
    image = parts.heatmap(ax, values, rows, columns, texts, 9, cmap=palette.map("good"), vmin=0, vmax=1)
    ax.set(xlabel="Training stage", ylabel="Benchmark (its scale)", title="Benchmark score progression")
    parts.colorbar(figure, image, ax, "Normalized score (share of the scale)")


def _decimals(span: Values) -> list[int]:
    """Decimals that tell a thousandth of each scale apart."""
    return [int(np.clip(np.ceil(3 - np.log10(width)), 0, 4)) for width in span]


# ---------------------------------------------------------------------- carbon


def grams_per_point(data: CarbonFootprint) -> Values:
    """(G,) grams of CO2 per point of accuracy gained; NaN where the gain is unknown, infinite where there was none."""
    grams = np.bincount(data.stage, data.grams, len(data.stages))
    with np.errstate(divide="ignore"):
        return np.where(
            data.gain > 0, grams / np.maximum(data.gain, 1e-300), np.where(np.isnan(data.gain), np.nan, np.inf)
        )


def carbon_footprint(figure: Figure, data: CarbonFootprint, palette: Palette) -> None:
    """A rectangle per stage as large as its emissions, with one per part inside; colour: grams per point gained."""
    import squarify

    grams, kwh = (np.bincount(data.stage, values, len(data.stages)) for values in (data.grams, data.kwh))
    cost = grams_per_point(data)
    known = cost[np.isfinite(cost)]
    norm = Normalize(0, float(known.max()) if known.size else 1.0)
    shades = ScalarMappable(norm, palette.map("bad"))
    ax = figure.add_subplot()
    ax.set(xlim=(0, 160), ylim=(100, 0), title=f"Carbon footprint: {_mass(grams.sum())} CO2eq, {_energy(kwh.sum())}")
    ax.set_axis_off()
    order = [g for g in np.argsort(-grams, kind="stable") if grams[g] > 0]
    boxes = squarify.squarify(squarify.normalize_sizes([float(grams[g]) for g in order], 160, 100), 0, 0, 160, 100)
    for g, box in zip(order, boxes, strict=True):
        color = UNKNOWN if np.isnan(cost[g]) else shades.to_rgba(np.minimum(cost[g], norm.vmax or 1.0))
        if np.isnan(cost[g]):
            per = "gain not measured"
        else:
            per = "no gain" if np.isinf(cost[g]) else f"{_mass(cost[g])} per point"
        hatch = None if np.isfinite(cost[g]) else "//"
        ax.add_patch(
            Rectangle(
                (box["x"], box["y"]), box["dx"], box["dy"], facecolor=color, edgecolor="white", linewidth=4, hatch=hatch
            )
        )
        ink = parts.text_on(color if not isinstance(color, str) else (0.74, 0.74, 0.74))
        title = f"Stage {data.stages[g]}: {_mass(grams[g])} ({grams[g] / grams.sum():.0%})\n{per}"
        plate = {"boxstyle": "square,pad=0.15", "fc": color, "ec": "none"} if hatch else None
        _fitted(ax, box, title, box["y"] + 2, ink, 9.5, weight="bold", bbox=plate)
        _inner_boxes(ax, data, int(g), box, ink, plate)
    bar = parts.colorbar(figure, shades, ax, "g CO2eq per point of accuracy gained (grey: not measured)")
    if not known.size:
        bar.ax.set_visible(False)


def _inner_boxes(
    ax: Axes, data: CarbonFootprint, g: int, box: dict[str, float], ink: str, plate: dict[str, Any] | None
) -> None:
    import squarify

    rows = [i for i in np.argsort(-data.grams, kind="stable") if data.stage[i] == g and data.grams[i] > 0]
    # The upper fifth of the stage's box (at most 14 units) has its title; areas inside share what is left.
    head = min(14.0, box["dy"] * 0.35)
    x, y, dx, dy = box["x"] + 1.2, box["y"] + head, box["dx"] - 2.4, box["dy"] - head - 1.2
    if dx <= 0 or dy <= 0 or not rows:
        return
    sizes = squarify.normalize_sizes([float(data.grams[i]) for i in rows], dx, dy)
    for i, inner in zip(rows, squarify.squarify(sizes, x, y, dx, dy), strict=True):
        ax.add_patch(
            Rectangle(
                (inner["x"], inner["y"]),
                inner["dx"],
                inner["dy"],
                facecolor=(1, 1, 1, 0.16),
                edgecolor=ink,
                linewidth=0.6,
            )
        )
        words = f"{data.parts[i]}\n{_mass(data.grams[i])}"
        _fitted(ax, inner, words, inner["y"] + inner["dy"] / 2 - 3, ink, 8, bbox=plate)


def _fitted(
    ax: Axes, box: dict[str, float], words: str, y: float, ink: str, size: float, weight: str = "normal", **options: Any
) -> None:
    """A text in a box, smaller where the box is narrow, left out where it would not be readable."""
    longest = max(len(line) for line in words.split("\n"))
    # A character of size 8 is about 1.3 units wide here (bold ones more), a line about 4 high.
    width = 1.5 if weight == "bold" else 1.32
    size = min(size, 8 * box["dx"] / (width * longest), 8 * box["dy"] / (4.2 * (words.count("\n") + 1)))
    if size >= 5.5:
        ax.text(
            box["x"] + box["dx"] / 2,
            y,
            words,
            ha="center",
            va="top",
            fontsize=size,
            color=ink,
            weight=weight,
            **options,
        )


def _mass(grams: float) -> str:
    return f"{grams / 1000:.2f} kg" if grams >= 1000 else f"{grams:.3g} g"


def _energy(kwh: float) -> str:
    return f"{kwh:.2f} kWh" if kwh >= 0.1 else f"{1000 * kwh:.3g} Wh"


# -------------------------------------------------------------------- ablation


def ablation(figure: Figure, data: Ablation, palette: Palette) -> None:
    """Change of the score when a component is left out; the largest loss on top."""
    base = float(np.nanmean(data.baseline))
    impact = np.nanmean(data.scores, 1) - base
    order = np.argsort(-impact, kind="stable")  # barh draws upwards
    ax = figure.add_subplot()
    green, red = "#2f9e5b", "#c81d25"
    if palette.safe:
        green, red = "#0072b2", "#d55e00"
    for y, c in enumerate(order):
        runs = data.scores[c][np.isfinite(data.scores[c])] - base
        hurts = impact[c] < 0
        ax.barh(
            y,
            impact[c],
            height=0.62,
            color=red if hurts else green,
            hatch="" if hurts else "//",
            edgecolor=INK,
            linewidth=0.5,
        )
        ax.plot(runs, np.full(len(runs), y), linestyle="", marker="|", markersize=11, color=INK)
        ends = min(0.0, float(runs.min())) if hurts else max(0.0, float(runs.max()))
        ax.annotate(
            f"{impact[c]:+.3f} (n = {len(runs)})",
            (ends, y),
            xytext=(-5 if hurts else 5, 0),
            textcoords="offset points",
            va="center",
            ha="right" if hurts else "left",
            fontsize=8,
        )
    names = [
        f"− {data.components[c]}" + (f"\n(instead: {data.replaced[c]})" if data.replaced[c] else "") for c in order
    ]
    ax.set_yticks(range(len(order)), names)
    ax.axvline(0, color=INK, linewidth=1)
    reach = max(0.02, float(np.nanmax(np.abs(data.scores - base))))
    ax.set_xlim(-reach * 1.4, max(reach * 0.35, float(impact.max()) * 1.6))
    runs = int(np.isfinite(data.baseline).sum())
    spread = f" ± {np.nanstd(data.baseline, ddof=1):.3f}" if runs > 1 else ""
    ax.set_xlabel(f"Change of {data.metric} from the whole model's {base:.3f}{spread} (n = {runs}); ticks: single runs")
    ax.set_title("Ablation: what is lost without each component")
    ax.grid(visible=False, axis="y")


# --------------------------------------------------------------------- summary


def stage_progression(figure: Figure, data: StageMetrics, palette: Palette) -> None:
    """Every metric that several stages have, and lone ones as points, over the stages."""
    stages = np.unique(data.stage)
    ax = figure.add_subplot()
    names = list(dict.fromkeys(data.metrics))
    looks = palette.robots(names)
    for name, look in zip(names, looks, strict=True):
        rows = [i for i, metric in enumerate(data.metrics) if metric == name]
        rows.sort(key=lambda i: data.stage[i])
        x, y = data.stage[rows], data.values[rows]
        ax.plot(x, y, color=look.color, marker=look.marker, linestyle=look.dash, label=f"{name}: {y[-1]:.3g}")
    ax.set_xticks(stages, [f"Stage {s}" for s in stages])
    ax.set(ylabel="Value" + (f" ({data.split})" if data.split else ""), title="Stage progression")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))


def training_summary(figure: Figure, data: StageMetrics, palette: Palette) -> None:
    """The metrics of every stage as a table."""
    stages, names = np.unique(data.stage), list(dict.fromkeys(data.metrics))
    values = {(int(s), m): v for s, m, v in zip(data.stage, data.metrics, data.values, strict=True)}
    cells = [[f"{values[int(s), m]:.4g}" if (int(s), m) in values else "–" for s in stages] for m in names]
    ax = figure.add_subplot()
    ax.set_axis_off()
    table = ax.table(cells, rowLabels=names, colLabels=[f"Stage {s}" for s in stages], loc="center", cellLoc="center")
    table.auto_set_font_size(False)
    table.set_fontsize(8.5)
    table.scale(1, 1.4)
    for (row, _), cell in table.get_celld().items():
        cell.set(edgecolor=FAINT, linewidth=0.4)
        if row == 0:
            cell.set_text_props(weight="bold")
    ax.set_title("Training summary" + (f" ({data.split})" if data.split else ""))
