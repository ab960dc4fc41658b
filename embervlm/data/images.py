"""Pictures from anywhere into square byte arrays."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

#: A picture above this is refused before it is decoded (a decompression bomb needs far more).
MAX_PIXELS = 100_000_000
#: A longer side beyond this ratio is cropped around the centre; the rest is squeezed into the square.
MAX_ASPECT = 1.5


class ImageError(ValueError):
    """A picture that cannot be used; the message says which and why."""


def open_image(image: Any, where: str = "image") -> Image.Image:
    """A path, bytes, PIL image or array (H, W), (H, W, 3|4) as an upright RGB image.

    Raises:
        ImageError: missing, unreadable, truncated, too large or of a shape or type that is no picture.
    """
    try:
        with warnings.catch_warnings():
            # Our own limit below replaces Pillow's warning at half of it.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            if isinstance(image, str | Path):
                where = f"{where} ({image})"
            picture = _open(image, where)
            if picture.width * picture.height > MAX_PIXELS:
                raise ImageError(f"{where}: {picture.width}×{picture.height} pixels, more than {MAX_PIXELS:,}")
            picture.load()
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{where}: no such file") from error
    except (OSError, SyntaxError, ValueError, TypeError, Image.DecompressionBombError) as error:
        raise ImageError(f"{where}: not a readable picture ({error})") from error
    picture = ImageOps.exif_transpose(picture) or picture
    if picture.mode.startswith("I") or picture.mode == "F":
        # 16-bit and float pictures: stretch to the range they use, as a viewer does.
        values = np.asarray(picture, dtype=np.float32)
        low, high = float(values.min()), float(values.max())
        picture = Image.fromarray(((values - low) / max(high - low, 1e-6) * 255).astype(np.uint8))
    if "A" in picture.getbands() or "transparency" in picture.info:
        flat = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(flat, picture.convert("RGBA"))
    return picture.convert("RGB")


def _open(image: Any, where: str) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, str | Path):
        return Image.open(image)
    if isinstance(image, bytes | bytearray | memoryview):
        return Image.open(io.BytesIO(image))
    if hasattr(image, "__array__"):
        array = np.asarray(image)
        if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or 0 in array.shape:
            raise ImageError(f"{where}: an array of shape {array.shape}; expected (H, W), (H, W, 3) or (H, W, 4)")
        if np.issubdtype(array.dtype, np.floating):
            if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
                raise ImageError(f"{where}: a float array must hold values from 0 to 1")
            array = np.round(array * 255)
        elif array.min() < 0 or array.max() > 255:
            raise ImageError(f"{where}: an integer array must hold values from 0 to 255")
        return Image.fromarray(array.astype(np.uint8))
    raise ImageError(f"{where}: {type(image).__name__} is no picture; give a path, bytes, a PIL image or an array")


def to_square(picture: Image.Image, size: int) -> np.ndarray:
    """An RGB image as bytes (3, size, size)."""
    if picture.size != (size, size):
        width, height = picture.size
        if max(width, height) > MAX_ASPECT * min(width, height):
            side = round(MAX_ASPECT * min(width, height))
            picture = ImageOps.fit(picture, (min(width, side), min(height, side)))
        picture = picture.resize((size, size), Image.Resampling.BICUBIC, reducing_gap=3.0)
    return np.ascontiguousarray(np.asarray(picture, dtype=np.uint8).transpose(2, 0, 1))
