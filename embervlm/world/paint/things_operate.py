"""Shapes of the things that can be operated: turned, opened, pressed."""

from __future__ import annotations

import math

from embervlm.world.paint.canvas import mix
from embervlm.world.paint.pen import CONCRETE, DARK, RED, STEEL, WHITE, YELLOW, Pen


def valve(p: Pen) -> None:
    p.pipe(-0.6, 0.6, 0.24, 0.14, STEEL)
    for x in (-0.34, 0.26):
        p.rect(x, 0.04, x + 0.08, 0.44, STEEL, 0.75)
        p.rect(x, 0.3, x + 0.08, 0.44, STEEL, 1.15)
    p.ball(0, 0.26, 0.22, 0.22, k=0.9)
    p.rect(-0.06, 0.4, 0.06, 0.72, STEEL, 0.8)
    p.ring(0, 0.74, 0.4, 0.24, k=0.6, width=0.1)
    p.ring(0, 0.75, 0.4, 0.24, width=0.07)
    for i in range(3):
        a = i * math.pi / 3 + 0.4
        dx, dy = 0.38 * math.cos(a), 0.22 * math.sin(a)
        p.line(((-dx, 0.75 - dy), (dx, 0.75 + dy)), width=0.05, k=0.92)
    p.ball(0, 0.75, 0.08)


def control_panel(p: Pen) -> None:
    p.box(-0.3, 0, 0.3, 0.5, depth=0.1, k=0.8)
    p.poly(((-0.46, 0.44), (0.42, 0.44), (0.42, 0.54), (-0.46, 0.54)), k=0.7)
    p.poly(((-0.46, 0.54), (0.42, 0.54), (0.34, 0.98), (-0.38, 0.98)), k=1.05)
    p.poly(((0.42, 0.44), (0.56, 0.54), (0.46, 1.02), (0.34, 0.98), (0.42, 0.54)), k=0.6)
    p.poly(((-0.33, 0.72), (0.02, 0.72), (-0.01, 0.93), (-0.31, 0.93)), (30, 50, 60))
    p.line(((-0.29, 0.78), (-0.2, 0.86), (-0.13, 0.8), (-0.03, 0.89)), (90, 240, 150), 0.022)
    for i, c in enumerate((RED, YELLOW, (60, 200, 80))):
        p.disc(0.11 + i * 0.09, 0.87 - 0.02, 0.035, rgb=c)
    for i in range(6):
        p.rect(-0.37 + i * 0.12, 0.59, -0.29 + i * 0.12, 0.65, WHITE if i % 2 else DARK)
    p.disc(0.22, 0.74, 0.055, rgb=WHITE)


def hatch(p: Pen) -> None:
    p.box(-0.5, 0, 0.46, 0.94, mix(p.rgb, CONCRETE, 0.6), depth=0.07, k=0.85)
    p.disc(-0.01, 0.46, 0.43, rgb=DARK)
    p.disc(-0.02, 0.47, 0.4)
    p.ring(-0.02, 0.47, 0.34, k=0.75, width=0.03)
    for i in range(8):
        a = i * math.tau / 8 + 0.2
        p.disc(-0.02 + 0.38 * math.cos(a), 0.47 + 0.38 * math.sin(a), 0.028, rgb=STEEL, k=1.2)
    p.ring(-0.02, 0.47, 0.2, rgb=p.mark, width=0.05)
    p.line(((-0.02, 0.27), (-0.02, 0.67)), p.mark, 0.04)
    p.line(((-0.22, 0.47), (0.18, 0.47)), p.mark, 0.04)
    for y in (0.28, 0.6):
        p.rect(-0.5, y, -0.36, y + 0.09, STEEL, 0.7)


def lever(p: Pen) -> None:
    p.box(-0.42, 0, 0.34, 0.2, depth=0.14, k=0.85)
    p.poly(((-0.24, 0.2), (0.2, 0.2), (0.1, 0.4), (-0.14, 0.4)), DARK)
    p.ring(-0.02, 0.3, 0.3, 0.24, STEEL, 0.03, arc=(200, 340))
    p.poly(((-0.06, 0.28), (0.04, 0.26), (0.36, 0.84), (0.28, 0.88)), STEEL, 1.15)
    p.disc(-0.02, 0.29, 0.08, rgb=STEEL)
    p.poly(((0.2, 0.66), (0.28, 0.62), (0.38, 0.82), (0.3, 0.86)), k=0.9)
    p.ball(0.34, 0.88, 0.13)


def pump(p: Pen) -> None:
    p.rect(-0.62, 0, 0.6, 0.07, DARK)
    p.pipe(-0.04, 0.56, 0.36, 0.23)
    for i in range(6):
        p.line(((0.06 + i * 0.08, 0.15), (0.06 + i * 0.08, 0.58)), k=0.6, width=0.02)
    p.rect(0.56, 0.18, 0.62, 0.54, DARK)
    p.rect(0.12, 0.56, 0.34, 0.68, k=0.8)
    p.rect(-0.42, 0.3, -0.22, 0.92, STEEL, 0.95)
    p.rect(-0.47, 0.84, -0.17, 0.93, STEEL, 1.15)
    p.ball(-0.32, 0.34, 0.27, 0.27)
    p.ring(-0.32, 0.34, 0.18, k=0.6, width=0.03)
    p.disc(-0.32, 0.34, 0.1, rgb=DARK)
    for x in (-0.3, 0.36):
        p.rect(x - 0.08, 0.05, x + 0.08, 0.14, STEEL, 0.6)


