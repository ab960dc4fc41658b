"""Rows under keys, on disk: for joins and groups that are larger than memory."""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Iterator
from typing import Any


class Shelf:
    """A temporary file of rows, found again by board and key. Use it as a context manager; it is gone afterwards."""

    def __init__(self) -> None:
        self._file = tempfile.NamedTemporaryFile(prefix="embervlm-shelf-", suffix=".sqlite")  # noqa: SIM115
        self._base = sqlite3.connect(self._file.name, isolation_level=None)
        # Nothing here outlives the process, so nothing is flushed; the cache is 8 MB whatever there is to hold.
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-8192", "locking_mode=EXCLUSIVE"):
            self._base.execute(f"PRAGMA {pragma}")
        self._base.execute("CREATE TABLE keys (id INTEGER PRIMARY KEY, board TEXT, key TEXT, UNIQUE (board, key))")
        self._base.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, owner INTEGER, line INTEGER, value TEXT)")
        self._base.execute("CREATE INDEX owners ON rows (owner)")
        self._base.execute("BEGIN")

    def __enter__(self) -> Shelf:
        return self

    def __exit__(self, *exception: object) -> None:
        self._base.close()
        self._file.close()

    def put(self, board: str, key: object, line: int, value: Any) -> None:
        """Add a row; `value` is anything that JSON holds."""
        name = json.dumps(key)
        self._base.execute("INSERT OR IGNORE INTO keys (board, key) VALUES (?, ?)", (board, name))
        self._base.execute(
            "INSERT INTO rows (owner, line, value) SELECT id, ?, ? FROM keys WHERE board = ? AND key = ?",
            (line, json.dumps(value), board, name),
        )

    def get(self, board: str, key: object) -> list[tuple[int, Any]]:
        """The (line, value) of every row of a key, in the order they came."""
        found = self._base.execute(
            "SELECT line, value FROM rows WHERE owner = (SELECT id FROM keys WHERE board = ? AND key = ?) ORDER BY id",
            (board, json.dumps(key)),
        )
        return [(line, json.loads(value)) for line, value in found]

    def groups(self, board: str) -> Iterator[tuple[Any, list[tuple[int, Any]]]]:
        """Every key of a board with its rows, in the order in which the keys first came."""
        last = -1
        while True:
            found = self._base.execute(
                "SELECT id, key FROM keys WHERE board = ? AND id > ? ORDER BY id LIMIT 256", (board, last)
            ).fetchall()
            if not found:
                return
            last = found[-1][0]
            for _, key in found:
                yield json.loads(key), self.get(board, json.loads(key))
