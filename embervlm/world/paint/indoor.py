"""Rooms: walls in perspective and what belongs to each of the places under a roof."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from embervlm.world.paint.canvas import Point, Rgb, mix
from embervlm.world.paint.view import SKY, View


@dataclass(frozen=True)
class Room:
    """A box of `half` metres to each side, `height` high, with its back wall `depth` away."""

    view: View
    half: float
    height: float
    depth: float

    def wall(self, side: float, z0: float, z1: float, y0: float, y1: float, off: float = 0.0) -> list[Point]:
        """A panel of a side wall (side -1 left, 1 right), from `z0` to `z1` and height `y0` to `y1`."""
        at, x = self.view.camera.at, side * (self.half - off)
        return [at(x, y0, z0), at(x, y0, z1), at(x, y1, z1), at(x, y1, z0)]

    def back(self, x0: float, x1: float, y0: float, y1: float) -> list[Point]:
        """A panel of the back wall."""
        at, z = self.view.camera.at, self.depth
        return [at(x0, y0, z), at(x1, y0, z), at(x1, y1, z), at(x0, y1, z)]

    def ceiling(self, x0: float, x1: float, z0: float, z1: float) -> list[Point]:
        """A panel of the ceiling."""
        at, y = self.view.camera.at, self.height
        return [at(x0, y, z0), at(x1, y, z0), at(x1, y, z1), at(x0, y, z1)]

    def shell(self, wall: Rgb, ceiling: Rgb, back: Rgb, amp: float = 0.06, grain: str = "soft") -> None:
        """The bare walls and the ceiling."""
        c = self.view.canvas
        c.fill(self.ceiling(-self.half, self.half, 1.0, self.depth), ceiling, down=(0.7, 0.95), grain=grain, amp=amp)
        c.fill(self.wall(-1, 1.0, self.depth, 0, self.height), wall, across=(0.82, 1.02), grain=grain, amp=amp)
        c.fill(self.wall(1, 1.0, self.depth, 0, self.height), wall, across=(0.94, 0.72), grain=grain, amp=amp)
        c.fill(self.back(-self.half, self.half, 0, self.height), back, down=(1.06, 0.9), grain=grain, amp=amp)

    def pane(self, points: list[Point], frame: Rgb) -> None:
        """A window: the sky of the hour and the weather behind it."""
        zenith, horizon, grey = SKY[self.view.scene.light]
        weather = self.view.scene.weather
        colour = mix(mix(zenith, horizon, 0.6), grey, 0.0 if weather == "calm" else 0.75)
        if weather == "storm":
            colour = mix(colour, (60, 66, 86), 0.5)
        c = self.view.canvas
        c.poly(points, colour, 1.06, raw=True)
        c.line([*points, points[0]], frame, 0.01)
        a, b = points[0], points[2]
        mid = ((points[0][0] + points[1][0]) / 2, (points[0][1] + points[1][1]) / 2)
        top = ((points[2][0] + points[3][0]) / 2, (points[2][1] + points[3][1]) / 2)
        c.line((mid, top), frame, 0.006)
        cx, cy = (a[0] + b[0]) / 2, (a[1] + b[1]) / 2
        if self.view.scene.light != "lamps":
            glow = {"day": (90, 90, 84), "dusk": (130, 74, 34), "night": (16, 22, 44)}[self.view.scene.light]
            c.glow(cx, cy, 0.26, 0.26, glow, 0.8)


def _size(view: View, low: float, high: float) -> float:
    """Ceiling height: rooms are taller where the view is of something high up."""
    return high if view.scene.site == "high" else low


def warehouse(view: View) -> None:
    rng, canvas = view.rng("warehouse"), view.canvas
    room = Room(view, 3.4, _size(view, 4.6, 7.4), 11.0)
    room.shell((168, 174, 178), (120, 126, 132), (178, 182, 184))
    for z in (4.0, 6.4):
        room.pane(room.ceiling(-0.9, 0.9, z, z + 1.3), (150, 154, 158))
    for z in np.linspace(3, 11, 6):
        canvas.line(
            (view.camera.at(-room.half, room.height, z), view.camera.at(room.half, room.height, z)),
            (90, 96, 104),
            0.028 * 3 / z,
        )
    canvas.poly(room.back(-1.2, 1.2, 0, 2.6), (92, 120, 150))
    for y in np.linspace(0.3, 2.4, 6):
        canvas.line((view.camera.at(-1.2, y, 11), view.camera.at(1.2, y, 11)), (70, 94, 122), 0.003)
    post: Rgb = ((40, 80, 160), (210, 100, 30), (60, 120, 80))[int(rng.integers(3))]
    for side in (-1.0, 1.0):
        canvas.poly(room.wall(side, 2.0, 10.4, 0, room.height * 0.82, 0.7), (86, 84, 82), 0.9)
        for level in range(4):
            y = level * room.height * 0.2
            for z in np.linspace(9.4, 2.4, 8):
                if rng.uniform() < 0.85:
                    tone = ((176, 132, 84), (196, 154, 104), (150, 110, 72), (120, 140, 160), (170, 70, 60))[
                        int(rng.integers(5))
                    ]
                    canvas.poly(
                        room.wall(side, z, z + 0.82, y + 0.1, y + room.height * float(rng.uniform(0.1, 0.17)), 0.72),
                        tone,
                        float(rng.uniform(0.7, 1.05)),
                    )
            canvas.poly(room.wall(side, 2.0, 10.4, y, y + 0.1, 0.74), (226, 120, 40), 0.95)
        for z in (10.4, 8.3, 6.2, 4.1, 2.2):
            canvas.poly(room.wall(side, z, z + 0.12, 0, room.height * 0.84, 0.76), post)


def stairwell(view: View) -> None:
    rng, canvas, at = view.rng("stairwell"), view.canvas, view.camera.at
    room = Room(view, 2.4, _size(view, 4.4, 6.6), 7.0)
    wall: Rgb = ((196, 184, 158), (176, 190, 176), (190, 176, 168))[int(rng.integers(3))]
    room.shell(wall, (150, 146, 138), wall)
    for side in (-1.0, 1.0):
        canvas.poly(room.wall(side, 1.0, 7.0, 0, 1.1), wall, 0.62)
    canvas.poly(room.back(-2.4, 2.4, 0, 1.1), wall, 0.66)
    room.pane(room.back(-0.5, 0.5, 1.9, 4.1), (110, 104, 96))
    rise: Rgb = (140, 136, 132)
    side = 1.0 if rng.uniform() < 0.5 else -1.0
    for i in range(11):
        x0, y0 = side * (0.5 + i * 0.17), 0.2 * (i + 1)
        box = [at(x0, 0, 5.4), at(side * 2.4, 0, 5.4), at(side * 2.4, y0, 5.4), at(x0, y0, 5.4)]
        canvas.poly(box, rise, 0.72 + 0.035 * (i % 2))
        canvas.poly(
            [at(x0, y0, 5.4), at(x0 + side * 0.17, y0, 5.4), at(x0 + side * 0.17, y0, 6.6), at(x0, y0, 6.6)], rise, 1.35
        )
    for i in range(0, 12, 2):
        x0, y0 = side * (0.5 + i * 0.17), 0.2 * (i + 1)
        canvas.line((at(x0, y0, 5.4), at(x0, y0 + 0.9, 5.4)), (40, 40, 46), 0.006)
    canvas.line((at(side * 0.5, 1.1, 5.4), at(side * 2.4, 3.35, 5.4)), (46, 46, 52), 0.012)
    over = [at(-side * 2.4, 2.2, 5.6), at(side * 0.1, 4.3, 5.6), at(side * 0.1, 4.6, 5.6), at(-side * 2.4, 2.5, 5.6)]
    canvas.poly(over, rise, 0.66)
    canvas.line((at(-side * 2.4, 3.4, 5.6), at(side * 0.1, 5.4, 5.6)), (46, 46, 52), 0.012)
    canvas.poly(room.wall(-side, 3.4, 4.7, 0, 2.2), (110, 70, 50))


def hospital_corridor(view: View) -> None:
    rng, canvas, at = view.rng("corridor"), view.canvas, view.camera.at
    room = Room(view, 2.1, _size(view, 3.2, 5.6), 13.0)
    wall: Rgb = ((214, 228, 222), (222, 226, 214), (210, 222, 232))[int(rng.integers(3))]
    accent: Rgb = ((92, 170, 150), (90, 150, 190), (150, 176, 100))[int(rng.integers(3))]
    room.shell(wall, (232, 234, 234), wall, 0.02)
    lit = view.scene.light == "day"
    for z in (2.6, 4.4, 6.8, 9.6):
        canvas.poly(room.ceiling(-0.5, 0.5, z, z + 1.0), (255, 255, 250) if lit else (200, 206, 210), raw=lit)
    for side in (-1.0, 1.0):
        canvas.poly(room.wall(side, 1.0, 13.0, 0.85, 1.05), accent)
        canvas.poly(room.wall(side, 1.0, 13.0, 0, 0.16), accent, 0.7)
        for z in (3.6, 6.6, 10.0):
            canvas.poly(
                room.wall(side, z, z + 1.1, 0, 2.15), mix(accent, (236, 226, 200), 0.6), 0.92 if side < 0 else 0.75
            )
            canvas.poly(room.wall(side, z + 0.65, z + 0.95, 1.25, 1.85), (120, 160, 180))
    room.pane(room.wall(-1.0, 2.2, 3.3, 1.3, 2.5), (190, 196, 196))
    canvas.poly(room.back(-0.95, 0.95, 0, 2.3), (170, 196, 204))
    canvas.line((at(0, 0, 13), at(0, 2.3, 13)), (90, 110, 120), 0.004)
    for x in (-0.5, 0.5):
        canvas.poly(room.back(x - 0.2, x + 0.2, 1.2, 1.9), (80, 120, 140))
    # a red cross hangs from the ceiling
    cx, cy = at(0.0, room.height - 0.55, 5.6)
    canvas.rect(cx - 0.055, cy - 0.045, cx + 0.055, cy + 0.045, (244, 244, 242))
    canvas.rect(cx - 0.011, cy - 0.034, cx + 0.011, cy + 0.034, (210, 40, 44))
    canvas.rect(cx - 0.034, cy - 0.011, cx + 0.034, cy + 0.011, (210, 40, 44))
    side = 1.0 if rng.uniform() < 0.5 else -1.0
    bed = [
        at(side * x, y, z) for x, y, z in ((1.15, 0.75, 4.6), (1.95, 0.75, 4.6), (1.95, 0.75, 6.6), (1.15, 0.75, 6.6))
    ]
    canvas.poly(bed, (236, 240, 244))
    canvas.poly(
        [at(side * 1.15, 0.6, 4.6), at(side * 1.95, 0.6, 4.6), at(side * 1.95, 0.75, 4.6), at(side * 1.15, 0.75, 4.6)],
        (150, 176, 190),
    )
    for x in (1.2, 1.9):
        canvas.line((at(side * x, 0.6, 4.6), at(side * x, 0.05, 4.6)), (110, 116, 122), 0.008)


def tunnel(view: View) -> None:
    rng, canvas, at = view.rng("tunnel"), view.canvas, view.camera.at
    tone = float(rng.uniform(0.85, 1.1))
    lining: Rgb = (126 * tone, 120 * tone, 112 * tone)
    radius, spring = _size(view, 3.0, 4.4), _size(view, 1.3, 2.6)
    _, horizon, grey = SKY[view.scene.light]
    turn = np.linspace(0, np.pi, 17)

    def arch(z: float) -> list[Point]:
        top = [at(radius * float(np.cos(a)), spring + radius * float(np.sin(a)), z) for a in turn]
        return [at(radius, 0, z), *top, at(-radius, 0, z)]

    depths = [0.6, 1.0, 1.4, 1.8, 2.3, 3.0, 4.0, 5.4, 7.4, 10.4, 15.0, 24.0]
    for i, z in enumerate(depths):
        if i + 1 == len(depths):
            break
        fade = 1.06 - 0.055 * i
        ring = [*arch(z), *reversed(arch(depths[i + 1]))]
        canvas.fill(ring, lining, down=(fade * 0.8, fade * 1.02), across=(1.06, 0.78), grain="soft", amp=0.1)
        canvas.line(arch(depths[i + 1]), lining, 0.03 / depths[i + 1], 0.42)
    canvas.poly(arch(24.0), mix(horizon, grey, 0.0 if view.scene.weather == "calm" else 0.7), 0.92, raw=True)
    if not view.dark:
        canvas.glow(*at(0, 2.2, 24.0), 0.26, 0.22, (110, 104, 90), 0.45)
    for side in (-1.0, 1.0):
        for y, k in ((1.5, 0.35), (1.75, 0.5), (2.0, 0.3)):
            canvas.line([at(side * radius * 0.985, y, z) for z in (1.3, 2.5, 5.0, 12.0, 24.0)], (90, 90, 96), 0.008, k)
        for z in (2.0, 3.2, 5.2, 9.0):
            px, py = at(side * radius * 0.96, 2.35, z)
            canvas.ellipse(
                px,
                py,
                0.05 / z,
                0.08 / z,
                (240, 226, 180) if view.scene.light == "day" else (110, 106, 96),
                raw=view.scene.light == "day",
            )


def burning_building(view: View) -> None:
    rng, canvas, at = view.rng("burnt"), view.canvas, view.camera.at
    room = Room(view, 2.9, _size(view, 3.9, 6.4), 8.5)
    wall: Rgb = ((150, 118, 92), (134, 116, 104), (156, 126, 86))[int(rng.integers(3))]
    room.shell(wall, (72, 64, 60), wall, 0.4)
    room.pane(room.back(-2.0, -0.9, 1.1, 2.7), (44, 36, 32))
    room.pane(room.back(0.9, 2.0, 1.1, 2.7), (44, 36, 32))
    for side in (-1.0, 1.0):
        room.pane(room.wall(side, 4.0, 5.4, 1.1, 2.7), (44, 36, 32))
    # soot above every opening
    for x, z in ((-1.45, 8.5), (1.45, 8.5), (-2.85, 4.7), (2.85, 4.7)):
        px, py = at(x, 3.1, z)
        canvas.gain(px, py, 0.13, 0.17, (-0.75, -0.75, -0.72))
    hole = [
        at(float(x), room.height, float(z)) for x, z in ((-1.0, 3.2), (0.4, 2.8), (1.2, 3.8), (0.7, 5.2), (-0.6, 5.0))
    ]
    canvas.poly(hole, (20, 16, 16))
    for _ in range(5):
        x0, z0 = float(rng.uniform(-2.4, 2.4)), float(rng.uniform(3.6, 7.5))
        x1 = x0 + float(rng.uniform(-1.2, 1.2))
        canvas.line((at(x0, room.height, z0), at(x1, float(rng.uniform(0.8, 2.6)), z0)), (34, 28, 26), 0.07 / z0)
    for side in (-1.0, 1.0):
        for _ in range(4):
            z, y = float(rng.uniform(2.6, 7.0)), float(rng.uniform(0.5, 2.8))
            jag = room.wall(side, z, z + float(rng.uniform(0.4, 0.9)), y, y + float(rng.uniform(0.3, 0.8)))
            canvas.fill(jag, (148, 78, 56), grain="stones", amp=0.4, texels=60)
    for x in (-2.0, 2.0):
        px, py = at(x, 0, 6.2)
        for j in range(5):
            canvas.line(
                ((px + (j - 2) * 0.03, py), (px + float(rng.uniform(-0.09, 0.09)), py - float(rng.uniform(0.03, 0.1)))),
                (36, 30, 28),
                0.014,
            )


def laboratory(view: View) -> None:
    rng, canvas, at = view.rng("lab"), view.canvas, view.camera.at
    room = Room(view, 3.0, _size(view, 3.4, 5.8), 8.0)
    wall: Rgb = ((226, 230, 236), (218, 228, 236), (232, 230, 238))[int(rng.integers(3))]
    trim: Rgb = ((60, 110, 180), (110, 90, 170), (40, 140, 160))[int(rng.integers(3))]
    room.shell(wall, (236, 238, 240), wall, 0.02)
    lit = view.scene.light == "day"
    for x in (-1.3, 1.3):
        canvas.poly(room.ceiling(x - 0.25, x + 0.25, 2.0, 7.4), (255, 255, 255) if lit else (196, 202, 210), raw=lit)
    room.pane(room.back(-0.9, 0.9, 1.5, 2.7), (160, 170, 180))
    for side in (-1.0, 1.0):
        canvas.poly(room.wall(side, 2.0, 7.6, 1.75, 2.6, 0.35), (206, 216, 226))
        for z in np.linspace(2.0, 7.6, 7):
            canvas.line((at(side * 2.65, 1.75, z), at(side * 2.65, 2.6, z)), trim, 0.005)
        canvas.poly(room.wall(side, 1.8, 7.8, 0, 0.85, 0.85), trim, 0.9 if side < 0 else 0.7)
        for z in np.linspace(1.8, 7.8, 8):
            canvas.line((at(side * 2.15, 0, z), at(side * 2.15, 0.85, z)), trim, 0.004, 0.6)
        top = [
            at(side * 2.1, 0.88, 1.8),
            at(side * 3.0, 0.88, 1.8),
            at(side * 3.0, 0.88, 7.8),
            at(side * 2.1, 0.88, 7.8),
        ]
        canvas.poly(top, (52, 56, 64))
        for z in (7.0, 6.2, 5.2, 4.4, 3.7, 3.1):
            _glassware(view, side * float(rng.uniform(2.3, 2.6)), z, rng)


def _glassware(view: View, x: float, z: float, rng: np.random.Generator) -> None:
    at, canvas = view.camera.at, view.canvas
    liquid = ((220, 60, 80), (70, 200, 110), (240, 190, 50), (80, 130, 240), (180, 90, 220))[int(rng.integers(5))]
    px, py = at(x, 0.9, z)
    s = 0.34 * view.camera.focal / z
    if rng.uniform() < 0.5:
        canvas.poly(
            (
                (px - s * 0.45, py),
                (px + s * 0.45, py),
                (px + s * 0.12, py - s * 0.7),
                (px + s * 0.12, py - s),
                (px - s * 0.12, py - s),
                (px - s * 0.12, py - s * 0.7),
            ),
            (206, 224, 232),
        )
        canvas.poly(
            ((px - s * 0.42, py), (px + s * 0.42, py), (px + s * 0.24, py - s * 0.42), (px - s * 0.24, py - s * 0.42)),
            liquid,
        )
    else:
        canvas.rect(px - s * 0.14, py - s, px + s * 0.14, py, (206, 224, 232))
        canvas.rect(px - s * 0.14, py - s * 0.6, px + s * 0.14, py, liquid)


ROOMS: dict[str, Callable[[View], None]] = {
    "warehouse": warehouse,
    "stairwell": stairwell,
    "hospital corridor": hospital_corridor,
    "tunnel": tunnel,
    "burning building": burning_building,
    "laboratory": laboratory,
}
