"""Shapes of the things that can be carried."""

from __future__ import annotations

import math

from embervlm.world.paint.canvas import mix
from embervlm.world.paint.pen import DARK, RED, STEEL, WHITE, YELLOW, Pen


def crate(p: Pen) -> None:
    p.box(-0.5, 0, 0.42, 0.84, depth=0.16)
    for y in (0.02, 0.7):
        p.rect(-0.5, y, 0.42, y + 0.12, k=1.12)
    for x in (-0.5, 0.3):
        p.rect(x, 0.02, x + 0.12, 0.82, k=1.06)
    p.poly(((-0.38, 0.14), (-0.26, 0.14), (0.3, 0.7), (0.18, 0.7)), k=1.18)
    for y in (0.28, 0.42, 0.56):
        p.line(((-0.38, y), (0.3, y)), k=0.55, width=0.012)


def barrel(p: Pen) -> None:
    p.cyl(0, 0.04, 0.5, 0.32, top=0.37, lid=False)
    p.cyl(0, 0.5, 0.94, 0.37, top=0.32)
    p.disc(0, 0.94, 0.26, 0.055, k=0.75)
    for y, r in ((0.2, 0.345), (0.5, 0.375), (0.78, 0.345)):
        p.ring(0, y, r, r * 0.2, mix(p.rgb, DARK, 0.55), 0.035, arc=(0, 180))


def toolbox(p: Pen) -> None:
    p.box(-0.56, 0, 0.46, 0.4, depth=0.16)
    p.poly(((-0.58, 0.4), (0.48, 0.4), (0.38, 0.56), (-0.48, 0.56)), k=1.15)
    p.poly(((0.48, 0.4), (0.62, 0.48), (0.54, 0.62), (0.38, 0.56)), k=0.7)
    p.line(((-0.28, 0.56), (-0.24, 0.74), (0.2, 0.74), (0.24, 0.56)), DARK, 0.06)
    p.line(((-0.56, 0.39), (0.46, 0.39)), DARK, 0.025)
    for x in (-0.34, 0.2):
        p.rect(x, 0.3, x + 0.1, 0.45, STEEL, 1.2)


def sack(p: Pen) -> None:
    p.ball(0, 0.34, 0.42, 0.36)
    p.disc(-0.3, 0.08, 0.16, 0.09, k=0.85)
    p.disc(0.3, 0.08, 0.16, 0.09, k=0.7)
    p.poly(((-0.22, 0.6), (0.22, 0.6), (0.07, 0.78), (-0.07, 0.78)), k=0.98)
    p.poly(((-0.07, 0.78), (0.07, 0.78), (0.2, 1.0), (0.04, 0.93), (-0.06, 0.99), (-0.18, 0.96)), k=1.1)
    p.rect(-0.09, 0.75, 0.09, 0.81, (120, 80, 40))
    for x in (-0.16, 0.02, 0.18):
        p.line(((x * 0.4, 0.74), (x, 0.5), (x * 1.3, 0.3)), k=0.62, width=0.018)


def suitcase(p: Pen) -> None:
    p.line(((-0.12, 0.74), (-0.12, 0.98), (0.14, 0.98), (0.14, 0.74)), STEEL, 0.035)
    p.box(-0.33, 0.06, 0.27, 0.76, depth=0.14)
    for x in (-0.2, -0.06, 0.08, 0.2):
        p.line(((x, 0.1), (x, 0.72)), k=0.62, width=0.022)
    p.rect(-0.12, 0.78, 0.14, 0.83, DARK)
    for x in (-0.26, 0.2, 0.34):
        p.disc(x, 0.035, 0.045, rgb=DARK)


def parcel(p: Pen) -> None:
    p.box(-0.48, 0, 0.38, 0.62, depth=0.22)
    p.rect(-0.12, 0, 0.02, 0.62, p.mark, 0.95)
    p.poly(((-0.12, 0.62), (0.02, 0.62), (0.24, 0.74), (0.1, 0.74)), p.mark)
    p.rect(0.1, 0.08, 0.32, 0.26, WHITE)
    for x in (0.13, 0.17, 0.2, 0.25, 0.28):
        p.line(((x, 0.11), (x, 0.22)), DARK, 0.014)


