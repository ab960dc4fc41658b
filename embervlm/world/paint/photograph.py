"""A scene's surroundings from a photograph, in the scene's own light and weather, and the camera that takes it."""

from __future__ import annotations

import io
import random
from dataclasses import asdict, dataclass

import cv2
import numpy as np
from PIL import Image

from embervlm.world.paint.canvas import Rgb
from embervlm.world.paint.conditions import OVERCAST, draw_sky
from embervlm.world.paint.ground import terrain_light
from embervlm.world.paint.noise import Array
from embervlm.world.paint.view import View

#: How much of the photograph's own sky gives way to a painted one, by the light; clouds of bad weather take it all.
_PAINTED_SKY = {"day": 0.0, "dusk": 0.9, "night": 1.0, "lamps": 1.0}
_LEVEL = 124.0  # mean of the photograph's ground before the light of the scene falls on it
_SNOW = np.array((232, 236, 242), np.float32)


def draw_photograph(view: View, pixels: Array, sky: Array) -> None:
    """Fill the picture with a photograph, in place of painted ground, room or backdrop.

    Args:
        view: of the scene, on a canvas of S pixels a side.
        pixels: the photograph as its camera saw it, (S, S, 3) uint8.
        sky: the share of sky in each pixel, (S, S) float32.
    """
    canvas, scene = view.canvas, view.scene
    size = canvas.size
    first = min(size - 2, int(np.ceil(view.camera.horizon * size)))
    body = pixels.astype(np.float32)
    body *= np.float32(np.clip(_LEVEL / max(float(body[first:].mean()), 1.0), 0.6, 1.8))
    view.ground = _ground(body[first + (size - first) // 4 :])
    cover = 0.0 if view.indoor else OVERCAST[scene.weather]
    clear = body
    if cover:
        # no sun, no hard shadows, and less colour
        luma = body.mean(axis=2, keepdims=True)
        body = luma + (body - luma) * np.float32(1 - 0.45 * cover)
        body += (np.float32(_LEVEL) - luma) * np.float32(0.25 * cover)
    rows = (np.arange(size, dtype=np.float32) + 0.5) / size
    if scene.weather == "snow" and not view.indoor:
        body = _snowed(body, rows, view)
    body[first:] *= terrain_light(view, view.camera, first)[:, :, None]
    body *= np.asarray(view.tint, np.float32)
    if not view.indoor:
        draw_sky(view)
        share = max(_PAINTED_SKY[scene.light], min(1.0, 1.2 * cover))
        above = canvas.img.astype(np.float32) * np.float32(share) + clear * np.float32(1 - share)
        open_sky = sky[:, :, None]
        body = body * (1 - open_sky) + above * open_sky
    canvas.img = np.clip(body, 0, 255).astype(np.uint8)


def _ground(pixels: Array) -> Rgb:
    red, green, blue = np.median(pixels.reshape(-1, 3), axis=0)
    return (float(red), float(green), float(blue))


def _snowed(body: Array, rows: Array, view: View) -> Array:
    """Snow on the ground, what stands up shining through, and a dusting on everything else."""
    reach = np.clip((rows - view.camera.horizon) / 0.1, 0, 1)
    luma = body.mean(axis=2)
    relief = np.clip(0.8 + 0.2 * luma / max(float(luma.mean()), 1.0), 0.7, 1.1)
    dark = np.clip(luma / 70, 0.35, 1)  # trunks and posts stay dark
    share = ((0.22 + 0.6 * reach)[:, None] * dark)[:, :, None].astype(np.float32)
    return np.asarray(body * (1 - share) + _SNOW * relief[:, :, None] * share, np.float32)


@dataclass(frozen=True)
class Lens:
    """What a camera does to a picture.

    `exposure` is a factor, `warmth` the gain of red over blue less one, `haze` a share of grey, `blur` and `shake` are
    pixels of a picture of 224, `noise` levels of 255, `quality` that of the JPEG file.
    """

    exposure: float
    warmth: float
    haze: float
    blur: float
    shake: float
    noise: float
    quality: int

    def to_dict(self) -> dict[str, float]:
        """As a record's tags have it."""
        return asdict(self)


def sample_lens(rng: random.Random) -> Lens:
    """A camera at random, most of them decent."""
    return Lens(
        exposure=round(rng.uniform(0.84, 1.14), 2),
        warmth=round(rng.uniform(-0.08, 0.08), 3),
        haze=round(max(0.0, rng.uniform(-0.15, 0.2)), 2),
        blur=round(max(0.0, rng.uniform(-0.4, 1.0)), 2),
        shake=round(max(0.0, rng.uniform(-6.0, 4.0)), 1),
        noise=round(rng.uniform(0.0, 9.0), 1),
        quality=rng.randint(38, 92),
    )


def taken(picture: Image.Image, lens: Lens, seed: int) -> bytes:
    """A picture as a camera takes it, as JPEG. The same arguments give the same bytes."""
    size = picture.width
    scale = size / 224
    img: Array = np.asarray(picture, np.float32) * np.float32(lens.exposure)
    img = img * np.array((1 + lens.warmth / 2, 1, 1 - lens.warmth / 2), np.float32)
    img = img * np.float32(1 - lens.haze) + np.float32(lens.haze * min(215.0, float(img.mean()) * 1.35))
    if lens.shake * scale >= 1.5:
        long = round(lens.shake * scale)
        img = cv2.blur(img, (long, 1) if seed & 1 else (1, long))
    if lens.blur * scale >= 0.2:
        img = cv2.GaussianBlur(img, (0, 0), lens.blur * scale)
    noise = np.random.default_rng([seed, 7]).standard_normal((size, size, 3), np.float32)
    img = img + noise * np.float32(lens.noise) * (np.float32(0.5) + img / 255)
    buffer = io.BytesIO()
    Image.fromarray(np.clip(img, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=lens.quality)
    return buffer.getvalue()
