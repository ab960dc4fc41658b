"""COCO Captions: `captions_train2014.json`, `captions_val2017.json` and their like, with a folder of pictures.

    {"info": …, "images": [{"id": 9, "file_name": "000000000009.jpg", …}, …], "licenses": …,
     "annotations": [{"image_id": 9, "id": 661611, "caption": "…"}, …]}

A picture has about five captions. In training each is a record; in validation and test a picture is one record, whose
tag `captions` holds all of them as references.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from embervlm.data.readers.base import Dataset, Fault, Files, Found, Picture, ReaderError, Rows, brief, picture_key
from embervlm.data.readers.json_stream import walk
from embervlm.data.readers.shelf import Shelf
from embervlm.data.schema import Record

KIND = "caption"


def parts(dataset: Dataset, files: Files) -> list[tuple[str, ...]]:
    """The annotation file."""
    return [(dataset.annotations,)]


def read(dataset: Dataset, part: Sequence[str], files: Files) -> Rows:
    """Records of a captions file.

    Raises:
        ReaderError: it is no such file.
    """
    (file,) = part
    with Shelf() as shelf, files.open(file) as opened:
        for item in walk(opened, file):
            if item.index < 0 or item.key not in ("images", "annotations"):
                continue
            row = item.value
            place = f"{item.key}[{item.index}]"
            if item.reason is not None:
                yield Fault(file, item.line, f"{place}: {item.reason}", place)
            elif item.key == "images":
                if isinstance(row, dict) and isinstance(row.get("file_name"), str) and "id" in row:
                    shelf.put("images", row["id"], item.line, row["file_name"])
                else:
                    yield Fault(file, item.line, f"{place}: expected id and file_name, found {brief(row)}", place)
            elif isinstance(row, dict) and isinstance(row.get("caption"), str) and "image_id" in row and "id" in row:
                shelf.put("captions", row["image_id"], item.line, [row["id"], row["caption"].strip()])
            else:
                yield Fault(file, item.line, f"{place}: expected image_id, id and caption, found {brief(row)}", place)
        yield from _joined(dataset, file, shelf)


def _joined(dataset: Dataset, file: str, shelf: Shelf) -> Rows:
    pictures = 0
    for number, captions in shelf.groups("captions"):
        pictures += 1
        named = shelf.get("images", number)
        if not named:
            for line, (identity, _) in captions:
                yield Fault(
                    file, line, f"image_id: {number} is not among images", f"{dataset.name}-{number}-{identity}"
                )
            continue
        name = named[0][1]
        split = dataset.split_of(picture_key(name))
        yield from caption_rows(dataset, file, str(number), split, captions, dataset.picture(name))
    if not pictures:
        raise ReaderError(f"{file}: no captions in it; expected COCO's captions JSON with images and annotations")


def caption_rows(
    dataset: Dataset, file: str, name: str, split: str, captions: Sequence[tuple[int, Any]], picture: Picture
) -> Iterator[Found]:
    """The records of one picture; `captions` are (line, [id, text])."""
    everything = [text for _, (_, text) in captions if text]
    for line, (identity, text) in captions:
        if split == "train":
            yield Found(record(dataset, f"{name}-{identity}", split, text), file, line, picture)
        elif text or not everything:
            tags = {"captions": everything}
            yield Found(record(dataset, name, split, text, tags), file, line, picture)
            return


def record(dataset: Dataset, name: str, split: str, text: str, tags: dict[str, Any] | None = None) -> Record:
    """A caption record of a dataset, its picture still to come."""
    return Record(
        id=f"{dataset.name}-{name}",
        source=dataset.name,
        kind=KIND,
        split=split,
        image=None,
        instruction="",
        response=text,
        tags=tags or {},
    )
