"""Install the panoramas that EmberWorld may stand on: fetched once, checked, and developed to plain pictures.

What is fetched is the npm package @pmndrs/assets (CC0-1.0), which carries 18 panoramas of Poly Haven as EXR files in
base64. `install` fetches the pinned version, compares its digest, and develops every panorama to a PNG of 512×256 (and
the outline of its sky, where a picture has one).
"""

from __future__ import annotations

import base64
import hashlib
import re
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from embervlm.gathering.packages import FetchError, fetch
from embervlm.world.material import PACKAGE, SKIES, VERSION, Array, MaterialError, load, write_manifest

#: sha512 (hex) of the package's archive.
ARCHIVE_SHA512 = (
    "cc798a352fb726fbbd2b7cc90507d840a4fd3e7f4842df2cd2afde242dc25caa"
    "56a7283a2016be8af37d3600e7f9f0d3d80563521d98459fff19752e7ae01d0a"
)
_LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)
_HORIZON = 0.5  # a panorama's row of the horizon


def develop(radiance: Array) -> tuple[Array, Array]:
    """Linear radiance (H, W, 3) of any range to an sRGB picture (uint8) and its brightness (H, W), 0.18 in the middle.

    Files that were made smaller as they are have rings around lamps and the sun, where channels fall below zero:
    those pixels are filled from around them.
    """
    light = np.nan_to_num(radiance.astype(np.float32), nan=0.0, posinf=65504.0, neginf=0.0)
    luma = light.clip(0) @ _LUMA
    scale = np.float32(0.18 / np.exp(np.log(luma + 1e-4).mean()))
    luma = luma * scale
    dazzled = cv2.dilate(luma, np.ones((5, 5), np.uint8)) > 50
    broken = (light.min(axis=2) < 0).astype(np.uint8)
    broken |= cv2.dilate(broken, np.ones((3, 3), np.uint8)) * dazzled
    shown = luma * (1 + luma / 36) / (1 + luma)  # Reinhard's curve; 6 and above is white
    values = light.clip(0) * scale * (shown / np.maximum(luma, 1e-6))[:, :, None]
    white = np.clip(luma / 12 - 0.3, 0, 1)[:, :, None]
    values = np.clip(values * (1 - white) + white, 0, 1)
    curve = np.where(values <= 0.0031308, 12.92 * values, 1.055 * np.maximum(values, 1e-6) ** (1 / 2.4) - 0.055)
    picture = (curve * 255 + 0.5).astype(np.uint8)
    return np.asarray(cv2.inpaint(picture, broken, 3, cv2.INPAINT_TELEA)), luma


