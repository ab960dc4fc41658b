"""MME, MMBench, TextVQA and ScienceQA, as tables with the pictures in them.

These benchmarks are handed around as TSV files with a header, a row per question, the picture as base64:

    MME        index  image  question  answer (Yes, No)  category
    MMBench    index  question  hint  A  B  C  D  answer (a letter)  category  image  l2-category  split
    TextVQA    index  image  question  answer (a list of ten, as Python writes it)
    ScienceQA  index  question  hint  A  B  …  answer (a letter)  image  category

A cell with a tab, a quote or a line break in it stands in quotes. A short image cell is the index of an earlier row,
whose picture is this one's, too. Where there is no column `image`, the names in `image_path` lie below `images`.

Of several options the letter is the answer, and the instruction asks for it. Rows without an answer, as in splits whose
answers nobody publishes, are faults. All is for testing, unless the dataset's `split` says otherwise.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from embervlm.data.readers.base import Dataset, Fault, Files, Found, Picture, ReaderError, Rows, brief, need_text
from embervlm.data.readers.shelf import Shelf
from embervlm.data.schema import Record

KIND = "instruction"

#: An image cell of more characters is a picture; of less it is the index of the row that has it.
_SHORTEST = 64
#: Lines that one row may go over.
_MOST_LINES = 200
_MISSING = ("", "nan", "None")

#: A cell: where its content begins in the row, and the content.
_Cell = tuple[int, bytes]


def parts(dataset: Dataset, files: Files) -> list[tuple[str, ...]]:
    """The table."""
    return [(dataset.annotations,)]


def read(dataset: Dataset, part: Sequence[str], files: Files) -> Rows:
    """Records of a table.

    Raises:
        ReaderError: it has no header with question and answer, or no pictures.
    """
    (file,) = part
    with Shelf() as shelf, files.open(file) as opened:
        rows = _rows(opened)
        _, _, first = next(rows, (0, 0, None))
        names = [content.decode("utf-8-sig", "replace").strip() for _, content in first or []]
        if not {"index", "question", "answer"} <= set(names) or not {"image", "image_path"} & set(names):
            raise ReaderError(f"{file}: expected the columns index, question, answer and image, found {brief(names)}")
        for line, start, cells in rows:
            identity = f"{dataset.name}-line-{line}"
            if cells is None:
                yield Fault(file, line, "a cell's quote is not closed", identity)
            elif len(cells) != len(names):
                yield Fault(file, line, f"{len(cells)} columns where {len(names)} are expected", identity)
            else:
                row = dict(zip(names, cells, strict=True))
                try:
                    yield _found(dataset, (file, line, start), row, shelf)
                except (ReaderError, UnicodeDecodeError) as error:
                    yield Fault(file, line, str(error), identity)


def _rows(opened: BinaryIO) -> Iterator[tuple[int, int, list[_Cell] | None]]:
    """(line, place in the file, cells) of every row; None for cells whose quote is not closed."""
    line = place = 0
    while raw := opened.readline():
        start, first, lines = place, line + 1, 1
        cells = _cells(raw)
        while cells is None and lines < _MOST_LINES and (more := opened.readline()):
            raw, lines = raw + more, lines + 1
            cells = _cells(raw)
        place, line = place + len(raw), line + lines
        if cells is None or raw.strip():
            yield first, start, cells


def _cells(raw: bytes) -> list[_Cell] | None:
    """The cells of a row; None where it ends within a quoted one."""
    text, cells, place = raw.rstrip(b"\r\n"), [], 0
    while True:
        if text[place : place + 1] == b'"':
            end = _closing(raw, place + 1)
            if end < 0:
                return None
            cells.append((place + 1, raw[place + 1 : end].replace(b'""', b'"')))
            end += 1
        else:
            end = text.find(b"\t", place)
            end = len(text) if end < 0 else end
            cells.append((place, text[place:end]))
        if end >= len(text):
            return cells
        place = end + 1


def _closing(raw: bytes, place: int) -> int:
    """Where the quote is that closes a cell, or -1; a doubled one is a quote within it."""
    while (place := raw.find(b'"', place)) >= 0:
        if raw[place + 1 : place + 2] != b'"':
            return place
        place += 2
    return -1


def _found(dataset: Dataset, place: tuple[str, int, int], row: dict[str, _Cell], shelf: Shelf) -> Found:
    def text(name: str) -> str:
        value = row[name][1].decode().strip() if name in row else ""
        return "" if value in _MISSING else value

    file, line, _ = place
    index = need_text(text("index"), "index")
    picture = _picture(dataset, place, row, shelf, index)
    options = {name: text(name) for name in row if len(name) == 1 and "A" <= name <= "Z" and text(name)}
    asked = "\n".join(part for part in (text("hint"), need_text(text("question"), "question")) if part)
    answer = text("answer")
    if not answer:
        raise ReaderError("answer: none is given")
    answers = _answers(answer)
    if options:
        if answer not in options:
            raise ReaderError(f"answer: {brief(answer)} is none of the options {', '.join(options)}")
        asked = "\n".join(
            [asked, *(f"{name}. {option}" for name, option in options.items()), "Answer with the letter."]
        )
        answers = [answer]
    record = Record(
        id=f"{dataset.name}-{index}",
        source=dataset.name,
        kind=KIND,
        split=dataset.split_of(index, "test"),
        image=None,
        instruction=asked,
        response=max(answers, key=answers.count),
        tags={"question_type": text("category").lower() or "other"}
        | ({"answers": answers} if len(answers) > 1 else {})
        | ({"option": options[answer]} if options else {}),
    )
    return Found(record, file, line, picture)


def _answers(text: str) -> list[str]:
    """The answers of a list as Python writes it, else the text alone."""
    if text.startswith("["):
        try:
            found = ast.literal_eval(text)
        except (ValueError, SyntaxError) as error:
            raise ReaderError(f"answer: begins a list and is none: {brief(text)}") from error
        if isinstance(found, list) and found and all(isinstance(answer, str) and answer.strip() for answer in found):
            return [answer.strip() for answer in found]
        raise ReaderError(f"answer: expected a list of texts, found {brief(text)}")
    return [text]


def _picture(
    dataset: Dataset, place: tuple[str, int, int], row: dict[str, _Cell], shelf: Shelf, index: str
) -> Picture | None:
    """Where the row's picture lies: in its own cell, in another row's, or below `images`; None where it has none."""
    file, line, start = place
    if "image" not in row:
        name = row["image_path"][1].decode().strip()
        return dataset.picture(name) if name not in _MISSING else None
    at, cell = row["image"]
    if len(cell) > _SHORTEST:
        shelf.put("pictures", index, line, [start + at, len(cell)])
        return Picture((file,), start + at, len(cell), "base64")
    other = cell.decode().strip()
    if other in _MISSING:
        return None
    known = shelf.get("pictures", other)
    if not known:
        raise ReaderError(f"image: {brief(other)} is the index of no row before this one that has a picture")
    offset, length = known[0][1]
    return Picture((file,), offset, length, "base64")
