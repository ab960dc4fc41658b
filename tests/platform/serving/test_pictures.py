"""Pictures from strangers: what is taken, what is refused, and before what work."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ember_platform.config_serving import LimitsConfig
from ember_platform.serving import pictures
from ember_platform.serving.problems import ProblemError
from embervlm.data.images import open_image, to_square
from tests.platform.serving.fakes import base64_of, picture

LIMITS = LimitsConfig()
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'


def refused(content: bytes, limits: LimitsConfig = LIMITS) -> str:
    with pytest.raises(ProblemError) as error:
        pictures.decode(content, 64, limits)
    assert error.value.errors[0].field == "image"
    return error.value.slug


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("size", [(64, 64), (50, 90), (400, 100)])
def test_a_picture_comes_out_as_the_model_s_processor_makes_it(kind: str, size: tuple[int, int]) -> None:
    content = picture(kind, size)
    expected = to_square(open_image(content), 64)
    np.testing.assert_array_equal(np.asarray(pictures.decode(content, 64, LIMITS)).transpose(2, 0, 1), expected)


def test_a_photograph_is_decoded_small_and_shows_the_same() -> None:
    gradient = np.linspace(0, 255, 2000)[None, :, None] * np.ones((1600, 1, 3))
    out = io.BytesIO()
    Image.fromarray(gradient.astype(np.uint8)).save(out, "JPEG", quality=90)
    expected = to_square(open_image(out.getvalue()), 64).astype(int)
    found = np.asarray(pictures.decode(out.getvalue(), 64, LIMITS)).transpose(2, 0, 1).astype(int)
    assert np.abs(found - expected).max() <= 8


@pytest.mark.parametrize(
    ("content", "slug"),
    [
        (b"", "unreadable-picture"),
        (b"not a picture", "unsupported-picture"),
        (SVG, "unsupported-picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "unsupported-picture"),
        (b"GIF89a\x01\x00\x01\x00\x80\x00\x00", "unsupported-picture"),
        (b"BM" + b"\0" * 60, "unsupported-picture"),
        (b"%PDF-1.7", "unsupported-picture"),
        (picture("PNG")[:200], "unreadable-picture"),
        (picture("JPEG")[:300], "unreadable-picture"),
        (png_header(30_000, 30_000) + chunk(b"IDAT", b""), "picture-too-large"),
        (png_header(2**31 - 1, 2**31 - 1) + chunk(b"IDAT", b""), "picture-too-large"),
        (png_header(1_000_000, 10) + chunk(b"IDAT", b""), "picture-too-large"),
        (picture("PNG", (1, 40)), "unreadable-picture"),
    ],
)
def test_what_is_refused(content: bytes, slug: str) -> None:
    assert refused(content) == slug


def test_a_bomb_is_refused_by_its_header() -> None:
    """20,000 × 20,000 pixels that compress to little: 1.2 GB if they were decoded."""
    row = zlib.compressobj(9)
    packed = b"".join(row.compress(b"\0" * 60_001) for _ in range(200)) + row.flush()
    bomb = png_header(20_000, 20_000) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    assert len(bomb) < 100_000
    assert refused(bomb) == "picture-too-large"


def test_a_text_bomb_in_a_picture_is_refused() -> None:
    text = chunk(b"zTXt", b"k\0\0" + zlib.compress(b"\0" * 100_000_000, 9))
    whole = picture("PNG")
    assert refused(whole[:33] + text + whole[33:]) == "unreadable-picture"


def test_a_jpeg_of_endless_scans_is_refused() -> None:
    whole = picture("JPEG")
    assert refused(whole + b"\xff\xda\x00\x08" * 200) == "unsupported-picture"


def test_animations_are_refused() -> None:
    frames = [Image.new("RGB", (32, 32), color) for color in ("red", "blue")]
    for kind in ("PNG", "WEBP"):
        out = io.BytesIO()
        frames[0].save(out, kind, save_all=True, append_images=frames[1:])
        assert refused(out.getvalue()) == "unsupported-picture"


def test_of_a_polyglot_only_the_picture_counts() -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("evil.html", "<script>alert(1)</script>")
    plain = picture("PNG")
    both = pictures.decode(plain + archive.getvalue(), 64, LIMITS)
    np.testing.assert_array_equal(np.asarray(both), np.asarray(pictures.decode(plain, 64, LIMITS)))
    assert refused(archive.getvalue() + plain) == "unsupported-picture"


def test_limits_of_bytes_and_pixels() -> None:
    content = picture("PNG", (64, 64))
    assert refused(content, LimitsConfig(picture_bytes=len(content) - 1)) == "picture-too-large"
    assert refused(content, LimitsConfig(pixels=64 * 64 - 1)) == "picture-too-large"
    assert pictures.check(content, LimitsConfig(picture_bytes=len(content), pixels=64 * 64)) == (64, 64)


def test_base64_and_data_urls() -> None:
    content = picture()
    text = base64_of(content)
    assert pictures.from_base64(text, LIMITS) == content
    assert pictures.from_base64(f"data:image/png;base64,{text}", LIMITS) == content
    for bad in ("https://a/b.png", "file:///etc/passwd", "data:text/html;base64,aGk=", "aGk", "a\nGk="):
        with pytest.raises(ProblemError) as error:
            pictures.from_base64(bad, LIMITS)
        assert error.value.slug == "invalid"
    with pytest.raises(ProblemError) as error:
        pictures.from_base64("A" * 2000, LimitsConfig(picture_bytes=1000))
    assert error.value.slug == "picture-too-large"


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["PNG", "JPEG", "WEBP"]), st.integers(0, 10**6), st.binary(min_size=1, max_size=8))
def test_a_damaged_picture_is_decoded_or_refused_but_never_more(kind: str, place: int, junk: bytes) -> None:
    content = bytearray(picture(kind, (24, 24)))
    at = place % len(content)
    content[at : at + len(junk)] = junk
    try:
        assert pictures.decode(bytes(content), 32, LIMITS).size == (32, 32)
    except ProblemError as error:
        status = error.status
    else:
        status = 415
    assert status in (413, 415, 422)
