"""Where the target is: on a tall structure, or below the surface of water."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from embervlm.world.paint.canvas import Camera, Rgb, mix
from embervlm.world.paint.ground import draw_ground
from embervlm.world.paint.noise import crop
from embervlm.world.paint.shapes import conifer
from embervlm.world.paint.view import View

Builder = Callable[[View, float, float], None]


def draw_structure(view: View, reach: float) -> None:
    """What carries a target high up; `reach` is half the width it needs. Nothing elsewhere."""
    if view.scene.site != "high":
        return
    rng = view.rng("structure")
    choices = _BY_PLACE[view.scene.environment]
    foot = view.zone - 0.005
    view.canvas.shadow(view.centre, foot, reach + 0.2, 0.035, 0.6)
    choices[int(rng.integers(len(choices)))](view, reach, foot)


def _ladder(view: View, x: float, top: float, foot: float) -> None:
    canvas = view.canvas
    for dx in (-0.016, 0.016):
        canvas.line(((x + dx, top), (x + dx, foot)), (60, 62, 68), 0.005)
    for y in np.arange(top, foot, 0.02):
        canvas.line(((x - 0.016, y), (x + 0.016, y)), (60, 62, 68), 0.004)


def _slab(view: View, half: float, rgb: Rgb) -> None:
    canvas, x, y = view.canvas, view.centre, view.base
    canvas.poly(((x - half, y), (x + half, y), (x + half - 0.02, y - 0.022), (x - half + 0.02, y - 0.022)), rgb, 1.25)
    canvas.rect(x - half, y, x + half, y + 0.02, rgb, 0.75)


def _rack(view: View, reach: float, foot: float) -> None:
    canvas, x, rng = view.canvas, view.centre, view.rng("rack")
    half = max(reach + 0.03, 0.16)
    post: Rgb = ((46, 84, 160), (200, 96, 40), (70, 120, 90), (120, 124, 130))[int(rng.integers(4))]
    count = 4
    for i in range(1, count + 1):
        y = view.base + (foot - view.base) * i / count
        a = x - half + 0.02
        while a < x + half - 0.06 and i < count + 1:
            w, h = float(rng.uniform(0.04, 0.09)), float(rng.uniform(0.03, 0.055))
            tone: Rgb = ((186, 142, 92), (150, 112, 74), (120, 130, 140), (170, 160, 140))[int(rng.integers(4))]
            canvas.rect(a, y - h, min(a + w, x + half - 0.02), y, tone, float(rng.uniform(0.6, 0.95)))
            a += w + 0.012
        canvas.rect(x - half, y, x + half, y + 0.013, post, 1.0)
    for side in (-1, 1):
        canvas.rect(x + side * half - 0.012, view.base - 0.01, x + side * half + 0.012, foot + 0.012, post, 0.85)
    _slab(view, half + 0.012, post)


def _ledge(view: View, reach: float, foot: float) -> None:
    canvas, x, rng = view.canvas, view.centre, view.rng("ledge")
    half = max(reach + 0.04, 0.2)
    brick: Rgb = ((164, 96, 76), (170, 160, 146), (150, 140, 134), (184, 150, 116))[int(rng.integers(4))]
    y0, y1 = view.base, foot + 0.012
    canvas.fill(
        ((x - half, y0), (x + half, y0), (x + half, y1), (x - half, y1)),
        brick,
        down=(1.0, 0.72),
        across=(1.08, 0.82),
        grain="fine",
        amp=0.14,
    )
    for i in range(1, 12):
        y = y0 + (y1 - y0) * i / 12
        canvas.line(((x - half, y), (x + half, y)), brick, 0.002, 0.62)
    for col in (-0.97, -0.5, 0.5, 0.97):
        cx = x + col * (half - 0.012)
        canvas.rect(cx - 0.014, y0, cx + 0.014, y1 + 0.006, brick, 1.16)
        canvas.rect(cx + 0.006, y0, cx + 0.014, y1 + 0.006, brick, 0.66)
    canvas.rect(x - 0.022, y1 - 0.065, x + 0.022, y1, (62, 44, 36))
    _ladder(view, x + half * 0.73, y0, y1)
    _slab(view, half + 0.02, mix(brick, (200, 196, 190), 0.6))


def _mast(view: View, reach: float, foot: float) -> None:
    canvas, x = view.canvas, view.centre
    half = reach + 0.025
    rgb: Rgb = (176, 180, 186)
    top, wide, slim = view.base, 0.12, 0.05

    def half_at(t: float) -> float:
        return slim + (wide - slim) * t

    for i in range(6):
        a, b = i / 6, (i + 1) / 6
        ya, yb = top + (foot - top) * a, top + (foot - top) * b
        canvas.line(((x - half_at(a), ya), (x + half_at(b), yb)), rgb, 0.006, 0.6)
        canvas.line(((x + half_at(a), ya), (x - half_at(b), yb)), rgb, 0.006, 0.6)
        canvas.line(((x - half_at(a), ya), (x + half_at(a), ya)), rgb, 0.006, 0.75)
    for side in (-1, 1):
        canvas.line(((x + side * slim, top), (x + side * wide, foot + 0.01)), rgb, 0.014, 0.9)
        canvas.rect(x + side * wide - 0.03, foot, x + side * wide + 0.03, foot + 0.02, (140, 136, 130))
    for side in (-1, 1):
        canvas.line(((x + side * half, top), (x + side * slim, top + 0.08)), rgb, 0.008, 0.7)
    _slab(view, half, (120, 126, 134))


def _cliff(view: View, reach: float, foot: float) -> None:
    canvas, x, rng = view.canvas, view.centre, view.rng("cliff")
    half = reach + 0.05
    stone: Rgb = ((140, 130, 118), (126, 126, 128), (150, 130, 106))[int(rng.integers(3))]
    left = [
        (x - half - 0.02 - 0.1 * t + float(rng.uniform(-0.02, 0.02)), view.base + (foot + 0.02 - view.base) * t)
        for t in (0, 0.2, 0.45, 0.7, 1.0)
    ]
    right = [
        (x + half + 0.02 + 0.12 * t + float(rng.uniform(-0.02, 0.02)), view.base + (foot + 0.02 - view.base) * t)
        for t in (1.0, 0.75, 0.5, 0.2, 0)
    ]
    canvas.fill([*left, *right], stone, down=(1.05, 0.7), across=(1.15, 0.62), grain="stones", amp=0.4, texels=120)
    for _ in range(4):
        cx = x + float(rng.uniform(-half, half))
        canvas.line(
            ((cx, view.base + 0.02), (cx + float(rng.uniform(-0.05, 0.05)), view.base + 0.14), (cx, foot - 0.05)),
            stone,
            0.006,
            0.45,
        )
    canvas.poly(
        (left[0], (x - half + 0.02, view.base - 0.024), (x + half - 0.02, view.base - 0.024), right[-1]),
        mix(stone, (96, 120, 60), 0.55),
        1.15,
    )


def _tree(view: View, reach: float, foot: float) -> None:
    canvas, x = view.canvas, view.centre
    bark: Rgb = (112, 80, 54)
    canvas.fill(
        ((x - 0.05, 0.0), (x + 0.05, 0.0), (x + 0.075, foot + 0.015), (x - 0.075, foot + 0.015)),
        bark,
        across=(1.15, 0.6),
        grain="fine",
        amp=0.3,
    )
    for side in (-1, 1):
        canvas.line(((x, view.base + 0.1), (x + side * (reach + 0.02), view.base + 0.01)), bark, 0.02, 0.8)
    for px, py, h in ((x - 0.4, foot + 0.02, 0.2), (x + 0.42, foot + 0.03, 0.24)):
        conifer(canvas, px, py, h, (52, 88, 54))
    _ladder(view, x, view.base + 0.02, foot)
    _slab(view, reach + 0.05, (150, 112, 74))


def _scaffold(view: View, reach: float, foot: float) -> None:
    canvas, x = view.canvas, view.centre
    half = max(reach + 0.03, 0.17)
    tube: Rgb = (196, 198, 202)
    levels = [view.base + (foot + 0.01 - view.base) * t for t in (0, 0.33, 0.66, 1.0)]
    for i in range(3):
        a, b = levels[i], levels[i + 1]
        canvas.line(((x - half, b), (x + half, a)) if i % 2 else ((x - half, a), (x + half, b)), tube, 0.007, 0.7)
        canvas.rect(x - half, b - 0.008, x + half, b + (0.006 if i < 2 else -0.008), (170, 126, 78))
    for px in (x - half, x, x + half):
        canvas.line(((px, view.base), (px, foot + 0.012)), tube, 0.01)
    _ladder(view, x + half * 0.5, view.base, foot)
    _slab(view, half + 0.015, (186, 138, 84))


_BY_PLACE: dict[str, tuple[Builder, ...]] = {
    "warehouse": (_rack, _scaffold),
    "stairwell": (_ledge, _scaffold),
    "hospital corridor": (_rack, _scaffold),
    "facade": (_ledge, _scaffold),
    "roof": (_mast, _ledge),
    "power line": (_mast, _scaffold),
    "forest slope": (_tree, _cliff),
    "rubble": (_ledge, _mast),
    "tunnel": (_scaffold, _ledge),
    "harbour": (_mast, _rack),
    "river bed": (_cliff, _mast),
    "road": (_mast, _ledge),
    "farmland": (_mast, _ledge),
    "burning building": (_ledge, _rack),
    "laboratory": (_rack, _scaffold),
    "construction site": (_scaffold, _mast),
}


def draw_water(view: View) -> None:
    """The cutaway: below the surface, water with shafts of light, and the bed. Nothing elsewhere."""
    if view.scene.site != "underwater":
        return
    canvas, rng = view.canvas, view.rng("water")
    size, top = canvas.size, view.surface
    bed = Camera(horizon=0.5, vanish=view.camera.vanish, focal=view.camera.focal, height=1.6)
    above = canvas.img.copy()
    draw_ground(view, bed, bed=True)
    first = int(top * size)
    rows = (np.arange(first, size, dtype=np.float32) + 0.5) / size
    depth = np.clip((rows - top) / (1 - top), 0, 1)
    lit = np.asarray(canvas.seen(view.water), np.float32)
    column = lit * (1.45 - 0.75 * depth)[:, None]
    cover = np.where(rows < bed.horizon, 1.0, 1.0 - np.clip((rows - bed.horizon) / 0.22, 0, 0.62))
    below = canvas.img[first:] * (1 - cover)[:, None, None] + column[:, None, :] * cover[:, None, None]
    murk = crop("soft", size, size - first, float(rng.uniform()), float(rng.uniform()), 120.0)
    below *= (1 + 0.09 * murk)[:, :, None]
    canvas.img = np.vstack([above[:first], np.clip(below, 0, 255).astype(np.uint8)])
    for x in rng.uniform(0.0, 1.0, 5):
        lean, wide = float(rng.uniform(-0.16, 0.16)), float(rng.uniform(0.03, 0.07))
        shaft = (
            (float(x) - wide * 0.4, top),
            (float(x) + wide * 0.4, top),
            (float(x) + lean + wide, 0.85),
            (float(x) + lean - wide, 0.85),
        )
        canvas.fill(shaft, mix(view.water, (255, 255, 240), 0.7), down=(1.2, 0.8), alpha=0.1)
    _banks(view, rng)


def _banks(view: View, rng: np.random.Generator) -> None:
    """Cross-sections of the land left and right, on which other things stand."""
    canvas, top = view.canvas, view.surface
    colour: Rgb = ((132, 106, 78), (126, 122, 118), (146, 120, 84))[int(rng.integers(3))]
    built = view.scene.environment in ("harbour", "tunnel", "construction site")
    for side in (-1, 1):
        edge = 0.5 + side * 0.33
        slope = 0.0 if built else 0.07
        shape = [(0.5 + side * 0.6, top - 0.02), (edge, top - 0.02)]
        n = 6
        shape += [
            (
                edge + side * 0.02 - side * slope * t + (0 if built else float(rng.uniform(-0.012, 0.012))),
                top + (0.66 - top + 0.08) * t,
            )
            for t in np.linspace(0.1, 1, n)
        ]
        shape += [(0.5 + side * 0.6, 0.82)]
        canvas.fill(
            shape,
            mix((152, 148, 142) if built else colour, view.water, 0.22),
            down=(1.0, 0.5),
            grain="fine" if built else "stones",
            amp=0.3,
            texels=120,
        )
        if built:
            for i in range(5):
                y = top + 0.05 + i * 0.075
                canvas.line(((edge + side * 0.02, y), (0.5 + side * 0.6, y)), (90, 92, 94), 0.004, 0.8)
        canvas.rect(
            min(edge, 0.5 + side * 0.6),
            top - 0.028,
            max(edge, 0.5 + side * 0.6),
            top - 0.012,
            mix((176, 172, 164), colour, 0.0 if built else 0.7),
            1.1,
        )


def draw_surface(view: View) -> None:
    """The line of the surface, bubbles and weed: over what is in the water."""
    if view.scene.site != "underwater":
        return
    canvas, rng = view.canvas, view.rng("surface")
    swell = {"calm": 0.003, "rain": 0.005, "fog": 0.003, "snow": 0.003, "storm": 0.016}[view.scene.weather]
    phase = float(rng.uniform(0, 6))
    xs = np.linspace(0.17, 0.83, 30)
    line = [(float(x), view.surface + swell * float(np.sin(phase + x * 34) + 0.5 * np.sin(x * 71))) for x in xs]
    canvas.poly([*line, *[(x, y + 0.016) for x, y in reversed(line)]], mix(view.water, (255, 255, 255), 0.55), 1.2)
    canvas.line(line, (250, 252, 255), 0.007)
    for bx, by, r in rng.uniform(0, 1, (18, 3)):
        px, py, size = 0.2 + 0.6 * float(bx), view.surface + 0.05 + 0.45 * float(by), 0.006 + 0.008 * float(r)
        canvas.ellipse(px, py, size, size, mix(view.water, (255, 255, 255), 0.55), 1.1)
        canvas.ellipse(px + size * 0.15, py + size * 0.15, size * 0.7, size * 0.7, view.water, 1.15)
    for x in rng.uniform(0.02, 0.98, 9):
        px = float(x) if abs(float(x) - 0.5) > 0.26 else 0.05 + 0.1 * float(x)
        h = float(rng.uniform(0.08, 0.17))
        weed = [(px + 0.014 * float(np.sin(phase + t * 7)), view.base + 0.02 - h * t) for t in np.linspace(0, 1, 7)]
        canvas.line(weed, mix((56, 116, 60), view.water, 0.25), 0.011)
