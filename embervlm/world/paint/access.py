"""The obstacle between the viewer and the target: steps, a gap, a wall with a narrow opening."""

from __future__ import annotations

from embervlm.world.paint.canvas import Rgb, mix
from embervlm.world.paint.ground import MATERIALS, ground_colour
from embervlm.world.paint.view import View


def _stuff(view: View) -> Rgb:
    """What built things are made of here."""
    rng = view.rng("stuff")
    colour = mix(ground_colour(view), ((168, 164, 156), (150, 138, 124), (140, 146, 154))[int(rng.integers(3))], 0.6)
    return mix(colour, view.water, 0.35) if view.scene.site == "underwater" else colour


def draw_behind(view: View) -> None:
    """The part of the obstacle that the target stands behind or on: to be drawn before it."""
    if view.scene.access == "stairs":
        _stairs(view)
    elif view.scene.access == "gap":
        _gap(view)


def draw_before(view: View) -> None:
    """The part of the obstacle in front of the target: to be drawn after it."""
    if view.scene.access == "narrow":
        _narrow(view)


def _stairs(view: View) -> None:
    canvas, rng = view.canvas, view.rng("stairs")
    colour = _stuff(view)
    top, bottom = view.zone, 1.01
    wide, slim = float(rng.uniform(0.42, 0.47)), float(rng.uniform(0.27, 0.31))
    steps = 5 if view.scene.site != "high" else 4
    x = view.centre

    def half(y: float) -> float:
        return slim + (wide - slim) * (y - top) / (bottom - top)

    canvas.shadow(x, bottom - 0.06, 0.62, 0.16, 0.35)
    rise = 0.035
    canvas.fill(
        ((x - slim, top - rise), (x + slim, top - rise), (x + half(top), top), (x - half(top), top)),
        colour,
        down=(1.25, 1.15),
    )
    for i in range(steps):
        y0 = top + (bottom - top) * (i / steps) ** 0.92
        y1 = top + (bottom - top) * ((i + 1) / steps) ** 0.92
        lip = y0 + (y1 - y0) * 0.54
        a, b, c = half(y0), half(lip), half(y1)
        canvas.poly(((x - a, y0), (x + a, y0), (x + b, lip), (x - b, lip)), colour, 0.48)
        canvas.poly(((x - b, lip), (x + b, lip), (x + c, y1), (x - c, y1)), colour, 1.28)
        canvas.line(((x - a, y0), (x + a, y0)), mix(colour, (255, 250, 235), 0.6), 0.006, 1.2)
    for side in (-1, 1):
        foot, head = (x + side * (wide + 0.02), bottom), (x + side * (slim + 0.012), top - rise)
        canvas.poly((head, (head[0] + side * 0.02, head[1]), (foot[0] + side * 0.05, bottom), foot), colour, 0.7)
        for t in (0.0, 0.34, 0.7):
            px, py = head[0] + (foot[0] - head[0]) * t, head[1] + (foot[1] - head[1]) * t
            canvas.line(((px, py), (px, py - 0.09 - 0.05 * t)), (50, 52, 58), 0.009)
        canvas.line(((head[0], head[1] - 0.09), (foot[0], foot[1] - 0.145)), (62, 64, 72), 0.013)


def _gap(view: View) -> None:
    canvas, rng = view.canvas, view.rng("gap")
    natural = MATERIALS[view.scene.environment].natural or view.scene.site == "underwater"
    far = view.zone + 0.03
    near = far + float(rng.uniform(0.115, 0.135)) * (0.85 if view.scene.site == "high" else 1)
    rough = 0.02 if natural else 0.004
    n = 14 if natural else 6
    upper = [(-0.05 + 1.1 * i / n, far + float(rng.uniform(-rough, rough))) for i in range(n + 1)]
    lower = [(-0.05 + 1.1 * i / n, near + float(rng.uniform(-rough, rough))) for i in range(n + 1)]
    colour = ground_colour(view)
    if view.scene.site == "underwater":
        colour = mix((150, 140, 116), view.water, 0.4)
    soil = mix(colour, (110, 84, 62), 0.45)
    canvas.poly([*upper, *reversed(lower)], (14, 13, 16), 1.0)
    # the far face, lit at its rim and lost in the dark below
    face = [(x, y + 0.06) for x, y in upper]
    canvas.fill(
        [*upper, *reversed(face)], soil, down=(0.9, 0.12), grain="stones" if natural else "fine", amp=0.35, texels=110
    )
    canvas.line(upper, mix(colour, (255, 250, 240), 0.3), 0.007, 1.15)
    canvas.line([(x, y + 0.006) for x, y in lower], mix(colour, (255, 250, 240), 0.25), 0.009, 1.1)
    if not natural:
        for x in rng.uniform(0.02, 0.98, 7):
            i = min(n - 1, max(0, int((float(x) + 0.05) / 1.1 * n)))
            y = lower[i][1]
            canvas.line(((float(x), y), (float(x) + 0.01, y - 0.03)), (120, 74, 50), 0.005)
    for x in rng.uniform(0.05, 0.95, 5):
        canvas.ellipse(float(x), near - 0.014, 0.02, 0.008, soil, 0.22)


def _narrow(view: View) -> None:
    canvas, rng = view.canvas, view.rng("narrow")
    colour = _stuff(view)
    top, bottom = view.zone - 0.015, 1.02
    x, half = view.centre + float(rng.uniform(-0.03, 0.03)), float(rng.uniform(0.036, 0.046))
    thick = 0.026
    for side in (-1, 1):
        edge, out = x + side * half, 0.5 + side * 0.6
        canvas.fill(
            ((edge, top), (out, top), (out, bottom), (edge, bottom)), colour, down=(0.95, 0.6), grain="soft", amp=0.14
        )
        canvas.poly(((edge, top), (out, top), (out, top - thick), (edge - side * 0.012, top - thick)), colour, 1.3)
        for i in range(1, 4):
            jx = edge + side * i * 0.15
            canvas.line(((jx, top), (jx, bottom)), colour, 0.005, 0.45)
        canvas.line(((edge, (top + bottom) / 2), (out, (top + bottom) / 2)), colour, 0.005, 0.5)
        # striped jambs mark the opening
        band = 0.05
        count = 6
        h = (bottom - top) / count
        for i in range(count):
            y = top + i * h
            stripe: Rgb = (240, 200, 50) if i % 2 else (34, 34, 38)
            canvas.poly(
                ((edge, y), (edge + side * band, y + h * 0.5), (edge + side * band, y + h * 1.5), (edge, y + h)), stripe
            )
    # the wall's thickness, seen inside the opening
    canvas.poly(
        ((x - half, top), (x - half + 0.014, top - thick), (x - half + 0.014, bottom), (x - half, bottom)), colour, 0.35
    )
    canvas.poly(
        ((x + half, top), (x + half - 0.014, top - thick), (x + half - 0.014, bottom), (x + half, bottom)), colour, 0.5
    )
