"""What stands behind the scene in the places under the open sky."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from embervlm.world.paint.canvas import Canvas, Rgb, mix
from embervlm.world.paint.noise import tile
from embervlm.world.paint.view import View

STEEL: Rgb = (120, 126, 134)
_LIT: Rgb = (255, 214, 130)


def hills(view: View, y: float, amp: float, rgb: Rgb, air: float, name: str, down: float = 0.08) -> None:
    """A wavy ridge at picture height `y`, filled to below the horizon."""
    rng = view.rng(name)
    row = tile("soft")[int(rng.integers(256))]
    start = int(rng.integers(256))
    wave = [float(row[(start + i * 3) % 256]) for i in range(26)]
    edge = [(i / 25 * 1.1 - 0.05, y - amp * (0.5 + w)) for i, w in enumerate(wave)]
    view.distant(air)
    view.canvas.fill([*edge, (1.05, view.camera.horizon + down), (-0.05, view.camera.horizon + down)], rgb,
                     down=(1.08, 0.85), grain="fine", amp=0.16)  # fmt: skip
    view.distant(0)


def conifer(canvas: Canvas, x: float, base: float, height: float, rgb: Rgb) -> None:
    """A spruce: three tiers, lit from the left."""
    w = height * 0.24
    canvas.rect(x - w * 0.12, base - height * 0.16, x + w * 0.12, base, (84, 60, 40))
    for i in range(3):
        y, r, h = base - height * (0.1 + 0.26 * i), w * (1 - 0.25 * i), height * 0.4
        canvas.poly(((x - r, y), (x, y - h), (x + r, y), (x, y + r * 0.22)), rgb, 0.72)
        canvas.poly(((x - r, y), (x, y - h), (x - r * 0.1, y + r * 0.18)), rgb, 1.12)


def tree(canvas: Canvas, x: float, base: float, height: float, rgb: Rgb) -> None:
    """A broad-leaved tree."""
    canvas.rect(x - height * 0.04, base - height * 0.45, x + height * 0.04, base, (96, 70, 46))
    for dx, dy, r, k in ((0.16, 0.5, 0.24, 0.62), (-0.16, 0.54, 0.24, 0.85), (0.04, 0.72, 0.27, 0.85), (-0.08, 0.76, 0.2, 1.15)):
        canvas.ellipse(x + dx * height, base - dy * height, r * height, r * height, rgb, k)


def block(view: View, x0: float, x1: float, y0: float, y1: float, rgb: Rgb, name: str, rows: int, cols: int, roof: bool = True) -> None:
    """A building front between picture heights `y0` (top) and `y1`, with windows, some of them lit after dark."""
    canvas, rng = view.canvas, view.rng(name)
    canvas.fill(((x0, y0), (x1, y0), (x1, y1), (x0, y1)), rgb, down=(1.06, 0.86), across=(1.06, 0.9), grain="fine", amp=0.08)
    if roof:
        canvas.rect(x0 - 0.008, y0 - 0.012, x1 + 0.008, y0 + 0.004, rgb, 0.72)
    w, h = (x1 - x0) / cols, (y1 - y0) / rows
    lit = rng.uniform(size=(rows, cols)) < (0.35 if view.dark else 0.12 if view.scene.light == "dusk" else 0.0)
    for r in range(rows):
        for c in range(cols):
            a, b = x0 + (c + 0.22) * w, y0 + (r + 0.22) * h
            glass: Rgb = _LIT if lit[r, c] else mix((70, 92, 116), (150, 184, 204), float((r + 2 * c) % 3) / 3)
            canvas.rect(a, b, a + 0.56 * w, b + 0.58 * h, glass, raw=bool(lit[r, c]))
            if w > 0.06:
                canvas.rect(a - 0.08 * w, b + 0.58 * h, a + 0.64 * w, b + 0.66 * h, rgb, 1.25)
                canvas.line(((a + 0.28 * w, b), (a + 0.28 * w, b + 0.58 * h)), rgb, 0.004, 0.7)


def _city(view: View, air: float = 0.5) -> None:
    rng, y = view.rng("city"), view.camera.horizon
    view.distant(air)
    x = -0.05
    while x < 1.0:
        w, h = float(rng.uniform(0.08, 0.16)), float(rng.uniform(0.06, 0.24))
        tone = float(rng.uniform(0.75, 1.1))
        block(view, x, x + w, y - h, y + 0.04, (128 * tone, 130 * tone, 140 * tone), f"city{x:.3f}", max(2, int(h * 22)), 3)
        x += w + float(rng.uniform(-0.01, 0.02))
    view.distant(0)


def facade(view: View) -> None:
    y, rng = view.camera.horizon, view.rng("facade")
    rgb = ((196, 150, 120), (176, 170, 160), (206, 190, 150), (160, 110, 92), (150, 160, 172))[int(rng.integers(5))]
    _city(view)
    block(view, 0.04, 0.96, -0.02, y + 0.1, rgb, "front", 4 if y > 0.5 else 3, 6, roof=False)
    for i in range(1, 4):
        yy = (y + 0.1) * i / 4
        view.canvas.rect(0.03, yy - 0.008, 0.97, yy + 0.003, rgb, 0.78)
    view.canvas.rect(0.03, y + 0.06, 0.97, y + 0.1, rgb, 0.6)
    view.canvas.rect(0.1, y - 0.06, 0.18, y + 0.1, (70, 50, 42))
    for x in (0.04, 0.93):
        view.canvas.rect(x, 0, x + 0.03, y + 0.1, rgb, 0.7)


def roof(view: View) -> None:
    y, canvas, rng = view.camera.horizon, view.canvas, view.rng("roof")
    _city(view, 0.42)
    low = y + 0.09
    canvas.fill(((-0.05, y + 0.015), (1.05, y + 0.015), (1.05, low), (-0.05, low)), (150, 130, 116), down=(1.0, 0.75), grain="fine")
    canvas.rect(-0.05, y, 1.05, y + 0.02, (186, 180, 172))
    side = 1 if rng.uniform() < 0.5 else -1
    x = 0.5 + side * 0.33
    canvas.rect(x - 0.1, y - 0.12, x + 0.1, low + 0.02, (176, 178, 180), 0.9)
    canvas.rect(x - 0.1, y - 0.14, x + 0.1, y - 0.12, (200, 202, 204))
    canvas.ellipse(x - 0.03, y - 0.03, 0.05, 0.05, (60, 62, 66))
    for r in (0.045, 0.03, 0.015):
        canvas.ellipse(x - 0.03, y - 0.03, r, r, (120, 124, 130), width=0.004)
    x = 0.5 - side * 0.36
    canvas.rect(x - 0.05, y - 0.2, x + 0.05, low, (158, 84, 64))
    for i in range(7):
        canvas.line(((x - 0.05, y - 0.17 + i * 0.035), (x + 0.05, y - 0.17 + i * 0.035)), (116, 58, 46), 0.004)
    canvas.rect(x - 0.062, y - 0.22, x + 0.062, y - 0.195, (130, 70, 54))


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
        canvas.line(((x - reach * height, y), (x, y - height * 0.05), (x + reach * height, y), (x - reach * height, y)), rgb, w * 0.8, 0.85)
        ends += [(x - reach * height, y), (x + reach * height, y)]
    return ends


def power_line(view: View) -> None:
    y, rng, canvas = view.camera.horizon, view.rng("line"), view.canvas
    hills(view, y, 0.05, (92, 120, 84), 0.5, "far")
    hills(view, y + 0.02, 0.03, (86, 112, 56), 0.3, "mid", 0.05)
    side = 1 if rng.uniform() < 0.5 else -1
    spots = ((0.5 - side * 0.05, y + 0.012, 0.16, 0.5), (0.5 + side * 0.12, y + 0.03, 0.28, 0.3), (0.5 + side * 0.36, y + 0.09, min(0.56, y + 0.05), 0.08))
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


def _sag(a: tuple[float, float], b: tuple[float, float]) -> list[tuple[float, float]]:
    drop = 0.12 * abs(b[0] - a[0])
    return [(a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t + drop * 4 * t * (1 - t)) for t in np.linspace(0, 1, 8)]


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
        canvas.poly(((-0.05, low - tilt * 0.55), (1.05, low + tilt * 0.55), (1.05, y + 0.2), (-0.05, y + 0.2)), mix(green, (92, 84, 54), 0.55), 1 - 0.1 * layer)
        for x in np.sort(rng.uniform(-0.05, 1.05, count)):
            if layer == 2 and abs(x - 0.5) < 0.24:
                continue
            h = float(rng.uniform(0.15, 0.24)) * (1 + 0.42 * layer) * (1.25 if y > 0.5 else 1)
            conifer(canvas, float(x), low + tilt * (float(x) - 0.5) * 1.1 + 0.02, h, green)
    view.distant(0)


def rubble(view: View) -> None:
    y, rng, canvas = view.camera.horizon, view.rng("rubble"), view.canvas
    tone = float(rng.uniform(0.9, 1.08))
    grey: Rgb = (150 * tone, 140 * tone, 130 * tone)
    for i, (x0, x1) in enumerate(((-0.05, 0.3), (0.34, 0.62), (0.66, 1.05))):
        view.distant(0.2 if i != 1 else 0.45)
        top = y - float(rng.uniform(0.18, 0.34)) * (0.7 if i == 1 else 1)
        n = 7
        edge = [(x0 + (x1 - x0) * j / n, top + float(rng.uniform(0, 0.12))) for j in range(n + 1)]
        canvas.fill([*edge, (x1, y + 0.08), (x0, y + 0.08)], grey, down=(1.05, 0.75), grain="soft", amp=0.18)
        for r in range(2):
            for c in range(3):
                a, b = x0 + (x1 - x0) * (0.14 + 0.29 * c), y - 0.12 + 0.09 * r
                canvas.poly(((a, b), (a + 0.05, b + float(rng.uniform(-0.012, 0.012))), (a + 0.05, b + 0.06), (a, b + 0.06)), (34, 32, 34))
        for j in (1, 3, 5):
            px, py = edge[j]
            canvas.line(((px, py), (px + 0.01, py - 0.04), (px + 0.03, py - 0.055)), (104, 70, 52), 0.004)
    view.distant(0.08)
    for x in (0.12, 0.34, 0.62, 0.88):
        _heap(view, x + float(rng.uniform(-0.05, 0.05)), y + 0.1, float(rng.uniform(0.16, 0.24)), float(rng.uniform(0.07, 0.13)), grey, rng)
    view.distant(0)


def _heap(view: View, x: float, base: float, r: float, h: float, rgb: Rgb, rng: np.random.Generator) -> None:
    canvas = view.canvas
    canvas.fill(((x - r, base), (x - r * 0.5, base - h * 0.6), (x, base - h), (x + r * 0.55, base - h * 0.55), (x + r, base)), rgb,
                down=(0.9, 0.6), grain="stones", amp=0.4, texels=90)  # fmt: skip
    for _ in range(9):
        t = float(rng.uniform(-0.8, 0.8))
        cx, cy = x + r * t, base - h * (1 - abs(t)) * float(rng.uniform(0.2, 1.0))
        a, w, q = float(rng.uniform(-0.7, 0.7)), float(rng.uniform(0.03, 0.06)), float(rng.uniform(0.01, 0.02))
        c, s = float(np.cos(a)), float(np.sin(a))
        colour = mix(rgb, (170, 90, 70), 0.7 if rng.uniform() < 0.35 else 0.0)
        slab = [(cx + c * u - s * v, cy + s * u + c * v) for u, v in ((-w, -q), (w, -q), (w, q), (-w, q))]
        canvas.poly([(px + 0.004, py + 0.01) for px, py in slab], colour, 0.5)
        canvas.poly(slab, colour, float(rng.uniform(0.9, 1.2)))


def harbour(view: View) -> None:
    y, rng, canvas = view.camera.horizon, view.rng("harbour"), view.canvas
    hills(view, y - 0.005, 0.03, (100, 116, 130), 0.65, "coast", 0.0)
    sea: Rgb = mix(view.water, (70, 110, 140), 0.5)
    canvas.fill(((-0.05, y), (1.05, y), (1.05, y + 0.1), (-0.05, y + 0.1)), sea, down=(1.2, 0.85))
    for py in (0.012, 0.026, 0.043, 0.062, 0.08):
        for x in rng.uniform(-0.05, 1.0, 5):
            canvas.line(((float(x), y + py), (float(x) + 0.05 + py, y + py)), sea, 0.003, 1.45)
    side = 1 if rng.uniform() < 0.5 else -1
    x = 0.5 + side * 0.22
    hull = ((180, 50, 44), (40, 70, 120), (60, 64, 70), (40, 104, 84))[int(rng.integers(4))]
    view.distant(0.15)
    canvas.poly(((x - 0.2, y - 0.05), (x + 0.22, y - 0.05), (x + 0.17, y + 0.045), (x - 0.17, y + 0.045)), hull)
    canvas.poly(((x - 0.185, y + 0.012), (x + 0.19, y + 0.012), (x + 0.17, y + 0.045), (x - 0.17, y + 0.045)), (110, 40, 36))
    canvas.rect(x - 0.17, y - 0.14, x - 0.07, y - 0.05, (230, 230, 226))
    canvas.rect(x - 0.14, y - 0.18, x - 0.11, y - 0.14, hull, 0.8)
    for i in range(4):
        canvas.rect(x - 0.16 + 0.022 * i, y - 0.12, x - 0.147 + 0.022 * i, y - 0.105, (50, 70, 90))
    for i in range(8):
        c = ((200, 90, 40), (60, 120, 160), (190, 170, 60), (70, 130, 80))[int(rng.integers(4))]
        canvas.rect(x - 0.05 + 0.062 * (i % 4), y - 0.085 - 0.034 * (i // 4), x + 0.008 + 0.062 * (i % 4), y - 0.052 - 0.034 * (i // 4), c)
    view.distant(0.25)
    cx = 0.5 - side * 0.3
    for leg in (-0.08, 0.08):
        canvas.line(((cx + leg, y + 0.05), (cx + leg * 0.8, y - 0.22)), (196, 104, 50), 0.014)
    canvas.line(((cx - side * 0.14, y - 0.22), (cx + side * 0.3, y - 0.26)), (196, 104, 50), 0.018)
    canvas.line(((cx, y - 0.34), (cx + side * 0.27, y - 0.26)), (150, 80, 44), 0.005)
    canvas.line(((cx, y - 0.34), (cx, y - 0.22)), (196, 104, 50), 0.012)
    canvas.line(((cx + side * 0.2, y - 0.25), (cx + side * 0.2, y - 0.1)), (60, 60, 64), 0.003)
    view.distant(0)
    canvas.fill(((-0.05, y + 0.095), (1.05, y + 0.095), (1.05, y + 0.125), (-0.05, y + 0.125)), (120, 112, 104), grain="fine")
    for bx in (0.09, 0.91):
        canvas.rect(bx - 0.018, y + 0.07, bx + 0.018, y + 0.13, (40, 42, 46))
        canvas.ellipse(bx, y + 0.07, 0.03, 0.012, (64, 66, 70))


def river_bed(view: View) -> None:
    y, rng, canvas = view.camera.horizon, view.rng("river"), view.canvas
    hills(view, y - 0.02, 0.08, (92, 122, 92), 0.5, "valley")
    view.distant(0.2)
    for x in rng.uniform(-0.05, 1.05, 12):
        if abs(x - 0.5) > 0.13:
            tree(canvas, float(x), y + 0.03, float(rng.uniform(0.1, 0.2)), (78, 116, 60))
    for side in (-1, 1):
        bank = [(0.5 + side * 0.62, y - 0.05), (0.5 + side * 0.2, y + 0.01), (0.5 + side * 0.14, y + 0.05), (0.5 + side * 0.34, y + 0.1), (0.5 + side * 0.62, y + 0.2)]
        canvas.fill(bank, (116, 104, 70), down=(1.1, 0.75), grain="fine", amp=0.2)
    view.distant(0)
    winding = [(0.5 + (0.05 + 0.36 * t**1.5) * s + 0.1 * float(np.sin(5 * t)) * (1 - t), y + 0.015 + 0.3 * t)
               for s, ts in ((-1, np.linspace(0, 0.62, 8)), (1, np.linspace(0.62, 0, 8))) for t in ts]  # fmt: skip
    water = mix((88, 140, 168), view.water, 0.3)
    canvas.fill(winding, water, down=(1.3, 0.85), grain="soft", amp=0.2, alpha=0.92)
    for x, t in zip(rng.uniform(-0.7, 0.7, 12), rng.uniform(0.1, 0.58, 12), strict=True):
        cx = 0.5 + float(x) * (0.05 + 0.36 * float(t) ** 1.5)
        canvas.line(((cx - 0.02, y + 0.015 + 0.3 * float(t)), (cx + 0.02, y + 0.015 + 0.3 * float(t))), (225, 236, 240), 0.003)
    for side in (-1, 1):
        for x in rng.uniform(0.36, 0.5, 9):
            h = float(rng.uniform(0.07, 0.14))
            px = 0.5 + side * float(x)
            canvas.line(((px, y + 0.19), (px + 0.01, y + 0.19 - h)), (104, 124, 56), 0.005)
            canvas.ellipse(px + 0.01, y + 0.19 - h, 0.006, 0.02, (96, 62, 38))


def road(view: View) -> None:
    y, rng, canvas, cam = view.camera.horizon, view.rng("road"), view.canvas, view.camera
    hills(view, y, 0.09, (96, 120, 104), 0.55, "ridge")
    view.distant(0.3)
    for x in rng.uniform(-0.05, 1.05, 9):
        if abs(x - cam.vanish) > 0.1:
            tree(canvas, float(x), y + 0.025, float(rng.uniform(0.09, 0.17)), (70, 108, 58))
    view.distant(0)
    for side in (-1.0, 1.0):
        near, far = 2.2, 40.0
        verge = [cam.at(side * 3.0, 0, near), cam.at(side * 30, 0, near), cam.at(side * 60, 0, far), cam.at(side * 3.0, 0, far)]
        grass: Rgb = (104, 128, 62) if view.scene.weather != "snow" else (214, 220, 226)
        canvas.fill(verge, grass, grain="fine", amp=0.25)
        rail = [cam.at(side * 3.1, 0.85, z) for z in (1.6, 3, 6, 12, 30)]
        low = [cam.at(side * 3.1, 0.55, z) for z in (30, 12, 6, 3, 1.6)]
        canvas.poly([*rail, *low], (176, 182, 188))
        canvas.line(rail, (226, 230, 234), 0.005)
        for z in (3.2, 4.6, 7.0, 11.0, 18.0):
            canvas.line((cam.at(side * 3.1, 0, z), cam.at(side * 3.1, 0.85, z)), (96, 100, 106), 0.012 * 4 / z)


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
    canvas.fill(((sx - 0.035, y - 0.2), (sx + 0.035, y - 0.2), (sx + 0.035, y + 0.04), (sx - 0.035, y + 0.04)), (190, 194, 198), across=(1.2, 0.6))
    canvas.ellipse(sx, y - 0.2, 0.035, 0.03, (170, 174, 180))
    view.distant(0)
    for i in range(11):
        px = i / 10
        if abs(px - 0.5) > 0.12:
            canvas.rect(px - 0.006, y + 0.02, px + 0.006, y + 0.1, (130, 98, 66))
    for dy in (0.04, 0.068):
        canvas.line(((-0.05, y + dy), (1.05, y + dy)), (150, 114, 78), 0.008)


def construction_site(view: View) -> None:
    y, rng, canvas = view.camera.horizon, view.rng("site"), view.canvas
    hills(view, y, 0.03, (140, 136, 120), 0.55, "far")
    side = 1 if rng.uniform() < 0.5 else -1
    view.distant(0.18)
    x, w, top = 0.5 + side * 0.26, 0.22, y - 0.3
    for i in range(5):
        yy = y + 0.05 - i * 0.085
        canvas.rect(x - w, yy - 0.014, x + w, yy, (172, 168, 160))
        if i < 4:
            canvas.rect(x - w, yy - 0.085, x + w, yy - 0.014, (74, 72, 74), 0.8)
            for j in range(5):
                px = x - w + j * (w / 2)
                canvas.rect(px - 0.01, yy - 0.085, px + 0.01, yy, (184, 180, 172))
    for j in range(8):
        canvas.line(((x - w + j * 0.06, top + 0.02), (x - w + j * 0.06, top - 0.04)), (140, 80, 54), 0.004)
    view.distant(0.1)
    cx, peak = 0.5 - side * 0.27, max(0.05, y - 0.4)
    yellow: Rgb = (236, 186, 40)
    for dx in (-0.018, 0.018):
        canvas.line(((cx + dx, y + 0.06), (cx + dx, peak)), yellow, 0.006)
    for i in range(9):
        a = y + 0.06 - (y + 0.06 - peak) * i / 9
        b = y + 0.06 - (y + 0.06 - peak) * (i + 1) / 9
        canvas.line(((cx - 0.018, a), (cx + 0.018, b)), yellow, 0.004, 0.8)
    canvas.line(((cx - side * 0.14, peak), (cx + side * 0.46, peak)), yellow, 0.012)
    canvas.line(((cx - side * 0.14, peak), (cx, peak - 0.05), (cx + side * 0.46, peak)), yellow, 0.004, 0.8)
    canvas.rect(min(cx - side * 0.16, cx - side * 0.1), peak, max(cx - side * 0.16, cx - side * 0.1), peak + 0.05, (120, 120, 120))
    canvas.line(((cx + side * 0.36, peak), (cx + side * 0.36, peak + 0.14)), (50, 50, 54), 0.003)
    view.distant(0)
    for i in range(14):
        px = i / 14
        canvas.rect(px, y + 0.02, px + 1 / 14, y + 0.085, (226, 120, 44) if i % 2 else (232, 230, 224), 0.9)


BACKDROPS: dict[str, Callable[[View], None]] = {
    "facade": facade,
    "roof": roof,
    "power line": power_line,
    "forest slope": forest_slope,
    "rubble": rubble,
    "harbour": harbour,
    "river bed": river_bed,
    "road": road,
    "farmland": farmland,
    "construction site": construction_site,
}