def sky_of(picture: Array, luma: Array, kind: str) -> Array:
    """Where the sky is seen (H, W), 255 or 0, in a panorama of the given kind (`SKIES`)."""
    height, width = luma.shape
    low = round(height * (_HORIZON + 0.04))
    if kind == "none":
        return np.zeros((height, width), np.uint8)
    if kind == "bright":
        found = (luma > np.percentile(luma[: height // 2], 70)).astype(np.uint8)
        found[low:] = 0
        return np.asarray(found * np.uint8(255))
    smooth = cv2.copyMakeBorder(cv2.GaussianBlur(picture, (0, 0), 1.0), 1, 0, 0, 0, cv2.BORDER_REPLICATE)
    mask = np.zeros((height + 3, width + 2), np.uint8)
    flags = 4 | cv2.FLOODFILL_MASK_ONLY | (255 << 8)
    step = (3, 3, 3)  # sRGB levels between neighbours; more lets the sky run into glass towers
    cv2.floodFill(smooth, mask, (width // 2, 0), 0, step, step, flags)
    found = mask[2:-1, 1:-1].copy()
    found[low:] = 0
    found = cv2.morphologyEx(found, cv2.MORPH_CLOSE, np.ones((7, 7), np.uint8))
    # a rim of bright sky around dark roofs and trees would glow under another sky
    return np.asarray(cv2.dilate(found, np.ones((5, 5), np.uint8)))


def read_exr(content: bytes, name: str) -> Array:
    """The pixels (H, W, 3) of an EXR file.

    Raises:
        MaterialError: the reader is not installed, or the file is none.
    """
    try:
        import OpenEXR
    except ImportError as error:
        raise MaterialError("OpenEXR is not installed; pip install -c constraints.txt '.[material]'") from error
    with tempfile.NamedTemporaryFile(suffix=".exr") as file:
        file.write(content)
        file.flush()
        try:
            with OpenEXR.File(file.name) as opened:
                pixels = np.array(opened.channels()["RGB"].pixels, np.float32)
        except (RuntimeError, OSError, ValueError, KeyError) as error:
            raise MaterialError(f"{name}: no EXR picture with red, green and blue: {error}") from error
    return pixels


def install(folder: Path, archive: Path | None = None, say: Callable[[str], None] = print) -> Path:
    """Fetch and develop the panoramas, or find it done.

    Args:
        folder: where they go.
        archive: the package's archive, fetched elsewhere; None asks npm.
        say: takes lines of progress.

    Returns:
        The folder.

    Raises:
        MaterialError: npm is missing or cannot fetch it, or the archive is not the one that is expected.
    """
    if _whole(folder):
        say(f"material: {folder} is complete ({len(SKIES)} panoramas of {PACKAGE} {VERSION})")
        return folder
    with tempfile.TemporaryDirectory(prefix="embervlm-material-") as temporary:
        file = archive if archive is not None else _fetch(Path(temporary))
        _check(file)
        sources = _sources(file)
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, str] = {}
    for name, content in sorted(sources.items()):
        picture, luma = develop(read_exr(content, name))
        files |= _keep(folder, name, picture, sky_of(picture, luma, SKIES[name]))
    write_manifest(folder, files)
    say(f"material: {len(sources)} panoramas of {PACKAGE} {VERSION} in {folder}")
    return folder


def _fetch(folder: Path) -> Path:
    package = f"{PACKAGE}@{VERSION}"
    try:
        return fetch("npm", package, folder)
    except FetchError as error:
        raise MaterialError(f"{error}, or fetch {package} elsewhere and name its archive with --archive") from error


def _check(archive: Path) -> None:
    if not archive.is_file():
        raise MaterialError(f"{archive}: no such archive")
    digest = hashlib.sha512(archive.read_bytes()).hexdigest()
    if digest != ARCHIVE_SHA512:
        raise MaterialError(
            f"{archive.name}: its sha512 is {digest[:16]}…, and that of {PACKAGE} {VERSION} is {ARCHIVE_SHA512[:16]}…; "
            "it is another version or damaged, and is not used"
        )


def _sources(archive: Path) -> dict[str, bytes]:
    """The panoramas' EXR files in a package's archive, by name."""
    found: dict[str, bytes] = {}
    with tarfile.open(archive, "r:gz") as opened:
        for member in opened:
            match = re.fullmatch(r"package/hdri/(\w+)\.exr\.js", member.name)
            file = opened.extractfile(member) if match is not None and match[1] in SKIES else None
            if match is not None and file is not None:
                found[match[1]] = unpacked(file.read().decode("ascii"), match[1])
    missing = sorted(set(SKIES) - set(found))
    if missing:
        raise MaterialError(f"{archive.name}: has no panorama {missing[0]!r}")
    return found


def unpacked(module: str, name: str) -> bytes:
    """The file in a JavaScript module that exports it as a data address.

    Raises:
        MaterialError: there is none in it.
    """
    match = re.search(r"base64,([A-Za-z0-9+/=]+)", module)
    if match is None:
        raise MaterialError(f"{name}: no base64 file in its module")
    return base64.b64decode(match[1])


def _keep(folder: Path, name: str, picture: Array, sky: Array) -> dict[str, str]:
    """Write a panorama and its sky; their names and digests."""
    kept = {}
    for file, pixels in ((f"{name}.png", picture[:, :, ::-1]), (f"{name}-sky.png", sky)):
        done, content = cv2.imencode(".png", pixels)
        if not done or (file.endswith("-sky.png") and not sky.any()):
            continue
        (folder / file).write_bytes(content.tobytes())
        kept[file] = hashlib.sha256(content.tobytes()).hexdigest()
    return kept


def _whole(folder: Path) -> bool:
    try:
        load(folder)
    except MaterialError:
        return False
    return True
