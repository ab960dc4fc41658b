"""Backdrops of open country."""

from __future__ import annotations

import numpy as np

from embervlm.world.paint.canvas import Rgb, mix
from embervlm.world.paint.shapes import conifer, hills, tree
from embervlm.world.paint.view import View

STEEL: Rgb = (120, 126, 134)


def pylon(view: View, x: float, base: float, height: float, rgb: Rgb = STEEL) -> list[tuple[float, float]]:
    """A lattice pylon; gives the ends of its arms, where wires hang."""
    canvas = view.canvas
    w = max(0.003, height * 0.016)
    left, right = (x - height * 0.13, base), (x + height * 0.13, base)
    neck, top = base - height * 0.6, base - height
    canvas.line((left, (x - height * 0.035, neck), (x, top), (x + height * 0.035, neck), right), rgb, w, 0.8)
    for i in range(5):
        a, b = i / 5, (i + 1) / 5
        ya, yb = base - height * 0.6 * a, base - height * 0.6 * b
        wa, wb = height * (0.13 - 0.095 * a), height * (0.13 - 0.095 * b)
        canvas.line(((x - wa, ya), (x + wb, yb)), rgb, w * 0.6, 0.7)
        canvas.line(((x + wa, ya), (x - wb, yb)), rgb, w * 0.6, 0.7)
    ends = []
    for level, reach in ((0.62, 0.24), (0.76, 0.3), (0.9, 0.2)):
        y = base - height * level
        canvas.line(
            ((x - reach * height, y), (x, y - height * 0.05), (x + reach * height, y), (x - reach * height, y)),
            rgb,
            w * 0.8,
            0.85,
        )
        ends += [(x - reach * height, y), (x + reach * height, y)]
    return ends


def _sag(a: tuple[float, float], b: tuple[float, float]) -> list[tuple[float, float]]:
    drop = 0.12 * abs(b[0] - a[0])
    return [(a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t + drop * 4 * t * (1 - t)) for t in np.linspace(0, 1, 8)]


def power_line(view: View) -> None:
    y, rng, canvas = view.camera.horizon, view.rng("line"), view.canvas
    hills(view, y, 0.05, (92, 120, 84), 0.5, "far")
    hills(view, y + 0.02, 0.03, (86, 112, 56), 0.3, "mid", 0.05)
    side = 1 if rng.uniform() < 0.5 else -1
    spots = (
        (0.5 - side * 0.05, y + 0.012, 0.16, 0.5),
        (0.5 + side * 0.12, y + 0.03, 0.28, 0.3),
        (0.5 + side * 0.36, y + 0.09, min(0.56, y + 0.05), 0.08),
    )
    previous: list[tuple[float, float]] = []
    for x, base, height, air in spots:
        view.distant(air)
        ends = pylon(view, x, base, height)
        for a, b in zip(previous, ends, strict=False):
            canvas.line(_sag(a, b), (52, 54, 60), 0.003)
        previous = ends
    for i, end in enumerate(previous):
        canvas.line(_sag(end, (0.5 + side * 0.75, end[1] - 0.12 + 0.02 * i)), (52, 54, 60), 0.004)
    view.distant(0)


def forest_slope(view: View) -> None:
    y, rng, canvas = view.camera.horizon, view.rng("forest"), view.canvas
    side = 1.0 if rng.uniform() < 0.5 else -1.0
    green: Rgb = ((44, 84, 52), (58, 88, 46), (40, 74, 60))[int(rng.integers(3))]
    if view.scene.weather == "snow":
        green = mix(green, (226, 232, 238), 0.4)
    hills(view, y - 0.06, 0.14, (70, 100, 90), 0.6, "peaks")
    for layer, (air, count) in enumerate(((0.45, 11), (0.26, 9), (0.08, 7))):
        view.distant(air)
        tilt = side * (0.16 - 0.03 * layer)
        low = y - 0.02 + 0.05 * layer
        canvas.poly(
            ((-0.05, low - tilt * 0.55), (1.05, low + tilt * 0.55), (1.05, y + 0.2), (-0.05, y + 0.2)),
            mix(green, (92, 84, 54), 0.55),
            1 - 0.1 * layer,
        )
        for x in np.sort(rng.uniform(-0.05, 1.05, count)):
            if layer == 2 and abs(x - 0.5) < 0.24:
                continue
            h = float(rng.uniform(0.15, 0.24)) * (1 + 0.42 * layer) * (1.25 if y > 0.5 else 1)
            conifer(canvas, float(x), low + tilt * (float(x) - 0.5) * 1.1 + 0.02, h, green)
    view.distant(0)


