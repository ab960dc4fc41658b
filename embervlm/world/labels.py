"""`labels.csv`: the places that photographs of a folder show.

A header `file,environment` (and `task`, if wanted) and a row per photograph: its path below the folder, and the name
that EmberWorld has for the environment.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embervlm.world.ontology import ENVIRONMENTS

LABELS = "labels.csv"


class LabelError(ValueError):
    """Labels that cannot be used. The message names the file and the line."""


@dataclass(frozen=True)
class Label:
    """A row: where it stands, the photograph's name and place in the folder, what it shows, and a task or ""."""

    where: str
    name: str
    path: Path
    environment: str
    task: str


def read_labels(folder: Path) -> list[Label]:
    """The rows of a folder's `labels.csv`.

    Raises:
        LabelError: there is none, it is no table with these columns, or a row names no file or no environment.
    """
    table = folder / LABELS
    if not table.is_file():
        raise LabelError(f"{table}: not there")
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            if not {"file", "environment"} <= set(reader.fieldnames or ()):
                raise LabelError(f"{table}:1: expected the columns file and environment")
            return [_label(folder, row, f"{table}:{reader.line_num}") for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise LabelError(f"{table}: no table in UTF-8 with commas: {error}") from error


def _label(folder: Path, row: dict[str, Any], where: str) -> Label:
    name, environment = (row["file"] or "").strip(), (row["environment"] or "").strip()
    path = folder / name
    if not path.is_file():
        raise LabelError(f"{where}: {path}: no such picture")
    if environment not in ENVIRONMENTS:
        raise LabelError(f"{where}: environment {environment!r} is not one of {', '.join(ENVIRONMENTS)}")
    return Label(where, name, path, environment, (row.get("task") or "").strip())
