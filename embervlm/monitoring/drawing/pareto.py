"""What costs little and does well: the two Pareto plots."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from embervlm.monitoring import statistics as st
from embervlm.monitoring.data import EdgePareto, EfficiencyPareto
from embervlm.monitoring.drawing import parts
from embervlm.monitoring.style import INK, UNKNOWN, Palette

Values = NDArray[Any]
_SMALLEST, _LARGEST = 40.0, 500.0


def citations(data: EfficiencyPareto | EdgePareto) -> str:
    """One line per model: where its numbers come from."""
    return "\n".join(f"{model}: {origin}" for model, origin in zip(data.models, data.origins, strict=True))


def bubble(memory: Values) -> Values:
    """Area of a bubble (points²) in proportion to memory; the smallest where memory is unknown."""
    known = memory[np.isfinite(memory)]
    most = float(known.max()) if known.size else 1.0
    return np.where(np.isfinite(memory), np.maximum(_LARGEST * memory / max(most, 1e-12), _SMALLEST), _SMALLEST)


def scatter(
    ax: Axes, cost: Values, data: EfficiencyPareto | EdgePareto, shade: Values, cmap: str, palette: Palette
) -> Any:
    """Bubbles, the frontier through the points nobody beats, and names that do not hide each other."""
    front = st.pareto(cost, data.accuracy)
    ax.step(
        cost[front],
        data.accuracy[front],
        where="post",
        color=INK,
        linestyle="--",
        linewidth=1.3,
        zorder=1.5,
        label="Pareto frontier",
    )
    sizes, known = bubble(data.memory_mb), np.isfinite(shade)
    image = None
    for ours, marker in ((False, "o"), (True, "s")):
        rows = data.ours == ours
        outline = palette.pair("cross")[1] if ours else INK
        label = "EmberVLM (this run)" if ours else "Cited"
        if (rows & ~known).any():
            pick = rows & ~known
            ax.scatter(
                cost[pick],
                data.accuracy[pick],
                s=sizes[pick],
                color=UNKNOWN,
                marker=marker,
                edgecolor=outline,
                linewidth=1.2,
                zorder=3,
                hatch="//",
                alpha=0.9,
                label=f"{label}, colour unknown",
            )
        if (rows & known).any():
            pick = rows & known
            drawn = ax.scatter(
                cost[pick],
                data.accuracy[pick],
                s=sizes[pick],
                c=shade[pick],
                cmap=cmap,
                vmin=0,
                vmax=max(float(shade[known].max()), 1e-12),
                marker=marker,
                edgecolor=outline,
                linewidth=2.2 if ours else 0.8,
                zorder=3,
                alpha=0.9,
                label=label,
            )
            image = drawn
    _names(ax, cost, data, sizes, front, palette)
    return image


def _names(
    ax: Axes, cost: Values, data: EfficiencyPareto | EdgePareto, sizes: Values, front: list[int], palette: Palette
) -> None:
    """A name beside each bubble, where it hides least of the bubbles, the frontier and the names before it."""
    ax.margins(0.16, 0.16)
    ax.autoscale_view()
    centres = ax.transData.transform(np.column_stack([cost, data.accuracy])) * 72 / ax.figure.dpi
    frame = np.asarray(ax.bbox.extents) * 72 / ax.figure.dpi
    radii = np.sqrt(sizes) / 2
    taken = [(x - r, y - r, x + r, y + r) for (x, y), r in zip(centres, radii, strict=True)]
    taken += _steps(centres[front])
    for i in np.argsort(-data.accuracy):
        memory = "memory unknown" if np.isnan(data.memory_mb[i]) else f"{data.memory_mb[i]:,.0f} MB"
        words = f"{data.models[i]}{' *' if int(i) in front else ''}\n{data.accuracy[i]:.1f}, {memory}"
        width, height = 4.3 * max(map(len, words.split("\n"))), 20.0
        gap = radii[i] + 4
        # (side, shift): right, left, above, below, then the corners.
        ways = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)]
        boxes = []
        for side, shift in ways:
            x = centres[i, 0] + (side * gap if side else -width / 2) - (width if side < 0 else 0)
            y = centres[i, 1] - height / 2 + shift * (height / 2 + gap * (0.7 if side else 1))
            boxes.append((x, y, x + width, y + height))
        best = min(range(len(ways)), key=lambda w: _covered(boxes[w], taken, frame) + 0.01 * w)
        taken.append(boxes[best])
        side, shift = ways[best]
        ax.annotate(
            words,
            (cost[i], data.accuracy[i]),
            xytext=(side * gap, shift * (height / 2 + gap * (0.7 if side else 1))),
            textcoords="offset points",
            ha={1: "left", 0: "center", -1: "right"}[side],
            va="center",
            fontsize=7.5,
            weight="bold" if data.ours[i] else "normal",
            color=palette.pair("cross")[1] if data.ours[i] else INK,
            bbox=parts.PLATE,
            zorder=5,
        )


def _steps(corners: Values) -> list[tuple[float, float, float, float]]:
    """The frontier's runs and rises as boxes, as thick as what must stay free for the line to be seen."""
    found = []
    for (x, y), (right, top) in itertools.pairwise(corners):
        found += [(x, y - 2, right, y + 2), (right - 2, y, right + 2, top)]
    return found