def river_bed(view: View) -> None:
    y, rng, canvas = view.camera.horizon, view.rng("river"), view.canvas
    hills(view, y - 0.02, 0.08, (92, 122, 92), 0.5, "valley")
    view.distant(0.2)
    for x in rng.uniform(-0.05, 1.05, 12):
        if abs(x - 0.5) > 0.13:
            tree(canvas, float(x), y + 0.03, float(rng.uniform(0.1, 0.2)), (78, 116, 60))
    for side in (-1, 1):
        bank = [
            (0.5 + side * 0.62, y - 0.05),
            (0.5 + side * 0.2, y + 0.01),
            (0.5 + side * 0.14, y + 0.05),
            (0.5 + side * 0.34, y + 0.1),
            (0.5 + side * 0.62, y + 0.2),
        ]
        canvas.fill(bank, (116, 104, 70), down=(1.1, 0.75), grain="fine", amp=0.2)
    view.distant(0)
    winding = [
        (0.5 + (0.05 + 0.36 * t**1.5) * s + 0.1 * float(np.sin(5 * t)) * (1 - t), y + 0.015 + 0.3 * t)
        for s, ts in ((-1, np.linspace(0, 0.62, 8)), (1, np.linspace(0.62, 0, 8)))
        for t in ts
    ]
    water = mix((88, 140, 168), view.water, 0.3)
    canvas.fill(winding, water, down=(1.3, 0.85), grain="soft", amp=0.2, alpha=0.92)
    for x, t in zip(rng.uniform(-0.7, 0.7, 12), rng.uniform(0.1, 0.58, 12), strict=True):
        cx = 0.5 + float(x) * (0.05 + 0.36 * float(t) ** 1.5)
        canvas.line(
            ((cx - 0.02, y + 0.015 + 0.3 * float(t)), (cx + 0.02, y + 0.015 + 0.3 * float(t))), (225, 236, 240), 0.003
        )
    for side in (-1, 1):
        for x in rng.uniform(0.36, 0.5, 9):
            h = float(rng.uniform(0.07, 0.14))
            px = 0.5 + side * float(x)
            canvas.line(((px, y + 0.19), (px + 0.01, y + 0.19 - h)), (104, 124, 56), 0.005)
            canvas.ellipse(px + 0.01, y + 0.19 - h, 0.006, 0.02, (96, 62, 38))


def farmland(view: View) -> None:
    y, rng, canvas = view.camera.horizon, view.rng("farm"), view.canvas
    hills(view, y, 0.04, (126, 140, 84), 0.5, "far")
    view.distant(0.3)
    side = 1 if rng.uniform() < 0.5 else -1
    strip: Rgb = ((214, 184, 84), (150, 160, 70), (196, 170, 96))[int(rng.integers(3))]
    if view.scene.weather == "snow":
        strip = (220, 224, 228)
    canvas.poly(((-0.05, y + 0.0), (1.05, y - 0.012), (1.05, y + 0.05), (-0.05, y + 0.04)), strip)
    for x in rng.uniform(-0.05, 1.05, 4):
        tree(canvas, float(x), y + 0.01, float(rng.uniform(0.07, 0.12)), (84, 116, 58))
    view.distant(0.12)
    x = 0.5 + side * 0.33
    red: Rgb = ((168, 50, 42), (150, 60, 46), (120, 84, 60))[int(rng.integers(3))]
    canvas.rect(x - 0.12, y - 0.1, x + 0.12, y + 0.045, red)
    canvas.poly(((x - 0.14, y - 0.1), (x - 0.08, y - 0.19), (x + 0.08, y - 0.19), (x + 0.14, y - 0.1)), (90, 84, 86))
    canvas.rect(x - 0.035, y - 0.045, x + 0.035, y + 0.045, (236, 230, 220))
    canvas.line(((x - 0.03, y - 0.04), (x + 0.03, y + 0.04)), red, 0.008)
    canvas.line(((x + 0.03, y - 0.04), (x - 0.03, y + 0.04)), red, 0.008)
    sx = x - side * 0.19
    canvas.fill(
        ((sx - 0.035, y - 0.2), (sx + 0.035, y - 0.2), (sx + 0.035, y + 0.04), (sx - 0.035, y + 0.04)),
        (190, 194, 198),
        across=(1.2, 0.6),
    )
    canvas.ellipse(sx, y - 0.2, 0.035, 0.03, (170, 174, 180))
    view.distant(0)
    for i in range(11):
        px = i / 10
        if abs(px - 0.5) > 0.12:
            canvas.rect(px - 0.006, y + 0.02, px + 0.006, y + 0.1, (130, 98, 66))
    for dy in (0.04, 0.068):
        canvas.line(((-0.05, y + dy), (1.05, y + dy)), (150, 114, 78), 0.008)
