"""YAML for configurations: lines for every key, dotted overrides, errors that name the field.

PyYAML follows YAML 1.1, where `1e-4` is a string and `on` is true; the loader here reads the number and the word.
"""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

#: Where each dotted key was set: "configs/laptop.yaml:12" or "override 'seed=x'".
Origins = dict[str, str]


class ConfigError(ValueError):
    """A configuration that cannot be used. The message names file, line, dotted key and what is allowed."""


def fault(key: str, message: str) -> PydanticCustomError:
    """An error that names its dotted key, for checks across fields."""
    return PydanticCustomError("config", "{message}", {"key": key, "message": message})


class _Loader(yaml.SafeLoader):
    """SafeLoader with the floats and booleans of YAML 1.2's core schema."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:bool"]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def parse_value(text: str) -> Any:
    """The YAML value of an override's right-hand side.

    Raises:
        yaml.YAMLError: the text is no YAML.
    """
    return yaml.load(text, _Loader)


def read(path: str | Path) -> tuple[dict[str, Any], Origins]:
    """A YAML mapping with the line of every key; integer keys become strings.

    Raises:
        ConfigError: the file is missing, no YAML, no mapping at the top, or has a key twice.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, _Loader)
        data = yaml.load(text, _Loader)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line}: not valid YAML: {getattr(error, 'problem', None) or error}") from error
    if data is None:
        return {}, {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a mapping at the top, found {type(data).__name__}")
    origins: Origins = {}
    _lines(node, "", str(path), origins)
    return _string_keys(data), origins


def _lines(node: Any, prefix: str, path: str, origins: Origins) -> None:
    """Record the line of every key below `node`, refusing keys that occur twice."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            dotted = f"{prefix}{key.value}"
            where = f"{path}:{key.start_mark.line + 1}"
            if dotted in origins:
                raise ConfigError(f"{where}: {dotted}: given twice, first at {origins[dotted]}")
            origins[dotted] = where
            _lines(value, f"{dotted}.", path, origins)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            origins[f"{prefix}{i}"] = f"{path}:{value.start_mark.line + 1}"
            _lines(value, f"{prefix}{i}.", path, origins)


def _string_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _string_keys(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_string_keys(v) for v in value]
    return value


def apply_overrides(data: dict[str, Any], overrides: Sequence[str], origins: Origins) -> None:
    """Set dotted keys in place: `stages.3.learning_rate=1e-4`, values parsed as YAML.

    Raises:
        ConfigError: no `=`, an empty key, a value that is no YAML, or a path through something that is no mapping.
    """
    for override in overrides:
        key, separator, text = override.partition("=")
        key = key.strip()
        if not separator or not all(key.split(".")):
            raise ConfigError(f"override {override!r}: expected dotted.key=value, as in stages.3.learning_rate=1e-4")
        try:
            value = parse_value(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"override {override!r}: {text!r} is not a YAML value") from error
        target: Any = data
        *parents, last = key.split(".")
        for i, part in enumerate(parents):
            if target.get(part) is None:
                target[part] = {}
            target = target[part]
            if not isinstance(target, dict):
                raise ConfigError(
                    f"override {override!r}: {'.'.join(parents[: i + 1])} holds {target!r}, which has no fields; "
                    "set it as a whole"
                )
        target[last] = _string_keys(value)
        for old in [k for k in origins if k.startswith(f"{key}.")]:
            del origins[old]
        origins[key] = f"override {override!r}"


def explain(error: ValidationError, model: type[BaseModel], origins: Origins, file: str) -> ConfigError:
    """Every fault of a validation, one line each: where, which dotted key, what is wrong, what is allowed."""
    lines: dict[str, str] = {}
    for fault in error.errors(include_url=False):
        context = fault.get("ctx", {})
        keys = [k for k in str(context.get("key", "")).split(".") if k] or [str(p) for p in fault["loc"]]
        owner, path, field = _descend(model, keys)
        dotted = ".".join(path)
        if any(above in lines for above in _upwards(dotted)):
            continue
        origin = _origin(dotted, origins) or file
        if fault["type"] == "extra_forbidden":
            known = list(owner.model_fields) if owner else []
            close = difflib.get_close_matches(path[-1], known, 1)
            hint = f"; did you mean {close[0]!r}?" if close else "."
            lines[dotted] = f"{origin}: {dotted}: unknown key{hint} Known here: {', '.join(sorted(known))}"
            continue
        message = str(fault["msg"]).removeprefix("Value error, ")
        found = "" if fault["type"] in ("missing", "config") else f" (found {fault.get('input')!r})"
        allowed = f" Allowed: {field.description}" if field is not None and field.description else ""
        lines[dotted] = f"{origin}: {dotted}: {message}{found}.{allowed}"
    return ConfigError("\n".join(lines.values()))


def _origin(dotted: str, origins: Origins) -> str | None:
    """Where a key was set: itself, something below it, or the nearest above it."""
    below = (origins[k] for k in origins if k == dotted or k.startswith(f"{dotted}."))
    return next(below, None) or next((origins[k] for k in _upwards(dotted) if k in origins), None)


def _upwards(dotted: str) -> Iterable[str]:
    parts = dotted.split(".")
    return (".".join(parts[:i]) for i in range(len(parts), 0, -1))


def _descend(model: type[BaseModel], keys: list[str]) -> tuple[type[BaseModel] | None, list[str], Any]:
    """Follow a location through the models: the model it ends in, the keys without pydantic's own tags, the field."""
    owner: type[BaseModel] | None = model
    path: list[str] = []
    field: Any = None
    for key in keys:
        if owner is None:
            # Inside a plain list, mapping or union: numbers are places, anything else may be a union's tag.
            if key.isdigit() or not path:
                path.append(key)
            continue
        path.append(key)
        field = owner.model_fields.get(key)
        if field is None:
            break
        owner, skip = _model_below(field.annotation)
        if skip and owner is not None:
            rest = keys[len(path) :]
            if not rest:
                break
            path.append(rest[0])
            tail = [k for k in rest[1:] if k != "[key]"]
            if not tail:
                return owner, path, field
            below, more, inner = _descend(owner, tail)
            return below, path + more, inner or field
    return owner, path, field


def _model_below(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The model inside an annotation, and whether it is the value of a mapping (one more key to step over)."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is dict and len(args) == 2:
        return _model_below(args[1])[0], True
    if origin in (typing.Union, types.UnionType):
        for arg in args:
            found = _model_below(arg)
            if found[0] is not None:
                return found
    return None, False