def _covered(
    box: tuple[float, float, float, float], taken: list[tuple[float, float, float, float]], frame: Values
) -> float:
    """Area (points²) of the box that lies over what is taken, and ten times what lies outside the frame."""

    def common(other: Any) -> float:
        width, height = min(box[2], other[2]) - max(box[0], other[0]), min(box[3], other[3]) - max(box[1], other[1])
        return max(0.0, width) * max(0.0, height)

    outside = (box[2] - box[0]) * (box[3] - box[1]) - common(frame)
    return sum(map(common, taken)) + 10 * outside


def parameter_efficiency(figure: Figure, data: EfficiencyPareto, palette: Palette) -> None:
    """Parameters (log) against accuracy; area: memory, colour: edge deployability."""
    ax = figure.add_subplot()
    ax.set_xscale("log")
    image = scatter(ax, data.parameters, data, data.deployability, palette.map("good"), palette)
    ax.set(xlabel="Parameters (log scale)", ylabel=f"{data.benchmark} (%)", title="Parameter efficiency")
    ax.xaxis.set_major_formatter(lambda value, place: _count(value))
    # Less than a decade has hardly a major tick.
    ax.xaxis.set_minor_formatter(lambda value, place: _count(value) if _spread(ax) < 1 else "")
    _legend(figure, ax, image, data.deployability_means)


def edge_deployment(figure: Figure, data: EdgePareto, palette: Palette) -> None:
    """Latency against accuracy; area: memory, colour: power."""
    ax = figure.add_subplot()
    if st.many_times(data.latency_ms):
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(lambda value, place: f"{value:g}")
    image = scatter(ax, data.latency_ms, data, data.power_w, palette.map("bad"), palette)
    ax.set(xlabel=f"Latency per request (ms), {data.device}", ylabel=f"{data.benchmark} (%)", title="Edge deployment")
    _legend(figure, ax, image, "Power (W)")


def _legend(figure: Figure, ax: Axes, image: Any, shade: str) -> None:
    handles, labels = ax.get_legend_handles_labels()
    shown = ax.legend(
        handles,
        labels,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.13),
        ncols=4,
        fontsize=7,
        title="Area: memory · * on the frontier",
        title_fontsize=7,
    )
    for handle in shown.legend_handles:
        if isinstance(handle, PathCollection):
            handle.set_sizes([45.0])
    if image is not None:
        parts.colorbar(figure, image, ax, shade)


def _spread(ax: Axes) -> float:
    """Decades that the horizontal axis spans."""
    low, high = ax.get_xlim()
    return float(np.log10(high / low))


def _count(value: float) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"
