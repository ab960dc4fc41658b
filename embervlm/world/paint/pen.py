"""Draws one thing: simple shaded solids in the thing's own frame, where its height is 1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from embervlm.world.paint.canvas import Canvas, Point, Rgb, mix

STEEL: Rgb = (158, 163, 170)
DARK: Rgb = (44, 44, 50)
WOOD: Rgb = (164, 122, 78)
WHITE: Rgb = (236, 236, 232)
CONCRETE: Rgb = (150, 148, 142)
GLASS: Rgb = (150, 190, 210)
YELLOW: Rgb = (235, 195, 40)
RED: Rgb = (200, 45, 38)


class Pen:
    """Shapes of a thing standing at (`x`, `base`): local x to the right, local y up, 1 = `height`.

    `rgb` is the thing's colour, used where a call gives none. Light comes from the upper left.
    """

    def __init__(
        self,
        canvas: Canvas,
        x: float,
        base: float,
        height: float,
        rgb: Rgb,
        rng: np.random.Generator,
        flip: bool = False,
    ) -> None:
        self.canvas = canvas
        self.x = x
        self.base = base
        self.height = height
        self.rgb = rgb
        self.rng = rng
        self.side = -1.0 if flip else 1.0

    @property
    def bright(self) -> bool:
        """Whether the thing's own colour is a light one, so that marks on it must be dark."""
        return sum(self.rgb) > 470

    @property
    def mark(self) -> Rgb:
        """A colour that shows on the thing's own."""
        return mix(self.rgb, DARK, 0.8) if self.bright else mix(self.rgb, WHITE, 0.8)

    def at(self, x: float, y: float) -> Point:
        """The picture point of a local one."""
        return (self.x + self.side * x * self.height, self.base - y * self.height)

    def poly(self, points: Sequence[Point], rgb: Rgb | None = None, k: float = 1.0) -> None:
        """A filled polygon."""
        self.canvas.poly([self.at(*p) for p in points], rgb or self.rgb, k)

    def rect(self, x0: float, y0: float, x1: float, y1: float, rgb: Rgb | None = None, k: float = 1.0) -> None:
        """A filled upright rectangle."""
        self.poly(((x0, y0), (x1, y0), (x1, y1), (x0, y1)), rgb, k)

    def line(self, points: Sequence[Point], rgb: Rgb | None = None, width: float = 0.03, k: float = 1.0) -> None:
        """A polyline, `width` in heights of the thing."""
        self.canvas.line([self.at(*p) for p in points], rgb or self.rgb, width * self.height, k)

    def disc(
        self, x: float, y: float, rx: float, ry: float | None = None, rgb: Rgb | None = None, k: float = 1.0
    ) -> None:
        """A filled ellipse."""
        cx, cy = self.at(x, y)
        self.canvas.ellipse(cx, cy, rx * self.height, (rx if ry is None else ry) * self.height, rgb or self.rgb, k)

    def ring(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float | None = None,
        rgb: Rgb | None = None,
        width: float = 0.04,
        k: float = 1.0,
        arc: tuple[float, float] = (0.0, 360.0),
    ) -> None:
        """An ellipse's outline; `arc` in degrees clockwise from the right."""
        cx, cy = self.at(x, y)
        if self.side < 0:
            arc = (180 - arc[1], 180 - arc[0])
        self.canvas.ellipse(
            cx,
            cy,
            rx * self.height,
            (rx if ry is None else ry) * self.height,
            rgb or self.rgb,
            k,
            arc=arc,
            width=width * self.height,
        )

    def ball(
        self, x: float, y: float, rx: float, ry: float | None = None, rgb: Rgb | None = None, k: float = 1.0
    ) -> None:
        """A shaded ellipsoid."""
        ry = rx if ry is None else ry
        for i, light in enumerate((0.68, 0.86, 1.0, 1.14)):
            t = 1 - 0.2 * i
            self.disc(x - self.side * rx * 0.09 * i, y + ry * 0.09 * i, rx * t, ry * t, rgb, k * light)

    def box(
        self, x0: float, y0: float, x1: float, y1: float, rgb: Rgb | None = None, depth: float = 0.14, k: float = 1.0
    ) -> None:
        """A solid: front, lit top and shaded right side, drawn askew by `depth`."""
        rise = depth * 0.55
        self.poly(((x0, y1), (x1, y1), (x1 + depth, y1 + rise), (x0 + depth, y1 + rise)), rgb, k * 1.22)
        self.poly(((x1, y0), (x1, y1), (x1 + depth, y1 + rise), (x1 + depth, y0 + rise)), rgb, k * 0.62)
        self.canvas.fill(
            [self.at(*p) for p in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))],
            rgb or self.rgb,
            down=(k * 1.04, k * 0.84),
            grain="fine",
            amp=0.07,
            at=(0.2, 0.5),
        )

    def _strips(self, k: float) -> list[tuple[float, float, float]]:
        edges = (-1.0, -0.86, -0.6, -0.32, -0.02, 0.3, 0.6, 0.84, 1.0)
        lights = (0.78, 0.98, 1.2, 1.1, 0.96, 0.82, 0.66, 0.54)
        return [(edges[i], edges[i + 1], k * lights[i]) for i in range(8)]

    def cyl(
        self,
        x: float,
        y0: float,
        y1: float,
        r: float,
        rgb: Rgb | None = None,
        k: float = 1.0,
        top: float | None = None,
        lid: bool = True,
        lidrgb: Rgb | None = None,
    ) -> None:
        """An upright cylinder of radius `r`, or a cone frustum with radius `top` above."""
        t = r if top is None else top
        self.disc(x, y0, r, r * 0.24, rgb, k * 0.72)
        for a, b, light in self._strips(k):
            a, b = (a, b) if self.side > 0 else (-b, -a)
            self.poly(((x + a * r, y0), (x + b * r, y0), (x + b * t, y1), (x + a * t, y1)), rgb, light)
        if lid:
            self.disc(x, y1, t, t * 0.24, lidrgb or rgb, k * 1.18)

    def pipe(self, x0: float, x1: float, y: float, r: float, rgb: Rgb | None = None, k: float = 1.0) -> None:
        """A horizontal cylinder."""
        for a, b, light in self._strips(k):
            self.rect(x0, y - a * r, x1, y - b * r, rgb, light)
