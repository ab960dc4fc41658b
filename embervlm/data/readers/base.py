"""What the readers of published datasets share: where they read from, and what they give.

A reader goes through a dataset's annotations once, in order, and gives a `Found` for every record (its picture still
where it lies), a `Fault` for every row that cannot be used and a `Double` for every row that another one stands for.
What it holds in memory does not grow with the dataset.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from embervlm.data.schema import SPLITS, Record

_COCO_PICTURE = re.compile(r"(?:COCO_(?:train|val|test)\d{4}_)?(\d{12})")


class ReaderError(ValueError):
    """A dataset that cannot be read at all. The message names the file and what was expected."""


@dataclass(frozen=True)
class Picture:
    """Where a picture lies: the first of `paths` that is there; `length` bytes from `offset` on (None: all of it).

    `encoding` is "base64" where these bytes are text that has to be decoded first.
    """

    paths: tuple[str, ...]
    offset: int = 0
    length: int | None = None
    encoding: str = ""


@dataclass(frozen=True)
class Found:
    """A record without its picture, where it stands (`line` counts from 1), and where its picture lies."""

    record: Record
    file: str
    line: int
    picture: Picture | None = None


@dataclass(frozen=True)
class Fault:
    """A row that is set aside: where it stands and why."""

    file: str
    line: int
    reason: str
    id: str


@dataclass(frozen=True)
class Double:
    """A row that says what another one says, and is left out."""

    file: str
    line: int


Row = Found | Fault | Double
Rows = Iterator[Row]


class Files(Protocol):
    """Where a dataset's files are. Paths are strings; `join` is the only arithmetic done on them."""

    def open(self, path: str) -> BinaryIO:
        """The file, to read; seekable. OSError where there is none."""

    def list(self, path: str) -> list[str]:
        """Every file below a folder, sorted; a file is a folder of itself; [] where there is nothing."""


class LocalFiles:
    """Files of this machine."""

    def open(self, path: str) -> BinaryIO:
        """See `Files`."""
        return open(path, "rb")

    def list(self, path: str) -> list[str]:
        """See `Files`."""
        place = Path(path)
        return [str(place)] if place.is_file() else sorted(str(p) for p in place.rglob("*") if p.is_file())


@dataclass(frozen=True)
class Dataset:
    """A published dataset as it lies in its files, and how it is split.

    Args:
        name: the source of its records; no two datasets of a run share one.
        format: a key of `embervlm.data.readers.FORMATS`.
        annotations: the annotation file, or for some formats a folder of them.
        images: folder of the pictures, where the annotations name pictures.
        questions: the file of questions, where they are apart from the answers (VQA).
        split: where all records go: train, validation or test. "auto": where the dataset says, else by the hash of
            the picture (of the task, where there is none), `test` and `validation` being the shares of those splits.
        folds: above 0, the test split of "auto" is fold number `fold` of so many, and of the rest the share
            `validation` validates, rounded up to eighths.
    """

    name: str
    format: str
    annotations: str
    images: str | None = None
    questions: str | None = None
    split: str = "auto"
    validation: float = 0.02
    test: float = 0.02
    folds: int = 0
    fold: int = 0

    def split_of(self, key: str, said: str | None = None) -> str:
        """The split of everything that shares a key; `said` is what the dataset itself has as its split."""
        if self.split != "auto":
            return self.split
        if said is not None:
            return said
        if self.folds:
            return fold_split(key, self.folds, self.fold, self.validation)
        place = _number(key) / 2**64
        if place < self.test:
            return "test"
        return "validation" if place < self.test + self.validation else "train"

    def picture(self, *names: str) -> Picture:
        """The picture of the first of some names that is there, below `images`.

        Raises:
            ReaderError: the dataset has no `images`.
        """
        if not self.images:
            raise ReaderError(f"{self.name}: its annotations name pictures; give the folder that has them (images)")
        base = self.images.rstrip("/")
        return Picture(tuple(f"{base}/{name.lstrip('/')}" for name in names))


def fold_split(key: str, folds: int, fold: int, validation: float = 0.125) -> str:
    """The split of a key by its hash alone: one of `folds` folds tests, so many eighths of the rest validate."""
    number = _number(key)
    if number % folds == fold % folds:
        return "test"
    return "validation" if (number // folds) % 8 < 8 * validation else "train"


def _number(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def picture_key(name: str) -> str:
    """What decides a picture's split: its name without folder and ending.

    A COCO picture has the same key under the names of 2014 and of 2017, so it is in the same split of every dataset.
    """
    stem = name.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    coco = _COCO_PICTURE.fullmatch(stem)
    return f"coco {int(coco[1])}" if coco else stem


def plain(text: str) -> str:
    """A text with its white space made single blanks, in lower case: what makes two tasks the same."""
    return " ".join(text.casefold().split())


def need_text(value: object, name: str) -> str:
    """A value that must be a text with something in it.

    Raises:
        ReaderError: it is not.
    """
    if not isinstance(value, str) or not value.strip():
        raise ReaderError(f"{name}: expected a text that is not empty, found {brief(value)}")
    return value


def brief(value: object) -> str:
    """A value for a message, at most 80 characters of it."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def known_split(value: str) -> str | None:
    """A split under its usual other names (`val`, `dev`), or None."""
    name = {"val": "validation", "dev": "validation", "restval": "train"}.get(value.strip().lower(), value.strip())
    return name if name in SPLITS else None
