"""The radar chart of the robots."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from embervlm.monitoring.data import RobotRadar
from embervlm.monitoring.drawing.parts import PLATE
from embervlm.monitoring.style import FAINT, Palette, short

SPOKES = ("Precision", "Recall", "F1", "Confidence", "Support")
RINGS = (0.2, 0.4, 0.6, 0.8, 1.0)
#: Angle of the rings' numbers, from the first spoke.
_BESIDE = np.radians(7)


def robot_radar(figure: Figure, data: RobotRadar, palette: Palette) -> None:
    """Five spokes, a closed line per robot; a value that does not exist breaks the line.

    Support is its share of the largest support, which the spoke names; the counts stand in the legend.
    """
    ax = figure.add_subplot(projection="polar")
    most = max(1, int(data.support.max()))
    values = np.stack([data.precision, data.recall, data.f1, data.confidence, data.support / most], 1)
    angles = np.linspace(0, 2 * np.pi, len(SPOKES), endpoint=False)
    for name, look, row, support in zip(data.robots, palette.robots(data.robots), values, data.support, strict=True):
        ax.plot(
            np.append(angles, angles[0]),
            np.append(row, row[0]),
            color=look.color,
            marker=look.marker,
            linestyle=look.dash,
            linewidth=1.6,
            markersize=5,
            label=f"{short(name)} (n = {support})",
        )
        if np.isfinite(row).all():
            ax.fill(angles, row, color=look.color, alpha=0.07)
    ax.set_theta_offset(np.pi / 2)  # type: ignore[attr-defined]
    ax.set_theta_direction(-1)  # type: ignore[attr-defined]
    ax.set_xticks(angles, [*SPOKES[:4], f"Support\n(1 = {most}\ntasks)"])
    ax.set_ylim(0, 1)
    ax.set_yticks(RINGS, [""] * len(RINGS))
    for ring in RINGS:
        # Tick labels would lie under the lines.
        ax.text(_BESIDE, ring, f"{ring:g}", ha="center", va="center", fontsize=7, color=FAINT, bbox=PLATE, zorder=4)
    ax.spines["polar"].set_color("#cccccc")
    ax.tick_params(axis="x", pad=16)
    ax.legend(loc="upper left", bbox_to_anchor=(1.12, 1.02))
    missing = [
        f"{short(name)}: no {spoke.lower()}"
        for name, row in zip(data.robots, values, strict=True)
        for spoke, value in zip(SPOKES, row, strict=True)
        if np.isnan(value)
    ]
    if missing:
        ax.text(1.14, 0.1, "\n".join(missing), transform=ax.transAxes, fontsize=7, color=FAINT, va="bottom")
    ax.set_title(f"Per-robot performance, step {data.step:,}", pad=18)
