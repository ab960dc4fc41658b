"""Pictures from anywhere into square byte arrays."""

from __future__ import annotations

import functools
import io
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

#: A picture above this is refused before it is decoded (a decompression bomb needs far more).
MAX_PIXELS = 100_000_000
#: What is decoded. Pillow knows more, some of which run other programs (EPS).
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
#: A longer side beyond this ratio is cropped around the centre; the rest is squeezed into the square.
MAX_ASPECT = 1.5


_UNDECODABLE = (OSError, SyntaxError, ValueError, TypeError, EOFError, struct.error, MemoryError)


@dataclass(frozen=True)
class EncodedImage:
    """A picture that the vision encoder has seen already: its features (P, V) as bits of bfloat16 (uint16)."""

    bits: np.ndarray


class ImageError(ValueError):
    """A picture that cannot be used; the message says which and why."""


def open_image(image: Any, where: str = "image", max_pixels: int = MAX_PIXELS) -> Image.Image:
    """A path, bytes, PIL image or array (H, W), (H, W, 3|4) as an upright RGB image; of an animation its first frame.

    More than `max_pixels` are refused before anything is decoded.

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
            if picture.width * picture.height > max_pixels:
                raise ImageError(f"{where}: {picture.width}×{picture.height} pixels are more than {max_pixels}")
            picture.load()
            picture = ImageOps.exif_transpose(picture) or picture
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{where}: no such file") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{where}: too large to decode: {error}") from error
    except _UNDECODABLE as error:
        text = str(error).split(" <")[0] or type(error).__name__
        text = "HTML or XML text, no picture" if _is_markup(image) else text
        raise ImageError(f"{where}: cannot be decoded: {text}") from error
    if picture.mode.startswith("I") or picture.mode == "F":
        # 16-bit and float pictures: stretch to the range they use, as a viewer does.
        values = np.asarray(picture, dtype=np.float32)
        low, high = float(values.min()), float(values.max())
        picture = Image.fromarray(((values - low) / max(high - low, 1e-6) * 255).astype(np.uint8))
    if "A" in picture.getbands() or "transparency" in picture.info:
        flat = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(flat, picture.convert("RGBA"))
    return picture.convert("RGB")


@functools.cache
def _formats() -> list[str]:
    """Those of `FORMATS` that this Pillow was built with."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _is_markup(image: Any) -> bool:
    """Whether bytes are what a server sends in place of a picture that it no longer has."""
    return isinstance(image, bytes | bytearray) and bytes(image[:64]).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")


def _open(image: Any, where: str) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, str | Path):
        return Image.open(image, formats=_formats())
    if isinstance(image, bytes | bytearray | memoryview):
        return Image.open(io.BytesIO(image), formats=_formats())
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


def square_box(width: int, height: int) -> tuple[int, int, int, int]:
    """The part of an upright picture that the model sees: left, top, right, bottom in pixels."""
    side = round(MAX_ASPECT * min(width, height))
    wide, high = min(width, side), min(height, side)
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high


def to_square(picture: Image.Image, size: int) -> np.ndarray:
    """An RGB image as bytes (3, size, size): the middle of it where it is very long, squeezed into the square."""
    if picture.size != (size, size):
        box = square_box(*picture.size)
        if box != (0, 0, *picture.size):
            picture = picture.crop(box)
        picture = picture.resize((size, size), Image.Resampling.BICUBIC, reducing_gap=3.0)
    return np.ascontiguousarray(np.asarray(picture, dtype=np.uint8).transpose(2, 0, 1))


def keepable(content: bytes, size: int, max_pixels: int = MAX_PIXELS) -> bytes:
    """A picture of any kind as an upright RGB JPEG whose shorter side is at most `size`.

    Raises:
        ImageError: it is none, is truncated, or has more than `max_pixels`.
    """
    if not content:
        raise ImageError("image: zero bytes")
    picture = open_image(content, "image", max_pixels)
    shorter = min(picture.size)
    if shorter > size:
        width, height = (max(1, round(side * size / shorter)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
    sink = io.BytesIO()
    picture.save(sink, "JPEG", quality=90)
    return sink.getvalue()
