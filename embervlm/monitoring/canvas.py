"""Figures as objects: made without global state, saved as PNG, PDF, SVG and GIF.

A drawing function takes an empty figure and data and fills the figure; `Canvas` gives it the figure, the style and the
caption, and saves what comes out. The same data gives the same bytes.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import matplotlib
import numpy as np
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from embervlm.monitoring.style import FAINT, STYLE, Palette

#: Fills an empty figure.
Draw = Callable[[Figure], None]
Drawn = tuple[Figure, Image.Image]

#: Resolution of animations, whose every frame is kept.
GIF_DPI = 100
_FRAME_MS, _LAST_FRAME_MS = 700, 2000


class Canvas:
    """Base of the visualizers: where figures go and in which colours.

    Args:
        output_dir: folder of the figures: `<name>.png` (and `.gif`), `pdf/<name>.pdf`, `svg/<name>.svg`.
        dpi: resolution of PNG files.
        safe_colors: the colour-blind-safe variants of the schemes.
        vector: write PDF and SVG too.
    """

    #: Copies of the PNG files go to `png/`, too.
    png_folder: ClassVar[bool] = False

    def __init__(
        self, output_dir: str | Path, *, dpi: int = 300, safe_colors: bool = False, vector: bool = True
    ) -> None:
        self.output_dir = Path(output_dir)
        self.dpi = dpi
        self.palette = Palette(safe_colors)
        self.vector = vector
        #: Every file written so far, in order.
        self.written: list[Path] = []

    def draw(
        self, name: str, size: tuple[float, float], draw: Draw, source: str = "", save: bool = True, vector: bool = True
    ) -> Drawn:
        """Draw one figure.

        Args:
            name: file name without ending, below `output_dir`; it may name a folder ("radar_charts/step_000785").
            size: width and height in inches.
            draw: fills the figure.
            source: caption below it.
            save: write the files. The picture is returned either way.
            vector: False for one of a series, which is kept as PNG alone.

        Returns:
            The figure, and the picture at `dpi`.
        """
        with matplotlib.rc_context(STYLE):
            figure = _filled(size, draw, source)
            picture = _picture(figure, self.dpi)
            if save:
                png = _png(picture, self.dpi)
                self._write(f"{name}.png", png)
                if self.vector and vector:
                    self._save_vector(figure, name, png)
        return figure, picture

    def animate(self, name: str, size: tuple[float, float], frames: Sequence[Draw], source: str = "") -> Path:
        """Draw one frame after the other and write them as an endless GIF."""
        pictures = []
        with matplotlib.rc_context(STYLE):
            for draw in frames:
                figure = _filled(size, draw, source)
                pictures.append(_picture(figure, min(self.dpi, GIF_DPI)).quantize(128))
        times = [_FRAME_MS] * (len(pictures) - 1) + [_LAST_FRAME_MS]
        buffer = io.BytesIO()
        pictures[0].save(
            buffer, "GIF", save_all=True, append_images=pictures[1:], duration=times, loop=0, optimize=False
        )
        return self._write(f"{name}.gif", buffer.getvalue())

    def _save_vector(self, figure: Figure, name: str, png: bytes) -> None:
        place = Path(name)
        if self.png_folder:
            self._write(str(place.parent / "png" / f"{place.name}.png"), png)
        # The PNG has settled the layout; it must not move for the others, and costs time.
        figure.set_layout_engine("none")
        for kind, undated in (("pdf", {"CreationDate": None}), ("svg", {"Date": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=self.dpi, metadata=undated)
            self._write(str(place.parent / kind / f"{place.name}.{kind}"), buffer.getvalue())

    def _write(self, name: str, content: bytes) -> Path:
        path = self.output_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self.written.append(path)
        return path


def _filled(size: tuple[float, float], draw: Draw, source: str) -> Figure:
    figure = Figure(figsize=size, layout="constrained")
    draw(figure)
    if source:
        # About 17 characters of this size fit into an inch.
        lines = [textwrap.fill(line, int(17 * size[0])) for line in source.splitlines()]
        figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=6.5, color=FAINT)
    return figure


def _picture(figure: Figure, dpi: int) -> Image.Image:
    """The figure as pixels, drawn once: `savefig` would draw it a second time for its layout alone."""
    own, canvas = figure.dpi, FigureCanvasAgg(figure)
    figure.dpi = dpi
    try:
        canvas.draw()
        return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    finally:
        figure.dpi = own
        # Else the pixels would live as long as the figure.
        FigureCanvasBase(figure)


def _png(picture: Image.Image, dpi: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", dpi=(dpi, dpi), compress_level=4)
    return buffer.getvalue()
