"""Reading a drawn figure back: bars, cells, lines, surfaces and words, as the axes hold them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from numpy.typing import NDArray

#: Resolution of figures that are only read back.
DPI = 20
NOWHERE = Path("not-written")


def panel(figure: Figure, title: str) -> Any:
    """The axes whose title holds the words."""
    found = [ax for ax in figure.axes if title in ax.get_title()]
    assert len(found) == 1, [ax.get_title() for ax in figure.axes]
    return found[0]


def bars(ax: Axes) -> list[list[float]]:
    """Heights of every group of bars."""
    return [[float(bar.get_height()) for bar in group] for group in ax.containers if isinstance(group, BarContainer)]


def bar_groups(ax: Axes) -> dict[str, list[float]]:
    """Heights of the bars by their group's name in the legend."""
    groups = [group for group in ax.containers if isinstance(group, BarContainer)]
    return {str(group.get_label()): [float(bar.get_height()) for bar in group] for group in groups}


def cells(ax: Axes) -> NDArray[Any]:
    """Values behind a heat map, NaN where masked."""
    return np.ma.filled(ax.images[0].get_array().astype(float), np.nan)


def words(ax: Any) -> list[str]:
    """Every text inside the axes."""
    return [text.get_text() for text in ax.texts]


def grid_words(ax: Axes) -> list[list[str]]:
    """Texts of a heat map's cells in rows."""
    rows, columns = cells(ax).shape
    found = [["" for _ in range(columns)] for _ in range(rows)]
    for text in ax.texts:
        x, y = text.get_position()
        found[round(float(y))][round(float(x))] = text.get_text()
    return found


def ticks(axis: Any) -> list[str]:
    """Labels of the major ticks."""
    return [label.get_text() for label in axis.get_ticklabels()]


def line(ax: Any, label: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """x and y of the line whose label begins so (y and z in 3D)."""
    found = [entry for entry in ax.get_lines() if str(entry.get_label()).startswith(label)]
    assert len(found) == 1, [entry.get_label() for entry in ax.get_lines()]
    if hasattr(found[0], "get_data_3d"):
        _, y, z = found[0].get_data_3d()
        return np.asarray(y), np.asarray(z)
    return np.asarray(found[0].get_xdata()), np.asarray(found[0].get_ydata())


def points(ax: Any, label: str) -> NDArray[Any]:
    """Positions of a scatter by its label."""
    found = [c for c in ax.collections if isinstance(c, PathCollection) and c.get_label() == label]
    assert len(found) == 1, [c.get_label() for c in ax.collections]
    return np.asarray(found[0].get_offsets())


def surface(ax: Any) -> dict[tuple[float, float], float]:
    """(x, y) → z of every corner of the one surface in 3D axes."""
    faces = [c._faces for c in ax.collections if hasattr(c, "_faces")]
    assert len(faces) == 1
    return {(round(float(x), 6), round(float(y), 6)): float(z) for x, y, z in np.asarray(faces[0]).reshape(-1, 3)}


def legend(ax: Any) -> list[str]:
    """The legend's lines."""
    shown = ax.get_legend()
    return [] if shown is None else [text.get_text() for text in shown.get_texts()]


def looks(ax: Any) -> list[tuple[Any, Any, Any]]:
    """Colour, dash and marker of every labelled line."""
    lines = [entry for entry in ax.get_lines() if not str(entry.get_label()).startswith("_")]
    return [(entry.get_color(), entry._unscaled_dash_pattern, entry.get_marker()) for entry in lines]
