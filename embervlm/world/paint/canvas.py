"""A picture being drawn: shapes in unit coordinates under the light and haze of the moment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from embervlm.world.paint.noise import Array, crop, halo

Rgb = tuple[float, float, float]
Point = tuple[float, float]

_SHIFT = 4  # bits of sub-pixel precision in cv2's drawing calls
_ONE = 1 << _SHIFT
_ROUND = tuple((math.cos(i * math.tau / 12), math.sin(i * math.tau / 12)) for i in range(12))


def mix(a: Rgb, b: Rgb, t: float) -> Rgb:
    """The colour a share `t` of the way from `a` to `b`."""
    return (a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t)


def shade(rgb: Rgb, k: float) -> Rgb:
    """The colour, `k` times as bright."""
    return (rgb[0] * k, rgb[1] * k, rgb[2] * k)


@dataclass(frozen=True)
class Camera:
    """A pinhole looking down Z. Metres in; unit picture coordinates (0 … 1, y down) out."""

    horizon: float
    vanish: float = 0.5
    focal: float = 0.95
    height: float = 1.6

    def at(self, x: float, y: float, z: float) -> Point:
        """The picture point of a place `x` to the right, `y` above the ground, `z` away (z > 0)."""
        return (self.vanish + self.focal * x / z, self.horizon + self.focal * (self.height - y) / z)

    def distance(self, row: float) -> float:
        """How far away the ground is that is seen at picture height `row`, in metres."""
        return self.focal * self.height / max(row - self.horizon, 1e-3)


class Canvas:
    """Draws into `img` (size, size, 3), uint8 RGB.

    Colours are those of the thing in white light; `tint` (the light) and `haze` (a share of
    `haze_rgb`, the air between) are applied on the way, unless a call says `raw`.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.img: Array = np.zeros((size, size, 3), np.uint8)
        self.tint: Rgb = (1.0, 1.0, 1.0)
        self.haze = 0.0
        self.haze_rgb: Rgb = (200.0, 205.0, 210.0)

    def seen(self, rgb: Rgb, k: float = 1.0, raw: bool = False) -> tuple[float, float, float]:
        """What a colour looks like here, ready for cv2."""
        if raw:
            return shade(rgb, k)
        t, h, g = self.tint, self.haze, self.haze_rgb
        r0, r1, r2 = rgb[0] * k * t[0], rgb[1] * k * t[1], rgb[2] * k * t[2]
        out = (r0 + (g[0] - r0) * h, r1 + (g[1] - r1) * h, r2 + (g[2] - r2) * h)
        return (min(out[0], 255.0), min(out[1], 255.0), min(out[2], 255.0))

    def _fixed(self, points: Sequence[Point], ox: int = 0, oy: int = 0) -> Array:
        s, h = self.size * _ONE, _ONE / 2 - 0.5
        left, up = h + ox * _ONE, h + oy * _ONE
        return np.array([(int(x * s - left), int(y * s - up)) for x, y in points], np.int32)

    def poly(self, points: Sequence[Point], rgb: Rgb, k: float = 1.0, raw: bool = False) -> None:
        """A filled polygon."""
        cv2.fillPoly(self.img, [self._fixed(points)], self.seen(rgb, k, raw), cv2.LINE_AA, _SHIFT)

    def rect(self, x0: float, y0: float, x1: float, y1: float, rgb: Rgb, k: float = 1.0, raw: bool = False) -> None:
        """A filled upright rectangle."""
        self.poly(((x0, y0), (x1, y0), (x1, y1), (x0, y1)), rgb, k, raw)

    def line(self, points: Sequence[Point], rgb: Rgb, width: float = 0.004, k: float = 1.0, raw: bool = False) -> None:
        """An open polyline; `width` is a share of the picture, at least one pixel."""
        thick = max(1, round(width * self.size))
        cv2.polylines(self.img, [self._fixed(points)], False, self.seen(rgb, k, raw), thick, cv2.LINE_AA, _SHIFT)

    def ellipse(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float,
        rgb: Rgb,
        k: float = 1.0,
        raw: bool = False,
        arc: tuple[float, float] = (0.0, 360.0),
        width: float = 0.0,
        angle: float = 0.0,
    ) -> None:
        """An ellipse: filled, or a stroke of `width` where that is given; `arc` in degrees, clockwise from right."""
        s = self.size * _ONE
        if not width and max(rx, ry) * self.size < 5 and not angle and arc == (0.0, 360.0):
            # cv2 draws tiny ellipses as diamonds
            self.poly([(x + rx * a, y + ry * b) for a, b in _ROUND], rgb, k, raw)
            return
        centre = (round(x * s - _ONE / 2), round(y * s - _ONE / 2))
        axes = (max(0, round(rx * s)), max(0, round(ry * s)))
        thick = max(1, round(width * self.size)) if width else -1
        cv2.ellipse(self.img, centre, axes, angle, arc[0], arc[1], self.seen(rgb, k, raw), thick, cv2.LINE_AA, _SHIFT)

    def _window(self, x0: float, y0: float, x1: float, y1: float) -> tuple[int, int, int, int] | None:
        s = self.size
        a, b = max(0, int(np.floor(x0 * s))), max(0, int(np.floor(y0 * s)))
        c, d = min(s, int(np.ceil(x1 * s)) + 1), min(s, int(np.ceil(y1 * s)) + 1)
        return (a, b, c, d) if c > a and d > b else None

    def fill(
        self,
        points: Sequence[Point],
        rgb: Rgb,
        down: tuple[float, float] = (1.0, 1.0),
        across: tuple[float, float] = (1.0, 1.0),
        grain: str | None = None,
        amp: float = 0.1,
        texels: float = 200.0,
        at: tuple[float, float] = (0.3, 0.6),
        alpha: float = 1.0,
        raw: bool = False,
    ) -> None:
        """A polygon with brightness running `down` and `across` it and a noise texture of strength `amp`."""
        xs = [p[0] for p in points]
        ys = [p[1] for p in points]
        window = self._window(min(xs), min(ys), max(xs), max(ys))
        if window is None:
            return
        a, b, c, d = window
        w, h = c - a, d - b
        mask = np.zeros((h, w), np.uint8)
        cv2.fillPoly(mask, [self._fixed(points, a, b)], 255.0, cv2.LINE_AA, _SHIFT)
        field = np.linspace(down[0], down[1], h, dtype=np.float32)[:, None] * np.linspace(
            across[0], across[1], w, dtype=np.float32
        )
        if grain is not None:
            field *= 1 + amp * crop(grain, w, h, at[0], at[1], texels)
        region = self.img[b:d, a:c]
        cover = mask.astype(np.float32) * (alpha / 255.0)
        lit = self.seen(rgb, 1.0, raw)
        base = shade(self.haze_rgb, 0.0 if raw else self.haze)
        for i in range(3):
            value = field * (lit[i] - base[i]) + base[i]
            np.minimum(value, 255.0, out=value)
            old = region[:, :, i].astype(np.float32)
            region[:, :, i] = old + (value - old) * cover + 0.5

    def _spot(self, x: float, y: float, rx: float, ry: float) -> tuple[Array, Array] | None:
        window = self._window(x - rx, y - ry, x + rx, y + ry)
        if window is None:
            return None
        a, b, c, d = window
        s, x, y, rx, ry = self.size, float(x), float(y), float(rx), float(ry)  # numpy scalars would widen the maps
        mx = ((np.arange(a, c, dtype=np.float32) + 0.5) / s - x) / rx * 31.5 + 31.5
        my = ((np.arange(b, d, dtype=np.float32) + 0.5) / s - y) / ry * 31.5 + 31.5
        gx, gy = np.meshgrid(mx, my)
        return self.img[b:d, a:c], cv2.remap(halo(), gx, gy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)

    def glow(self, x: float, y: float, rx: float, ry: float, rgb: Rgb, strength: float = 1.0) -> None:
        """Add a soft spot of light (not lit by the scene)."""
        spot = self._spot(x, y, rx, ry)
        if spot is not None:
            region, soft = spot
            region[:] = cv2.add(
                region, (soft[:, :, None] * np.asarray(shade(rgb, strength), np.float32)).astype(np.uint8)
            )

    def gain(self, x: float, y: float, rx: float, ry: float, by: Rgb) -> None:
        """Multiply a soft spot: by 1 + `by` in its middle. Negative numbers make a shadow."""
        spot = self._spot(x, y, rx, ry)
        if spot is not None:
            region, soft = spot
            lit = region * (1 + soft[:, :, None] * np.asarray(by, np.float32))
            region[:] = np.clip(lit, 0, 255).astype(np.uint8)

    def shadow(self, x: float, y: float, rx: float, ry: float, strength: float = 0.5) -> None:
        """Darken a soft spot, for example where a thing meets the ground."""
        self.gain(x, y, rx, ry, (-strength, -strength, -strength * 0.9))

    def veil(self, rgb: Rgb, rows: Array, raw: bool = False) -> None:
        """Blend the whole picture towards a colour, by a share per row (size,)."""
        colour = np.asarray(self.seen(rgb, 1.0, raw), np.float32)
        cover = rows.astype(np.float32)[:, None, None]
        self.img = (self.img * (1 - cover) + colour * cover + 0.5).astype(np.uint8)
