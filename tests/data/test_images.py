"""Pictures as they come: of every kind that is one a JPEG is made, upright and RGB; what is none is said to be none."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from embervlm.data.images import ImageError, keepable, open_image

RED, BLUE = (200, 30, 30), (30, 30, 200)


def saved(picture: Image.Image, form: str = "PNG", **options: object) -> bytes:
    sink = io.BytesIO()
    picture.save(sink, form, **options)  # type: ignore[arg-type]
    return sink.getvalue()


def halves(mode: str = "RGB", size: tuple[int, int] = (64, 48)) -> Image.Image:
    """Red above, blue below."""
    picture = Image.new("RGB", size, RED)
    picture.paste(BLUE, (0, size[1] // 2, *size))
    return picture.convert(mode)


def kept(content: bytes, size: int = 32) -> np.ndarray:
    """The picture that is kept, as (H, W, 3)."""
    picture = Image.open(io.BytesIO(keepable(content, size)))
    assert (picture.format, picture.mode) == ("JPEG", "RGB")
    return np.asarray(picture).astype(int)


def is_like(pixels: np.ndarray, colour: tuple[int, int, int], near: int = 40) -> bool:
    return bool(np.abs(pixels.reshape(-1, 3).mean(axis=0) - colour).max() < near)


@pytest.mark.parametrize(
    "content",
    [
        saved(halves(), "JPEG", quality=95),
        saved(halves("CMYK"), "JPEG", quality=95),
        saved(halves("P"), "PNG"),
        saved(halves("RGBA"), "PNG"),
        saved(halves(), "WEBP", lossless=True),
        saved(halves(), "BMP"),
        saved(halves(), "TIFF"),
    ],
    ids=["jpeg", "cmyk", "palette", "alpha", "webp", "bmp", "tiff"],
)
def test_kinds_of_pictures(content: bytes) -> None:
    pixels = kept(content)
    assert pixels.shape == (32, 43, 3)
    assert is_like(pixels[:10], RED)
    assert is_like(pixels[-10:], BLUE)


def test_sixteen_bits_are_stretched_and_not_cut_off() -> None:
    ramp = np.linspace(1000, 9000, 64 * 48).reshape(48, 64).astype(np.uint16)
    pixels = kept(saved(Image.fromarray(ramp), "PNG"))
    assert pixels[0].mean() < 30
    assert pixels[-1].mean() > 225


def test_exif_rotation_is_undone() -> None:
    turned = halves().rotate(90, expand=True)  # red left, blue right
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn by 90° clockwise to see it upright"
    pixels = kept(saved(turned, "JPEG", exif=exif, quality=95))
    assert pixels.shape == (32, 43, 3)
    assert is_like(pixels[:10], RED)
    assert is_like(pixels[-10:], BLUE)


def test_of_an_animation_the_first_frame_is_kept() -> None:
    frames = [Image.new("RGB", (40, 40), colour).convert("P") for colour in (RED, BLUE, BLUE)]
    content = saved(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=50)
    assert Image.open(io.BytesIO(content)).n_frames > 1
    assert is_like(kept(content), RED)


def test_see_through_becomes_white() -> None:
    palette = Image.new("P", (40, 40), 0)
    palette.putpalette([200, 30, 30] + [0] * 765)
    assert is_like(kept(saved(palette, "PNG", transparency=0)), (255, 255, 255))


def bomb(side: int) -> bytes:
    """A PNG of a few kilobytes that says it is side × side."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 9999)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "image: zero bytes"),
        (b"<!DOCTYPE html><html>404</html>", "image: cannot be decoded: HTML or XML text, no picture"),
        (b"\xef\xbb\xbf\n<html>", "HTML or XML text"),
        (saved(halves(size=(300, 300)), "JPEG")[:-800], "image: cannot be decoded: image file is truncated"),
        (saved(halves(), "PNG")[:60], "image: cannot be decoded"),
        (b"\xff\xd8\xff" + b"no jpeg" * 30, "image: cannot be decoded"),
        (bomb(9000), "image: 9000×9000 pixels are more than 40000000"),
        (bomb(60_000), "image: too large to decode"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "image: cannot be decoded"),
        (bytes(range(256)) * 8, "image: cannot be decoded"),
    ],
    ids=["zero", "html", "bom", "jpeg cut", "png cut", "jpeg noise", "bomb", "great bomb", "eps", "noise"],
)
def test_what_is_no_picture(content: bytes, said: str) -> None:
    with pytest.raises(ImageError) as error:
        keepable(content, 32, 40_000_000)
    assert said in str(error.value)


def test_small_pictures_are_not_blown_up_and_the_same_bytes_come_again() -> None:
    content = saved(halves(size=(20, 10)))
    assert kept(content, 224).shape == (10, 20, 3)
    assert keepable(content, 224) == keepable(content, 224)


def test_broken_exif_is_no_crash() -> None:
    broken = b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01" * 20
    assert open_image(saved(halves(), "JPEG", exif=broken)).mode == "RGB"
