"""Backdrops of built places under the open sky."""

from __future__ import annotations

import numpy as np

from embervlm.world.paint.canvas import Rgb, mix
from embervlm.world.paint.shapes import block, city, hills, tree
from embervlm.world.paint.view import View


def facade(view: View) -> None:
    y, rng = view.camera.horizon, view.rng("facade")
    rgb = ((196, 150, 120), (176, 170, 160), (206, 190, 150), (160, 110, 92), (150, 160, 172))[int(rng.integers(5))]
    city(view)
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
    city(view, 0.42)
    low = y + 0.09
    canvas.fill(
        ((-0.05, y + 0.015), (1.05, y + 0.015), (1.05, low), (-0.05, low)),
        (150, 130, 116),
        down=(1.0, 0.75),
        grain="fine",
    )
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


def _heap(view: View, x: float, base: float, r: float, h: float, rgb: Rgb, rng: np.random.Generator) -> None:
    canvas = view.canvas
    canvas.fill(
        ((x - r, base), (x - r * 0.5, base - h * 0.6), (x, base - h), (x + r * 0.55, base - h * 0.55), (x + r, base)),
        rgb,
        down=(0.9, 0.6),
        grain="stones",
        amp=0.4,
        texels=90,
    )
    for _ in range(9):
        t = float(rng.uniform(-0.8, 0.8))
        cx, cy = x + r * t, base - h * (1 - abs(t)) * float(rng.uniform(0.2, 1.0))
        a, w, q = float(rng.uniform(-0.7, 0.7)), float(rng.uniform(0.03, 0.06)), float(rng.uniform(0.01, 0.02))
        c, s = float(np.cos(a)), float(np.sin(a))
        colour = mix(rgb, (170, 90, 70), 0.7 if rng.uniform() < 0.35 else 0.0)
        slab = [(cx + c * u - s * v, cy + s * u + c * v) for u, v in ((-w, -q), (w, -q), (w, q), (-w, q))]
        canvas.poly([(px + 0.004, py + 0.01) for px, py in slab], colour, 0.5)
        canvas.poly(slab, colour, float(rng.uniform(0.9, 1.2)))


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
                canvas.poly(
                    ((a, b), (a + 0.05, b + float(rng.uniform(-0.012, 0.012))), (a + 0.05, b + 0.06), (a, b + 0.06)),
                    (34, 32, 34),
                )
        for j in (1, 3, 5):
            px, py = edge[j]
            canvas.line(((px, py), (px + 0.01, py - 0.04), (px + 0.03, py - 0.055)), (104, 70, 52), 0.004)
    view.distant(0.08)
    for x in (0.12, 0.34, 0.62, 0.88):
        _heap(
            view,
            x + float(rng.uniform(-0.05, 0.05)),
            y + 0.1,
            float(rng.uniform(0.16, 0.24)),
            float(rng.uniform(0.07, 0.13)),
            grey,
            rng,
        )
    view.distant(0)


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
    canvas.poly(
        ((x - 0.185, y + 0.012), (x + 0.19, y + 0.012), (x + 0.17, y + 0.045), (x - 0.17, y + 0.045)), (110, 40, 36)
    )
    canvas.rect(x - 0.17, y - 0.14, x - 0.07, y - 0.05, (230, 230, 226))
    canvas.rect(x - 0.14, y - 0.18, x - 0.11, y - 0.14, hull, 0.8)
    for i in range(4):
        canvas.rect(x - 0.16 + 0.022 * i, y - 0.12, x - 0.147 + 0.022 * i, y - 0.105, (50, 70, 90))
    for i in range(8):
        c = ((200, 90, 40), (60, 120, 160), (190, 170, 60), (70, 130, 80))[int(rng.integers(4))]
        canvas.rect(
            x - 0.05 + 0.062 * (i % 4),
            y - 0.085 - 0.034 * (i // 4),
            x + 0.008 + 0.062 * (i % 4),
            y - 0.052 - 0.034 * (i // 4),
            c,
        )
    view.distant(0.25)
    cx = 0.5 - side * 0.3
    for leg in (-0.08, 0.08):
        canvas.line(((cx + leg, y + 0.05), (cx + leg * 0.8, y - 0.22)), (196, 104, 50), 0.014)
    canvas.line(((cx - side * 0.14, y - 0.22), (cx + side * 0.3, y - 0.26)), (196, 104, 50), 0.018)
    canvas.line(((cx, y - 0.34), (cx + side * 0.27, y - 0.26)), (150, 80, 44), 0.005)
    canvas.line(((cx, y - 0.34), (cx, y - 0.22)), (196, 104, 50), 0.012)
    canvas.line(((cx + side * 0.2, y - 0.25), (cx + side * 0.2, y - 0.1)), (60, 60, 64), 0.003)
    view.distant(0)
    canvas.fill(
        ((-0.05, y + 0.095), (1.05, y + 0.095), (1.05, y + 0.125), (-0.05, y + 0.125)), (120, 112, 104), grain="fine"
    )
    for bx in (0.09, 0.91):
        canvas.rect(bx - 0.018, y + 0.07, bx + 0.018, y + 0.13, (40, 42, 46))
        canvas.ellipse(bx, y + 0.07, 0.03, 0.012, (64, 66, 70))


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
        verge = [
            cam.at(side * 3.0, 0, near),
            cam.at(side * 30, 0, near),
            cam.at(side * 60, 0, far),
            cam.at(side * 3.0, 0, far),
        ]
        grass: Rgb = (104, 128, 62) if view.scene.weather != "snow" else (214, 220, 226)
        canvas.fill(verge, grass, grain="fine", amp=0.25)
        rail = [cam.at(side * 3.1, 0.85, z) for z in (1.6, 3, 6, 12, 30)]
        low = [cam.at(side * 3.1, 0.55, z) for z in (30, 12, 6, 3, 1.6)]
        canvas.poly([*rail, *low], (176, 182, 188))
        canvas.line(rail, (226, 230, 234), 0.005)
        for z in (3.2, 4.6, 7.0, 11.0, 18.0):
            canvas.line((cam.at(side * 3.1, 0, z), cam.at(side * 3.1, 0.85, z)), (96, 100, 106), 0.012 * 4 / z)


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
    canvas.rect(
        min(cx - side * 0.16, cx - side * 0.1),
        peak,
        max(cx - side * 0.16, cx - side * 0.1),
        peak + 0.05,
        (120, 120, 120),
    )
    canvas.line(((cx + side * 0.36, peak), (cx + side * 0.36, peak + 0.14)), (50, 50, 54), 0.003)
    view.distant(0)
    for i in range(14):
        px = i / 14
        canvas.rect(px, y + 0.02, px + 1 / 14, y + 0.085, (226, 120, 44) if i % 2 else (232, 230, 224), 0.9)
