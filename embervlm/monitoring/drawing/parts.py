"""What several figures are made of: heat maps with numbers, 3D surfaces, bars with intervals, labelled lines."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from embervlm.monitoring.style import FAINT, INK

Values = NDArray[Any]

#: A white ground for words that stand on lines or bars.
PLATE: dict[str, Any] = {"boxstyle": "square,pad=0.12", "fc": (1, 1, 1, 0.75), "ec": "none"}


def percent_axis(axis: Any) -> None:
    """Shares as 0% to 100%."""
    axis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def step_axis(axis: Any, count: int = 6) -> None:
    """Whole training steps with thousands separated."""
    axis.set_major_locator(MaxNLocator(count, integer=True))
    axis.set_major_formatter(lambda value, place: f"{value:,.0f}")


def text_on(rgba: Any) -> str:
    """Black or white, whichever can be read on the colour (red, green, blue, …; 0 to 1)."""
    red, green, blue = rgba[:3]
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.55 else INK


def heatmap(
    ax: Axes,
    values: Values,
    rows: Sequence[str],
    columns: Sequence[str],
    texts: Sequence[Sequence[str]] | None = None,
    size: float = 8.0,
    **options: Any,
) -> AxesImage:
    """A matrix as coloured cells with a text in each; NaN cells are hatched and say "–".

    Args:
        values: (rows, columns), what the colour means.
        texts: what the cells say; nothing where None.
        size: of the texts.
        options: for `imshow` (cmap, vmin, vmax, norm).
    """
    image = ax.imshow(np.ma.masked_invalid(values), aspect="auto", **options)
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(len(rows)), rows)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.set_xticks(np.arange(len(columns) - 1) + 0.5, minor=True)
    ax.set_yticks(np.arange(len(rows) - 1) + 0.5, minor=True)
    ax.grid(which="minor", color="white", linewidth=1.2)
    ax.tick_params(which="both", length=0)
    for (r, c), value in np.ndenumerate(values):
        if not np.isfinite(value):
            box = Rectangle((c - 0.5, r - 0.5), 1, 1, fill=False, hatch="///", edgecolor="#cccccc", linewidth=0)
            ax.add_patch(box)
            ax.text(c, r, "–", ha="center", va="center", fontsize=size, color=FAINT)
        elif texts is not None:
            color = text_on(image.cmap(image.norm(value)))
            ax.text(c, r, texts[r][c], ha="center", va="center", fontsize=size, color=color)
    return image


def number(value: float) -> str:
    """Three digits that count, and never a power of ten: 0.0012, 3.14, 3,870."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def surface(ax: Any, x: Values, y: Values, z: Values, **options: Any) -> Any:
    """z (len(y), len(x)) over x and y; a line where there is only one row or column, which has no surface.

    A face has one colour, its corners' mean, so large ones are split: straight lines between the points that are given
    stay what they are, and colours follow the heights. The rows that are given are drawn as lines.
    """
    grid_x, grid_y = np.meshgrid(np.asarray(x, float), np.asarray(y, float))
    if min(z.shape) < 2:
        (line,) = ax.plot(grid_x.ravel(), grid_y.ravel(), z.ravel(), color=INK, marker="o", markersize=3)
        return line
    fine_x, fine_y = _split(grid_x[0]), _split(grid_y[:, 0])
    fine = np.stack([np.interp(fine_y, grid_y[:, 0], column) for column in np.asarray(z, float).T], axis=1)
    fine = np.stack([np.interp(fine_x, grid_x[0], row) for row in fine])
    settings = {"rcount": len(fine_y), "ccount": len(fine_x), "linewidth": 0.1, "edgecolor": (0, 0, 0, 0.2)}
    drawn = ax.plot_surface(*np.meshgrid(fine_x, fine_y), fine, **{**settings, "antialiased": True, **options})
    if len(fine_y) > len(grid_y):
        for row, place in zip(np.asarray(z, float), grid_y[:, 0], strict=True):
            ax.plot(grid_x[0], np.full(len(row), place), row, color=INK, alpha=0.45, linewidth=0.6)
    return drawn