def gas_cylinder(p: Pen) -> None:
    p.cyl(0, 0.03, 0.66, 0.22, lid=False)
    p.ball(0, 0.66, 0.22, 0.15)
    p.cyl(0, 0.76, 0.86, 0.07, STEEL, lid=True)
    p.line(((-0.13, 0.77), (-0.13, 0.97), (0.13, 0.97), (0.13, 0.77)), mix(p.rgb, DARK, 0.35), 0.05)
    p.rect(-0.05, 0.84, 0.05, 0.93, YELLOW)
    p.poly(((-0.09, 0.42), (0.0, 0.51), (0.09, 0.42), (0.0, 0.33)), p.mark)
    p.ring(0, 0.12, 0.22, 0.05, DARK, 0.025, arc=(0, 180))


def cooler(p: Pen) -> None:
    p.box(-0.5, 0, 0.4, 0.46, depth=0.18)
    p.box(-0.54, 0.46, 0.44, 0.6, WHITE, depth=0.18)
    p.line(((-0.42, 0.5), (-0.34, 0.84), (0.34, 0.84), (0.4, 0.5)), WHITE, 0.05, 0.85)
    p.rect(-0.16, 0.36, 0.06, 0.5, WHITE, 0.9)
    p.rect(-0.38, 0.1, 0.28, 0.2, k=1.25)


def pallet(p: Pen) -> None:
    p.poly(((-0.66, 0.3), (0.44, 0.3), (0.72, 0.5), (-0.38, 0.5)), k=0.5)
    for i in range(5):
        a, b = i / 5 * 0.28, (i / 5 + 0.14) * 0.28
        p.poly(
            (
                (a - 0.66, 0.3 + a * 0.7),
                (a + 0.44, 0.3 + a * 0.7),
                (b + 0.44, 0.3 + b * 0.7),
                (b - 0.66, 0.3 + b * 0.7),
            ),
            k=1.2,
        )
    p.rect(-0.66, 0.22, 0.44, 0.3, k=0.95)
    p.poly(((0.44, 0), (0.72, 0.2), (0.72, 0.5), (0.44, 0.3)), k=0.42)
    for x in (-0.66, -0.2, 0.26):
        p.rect(x, 0.07, x + 0.18, 0.22, k=0.75)
    p.rect(-0.66, 0, 0.44, 0.07, k=0.95)


def bucket(p: Pen) -> None:
    p.cyl(0, 0.06, 0.66, 0.27, top=0.4, lidrgb=DARK)
    p.disc(0, 0.655, 0.34, 0.075, DARK)
    p.ring(0, 0.66, 0.4, 0.095, k=1.2, width=0.035)
    p.ring(0, 0.66, 0.4, 0.34, STEEL, 0.035, arc=(180, 360))
    p.rect(-0.1, 0.96, 0.1, 1.02, DARK)


def tyre(p: Pen) -> None:
    p.disc(0.09, 0.48, 0.44, 0.48, (28, 28, 30))
    p.disc(0, 0.48, 0.46, 0.48, (52, 52, 56))
    for i in range(20):
        a = i * math.tau / 20
        p.line(
            ((0.4 * math.cos(a), 0.48 + 0.42 * math.sin(a)), (0.46 * math.cos(a), 0.48 + 0.48 * math.sin(a))),
            (20, 20, 22),
            0.03,
        )
    p.ring(0, 0.48, 0.36, 0.37, width=0.05)
    p.ball(0, 0.48, 0.26, 0.27)
    for i in range(5):
        a = i * math.tau / 5 + 0.3
        p.disc(0.16 * math.cos(a), 0.48 + 0.165 * math.sin(a), 0.05, rgb=DARK)
    p.disc(0, 0.48, 0.06, rgb=STEEL)


