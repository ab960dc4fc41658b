"""One shape for every kind of thing, and how a thing is put into a picture."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import cv2
import numpy as np

from embervlm.world.ontology import Size
from embervlm.world.paint import things_carry as carry
from embervlm.world.paint import things_living as living
from embervlm.world.paint import things_look as look
from embervlm.world.paint import things_operate as operate
from embervlm.world.paint.canvas import Canvas, Rgb
from embervlm.world.paint.noise import Array
from embervlm.world.paint.pen import Pen

SHAPES: dict[str, Callable[[Pen], None]] = {
    "crate": carry.crate,
    "barrel": carry.barrel,
    "toolbox": carry.toolbox,
    "sack": carry.sack,
    "suitcase": carry.suitcase,
    "parcel": carry.parcel,
    "gas cylinder": carry.gas_cylinder,
    "cooler": carry.cooler,
    "pallet": carry.pallet,
    "bucket": carry.bucket,
    "tyre": carry.tyre,
    "battery pack": carry.battery_pack,
    "medical kit": carry.medical_kit,
    "rope coil": carry.rope_coil,
    "fire extinguisher": carry.fire_extinguisher,
    "cable drum": carry.cable_drum,
    "valve": operate.valve,
    "control panel": operate.control_panel,
    "hatch": operate.hatch,
    "lever": operate.lever,
    "pump": operate.pump,
    "generator": operate.generator,
    "fuse box": operate.fuse_box,
    "door lock": operate.door_lock,
    "hose reel": operate.hose_reel,
    "switch": operate.switch,
    "camera": look.camera,
    "antenna": look.antenna,
    "solar panel": look.solar_panel,
    "lamp": look.lamp,
    "pipe joint": look.pipe_joint,
    "crack": look.crack,
    "sign": look.sign,
    "sensor": look.sensor,
    "beam": look.beam,
    "window": look.window,
    "insulator": look.insulator,
    "propeller": look.propeller,
    "anchor": look.anchor,
    "net": look.net,
    "nest": look.nest,
    "hive": look.hive,
    "vent": look.vent,
    "weld seam": look.weld_seam,
    "worker": living.worker,
    "hiker": living.hiker,
    "driver": living.driver,
    "child": living.child,
    "dog": living.dog,
    "sheep": living.sheep,
    "cat": living.cat,
}

COLOUR_RGB: dict[str, Rgb] = {
    "red": (206, 44, 40),
    "orange": (240, 128, 30),
    "yellow": (242, 208, 48),
    "green": (52, 150, 66),
    "blue": (44, 92, 200),
    "purple": (138, 66, 176),
    "white": (238, 238, 234),
    "black": (46, 46, 52),
    "brown": (128, 82, 46),
    "grey": (142, 146, 150),
}

#: Height of the drawn target as a share of the picture.
TARGET_HEIGHT: dict[Size, float] = {"small": 0.2, "medium": 0.335, "large": 0.56}
#: Height of other things standing nearest to the viewer.
OTHER_HEIGHT: dict[Size, float] = {"small": 0.065, "medium": 0.1, "large": 0.135}


@cache
def stature(kind: str) -> float:
    """What to multiply a thing's height by so that broad and slender kinds of one size look equally big."""
    canvas = Canvas(64)
    blank = canvas.img.copy()
    SHAPES[kind](Pen(canvas, 0.5, 0.72, 0.5, (255.0, 255.0, 255.0), np.random.default_rng(0)))
    _, _, width, height = cv2.boundingRect(np.where(_difference(canvas.img, blank) > 6, 1, 0).astype(np.uint8))
    extent = float(np.sqrt(width * height)) / 32
    return min(max(float(np.sqrt(0.8 / extent)), 0.86), 1.05 if height < 33 else 1.0)


def _difference(a: Array, b: Array) -> Array:
    red, green, blue = cv2.split(cv2.absdiff(a, b))
    return np.asarray(cv2.max(cv2.max(red, green), blue))


def draw_thing(
    canvas: Canvas,
    kind: str,
    color: str,
    x: float,
    base: float,
    height: float,
    rng: np.random.Generator,
    outline: bool = False,
    cast: float = 0.0,
) -> None:
    """Draw a thing standing at (`x`, `base`), `height` a share of the picture.

    With `outline` it is set off from what is behind it: a dark seam around, a rim of light above;
    `cast` is then the strength of the shadow that it throws on the ground behind it.
    Raises ValueError for a kind or colour that has no shape here.
    """
    shape = SHAPES.get(kind)
    if shape is None:
        raise ValueError(f"the painter has no shape for a thing of kind {kind!r}; kinds are listed in ontology.KINDS")
    rgb = COLOUR_RGB.get(color)
    if rgb is None:
        raise ValueError(f"the painter has no colour {color!r}; colours are listed in ontology.COLORS")
    jitter = rng.uniform(0.92, 1.08)
    tinted = (rgb[0] * jitter, rgb[1] * jitter, rgb[2] * jitter)
    flip = bool(rng.integers(2))
    before = canvas.img.copy() if outline else None
    shape(Pen(canvas, x, base, height, tinted, rng, flip))
    if before is not None:
        _set_off(canvas, before, base, cast)


def _set_off(canvas: Canvas, before: Array, foot: float, cast: float) -> None:
    """Shadow, seam and rim of light around what has been drawn since `before`."""
    size = canvas.size
    mask = np.where(_difference(canvas.img, before) > 6, 1, 0).astype(np.uint8)
    if not mask.any():
        return
    part = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)).astype(np.float32)
    soft = cv2.GaussianBlur(part, (0, 0), max(0.9, size / 110))
    dark = 0.6 * soft
    if cast:
        fy = foot * size
        # the thing laid down on the ground, away from the light
        lie = np.array([[1.0, -0.75, 0.75 * fy], [0.0, 0.3, 0.7 * fy]], np.float32)
        thrown = cv2.warpAffine(part, lie, (size, size), flags=cv2.INTER_LINEAR)
        dark = np.maximum(dark, cast * cv2.GaussianBlur(thrown, (0, 0), max(1.0, size / 80)))
    smooth = cv2.GaussianBlur(part, (0, 0), 0.7)
    lower = np.zeros_like(smooth)
    lower[2:, 1:] = smooth[:-2, :-1]
    rim = part * np.clip(smooth - lower, 0, 1)
    light = np.asarray(canvas.seen((255, 250, 240), 0.26), np.float32)
    region = canvas.img * (1 - dark * (1 - part))[:, :, None] + rim[:, :, None] * light
    canvas.img = np.clip(region, 0, 255).astype(np.uint8)
