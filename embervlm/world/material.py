"""Optional photographs for EmberWorld: panoramas in a folder outside git, where `embervlm.gathering` installs them.

Each is a PNG of 512×256, with the outline of its sky beside it where a picture has one; `material.json` is written
last, so that a folder with that file is complete. Nothing here is needed by default.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

PACKAGE, VERSION = "@pmndrs/assets", "1.7.0"
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


def write_manifest(folder: Path, files: dict[str, str]) -> None:
    """Write `material.json`: what the folder has and the sha256 of each file."""
    content = {"package": PACKAGE, "version": VERSION, "licence": "CC0-1.0", "developed": DEVELOPED, "files": files}
    draft = folder / f"{FILE}.part"
    draft.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    draft.replace(folder / FILE)


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
