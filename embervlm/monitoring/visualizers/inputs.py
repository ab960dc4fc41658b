"""Checks of what callers hand to a visualizer that is not figure data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embervlm.monitoring.data import FigureDataError


def step_name(step: int) -> str:
    """File name of one step in a series."""
    return f"step_{step:06d}"


def checked(what: str, *sizes: Any) -> None:
    """All sizes are equal and not 0.

    Raises:
        FigureDataError: they are not; the message names them.
    """
    if len(set(sizes)) != 1 or not np.all(sizes[0]):
        raise FigureDataError(f"{what}: sizes {', '.join(map(str, sizes))} must be equal and not 0")


def matrix(name: str, values: Any) -> NDArray[np.float64]:
    """(rows, columns) of finite numbers.

    Raises:
        FigureDataError: anything else.
    """
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 2 or not found.size or not np.isfinite(found).all():
        raise FigureDataError(f"{name}: expected a matrix of finite numbers, found shape {found.shape}")
    return found


def pictures(name: str, values: Sequence[Any]) -> list[NDArray[np.uint8]]:
    """Pictures (height, width, 3) of bytes from arrays or PIL images.

    Raises:
        FigureDataError: a picture of another shape, or values outside 0 to 255.
    """
    found = []
    for i, value in enumerate(values):
        picture = np.asarray(value.convert("RGB") if hasattr(value, "convert") else value)
        if picture.ndim != 3 or picture.shape[2] != 3:
            raise FigureDataError(f"{name}[{i}]: expected (height, width, 3), found shape {picture.shape}")
        if not np.array_equal(picture, picture.astype(np.uint8)):
            raise FigureDataError(f"{name}[{i}]: expected bytes from 0 to 255, found {picture.dtype} values")
        found.append(picture.astype(np.uint8))
    return found


def places(name: str, values: Sequence[Any], names: Sequence[str]) -> NDArray[np.int64]:
    """Places in `names`, from places or from the names themselves.

    Raises:
        FigureDataError: a name that is not there, or a place beyond the end.
    """
    known = {text: i for i, text in enumerate(names)}
    found = []
    for i, value in enumerate(values):
        place = known.get(value, -1) if isinstance(value, str) else int(value)
        if not 0 <= place < len(names):
            raise FigureDataError(f"{name}[{i}]: {value!r} is not one of {', '.join(names)}")
        found.append(place)
    return np.array(found, dtype=np.int64)
