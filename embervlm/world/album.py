"""An album: a folder of anybody's own photographs, which the eyes learn from and scenes may stand on.

Every picture file below the folder belongs to it. `labels.csv` in it (columns `file` and `environment`, a path below
the folder and EmberWorld's name for the place that it shows) is for those whose place is known, and may be missing:
the others teach the encoder through a teacher only. Every eighth photograph is kept back for validation and test.
"""

from __future__ import annotations

import functools
import hashlib
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from embervlm.data.images import ImageError, open_image
from embervlm.data.schema import Record
from embervlm.world.crops import numbers
from embervlm.world.labels import LABELS, LabelError, read_labels
from embervlm.world.material import Array
from embervlm.world.paint.photograph import sample_lens, taken

SOURCE = "album"
#: Raised whenever the same arguments would make other records.
GENERATOR_VERSION = 1
ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".webp"})
#: Photographs are made smaller until their longer side has at most this many pixels; a smaller side than `LEAST` shows
#: too little.
LONGEST, LEAST = 512, 96
#: So many of them, of up to 0.8 MB, a process remembers: an album may be larger than its memory.
_REMEMBERED = 512
#: Of so many photographs, in the order of their names' digests, the first is kept back.
_EVERY = 8
#: How much of the shorter side a view has.
_SIDE = (0.55, 1.0)


class AlbumError(ValueError):
    """An album that cannot be used. The message says which file or line, and what to do."""


@dataclass(frozen=True)
class Photograph:
    """A picture file of an album; `environment` is None where nobody said."""

    name: str
    path: Path
    environment: str | None

    def pixels(self) -> Array:
        """(H, W, 3) uint8 RGB.

        Raises:
            AlbumError: the file cannot be decoded.
        """
        return _decoded(str(self.path))


@dataclass(frozen=True)
class Window:
    """A square part of a photograph: its corner and side as shares of the picture's width, height and shorter side."""

    photograph: str
    left: float
    top: float
    side: float
    mirrored: bool

    def to_dict(self) -> dict[str, str | float | bool]:
        """As a record's tags have it."""
        return {
            "background": f"{SOURCE}/{self.photograph}",
            "left": self.left,
            "top": self.top,
            "side": self.side,
            "mirrored": self.mirrored,
        }


@functools.lru_cache(maxsize=2)
def album(folder: str) -> dict[str, Photograph]:
    """The photographs of a folder by name (their path below it), looked up once per process.

    Raises:
        AlbumError: no folder, fewer than two photographs, one that is no picture or too small, or a label that names
            no file or no environment.
    """
    root = Path(folder)
    if not root.is_dir():
        raise AlbumError(f"{root}: no such folder of photographs")
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in ENDINGS)
    names = [path.relative_to(root).as_posix() for path in files]
    if len(names) < 2:
        raise AlbumError(f"{root}: {len(names)} photographs ({', '.join(sorted(ENDINGS))}); at least 2 are needed")
    places = _labels(root, set(names))
    for path in files:
        _check(path)
    return {name: Photograph(name, path, places.get(name)) for name, path in zip(names, files, strict=True)}


def _labels(root: Path, names: set[str]) -> dict[str, str]:
    if not (root / LABELS).is_file():
        return {}
    try:
        labels = read_labels(root)
    except LabelError as error:
        raise AlbumError(str(error)) from error
    found: dict[str, str] = {}
    for label in labels:
        if label.name not in names:
            raise AlbumError(f"{label.where}: {label.name!r} is no photograph ({', '.join(sorted(ENDINGS))}) of {root}")
        if found.setdefault(label.name, label.environment) != label.environment:
            raise AlbumError(f"{label.where}: {label.name!r} shows another environment in a line before")
    return found