def generator(p: Pen) -> None:
    p.rect(-0.46, 0.14, 0.46, 0.5, DARK, 1.1)
    p.box(-0.42, 0.18, 0.06, 0.5, depth=0.06, k=0.8)
    for i in range(5):
        p.line(((-0.36 + i * 0.08, 0.22), (-0.36 + i * 0.08, 0.46)), DARK, 0.03)
    p.disc(0.25, 0.33, 0.16, rgb=STEEL, k=0.9)
    p.disc(0.25, 0.33, 0.09, rgb=DARK)
    p.box(-0.44, 0.54, 0.4, 0.8, depth=0.1)
    p.cyl(0.0, 0.84, 0.9, 0.06, DARK)
    frame = mix(DARK, STEEL, 0.3)
    p.line(((-0.56, 0.06), (-0.56, 0.88), (0.56, 0.88), (0.56, 0.06), (-0.56, 0.06)), frame, 0.06)
    for x in (-0.4, 0.42):
        p.disc(x, 0.08, 0.1, rgb=DARK)
        p.disc(x, 0.08, 0.04, rgb=STEEL)


def fuse_box(p: Pen) -> None:
    p.rect(-0.05, 0, 0.05, 0.3, STEEL, 0.7)
    p.poly(((0.3, 0.2), (0.3, 1.0), (0.62, 0.92), (0.62, 0.12)), k=0.78)
    p.rect(-0.36, 0.2, 0.32, 1.0)
    p.rect(-0.3, 0.26, 0.26, 0.94, (60, 62, 66))
    for row in range(3):
        y = 0.73 - row * 0.21
        p.rect(-0.26, y, 0.22, y + 0.15, WHITE, 0.9)
        for i in range(5):
            x = -0.235 + i * 0.092
            p.rect(x, y + 0.03, x + 0.06, y + 0.12, RED if (i + row) % 4 == 0 else DARK)
    p.poly(((0.4, 0.5), (0.46, 0.49), (0.46, 0.56), (0.4, 0.57)), DARK)


def door_lock(p: Pen) -> None:
    p.box(-0.36, 0, 0.32, 0.98, depth=0.07)
    for y in (0.08, 0.56):
        p.rect(-0.28, y, 0.04, y + 0.34, k=0.72)
        p.rect(-0.26, y, 0.04, y + 0.32, k=0.9)
    p.rect(0.09, 0.3, 0.27, 0.72, STEEL, 1.2)
    p.disc(0.18, 0.42, 0.045, rgb=DARK)
    p.poly(((0.15, 0.32), (0.21, 0.32), (0.19, 0.42), (0.17, 0.42)), DARK)
    p.rect(-0.08, 0.57, 0.22, 0.64, STEEL, 0.8)
    p.ball(0.18, 0.605, 0.06, rgb=STEEL)


def hose_reel(p: Pen) -> None:
    frame = mix(DARK, STEEL, 0.4)
    p.line(((-0.4, 0.0), (-0.02, 0.52), (0.36, 0.0)), frame, 0.06)
    p.disc(0.06, 0.54, 0.44, rgb=DARK)
    p.disc(0, 0.54, 0.44, k=0.9)
    for r in (0.36, 0.29, 0.22):
        p.ring(0, 0.54, r, rgb=(40, 40, 44), width=0.055)
        p.ring(0, 0.545, r, rgb=(96, 96, 104), width=0.016)
    p.ring(0, 0.54, 0.43, width=0.05, k=1.15)
    p.disc(0, 0.54, 0.14, k=1.15)
    p.disc(0, 0.54, 0.05, rgb=DARK)
    p.line(((0.36, 0.5), (0.46, 0.3), (0.42, 0.12), (0.6, 0.03)), (40, 40, 44), 0.06)
    p.line(((0.58, 0.03), (0.72, 0.05)), YELLOW, 0.07)


def switch(p: Pen) -> None:
    p.rect(-0.05, 0, 0.05, 0.34, STEEL, 0.65)
    p.box(-0.32, 0.28, 0.3, 0.96, depth=0.08, k=0.95)
    p.rect(-0.17, 0.38, 0.15, 0.86, DARK)
    p.poly(((-0.13, 0.41), (0.11, 0.41), (0.11, 0.6), (-0.13, 0.6)), WHITE, 0.6)
    p.poly(((-0.13, 0.6), (0.11, 0.6), (0.16, 0.88), (-0.18, 0.88)), WHITE)
    for x, y in ((-0.25, 0.35), (0.23, 0.35), (-0.25, 0.89), (0.23, 0.89)):
        p.disc(x, y, 0.025, rgb=DARK)
