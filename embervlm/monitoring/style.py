"""Colours, line styles and text sizes of every figure.

Each stage has the scheme that the documentation names; `Palette(safe=True)` gives variants that people who confuse
colours can tell apart (after Okabe & Ito, 2008). Nothing is told by colour alone: lines differ in dash and marker too,
bars in hatch, cells carry their number, so the figures survive greyscale print.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.typing import RcKeyType

STYLE: dict[RcKeyType, Any] = {
    "font.size": 9.0,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.labelsize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.6,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.fontsize": 8.0,
    "legend.frameon": False,
    "figure.titlesize": 12.0,
    "figure.titleweight": "bold",
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "hatch.linewidth": 0.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "embervlm",
    "pdf.fonttype": 42,
}

INK = "#222222"
FAINT = "#777777"
UNKNOWN = "#bdbdbd"

#: How the figures call the five default robots.
SHORT = {
    "Drone": "Drone",
    "Underwater Robot": "Underwater",
    "Humanoid": "Humanoid",
    "Robot with Wheels": "Wheeled",
    "Robot with Legs": "Legged",
}
_NAMED = {"Drone": "#1f77d0", "Underwater": "#00b4c8", "Humanoid": "#f28e1c", "Wheeled": "#2ca02c", "Legged": "#d62728"}
_SAFE = {"Drone": "#0072b2", "Underwater": "#56b4e9", "Humanoid": "#e69f00", "Wheeled": "#009e73", "Legged": "#d55e00"}
_OTHERS = ("#8c5fc4", "#7f5539", "#cc79a7", "#5c6770", "#a3a500")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (3, 1, 1, 1, 1, 1)))
_HATCHES = ("", "//", "..", "xx", "\\\\")

#: Two colours per scheme: the named ones, and those that stay distinct for everybody.
_PAIRS = {
    "stage1": (("#2171b5", "#2f9e5b"), ("#0072b2", "#009e73")),
    "modality": (("#1f77d0", "#f28e1c"), ("#0072b2", "#e69f00")),
    "stage2": (("#6a51a3", "#e6700a"), ("#5e3c99", "#e69f00")),
    "stage4": (("#c81d25", "#f2b701"), ("#d55e00", "#f0e442")),
    "cross": (("#31688e", "#c81d25"), ("#0072b2", "#d55e00")),
}
_MAPS = {
    "stage1": ("GnBu", "GnBu"),
    "blues": ("Blues", "Blues"),
    "greens": ("Greens", "Greens"),
    "stage2": ("Purples", "Purples"),
    "stage3": ("viridis", "cividis"),
    "stage4": ("YlOrRd", "YlOrBr"),
    "cross": ("viridis", "cividis"),
    "good": ("RdYlGn", "cividis"),
    "bad": ("RdYlGn_r", "cividis_r"),
}


@dataclass(frozen=True)
class Look:
    """How one robot is drawn everywhere: colour, marker, dash and hatch."""

    color: str
    marker: str
    dash: Any
    hatch: str


@dataclass(frozen=True)
class Palette:
    """Colours of one run's figures; `safe` chooses the colour-blind-safe variants."""

    safe: bool = False

    def pair(self, scheme: str) -> tuple[str, str]:
        """The two colours of a scheme: stage1, modality, stage2, stage4 or cross."""
        return _PAIRS[scheme][self.safe]

    def map(self, scheme: str) -> str:
        """The colour map of a scheme: stage1, blues, greens, stage2, stage3, stage4, cross, good or bad."""
        return _MAPS[scheme][self.safe]

    def robots(self, names: Sequence[str]) -> list[Look]:
        """A look per robot: the five default ones have theirs, others take the next free one in order."""
        known, looks, other = _SAFE if self.safe else _NAMED, [], 0
        for name in names:
            if short(name) in known:
                place = list(known).index(short(name))
                color = known[short(name)]
            else:
                place, color = len(known) + other, _OTHERS[other % len(_OTHERS)]
                other += 1
            looks.append(Look(color, _MARKERS[place % 10], _DASHES[place % 5], _HATCHES[place % 5]))
        return looks


def short(name: str) -> str:
    """A robot's name as figures write it ("Robot with Wheels" → "Wheeled")."""
    return SHORT.get(name, name)


def fade(color: str) -> LinearSegmentedColormap:
    """A colour map from nearly white to darkened `color`: one robot's surface."""
    base = np.array(to_rgb(color))
    return LinearSegmentedColormap.from_list(f"fade-{color}", np.stack([0.85 + 0.15 * base, base, 0.55 * base]))