def _split(places: Values, least: int = 24) -> Values:
    """The places, and others evenly between them until there are at least so many intervals."""
    parts = -(-least // (len(places) - 1))
    between = [np.linspace(a, b, parts, endpoint=False) for a, b in itertools.pairwise(places)]
    return np.concatenate([*between, places[-1:]])


def space(figure: Figure, place: Any, title: str, labels: tuple[str, str, str], view: tuple[float, float]) -> Any:
    """A 3D axes with labels that keep clear of the ticks and inside the axes."""
    import mpl_toolkits.mplot3d  # noqa: F401 - registers the projection

    ax: Any = figure.add_subplot(place, projection="3d")
    ax.set_title(title)
    for axis, label in zip((ax.xaxis, ax.yaxis, ax.zaxis), labels, strict=True):
        axis.set_label_text(label)
        axis.labelpad = 6
        axis.set_pane_color((0.97, 0.97, 0.97, 1.0))
    ax.tick_params(labelsize=7, pad=1)
    ax.view_init(*view)
    ax.set_box_aspect(None, zoom=0.86)
    return ax


def colorbar(figure: Figure, image: Any, axes: Any, label: str, **options: Any) -> Any:
    """A colour bar without outline."""
    bar = figure.colorbar(image, ax=axes, label=label, **{"shrink": 0.8, **options})
    bar.outline.set_visible(False)
    return bar


def grouped_bars(
    ax: Axes, heights: Values, low: Values, high: Values, looks: Sequence[dict[str, Any]], places: Values | None = None
) -> None:
    """Bars side by side with intervals: heights (groups, places); NaN intervals are left out.

    Args:
        looks: per group: label, color, hatch.
        places: x of each place, 0, 1, … where None.
    """
    groups, count = heights.shape
    places = np.arange(count) if places is None else places
    width = 0.8 / groups
    for g, look in enumerate(looks):
        x = places + (g - (groups - 1) / 2) * width
        ax.bar(x, np.nan_to_num(heights[g]), width * 0.94, edgecolor=INK, linewidth=0.5, **look)
        error = np.vstack([heights[g] - low[g], high[g] - heights[g]])
        known = np.isfinite(error).all(0)
        if known.any():
            shown = np.maximum(error[:, known], 0)
            ax.errorbar(x[known], heights[g][known], shown, fmt="none", ecolor=INK, elinewidth=0.9, capsize=2.5)


def level_line(ax: Axes, value: float, label: str, color: str, dash: Any = "--", side: str = "right") -> None:
    """A horizontal line at a mean or median, with its label at one end of it."""
    ax.axhline(value, color=color, linestyle=dash, linewidth=1.0, zorder=1.5)
    x, align = (0.995, "right") if side == "right" else (0.005, "left")
    ax.annotate(
        label,
        (x, value),
        xycoords=("axes fraction", "data"),
        xytext=(0, 2),
        textcoords="offset points",
        ha=align,
        va="bottom",
        fontsize=7,
        color=color,
        bbox=PLATE,
    )


def mark_line(ax: Axes, value: float, label: str, color: str, dash: Any = "--") -> None:
    """A vertical line at a mean or median, named in the legend."""
    ax.axvline(value, color=color, linestyle=dash, linewidth=1.2, label=label)


def free_corner(values: Values, counts: Values) -> str:
    """The upper corner of a histogram that is away from its highest bar."""
    return "upper left" if 2 * values[counts.argmax()] >= values[0] + values[-1] else "upper right"


def note(ax: Any, text: str, x: float = 0.02, y: float = 0.98, **options: Any) -> None:
    """A small box with a sentence in a corner of the axes."""
    vertical = "top" if y > 0.5 else "bottom"
    side = "left" if x < 0.5 else "right"
    box = {"boxstyle": "round,pad=0.3", "fc": (1, 1, 1, 0.85), "ec": "#cccccc", "lw": 0.6}
    settings = {"fontsize": 7.5, "ha": side, "va": vertical, "bbox": box, "zorder": 10} | options
    if getattr(ax, "name", "") == "3d":
        ax.text2D(x, y, text, transform=ax.transAxes, **settings)
    else:
        ax.text(x, y, text, transform=ax.transAxes, **settings)


def subtitle(ax: Axes, title: str, words: str) -> None:
    """A title, and the figures that belong to it in a line of their own below it."""
    lines = words.count("\n") + 1
    ax.set_title(title, pad=8 + 11 * lines)
    ax.text(0.5, 1.015, words, transform=ax.transAxes, ha="center", va="bottom", fontsize=8, color=INK)


def above(ax: Axes, x: float, y: float, words: str, gap: float = 2, size: float = 7) -> None:
    """Words over a bar, readable on lines that pass there."""
    ax.annotate(
        words, (x, y), xytext=(0, gap), textcoords="offset points", ha="center", fontsize=size, bbox=PLATE, zorder=6
    )


def chosen(count: int, most: int) -> list[int]:
    """At most `most` places out of `count`, evenly spread, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(i) for i in np.linspace(0, count - 1, most)})


def smooth_steps(count: int) -> int:
    """Window of a running mean over `count` values: a twenty-fifth of them, odd, at least 1."""
    return max(1, count // 25) | 1
