"""Optional photographs for EmberWorld: fetched once, checked, and kept as plain pictures in a folder outside git.

What is fetched is the npm package @pmndrs/assets (CC0-1.0), which carries 18 panoramas of Poly Haven as EXR files in
base64. `install` asks npm for the pinned version, compares its digest, develops every panorama to a PNG of 512×256
(and the outline of its sky, where a picture has one) and writes `material.json` last, so that a folder with that file
is complete. Nothing here is needed by default.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

PACKAGE, VERSION = "@pmndrs/assets", "1.7.0"
#: sha512 (hex) of the package's archive.
ARCHIVE_SHA512 = (
    "cc798a352fb726fbbd2b7cc90507d840a4fd3e7f4842df2cd2afde242dc25caa"
    "56a7283a2016be8af37d3600e7f9f0d3d80563521d98459fff19752e7ae01d0a"
)
FILE = "material.json"
#: Raised whenever the same panorama is developed to another picture.
DEVELOPED = 1
#: The panoramas of the package, and how the sky is told from the rest: "none" has none; "joined" is one smooth area
#: from the zenith down; "bright" is what is brighter than trees.
SKIES = {
    "apartment": "none",
    "bridge": "none",
    "city": "joined",
    "dawn": "joined",
    "esplanade": "none",
    "forest": "bright",
    "hall": "none",
    "lab": "none",
    "lobby": "none",
    "night": "joined",
    "park": "joined",
    "sky": "none",
    "studio": "none",
    "sunrise": "joined",
    "sunset": "joined",
    "venice": "joined",
    "warehouse": "none",
    "workshop": "none",
}
_LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)
_HORIZON = 0.5  # a panorama's row of the horizon


class MaterialError(ValueError):
    """Material that cannot be fetched or used. The message says which, why and what to do."""


@dataclass(frozen=True)
class Panorama:
    """A picture of all directions: `pixels` (H, 2H, 3) uint8 RGB, `sky` (H, 2H) uint8, 255 where the sky is seen.

    The middle column is yaw 0, columns run clockwise; the top row is the zenith.
    """

    name: str
    pixels: Array
    sky: Array


# ------------------------------------------------------------------ developing


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


# ------------------------------------------------------------------ installing


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


def write_manifest(folder: Path, files: dict[str, str]) -> None:
    """Write `material.json`: what the folder has and the sha256 of each file."""
    content = {"package": PACKAGE, "version": VERSION, "licence": "CC0-1.0", "developed": DEVELOPED, "files": files}
    draft = folder / f"{FILE}.part"
    draft.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    draft.replace(folder / FILE)


def _fetch(folder: Path) -> Path:
    npm = shutil.which("npm")
    elsewhere = f"or fetch {PACKAGE} {VERSION} where there is a network and name its archive with --archive"
    if npm is None:
        raise MaterialError(
            f"npm is not installed, and {PACKAGE} comes from its registry; install Node.js, {elsewhere}"
        )
    command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--pack-destination", str(folder), "--silent", "--ignore-scripts"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, cwd=folder)
    except subprocess.TimeoutExpired as error:
        raise MaterialError(
            f"npm did not fetch {PACKAGE} {VERSION} within ten minutes; try again, {elsewhere}"
        ) from error
    found = sorted(folder.glob("*.tgz"))
    if done.returncode or not found:
        told = (done.stderr or done.stdout).strip().splitlines()
        why = f": {told[-1]}" if told else ""
        raise MaterialError(
            f"npm could not fetch {PACKAGE} {VERSION} (is the registry reachable?){why}; try again online, {elsewhere}"
        )
    return found[0]


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


# --------------------------------------------------------------------- reading


def _listed(folder: Path) -> dict[str, str]:
    """Files and digests of an installed folder.

    Raises:
        MaterialError: it is none, or was developed by another version of this code.
    """
    path = folder / FILE
    if not path.is_file():
        raise MaterialError(f"{folder}: no material there (it has no {FILE}); `make material` installs it")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        files = dict(content["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise MaterialError(f"{path}: damaged ({error}); remove the folder and run `make material`") from error
    if content.get("version") != VERSION or content.get("developed") != DEVELOPED:
        raise MaterialError(f"{path}: made by another version; run `make material` again")
    return files


def _whole(folder: Path) -> bool:
    try:
        load(folder)
    except MaterialError:
        return False
    return True


def digest(folder: str | Path) -> str:
    """sha256 (hex) of the material that is installed in a folder.

    Raises:
        MaterialError: there is none.
    """
    return hashlib.sha256(json.dumps(_listed(Path(folder)), sort_keys=True).encode()).hexdigest()


def load(folder: str | Path) -> dict[str, Panorama]:
    """The panoramas of an installed folder by name.

    Raises:
        MaterialError: there is no material, or a file is missing or changed.
    """
    files = _listed(Path(folder))
    read: dict[str, Array] = {}
    for file, wanted in files.items():
        path = Path(folder, file)
        content = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(content).hexdigest() != wanted:
            raise MaterialError(f"{path}: missing or changed; remove the folder and run `make material`")
        read[file] = np.asarray(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED))
    found = {}
    for file in sorted(f for f in files if not f.endswith("-sky.png")):
        name, pixels = file.removesuffix(".png"), read[file]
        sky = read.get(f"{name}-sky.png", np.zeros(pixels.shape[:2], np.uint8))
        found[name] = Panorama(name, np.ascontiguousarray(pixels[:, :, ::-1]), sky)
    return found
