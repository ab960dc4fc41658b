"""Pictures from strangers: checked before a pixel is decoded, and made small at once."""

from __future__ import annotations

import base64
import binascii
import io
import re
import struct
import warnings

from PIL import Image, ImageFile

from ember_platform.config_serving import LimitsConfig
from ember_platform.serving.problems import ProblemError, invalid
from embervlm.data.images import ImageError, open_image, to_square

#: Formats that are opened at all. Others have decoders with more surface than use here.
FORMATS = ("JPEG", "PNG", "WEBP")
_DATA_URL = re.compile(r"data:image/[a-z0-9.+-]{1,40};base64,", re.IGNORECASE)
#: Scans of a progressive JPEG: each is a pass over all pixels, so a small file of many is hours of work.
MAX_SCANS = 100
#: No camera makes a strip of this ratio; a decoder's rows may be huge where a side is.
MAX_SIDE = 30_000
_UNDECODABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, MemoryError, OverflowError, IndexError)


def from_base64(text: str, limits: LimitsConfig, field: str = "image") -> bytes:
    """The bytes of a base64 text, or of a data: URL of a picture.

    Raises:
        ProblemError: not base64, or more bytes than a picture may have (told before decoding).
    """
    start = 0
    match = _DATA_URL.match(text)
    if match:
        start = match.end()
    if (len(text) - start) * 3 // 4 > limits.picture_bytes + 3:
        raise _too_large(field, f"more than {limits.picture_bytes} bytes")
    try:
        content = base64.b64decode(text[start:], validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid(field, "is not base64 (addresses of pictures are not fetched)") from error
    return content


def check(content: bytes, limits: LimitsConfig, field: str = "image") -> tuple[int, int]:
    """Width and height of a picture that may be decoded, told from its header.

    Raises:
        ProblemError: too many bytes or pixels, no picture, or of a kind that is not taken.
    """
    if len(content) > limits.picture_bytes:
        raise _too_large(field, f"more than {limits.picture_bytes} bytes")
    if not content:
        raise invalid(field, "is empty", "unreadable-picture")
    picture = _header(content, field)
    width, height = picture.size
    if width * height > limits.pixels or max(width, height) > MAX_SIDE:
        raise _too_large(field, f"{width}×{height} pixels; at most {limits.pixels} in all, {MAX_SIDE} a side")
    if min(width, height) < 2:
        raise invalid(field, f"{width}×{height} pixels show nothing", "unreadable-picture")
    if getattr(picture, "n_frames", 1) > 1 and picture.format != "MPO":
        raise invalid(field, "is animated; send one picture", "unsupported-picture")
    # In the coded data a marker byte is always followed by a zero, so only real scans (and thumbnails') are counted.
    if picture.format == "JPEG" and content.count(b"\xff\xda") > MAX_SCANS:
        raise invalid(field, f"has more than {MAX_SCANS} scans", "unsupported-picture")
    return width, height


def decode(content: bytes, size: int, limits: LimitsConfig, field: str = "image") -> Image.Image:
    """A checked picture as an RGB square of `size` pixels, as the model's own processor makes it.

    Raises:
        ProblemError: see `check`; or the content is damaged.
    """
    check(content, limits, field)
    try:
        picture = _opened(content)
        # A JPEG far larger than needed is decoded at a half, quarter or eighth: faster, and the resize after it
        # averages the same pixels. Four times the model's input loses nothing that is seen.
        picture.draft("RGB", (4 * size, 4 * size))
        square = to_square(open_image(picture, field), size)
    except (ImageError, *_UNDECODABLE) as error:
        raise invalid(field, "is damaged or cut short", "unreadable-picture") from error
    return Image.fromarray(square.transpose(1, 2, 0))


def _opened(content: bytes) -> ImageFile.ImageFile:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower
        return Image.open(io.BytesIO(content), formats=FORMATS)


def _header(content: bytes, field: str) -> ImageFile.ImageFile:
    try:
        return _opened(content)
    except Image.DecompressionBombError as error:
        raise _too_large(field, "far more pixels than are taken") from error
    except Image.UnidentifiedImageError as error:
        raise invalid(field, "is not a JPEG, PNG or WebP picture", "unsupported-picture") from error
    except _UNDECODABLE as error:
        raise invalid(field, "is damaged or cut short", "unreadable-picture") from error


def _too_large(field: str, message: str) -> ProblemError:
    return invalid(field, message, "picture-too-large")
