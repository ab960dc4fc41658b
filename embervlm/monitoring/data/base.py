"""What every figure's data has in common: declared shapes, checks on construction, npz and JSON.

A figure's data is a frozen dataclass whose fields are declared with `array`, `arrays`, `names`, `text` and `number`.
A declaration names its dimensions by letters; a letter means the same size in every field of the class. Dimensions
listed in `along` grow during a run (steps, evaluations): parts that were recorded one after the other are put together
along them by `join`.

On disk one object is `<stem>.npz` (the arrays) and `<stem>.json` (schema, version, texts, numbers). Nothing in either
is executable: arrays are read without pickle.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Arrays = tuple[Array, ...]
Names = tuple[str, ...]

#: A dimension that may have another size in every array of an `arrays` field.
FREE = "*"
_DTYPES: dict[str, type[np.generic]] = {
    "float": np.float64,
    "single": np.float32,
    "int": np.int64,
    "byte": np.uint8,
    "bool": np.bool_,
}


class FigureDataError(ValueError):
    """Data that a figure cannot be drawn from. The message names the figure, the field and what is due."""


@dataclass(frozen=True)
class Spec:
    """What a field must be. `form` is array, arrays, names, text or number."""

    form: str
    dims: tuple[str, ...] = ()
    dtype: str = "float"
    low: float | None = None
    high: float | None = None
    missing: bool = False
    increasing: bool = False
    below: str | None = None
    allowed: tuple[str, ...] = ()


def _field(spec: Spec, default: Any = MISSING) -> Any:
    if default is MISSING:
        return field(metadata={"spec": spec})
    return field(default=default, metadata={"spec": spec})


def array(
    *dims: str,
    dtype: str = "float",
    low: float | None = None,
    high: float | None = None,
    missing: bool = False,
    increasing: bool = False,
    below: str | None = None,
) -> Any:
    """An array with the given dimensions.

    Args:
        dims: one letter or word per dimension; a number in digits is a fixed size.
        dtype: float, single (float32), int, byte (uint8) or bool.
        low, high: the smallest and largest value allowed.
        missing: NaN is allowed and means "not measured".
        increasing: values must rise strictly (training steps).
        below: the values are places in that dimension, 0 to its size - 1.
    """
    return _field(Spec("array", dims, dtype, low, high, missing, increasing, below))


def arrays(*dims: str, dtype: str = "float", low: float | None = None, high: float | None = None) -> Any:
    """A tuple of arrays, one per place of the first dimension; the others may be `FREE`."""
    return _field(Spec("arrays", dims, dtype, low, high))


def names(dim: str, allowed: tuple[str, ...] = (), blank: bool = False) -> Any:
    """A tuple of texts, one per place of `dim`: distinct and not empty unless `blank`."""
    return _field(Spec("names", (dim,), allowed=allowed, missing=blank))


def text(default: Any = MISSING, allowed: tuple[str, ...] = ()) -> Any:
    """One text."""
    return _field(Spec("text", allowed=allowed), default)


def number(
    default: Any = MISSING,
    dtype: str = "float",
    low: float | None = None,
    high: float | None = None,
    missing: bool = False,
) -> Any:
    """One number, with `missing` also NaN."""
    return _field(Spec("number", (), dtype, low, high, missing), default)


@dataclass(frozen=True, eq=False)
class FigureData:
    """Base of every figure's data. `source` is a phrase for the caption: which split, how many records, how taken."""

    #: Where in the run it belongs: "stage1" … "stage4" or "cross".
    home: ClassVar[str] = ""
    #: The figure's file name without ending.
    name: ClassVar[str] = ""
    version: ClassVar[int] = 1
    #: Dimensions that grow during a run.
    along: ClassVar[tuple[str, ...]] = ()

    source: str = field(default="", kw_only=True, metadata={"spec": Spec("text")})

    def __post_init__(self) -> None:
        sizes: dict[str, tuple[int, str]] = {}
        for entry, spec in self.specs():
            value = self._converted(entry.name, spec, getattr(self, entry.name))
            object.__setattr__(self, entry.name, value)
            self._bind(entry.name, spec, value, sizes)
        for entry, spec in self.specs():
            if spec.below is not None:
                limit = sizes[spec.below][0]
                value = getattr(self, entry.name)
                if value.size and (value.min() < 0 or value.max() >= limit):
                    self.fail(entry.name, f"places must be 0 to {limit - 1}, found {value.min()} to {value.max()}")
        self.check()

    def check(self) -> None:
        """What the declarations cannot say; a subclass overrides it and calls `fail`."""

    @classmethod
    def schema(cls) -> str:
        """The name that files of this class carry."""
        return f"embervlm/{cls.home}/{cls.name}"

    @classmethod
    def fail(cls, name: str, message: str) -> None:
        """Refuse the data.

        Raises:
            FigureDataError: always.
        """
        raise FigureDataError(f"{cls.home}/{cls.name}: {name}: {message}")

    @classmethod
    def specs(cls) -> Iterator[tuple[Field[Any], Spec]]:
        """Every field with its declaration, in order."""
        return ((entry, entry.metadata["spec"]) for entry in fields(cls))

    def last_step(self) -> int | None:
        """The training step that this was recorded at: of the last part where it grows; None where it has none."""
        if hasattr(self, "step"):
            return int(self.step)
        for entry, spec in self.specs():
            if self.along and spec.form == "array" and spec.increasing and spec.dims == self.along[:1]:
                return int(getattr(self, entry.name)[-1])
        return None

    # ---------------------------------------------------------------- checks

    @classmethod
    def _converted(cls, name: str, spec: Spec, value: Any) -> Any:
        if spec.form in ("text", "number"):
            return cls._scalar(name, spec, value)
        if spec.form == "array":
            return cls._array(name, spec, value)
        if isinstance(value, str) or not isinstance(value, Sequence | np.ndarray):
            cls.fail(name, f"expected a list, found {type(value).__name__}")
        if spec.form == "arrays":
            return tuple(cls._array(f"{name}[{i}]", spec, part) for i, part in enumerate(value))
        texts = tuple(value)
        for i, entry in enumerate(texts):
            if not isinstance(entry, str) or (not entry.strip() and not spec.missing):
                cls.fail(f"{name}[{i}]", f"expected a text that is not empty, found {entry!r}")
            if spec.allowed and entry not in spec.allowed:
                cls.fail(f"{name}[{i}]", f"{entry!r} is not one of {', '.join(spec.allowed)}")
        if not (spec.missing or spec.allowed) and len(set(texts)) < len(texts):
            cls.fail(name, f"two of them are called {next(t for t in texts if texts.count(t) > 1)!r}")
        return texts

    @classmethod
    def _scalar(cls, name: str, spec: Spec, value: Any) -> Any:
        if spec.form == "text":
            if not isinstance(value, str):
                cls.fail(name, f"expected a text, found {value!r}")
            if spec.allowed and value not in spec.allowed:
                cls.fail(name, f"{value!r} is not one of {', '.join(spec.allowed)}")
            return value
        checked = cls._array(name, spec, value)
        return int(checked) if spec.dtype == "int" else float(checked)

    @classmethod
    def _array(cls, name: str, spec: Spec, value: Any) -> Array:
        try:
            given = np.asarray(value)
        except ValueError as error:
            raise FigureDataError(f"{cls.home}/{cls.name}: {name}: rows of different lengths ({error})") from error
        due = _DTYPES[spec.dtype]
        if given.dtype.kind not in "biuf":
            cls.fail(name, f"expected numbers, found {given.dtype}")
        if spec.dtype in ("int", "byte", "bool") and not np.array_equal(given, given.astype(due)):
            cls.fail(name, f"expected {spec.dtype} values, found {given.dtype} values that are not")
        values = np.array(given, dtype=due)
        if values.dtype.kind == "f":
            good = np.isfinite(values) | (np.isnan(values) if spec.missing else False)
            if not np.all(good):
                hint = "" if spec.missing else "; this field has no way to say 'not measured'"
                cls.fail(name, f"{int(np.sum(~good))} of {values.size} values are not finite{hint}")
        cls._limits(name, spec, values)
        values.setflags(write=False)
        return values

    @classmethod
    def _limits(cls, name: str, spec: Spec, values: Array) -> None:
        known = values[~np.isnan(values)] if values.dtype.kind == "f" else values
        if known.size and spec.low is not None and known.min() < spec.low:
            cls.fail(name, f"the smallest value allowed is {spec.low:g}, found {known.min():g}")
        if known.size and spec.high is not None and known.max() > spec.high:
            cls.fail(name, f"the largest value allowed is {spec.high:g}, found {known.max():g}")
        if spec.increasing and np.any(np.diff(values) <= 0):
            cls.fail(name, f"must rise strictly, found {values.tolist()[:12]}")

    @classmethod
    def _bind(cls, name: str, spec: Spec, value: Any, sizes: dict[str, tuple[int, str]]) -> None:
        """Compare the value's shape with the declared dimensions, and remember what is new."""
        shapes: list[tuple[str, tuple[str, ...], tuple[int, ...]]] = []
        if spec.form == "array":
            shapes = [(name, spec.dims, value.shape)]
        elif spec.form == "names":
            shapes = [(name, spec.dims, (len(value),))]
        elif spec.form == "arrays":
            shapes = [(name, spec.dims[:1], (len(value),))]
            shapes += [(f"{name}[{i}]", spec.dims[1:], part.shape) for i, part in enumerate(value)]
        for where, dims, shape in shapes:
            if len(shape) != len(dims):
                cls.fail(where, f"expected {len(dims)} dimensions ({', '.join(dims)}), found shape {shape}")
            for dim, size in zip(dims, shape, strict=True):
                if not size:
                    cls.fail(where, f"dimension {dim} is empty; leave the figure out instead")
                known, first = sizes.setdefault(dim, (int(dim), "the schema") if dim.isdigit() else (size, where))
                if dim != FREE and known != size:
                    cls.fail(where, f"{dim} is {size} here and {known} in {first}")

    # --------------------------------------------------------------- storage

    def save(self, stem: str | Path) -> Path:
        """Write `<stem>.npz` and `<stem>.json`; the JSON comes last, so a half-written object is not found.

        Returns:
            The path of the JSON.
        """
        stem = Path(stem)
        stem.parent.mkdir(parents=True, exist_ok=True)
        packed: dict[str, Array] = {}
        values: dict[str, Any] = {}
        shapes: dict[str, Any] = {}
        for entry, spec in self.specs():
            value = getattr(self, entry.name)
            if spec.form == "array":
                packed[entry.name] = value
                shapes[entry.name] = {"dims": list(spec.dims), "shape": list(value.shape), "dtype": str(value.dtype)}
            elif spec.form == "arrays":
                packed.update({f"{entry.name}.{i}": part for i, part in enumerate(value)})
                shapes[entry.name] = {"dims": list(spec.dims), "shape": [len(value)], "dtype": str(value[0].dtype)}
            else:
                missing = isinstance(value, float) and np.isnan(value)
                values[entry.name] = list(value) if spec.form == "names" else None if missing else value
        header = {"schema": self.schema(), "version": self.version, "values": values, "arrays": shapes}
        arrays_file, header_file = _beside(stem, ".npz"), _beside(stem, ".json")
        draft = arrays_file.with_name(f".{arrays_file.name}.{os.getpid()}")
        with draft.open("wb") as handle:
            np.savez_compressed(handle, **packed)  # type: ignore[arg-type]
        draft.replace(arrays_file)
        draft = header_file.with_name(f".{header_file.name}.{os.getpid()}")
        draft.write_text(json.dumps(header, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
        draft.replace(header_file)
        return header_file

    @classmethod
    def load(cls, stem: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            FigureDataError: a file is missing or damaged, or holds another schema or version.
        """
        header_file, arrays_file = _beside(Path(stem), ".json"), _beside(Path(stem), ".npz")
        try:
            header = json.loads(header_file.read_text(encoding="utf-8"))
            values, shapes = dict(header["values"]), dict(header["arrays"])
            found = (header["schema"], header["version"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FigureDataError(f"{header_file}: cannot be read as figure data: {error!r}") from error
        if found != (cls.schema(), cls.version):
            raise FigureDataError(
                f"{header_file}: holds {found[0]} version {found[1]}, this code reads {cls.schema()} version "
                f"{cls.version}; record the run again with this code, or draw it with the code that recorded it"
            )
        known = {entry.name for entry in fields(cls)}
        if known != set(values) | set(shapes):
            odd = ", ".join(sorted(known ^ (set(values) | set(shapes))))
            raise FigureDataError(f"{header_file}: fields differ from the schema: {odd}")
        try:
            with np.load(arrays_file, allow_pickle=False) as packed:
                for entry, spec in cls.specs():
                    if spec.form == "array":
                        values[entry.name] = packed[entry.name]
                    elif spec.form == "arrays":
                        count = int(shapes[entry.name]["shape"][0])
                        values[entry.name] = tuple(packed[f"{entry.name}.{i}"] for i in range(count))
                    elif spec.form == "number" and values[entry.name] is None:
                        values[entry.name] = float("nan")
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise FigureDataError(f"{arrays_file}: cannot be read as figure data: {error!r}") from error
        return cls(**values)

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """Parts recorded one after the other as one, put together along the dimensions that grow.

        `source` is the last part's; everything else that does not grow must be equal in all of them.

        Raises:
            FigureDataError: no part, a class that does not grow, or parts that do not belong together.
        """
        if not parts or (len(parts) > 1 and not cls.along):
            raise FigureDataError(f"{cls.home}/{cls.name}: {len(parts)} parts cannot be joined")
        values: dict[str, Any] = {}
        for entry, spec in cls.specs():
            pieces = [getattr(part, entry.name) for part in parts]
            axis = next((i for i, dim in enumerate(spec.dims) if dim in cls.along), None)
            if axis is not None and spec.form == "array":
                values[entry.name] = _joined(cls, entry.name, pieces, axis)
            elif axis is not None:
                values[entry.name] = tuple(item for piece in pieces for item in piece)
            else:
                if entry.name != "source" and not all(_equal(pieces[0], piece) for piece in pieces[1:]):
                    cls.fail(entry.name, "differs between parts of one run; delete the older parts")
                values[entry.name] = pieces[-1]
        return cls(**values)

    def equals(self, other: object) -> bool:
        """The same class with the same content."""
        return type(self) is type(other) and all(
            _equal(getattr(self, entry.name), getattr(other, entry.name)) for entry in fields(self)
        )


def _beside(stem: Path, ending: str) -> Path:
    return stem.with_name(stem.name + ending)


def _joined(cls: type[FigureData], name: str, pieces: list[Array], axis: int) -> Array:
    try:
        return np.concatenate(pieces, axis)
    except ValueError as error:
        raise FigureDataError(f"{cls.home}/{cls.name}: {name}: parts of different shapes ({error})") from error


def _equal(first: Any, second: Any) -> bool:
    if isinstance(first, np.ndarray):
        return np.array_equal(first, second, equal_nan=first.dtype.kind == "f")
    if isinstance(first, tuple):
        return len(first) == len(second) and all(map(_equal, first, second))
    return bool(first == second) or (isinstance(first, float) and first != first and second != second)
