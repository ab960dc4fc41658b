"""Examples as cards of text: a task, what the model wrote, what it chose, and whether that was right."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from embervlm.monitoring.style import INK

_WIDTH, _LINE = 9.0, 0.17  # inches
_CHARACTERS = 118


@dataclass(frozen=True)
class Card:
    """One example; `right` None where there is no right or wrong."""

    title: str
    lines: Sequence[str]
    verdict: str
    right: bool | None


def _wrapped(card: Card) -> tuple[str, str, str]:
    """Title, body and verdict, broken into lines."""
    body = "\n".join(textwrap.fill(line, _CHARACTERS) for line in card.lines if line)
    return textwrap.fill(card.title, _CHARACTERS - 12), body, textwrap.fill(card.verdict, _CHARACTERS)


def _height(card: Card) -> float:
    return sum(part.count("\n") + 1 for part in _wrapped(card)) * _LINE + 0.3


def size_of(entries: Sequence[Card]) -> tuple[float, float]:
    """Size in inches that holds all cards."""
    return _WIDTH, sum(map(_height, entries)) + 0.5


def cards(figure: Figure, entries: Sequence[Card], title: str) -> None:
    """Cards one below the other, as high as their text."""
    ax = figure.add_subplot()
    total = sum(map(_height, entries))
    ax.set(xlim=(0, 1), ylim=(total, 0))
    ax.set_axis_off()
    top = 0.0
    for card in entries:
        head, body, verdict = _wrapped(card)
        height = _height(card)
        ax.add_patch(
            Rectangle((0, top + 0.05), 1, height - 0.1, facecolor="#f6f6f6", edgecolor="#cccccc", linewidth=0.6)
        )
        mark = {True: "✓ ", False: "✗ ", None: ""}[card.right]
        after = top + 0.12 + (head.count("\n") + 1) * _LINE
        ax.text(0.01, top + 0.12, mark + head, va="top", fontsize=9, weight="bold", color=INK)
        ax.text(0.01, after, body, va="top", fontsize=8, color=INK)
        color = {True: "#1b7837", False: "#b2182b", None: INK}[card.right]
        ax.text(0.01, top + height - 0.1, verdict, va="bottom", fontsize=8, color=color)
        top += height
    figure.suptitle(title)
