"""Seamless noise tiles, drawn once per process from fixed seeds and shared by all pictures."""

from __future__ import annotations

from functools import cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

TILE = 256  # texels per side; every tile repeats seamlessly


def _spectral(seed: int, slope: float, low: float = 1.0) -> Array:
    """Noise whose spectrum falls as 1/f**slope above `low` cycles per tile, in -1 … 1."""
    white = np.random.default_rng(seed).standard_normal((TILE, TILE))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(TILE) * TILE, np.fft.fftfreq(TILE) * TILE))
    gain = np.where(frequency < low, 0.0, 1.0 / np.maximum(frequency, 1.0) ** slope)
    field = np.fft.ifft2(np.fft.fft2(white) * gain).real
    return np.asarray(np.clip(field / (2.5 * field.std()), -1, 1), np.float32)


def _relief(height: Array, strength: float) -> Array:
    """How a height field looks when the light comes from the upper left, in -1 … 1."""
    slope = (np.roll(height, -1, 1) - np.roll(height, 1, 1)) + (np.roll(height, -1, 0) - np.roll(height, 1, 0))
    return np.asarray(np.tanh(slope * strength), np.float32)


def _cells(seed: int, count: int) -> Array:
    """Pebbles: the gap between the nearest and second nearest of `count` random points."""
    points = np.random.default_rng(seed).uniform(0, TILE, (count, 2))
    grid = np.arange(TILE, dtype=np.float32)
    first = np.full((TILE, TILE), 1e9, np.float32)
    second = first.copy()
    for px, py in points:
        dx = np.abs(grid - px)
        dy = np.abs(grid - py)
        distance = np.hypot(np.minimum(dx, TILE - dx)[None, :], np.minimum(dy, TILE - dy)[:, None])
        second = np.minimum(second, np.maximum(first, distance))
        first = np.minimum(first, distance)
    return np.asarray(np.clip((second - first) / 14.0, 0, 1), np.float32)


@cache
def tile(name: str) -> Array:
    """A float32 tile (256, 256) in about -1 … 1: soft, fine, cloud, bumps, stones, cobbles or grain."""
    if name == "soft":
        return _spectral(11, 1.7)
    if name == "fine":
        return _spectral(12, 0.9, 6.0)
    if name == "cloud":
        return _spectral(13, 1.9)
    if name == "bumps":
        return _relief(cv2.GaussianBlur(_spectral(14, 2.2, 2.0), (0, 0), 2.0), 14.0)
    if name == "stones":
        cells = _cells(15, 120)
        return np.clip(_relief(cells, 4.0) * 0.8 + (cells - 0.35) * 0.9, -1, 1)
    if name == "cobbles":
        cells = _cells(16, 400)
        return np.clip((cells - 0.25) * 1.6, -1, 1)
    if name == "grain":
        return np.random.default_rng(17).standard_normal((TILE, TILE)).astype(np.float32) / 3
    raise ValueError(f"there is no noise tile named {name!r}")


@cache
def _doubled(name: str) -> Array:
    return np.tile(tile(name), (2, 2))


def crop(name: str, width: int, height: int, ox: float, oy: float, texels: float) -> Array:
    """A (height, width) piece of a tile; `texels` of the tile across `max(width, height)` pixels."""
    span = max(width, height, 1)
    w = int(min(TILE, max(1, round(texels * width / span))))
    h = int(min(TILE, max(1, round(texels * height / span))))
    x, y = int(ox * (TILE - 1)), int(oy * (TILE - 1))
    return cv2.resize(_doubled(name)[y : y + h, x : x + w], (width, height), interpolation=cv2.INTER_LINEAR)


@cache
def halo() -> Array:
    """A soft round spot (64, 64), 1 in the middle and 0 at the rim."""
    axis = np.linspace(-1, 1, 64, dtype=np.float32)
    radius = np.hypot(axis[None, :], axis[:, None])
    return np.asarray(np.clip(1 - radius, 0, 1) ** 1.6, np.float32)
