"""JSON files of any size, item by item: a list at the top, or the lists that a mapping at the top has.

An item that is no JSON costs itself and not the file: reading goes on where the next one begins. What is in memory is a
piece of the file and one item.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from embervlm.data.readers.base import ReaderError

_PIECE = 1 << 20
#: Text of one item at most, in characters.
_LONGEST = 16 << 20
_SPACE = re.compile(r"[\s,]*")
_NEXT = re.compile(r"\}\s*,\s*(?=\{)")
_BAD_BYTE = re.compile("[\udc80-\udcff]")


@dataclass(frozen=True)
class Item:
    """One item: the key of the list it is in ("" for a list at the top), its place there, its line, its value.

    Of an item that cannot be read `reason` says why, and `value` is None.
    """

    key: str
    index: int
    line: int
    value: Any
    reason: str | None = None


class _Broken(ValueError):
    """No usable value; `passed` where the place is behind it all the same."""

    passed = False


def walk(file: BinaryIO, name: str) -> Iterator[Item]:
    """Every item of every list, in the file's order; a mapping's other values come with the index -1.

    Args:
        file: of UTF-8 text.
        name: of the file, for messages.

    Raises:
        ReaderError: neither a list nor a mapping at the top, or no JSON between the lists.
    """
    text = _Text(file)
    opening = text.peek()
    if opening not in ("[", "{"):
        raise ReaderError(f"{name}: expected a JSON list or mapping at the top, found {opening or 'an empty file'!r}")
    text.at += 1
    if opening == "[":
        yield from _list(text, "")
        return
    while (following := text.peek()) not in ("}", ""):
        try:
            key = text.value()
            if not isinstance(key, str) or text.peek() != ":":
                raise _Broken(f"expected a key, found {following!r}")
            text.at += 1
            if text.peek() == "[":
                text.at += 1
                yield from _list(text, key)
            else:
                line = text.line
                yield Item(key, -1, line, text.value())
        except _Broken as error:
            raise ReaderError(f"{name} line {text.line}: not JSON: {error}") from error


def _list(text: _Text, key: str) -> Iterator[Item]:
    index, first = 0, ""
    while True:
        following = text.peek()
        if following == "":
            yield Item(key, index, text.line, None, "the file ends before the list does")
            return
        if following == "]":
            text.at += 1
            return
        line = text.line
        try:
            value = text.value()
        except _Broken as error:
            yield Item(key, index, line, None, f"malformed JSON: {error}")
            if not error.passed and not text.skip_to_next(first):
                return
        else:
            if isinstance(value, dict) and value:
                first = next(iter(value))
            yield Item(key, index, line, value)
        index += 1


class _Text:
    """A sliding window on the text of a file."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        # A byte that is no UTF-8 spoils its item only; it is found again by its surrogate.
        self.decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        self.json = json.JSONDecoder()
        self.window, self.at, self.ended = "", 0, False
        self._line, self._counted = 1, 0

    @property
    def line(self) -> int:
        """The line of the place, counted from 1."""
        self._line += self.window.count("\n", self._counted, self.at)
        self._counted = self.at
        return self._line

    def more(self) -> bool:
        """Forget what is behind the place and read on; False at the end of the file."""
        if self.ended:
            return False
        self._line = self.line
        # Pieces as large as what is held: an item that spans many of them is not decoded once per piece.
        piece = self.file.read(max(_PIECE, len(self.window) - self.at))
        self.ended = not piece
        self.window = self.window[self.at :] + self.decoder.decode(piece, self.ended)
        self.at = self._counted = 0
        return True

    def peek(self) -> str:
        """The next character that is no white space and no comma, the place being there; "" at the end."""
        while True:
            self.at = _SPACE.match(self.window, self.at).end()  # type: ignore[union-attr]
            if self.at < len(self.window):
                return self.window[self.at]
            if not self.more():
                return ""

    def value(self) -> Any:
        """The value that begins here; the place is then behind it.

        Raises:
            _Broken: it is no JSON, is longer than an item may be, or has a byte that is no UTF-8.
        """
        while True:
            try:
                value, end = self.json.raw_decode(self.window, self.at)
            except (ValueError, RecursionError) as fault:
                if len(self.window) - self.at < _LONGEST and self.more():
                    continue
                raise _Broken(str(fault) or type(fault).__name__) from fault
            if end == len(self.window) and self.more():
                continue  # a number may go on
            bad = _BAD_BYTE.search(self.window, self.at, end)
            start, self.at = self.at, end
            if bad:
                error = _Broken(f"a byte that is not UTF-8 at character {bad.start() - start}")
                error.passed = True
                raise error
            return value

    def skip_to_next(self, first: str) -> bool:
        """Go to where the next item seems to begin: a mapping with the first key that the items have."""
        begins = re.compile(rf"\{{\s*{re.escape(json.dumps(first))}\s*:") if first else None
        self.at += 1
        while True:
            found = (begins or _NEXT).search(self.window, self.at)
            if found:
                self.at = found.start() if begins else found.end()
                return True
            keep = max(self.at, len(self.window) - 4096)
            self.at = keep
            if not self.more():
                return False
