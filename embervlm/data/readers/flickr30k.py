"""Flickr30k, in every form it is handed around in; the first line tells which.

    results_20130124.token     1000092795.jpg#0<tab>Two young guys …
    results.csv                image_name| comment_number| comment
    flickr_annotations_30k.csv raw,sentids,split,filename,img_id     (raw: a JSON list of five captions)
    captions.csv               image,caption

`results.csv` is cut at its bars and knows no quotes; one of its rows, as published, lacks a bar and is a fault. As
with COCO, each caption is a training record, and a picture of the other splits is one record.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Iterator, Sequence

from embervlm.data.readers.base import Dataset, Fault, Files, ReaderError, Rows, brief, known_split, picture_key
from embervlm.data.readers.coco import KIND, caption_rows
from embervlm.data.readers.shelf import Shelf

__all__ = ["KIND", "parts", "read"]

#: (line, file name, number, caption, split as the dataset says it), or (line, why not).
_Line = tuple[int, str, str, str, str] | tuple[int, str]


def parts(dataset: Dataset, files: Files) -> list[tuple[str, ...]]:
    """The annotation file."""
    return [(dataset.annotations,)]


def read(dataset: Dataset, part: Sequence[str], files: Files) -> Rows:
    """Records of an annotation file.

    Raises:
        ReaderError: its first line is of none of the four forms.
    """
    (file,) = part
    with Shelf() as shelf, files.open(file) as opened:
        # A byte that is no UTF-8 is a fault of its line, found by its surrogate.
        text = io.TextIOWrapper(opened, encoding="utf-8-sig", errors="surrogateescape", newline="")
        for row in _lines(text, file):
            if len(row) == 2:
                yield Fault(file, row[0], row[1], f"{dataset.name}-line-{row[0]}")
                continue
            line, name, number, caption, split = row
            if not name.strip() or not _is_text(name + caption):
                reason = "expected the name of a picture and UTF-8 text"
                yield Fault(file, line, reason, f"{dataset.name}-line-{line}")
            else:
                shelf.put("captions", name.strip(), line, [number, caption.strip(), split])
        for name, rows in shelf.groups("captions"):
            said = known_split(rows[0][1][2]) if rows[0][1][2] else None
            captions = [(line, [number, caption]) for line, (number, caption, _) in rows]
            split = dataset.split_of(picture_key(name), said)
            stem = name.rsplit(".", 1)[0]
            yield from caption_rows(dataset, file, stem, split, captions, dataset.picture(name))


def _is_text(text: str) -> bool:
    return not any("\udc80" <= letter <= "\udcff" for letter in text)


def _lines(text: io.TextIOWrapper, file: str) -> Iterator[_Line]:
    first = text.readline()
    head = [part.strip().lower() for part in first.replace("|", ",").split(",")]
    if "\t" in first and "#" in first.split("\t")[0]:
        yield from _token(first, text)
    elif head == ["image_name", "comment_number", "comment"]:
        yield from _bars(text)
    elif "filename" in head and "raw" in head:
        yield from _lists(text, head)
    elif head[:2] == ["image", "caption"]:
        for number, (line, cells) in enumerate(_cells(text)):
            yield (line, cells[0], str(number), cells[1], "") if len(cells) == 2 else (line, _many(cells, 2))
    else:
        raise ReaderError(
            f"{file}: {brief(first)} begins no Flickr30k annotations; expected name.jpg#0<tab>caption, or a header "
            "image_name|comment_number|comment, raw,sentids,split,filename,img_id, or image,caption"
        )


def _token(first: str, rest: io.TextIOWrapper) -> Iterator[_Line]:
    for line, text in enumerate(itertools.chain([first], rest), 1):
        if text.strip():
            yield _token_line(line, text)


def _token_line(line: int, text: str) -> _Line:
    place, tab, caption = text.rstrip("\r\n").partition("\t")
    name, hash_, number = place.rpartition("#")
    if not tab or not hash_:
        return line, f"expected name.jpg#number, a tab and the caption, found {brief(text)}"
    return line, name, number, caption, ""


def _bars(text: io.TextIOWrapper) -> Iterator[_Line]:
    for line, row in enumerate(text, 2):
        cells = row.rstrip("\r\n").split("|", 2)
        if not row.strip():
            continue
        yield (line, cells[0], cells[1].strip(), cells[2], "") if len(cells) == 3 else (line, _many(cells, 3))


def _lists(text: io.TextIOWrapper, head: list[str]) -> Iterator[_Line]:
    raw, name, split = head.index("raw"), head.index("filename"), head.index("split") if "split" in head else -1
    for line, cells in _cells(text):
        if len(cells) != len(head):
            yield line, _many(cells, len(head))
            continue
        try:
            captions = json.loads(cells[raw])
        except ValueError as error:
            yield line, f"raw: not a JSON list: {error}"
            continue
        if not isinstance(captions, list) or not captions or not all(isinstance(c, str) for c in captions):
            yield line, f"raw: expected a list of captions, found {brief(captions)}"
            continue
        for number, caption in enumerate(captions):
            yield line, cells[name], str(number), caption, cells[split] if split >= 0 else ""


def _cells(text: io.TextIOWrapper) -> Iterator[tuple[int, list[str]]]:
    """Rows of a CSV file whose header is read, with the line that each begins in."""
    rows = csv.reader(text)
    while True:
        line = rows.line_num + 2
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, [f"{error}"]
            continue
        if cells:
            yield line, cells


def _many(cells: list[str], wanted: int) -> str:
    return f"{len(cells)} columns where {wanted} are expected: {brief(' | '.join(cells))}"
