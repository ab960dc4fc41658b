"""Conceptual Captions (CC3M), as a TSV with a folder of pictures, or as webdataset archives.

`Train_GCC-training.tsv` has a caption, a tab and a URL in each line, and no header. What was downloaded has one of
these names below `images`, the first that is there being taken: `<row>_<crc32 of the URL>`, `<crc32 of the URL>` (as
the usual downloaders write, without an ending or with `.jpg`). Where the second column is no URL, it is the picture's
name. Many of the URLs are dead: give the dataset a `max_bad_share` that allows for it.

A webdataset (img2dataset) is a folder of `00000.tar` …, where `000000012.jpg`, `.txt` and `.json` make one sample.
"""

from __future__ import annotations

import json
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from embervlm.data.readers.base import Dataset, Fault, Files, Found, Picture, ReaderError, Rows, brief, picture_key
from embervlm.data.readers.coco import KIND, record

__all__ = ["KIND", "parts", "read"]

_PICTURES = ("jpg", "jpeg", "png", "webp", "gif", "bmp")
#: A caption or its JSON beyond this is none.
_LONGEST = 1 << 20


def parts(dataset: Dataset, files: Files) -> list[tuple[str, ...]]:
    """The TSV, or each archive by itself.

    Raises:
        ReaderError: a folder without archives.
    """
    if dataset.annotations.endswith((".tsv", ".csv", ".txt", ".tar")):
        return [(dataset.annotations,)]
    archives = [path for path in files.list(dataset.annotations) if path.endswith(".tar")]
    if not archives:
        raise ReaderError(f"{dataset.annotations}: expected a .tsv file, or a folder of .tar archives (not compressed)")
    return [(path,) for path in archives]


def read(dataset: Dataset, part: Sequence[str], files: Files) -> Rows:
    """Records of a TSV or of one archive."""
    (file,) = part
    with files.open(file) as opened:
        yield from _archive(dataset, file, opened) if file.endswith(".tar") else _table(dataset, file, opened)


def _table(dataset: Dataset, file: str, opened: BinaryIO) -> Rows:
    for number, raw in enumerate(opened):
        line, identity = number + 1, f"{dataset.name}-{number:08d}"
        try:
            cells = raw.decode("utf-8-sig").rstrip("\r\n").split("\t")
        except UnicodeDecodeError as error:
            yield Fault(file, line, f"not UTF-8 text: {error.reason} at byte {error.start}", identity)
            continue
        if cells == [""] or (number == 0 and [c.lower() for c in cells] in (["caption", "url"], ["title", "filepath"])):
            continue
        if len(cells) != 2 or not cells[1].strip():
            yield Fault(file, line, f"expected a caption, a tab and a URL, found {brief(chr(9).join(cells))}", identity)
            continue
        caption, place = cells[0].strip(), cells[1].strip()
        names: tuple[str, ...] = (place,)
        if "://" in place:
            code = zlib.crc32(place.encode())
            names = tuple(f"{stem}{end}" for stem in (f"{number}_{code}", f"{code}") for end in ("", ".jpg"))
        split = dataset.split_of(place if "://" in place else picture_key(place))
        yield Found(record(dataset, f"{number:08d}", split, caption), file, line, dataset.picture(*names))


def _archive(dataset: Dataset, file: str, opened: BinaryIO) -> Rows:
    """Samples of an archive; `line` is the sample's place in it, from 1."""
    stem = file.rsplit("/", 1)[-1].removesuffix(".tar")
    line = 0
    try:
        for line, (key, sample) in enumerate(_samples(opened), 1):
            identity = f"{dataset.name}-{stem}-{key}"
            place = next((sample[end] for end in _PICTURES if end in sample), None)
            caption = sample.get("txt")
            try:
                facts = json.loads(sample["json"]) if "json" in sample else {}
            except ValueError as error:
                yield Fault(file, line, f"{key}.json: malformed JSON: {error}", identity)
                continue
            if caption is None and isinstance(facts, dict):
                caption = facts.get("caption")
            if not isinstance(caption, str):
                yield Fault(file, line, f"{key}: no caption ({', '.join(sorted(sample))})", identity)
            elif place is None:
                yield Fault(file, line, f"image: missing: {key} has no picture ({', '.join(sorted(sample))})", identity)
            else:
                known = facts.get("url") if isinstance(facts, dict) else None
                split = dataset.split_of(str(known or f"{stem}/{key}"))
                made = record(dataset, f"{stem}-{key}", split, caption.strip())
                yield Found(made, file, line, Picture((file,), *place))
    except tarfile.TarError as error:
        yield Fault(file, line + 1, f"the archive is damaged here: {error}", f"{dataset.name}-{stem}")


def _samples(opened: BinaryIO) -> Iterator[tuple[str, dict[str, Any]]]:
    """Neighbours of one name: ending → text (txt, json), or (offset, length) of anything else."""
    key, sample = "", {}  # type: tuple[str, dict[str, Any]]
    with tarfile.open(fileobj=opened, mode="r:") as archive:
        while (member := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # else it remembers every member that it ever saw
            if not member.isfile():
                continue
            folder, _, name = member.name.rpartition("/")
            stem, _, end = name.partition(".")
            if f"{folder}/{stem}" != key:
                if sample:
                    yield key.rsplit("/", 1)[-1], sample
                key, sample = f"{folder}/{stem}", {}
            end = end.lower()
            if end in ("txt", "json"):
                content = archive.extractfile(member)
                sample[end] = content.read(_LONGEST).decode("utf-8", "replace") if content else ""
            else:
                sample[end] = (member.offset_data, member.size)
    if sample:
        yield key.rsplit("/", 1)[-1], sample