def _check(path: Path) -> None:
    """Look at a file's header."""
    try:
        with Image.open(path) as picture:
            width, height = picture.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise AlbumError(f"{path}: no picture ({error}); mend it, or take it out of the album") from error
    if min(width, height) < LEAST:
        raise AlbumError(
            f"{path}: {width}×{height} pixels show too little; at least {LEAST} a side are needed, "
            "or take it out of the album"
        )


@functools.lru_cache(maxsize=_REMEMBERED)
def _decoded(path: str) -> Array:
    try:
        picture = open_image(Path(path), "photograph")
    except ImageError as error:
        raise AlbumError(f"{error}; mend it, or take it out of the album") from error
    picture.thumbnail((LONGEST, LONGEST))
    return np.asarray(picture)


def digest(folder: str | Path) -> str:
    """sha256 (hex) of an album's files and labels. Errors as `album`."""
    total = hashlib.sha256()
    for name, photograph in album(str(folder)).items():
        content = hashlib.sha256(photograph.path.read_bytes()).hexdigest()
        total.update(f"{name}\0{photograph.environment}\0{content}\0".encode())
    return total.hexdigest()


@functools.lru_cache(maxsize=6)
def shown_in(folder: str, split: str) -> tuple[Photograph, ...]:
    """The photographs that a split may show. Errors as `album`."""
    order = sorted(album(folder).values(), key=lambda p: hashlib.sha256(p.name.encode()).digest())
    return tuple(photograph for i, photograph in enumerate(order) if (i % _EVERY == 0) != (split == "train"))


def photographs_of(folder: str, environment: str, split: str) -> list[Photograph]:
    """Those of them that show an environment. Errors as `album`."""
    return [photograph for photograph in shown_in(folder, split) if photograph.environment == environment]


def sample_window(photograph: Photograph, rng: random.Random) -> Window:
    """A part of a photograph, as often as not mirrored."""
    return Window(
        photograph.name,
        round(rng.random(), 3),
        round(rng.random(), 3),
        round(rng.uniform(*_SIDE), 3),
        rng.random() < 0.5,
    )


def view_of(photograph: Array, window: Window, size: int) -> Array:
    """What a window of a photograph (H, W, 3) shows, (size, size, 3) uint8."""
    height, width = photograph.shape[:2]
    side = math.floor(window.side * min(height, width))
    left, top = math.floor(window.left * (width - side)), math.floor(window.top * (height - side))
    part = Image.fromarray(photograph[top : top + side, left : left + side])
    pixels = np.asarray(part.resize((size, size), Image.Resampling.LANCZOS))
    return np.ascontiguousarray(pixels[:, ::-1]) if window.mirrored else pixels


def build(split: str, count: int, seed: int, size: int, folder: str, start: int = 0) -> Iterator[Record]:
    """Views of an album as records `start` … `start + count - 1` of a split; their kind is caption.

    Of the scene graph they know the environment where the labels say it. Record i is a pure function of
    (seed, split, i) and the album.

    Raises:
        ValueError: an unknown split or a negative number; errors of `album`.
    """
    asked, shown = numbers(split, count, start), shown_in(folder, split)
    return (_record(shown, split, i, seed, size) for i in asked)


def _record(shown: tuple[Photograph, ...], split: str, i: int, seed: int, size: int) -> Record:
    rng = random.Random(f"{seed}|{split}|{SOURCE}|{i}")
    photograph = shown[i % len(shown)]
    window, lens = sample_window(photograph, rng), sample_lens(rng)
    pixels = view_of(photograph.pixels(), window, size)
    place = photograph.environment
    scene = {} if place is None else {"scene": {"environment": place}}
    return Record(
        id=f"{SOURCE}-{seed}-{split}-{i:07d}",
        source=SOURCE,
        kind="caption",
        split=split,
        image=taken(Image.fromarray(pixels), lens, rng.getrandbits(31)),
        instruction="",
        response="a photograph" if place is None else f"a photograph of a {place}",
        tags={**scene, "picture": {**window.to_dict(), **lens.to_dict()}},
    )