def battery_pack(p: Pen) -> None:
    p.box(-0.46, 0, 0.38, 0.7, depth=0.18)
    p.cyl(-0.2, 0.74, 0.9, 0.07, RED)
    p.cyl(0.26, 0.74, 0.9, 0.07, DARK)
    p.rect(-0.46, 0.55, 0.38, 0.7, DARK)
    p.poly(
        ((0.0, 0.52), (-0.18, 0.24), (-0.06, 0.26), (-0.12, 0.04), (0.1, 0.34), (-0.03, 0.32), (0.06, 0.52)),
        YELLOW if sum(p.rgb) < 600 else DARK,
    )
    for i in range(3):
        p.rect(0.18, 0.1 + i * 0.13, 0.32, 0.19 + i * 0.13, (80, 220, 90))


def medical_kit(p: Pen) -> None:
    p.line(((-0.18, 0.66), (-0.16, 0.84), (0.12, 0.84), (0.14, 0.66)), DARK, 0.06)
    p.box(-0.5, 0, 0.42, 0.66, depth=0.16)
    cross = RED if p.bright else WHITE
    p.rect(-0.13, 0.08, 0.05, 0.58, cross)
    p.rect(-0.29, 0.24, 0.21, 0.42, cross)
    p.line(((-0.5, 0.6), (0.42, 0.6)), k=0.6, width=0.02)


def rope_coil(p: Pen) -> None:
    for i in range(6):
        y = 0.12 + i * 0.085
        p.ring(0, y, 0.46, 0.15, k=0.62 + 0.02 * i, width=0.1)
        p.ring(0, y + 0.012, 0.46, 0.15, k=0.98 + 0.05 * i, width=0.055)
    for i in range(10):
        a = math.pi * (i + 0.5) / 10
        x, y = 0.46 * math.cos(a), 0.3 - 0.15 * math.sin(a)
        p.line(((x - 0.03, y - 0.16), (x + 0.03, y + 0.16)), k=0.6, width=0.012)
    p.line(((0.44, 0.2), (0.58, 0.06), (0.7, 0.02)), width=0.07, k=0.9)


def fire_extinguisher(p: Pen) -> None:
    p.cyl(0, 0.03, 0.64, 0.19, lid=False)
    p.ball(0, 0.64, 0.19, 0.1)
    p.cyl(0, 0.72, 0.8, 0.06, DARK)
    p.poly(((-0.08, 0.82), (0.26, 0.94), (0.28, 0.9), (0.0, 0.78)), DARK)
    p.poly(((-0.04, 0.86), (0.24, 1.02), (0.26, 0.98), (0.02, 0.82)), STEEL)
    p.line(((-0.05, 0.8), (-0.24, 0.78), (-0.33, 0.6), (-0.32, 0.3)), DARK, 0.05)
    p.poly(((-0.36, 0.32), (-0.28, 0.32), (-0.25, 0.12), (-0.4, 0.12)), DARK)
    p.rect(-0.14, 0.28, 0.12, 0.48, WHITE if not p.bright else DARK)
    p.ring(0.14, 0.8, 0.05, 0.05, YELLOW, 0.03)


def cable_drum(p: Pen) -> None:
    p.disc(0.34, 0.5, 0.4, 0.48, k=0.5)
    p.pipe(0.0, 0.34, 0.5, 0.34, DARK)
    for i in range(5):
        p.line(((0.05 + i * 0.06, 0.18), (0.05 + i * 0.06, 0.82)), (90, 90, 98), 0.02)
    p.disc(-0.03, 0.5, 0.42, 0.5, k=0.75)
    p.disc(-0.07, 0.5, 0.42, 0.5)
    for i in range(-3, 4):
        h = 0.49 * math.sqrt(1 - (i * 0.115 / 0.42) ** 2)
        p.line(((-0.07 + i * 0.115, 0.5 - h), (-0.07 + i * 0.115, 0.5 + h)), k=0.72, width=0.014)
    p.ring(-0.07, 0.5, 0.4, 0.48, k=1.2, width=0.03)
    p.ring(-0.07, 0.5, 0.2, 0.24, k=0.6, width=0.02)
    p.disc(-0.07, 0.5, 0.08, 0.095, DARK)
