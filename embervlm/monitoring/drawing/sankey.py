"""The attention flow as a Sankey diagram: bars for nodes, ribbons for links, width for attention."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path
from numpy.typing import NDArray

from embervlm.monitoring.data import FLOW, AttentionFlow
from embervlm.monitoring.style import INK, Palette, short

Values = NDArray[Any]
_BAR, _GAP = 0.05, 0.18


def throughput(data: AttentionFlow) -> Values:
    """(V,) what flows through each node: the larger of what comes in and what goes out."""
    count = len(data.nodes)
    return np.maximum(np.bincount(data.start, data.strength, count), np.bincount(data.end, data.strength, count))


def node_places(data: AttentionFlow) -> tuple[Values, Values]:
    """(V,) lower end and height of every node; columns have the same height in all, nodes their share of it."""
    flow, low, height = throughput(data), np.zeros(len(data.nodes)), np.zeros(len(data.nodes))
    for column in np.unique(data.column):
        rows = np.flatnonzero(data.column == column)
        gap = _GAP / max(1, len(rows) - 1) if len(rows) > 1 else 0.0
        usable = 1 - gap * (len(rows) - 1)
        height[rows] = usable * flow[rows] / max(float(flow[rows].sum()), 1e-12)
        top = 1.0
        for row in rows:
            low[row] = top - height[row]
            top = low[row] - gap
    return low, height


def node_colors(data: AttentionFlow, palette: Palette) -> list[Any]:
    """Yellow to red over the columns; selection nodes that are robots have their own colours."""
    cmap = matplotlib.colormaps[palette.map("stage4")]
    robots = [name for name, column in zip(data.nodes, data.column, strict=True) if column == 3]
    own = {name: look.color for name, look in zip(robots, palette.robots(robots), strict=True)}
    return [
        own[name] if column == 3 else cmap(0.25 + 0.3 * int(column))
        for name, column in zip(data.nodes, data.column, strict=True)
    ]


def attention_flow(figure: Figure, data: AttentionFlow, palette: Palette) -> None:
    """Visual tokens → fusion → reasoning → selection; the ribbon's width is the attention."""
    ax = figure.add_subplot()
    ax.set_axis_off()
    columns = np.unique(data.column)
    x = {int(column): float(place) for place, column in enumerate(columns)}
    low, height = node_places(data)
    colors, flow = node_colors(data, palette), throughput(data)
    _ribbons(ax, data, x, low, height, colors)
    totals = {int(c): float(flow[data.column == c].sum()) for c in columns}
    for v, name in enumerate(data.nodes):
        column = int(data.column[v])
        ax.add_patch(
            Rectangle(
                (x[column] - _BAR / 2, low[v]),
                _BAR,
                height[v],
                facecolor=colors[v],
                edgecolor=INK,
                linewidth=0.6,
                zorder=3,
            )
        )
        last = column == columns[-1]
        words = f"{short(name)}  {flow[v] / totals[column]:.0%}"
        ax.text(
            x[column] + (1 if last else -1) * (_BAR / 2 + 0.015),
            low[v] + height[v] / 2,
            words,
            va="center",
            ha="left" if last else "right",
            fontsize=8,
            zorder=4,
            bbox={"boxstyle": "square,pad=0.12", "fc": (1, 1, 1, 0.7), "ec": "none"},
        )
    for column in columns:
        ax.text(x[int(column)], 1.05, FLOW[int(column)], ha="center", va="bottom", fontsize=10, weight="bold")
    ax.set_xlim(-0.45, len(columns) - 1 + 0.5)
    ax.set_ylim(-0.03, 1.12)
    ax.set_title(f"Attention flow, step {data.step:,} ({data.method})", pad=10)


def _ribbons(
    ax: Axes, data: AttentionFlow, x: dict[int, float], low: Values, height: Values, colors: list[Any]
) -> None:
    """One ribbon per link, stacked at both ends in the order of the nodes at the other end, from above."""
    flow = np.maximum(throughput(data), 1e-12)
    out_top, in_top = low + height, low + height
    thick_out = height[data.start] * data.strength / flow[data.start]
    thick_in = height[data.end] * data.strength / flow[data.end]
    tops: dict[tuple[int, int], float] = {}
    for link in np.lexsort((data.end, data.start)):
        tops[int(link), 0] = float(out_top[data.start[link]])
        out_top[data.start[link]] -= thick_out[link]
    for link in np.lexsort((data.start, data.end)):
        tops[int(link), 1] = float(in_top[data.end[link]])
        in_top[data.end[link]] -= thick_in[link]
    for link in range(len(data.strength)):
        if not data.strength[link] > 0:
            continue
        start, end = int(data.start[link]), int(data.end[link])
        x0, x1 = x[int(data.column[start])] + _BAR / 2, x[int(data.column[end])] - _BAR / 2
        y0, y1 = tops[link, 0], tops[link, 1]
        middle = (x0 + x1) / 2
        points = [(x0, y0), (middle, y0), (middle, y1), (x1, y1), (x1, y1 - thick_in[link])]
        points += [(middle, y1 - thick_in[link]), (middle, y0 - thick_out[link]), (x0, y0 - thick_out[link]), (x0, y0)]
        codes = [Path.MOVETO, *[Path.CURVE4] * 3, Path.LINETO, *[Path.CURVE4] * 3, Path.CLOSEPOLY]
        patch = PathPatch(
            Path(points, codes), facecolor=colors[start], alpha=0.45, edgecolor=INK, linewidth=0.15, zorder=1
        )
        patch.set_gid(f"{data.nodes[start]} → {data.nodes[end]}")
        ax.add_patch(patch)
