"""Hills, trees and buildings, from which backdrops are put together."""

from __future__ import annotations

from embervlm.world.paint.canvas import Canvas, Rgb, mix
from embervlm.world.paint.noise import tile
from embervlm.world.paint.view import View

_LIT: Rgb = (255, 214, 130)


def hills(view: View, y: float, amp: float, rgb: Rgb, air: float, name: str, down: float = 0.08) -> None:
    """A wavy ridge at picture height `y`, filled to below the horizon."""
    rng = view.rng(name)
    row = tile("soft")[int(rng.integers(256))]
    start = int(rng.integers(256))
    wave = [float(row[(start + i * 3) % 256]) for i in range(26)]
    edge = [(i / 25 * 1.1 - 0.05, y - amp * (0.5 + w)) for i, w in enumerate(wave)]
    view.distant(air)
    view.canvas.fill(
        [*edge, (1.05, view.camera.horizon + down), (-0.05, view.camera.horizon + down)],
        rgb,
        down=(1.08, 0.85),
        grain="fine",
        amp=0.16,
    )
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
    for dx, dy, r, k in (
        (0.16, 0.5, 0.24, 0.62),
        (-0.16, 0.54, 0.24, 0.85),
        (0.04, 0.72, 0.27, 0.85),
        (-0.08, 0.76, 0.2, 1.15),
    ):
        canvas.ellipse(x + dx * height, base - dy * height, r * height, r * height, rgb, k)


def block(
    view: View, x0: float, x1: float, y0: float, y1: float, rgb: Rgb, name: str, rows: int, cols: int, roof: bool = True
) -> None:
    """A building front between picture heights `y0` (top) and `y1`, with windows, some of them lit after dark."""
    canvas, rng = view.canvas, view.rng(name)
    canvas.fill(
        ((x0, y0), (x1, y0), (x1, y1), (x0, y1)), rgb, down=(1.06, 0.86), across=(1.06, 0.9), grain="fine", amp=0.08
    )
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


def city(view: View, air: float = 0.5) -> None:
    """A skyline of blocks along the horizon."""
    rng, y = view.rng("city"), view.camera.horizon
    view.distant(air)
    x = -0.05
    while x < 1.0:
        w, h = float(rng.uniform(0.08, 0.16)), float(rng.uniform(0.06, 0.24))
        tone = float(rng.uniform(0.75, 1.1))
        block(
            view,
            x,
            x + w,
            y - h,
            y + 0.04,
            (128 * tone, 130 * tone, 140 * tone),
            f"city{x:.3f}",
            max(2, int(h * 22)),
            3,
        )
        x += w + float(rng.uniform(-0.01, 0.02))
    view.distant(0)
