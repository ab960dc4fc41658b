"""One shape for every kind of thing, and how a thing is put into a picture."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from embervlm.world.ontology import Size
from embervlm.world.paint import things_carry as carry
from embervlm.world.paint import things_living as living
from embervlm.world.paint import things_look as look
from embervlm.world.paint import things_operate as operate
from embervlm.world.paint.canvas import Canvas, Rgb
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
TARGET_HEIGHT: dict[Size, float] = {"small": 0.21, "medium": 0.34, "large": 0.52}
#: Height of other things standing nearest to the viewer.
OTHER_HEIGHT: dict[Size, float] = {"small": 0.07, "medium": 0.1, "large": 0.135}


def draw_thing(
    canvas: Canvas,
    kind: str,
    color: str,
    x: float,
    base: float,
    height: float,
    rng: np.random.Generator,
    outline: bool = False,
) -> None:
    """Draw a thing standing at (`x`, `base`), `height` a share of the picture.

    With `outline` it is set off from what is behind it: a dark seam around, a rim of light above.
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
        _set_off(canvas, before)


def _set_off(canvas: Canvas, before: np.ndarray) -> None:
    """Seam and rim of light along the border of what has been drawn since `before`."""
    changed = cv2.absdiff(canvas.img, before).max(axis=2)
    mask = (changed > 6).astype(np.uint8)
    x, y, w, h = cv2.boundingRect(mask)
    if not w:
        return
    pad = max(2, canvas.size // 50)
    rows = slice(max(0, y - pad), min(canvas.size, y + h + pad))
    cols = slice(max(0, x - pad), min(canvas.size, x + w + pad))
    part = cv2.morphologyEx(mask[rows, cols], cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)).astype(np.float32)
    soft = cv2.GaussianBlur(part, (0, 0), max(0.9, canvas.size / 110))
    region = canvas.img[rows, cols].astype(np.float32)
    region *= (1 - 0.75 * soft * (1 - part))[:, :, None]
    lower = np.zeros_like(part)
    lower[1:, 1:] = part[:-1, :-1]
    rim = part * (1 - lower)
    region += rim[:, :, None] * np.asarray(canvas.seen((255, 250, 240), 0.34, raw=False), np.float32)
    canvas.img[rows, cols] = np.clip(region, 0, 255).astype(np.uint8)
