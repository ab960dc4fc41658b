"""From a request's body to a `SelectRequest` and the bytes of its picture: JSON with base64, or multipart."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from ember_platform.config_serving import LimitsConfig
from ember_platform.serving import pictures
from ember_platform.serving.limits import bounded_stream, read_body
from ember_platform.serving.problems import ProblemError, from_validation, invalid
from ember_platform.serving.schemas import FLEET_NAME, Robots, SelectRequest

FIELDS = ("task", "image", "fleet", "top_k", "reasoning", "attention")
#: Above this a body is parsed in a thread, so that other requests' answers are not held up.
LARGE_BYTES = 50_000
#: A fleet of the largest size with the longest texts has fewer characters than this.
MAX_FIELD_BYTES = 1_000_000
_ROBOTS: TypeAdapter[Any] = TypeAdapter(Robots)
Body = TypeVar("Body", bound=BaseModel)
Result = TypeVar("Result")
Parsed = tuple[SelectRequest, bytes | None]


async def read_select(request: Request, limits: LimitsConfig) -> Parsed:
    """The question, and its picture's bytes where it has one.

    Raises:
        ProblemError: a body of another kind, too large, malformed or not as described.
    """
    kind = media_type(request)
    if kind == "multipart/form-data":
        return await _read_multipart(request, limits)
    if kind != "application/json":
        raise ProblemError("unsupported-media-type", "Send application/json or multipart/form-data.")
    question = await read_json(request, SelectRequest, limits.body_bytes, limits.body_seconds)
    return question, await picture_of(question, limits)


async def picture_of(question: SelectRequest, limits: LimitsConfig, field: str = "image") -> bytes | None:
    """The bytes of a question's picture, or None where it has none."""
    if question.image is None:
        return None
    return await off_loop(len(question.image), pictures.from_base64, question.image, limits, field)


async def read_json(request: Request, model: type[Body], most: int, seconds: float) -> Body:
    """A JSON body as the given type.

    Raises:
        ProblemError: not sent as JSON, too large, malformed or not as described.
    """
    if media_type(request) != "application/json":
        raise ProblemError("unsupported-media-type", "Send application/json.")
    body = await read_body(request, most, seconds)
    try:
        return await off_loop(len(body), model.model_validate_json, body)
    except ValidationError as error:
        raise from_validation(error) from error


def media_type(request: Request) -> str:
    """The content type without its parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def off_loop(size: int, function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function, in a thread where its input is large."""
    if size > LARGE_BYTES:
        return await asyncio.to_thread(function, *arguments)
    return function(*arguments)


# ---------------------------------------------------------------- multipart


class _Parser(MultiPartParser):
    """Starlette's parser, which keeps parts in memory (the body is bounded) and knows whether the end came."""

    spool_max_size = 1 << 40
    ended = False

    def on_end(self) -> None:
        self.ended = True


async def _read_multipart(request: Request, limits: LimitsConfig) -> Parsed:
    parser = _Parser(
        request.headers,
        _pieces(request, limits),  # type: ignore[arg-type]
        max_files=1,
        max_fields=len(FIELDS),
        max_part_size=MAX_FIELD_BYTES,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise ProblemError("malformed", f"The multipart body cannot be read: {error.message[:120]}") from error
    except (KeyError, ValueError, AssertionError, IndexError) as error:
        raise ProblemError("malformed", "The multipart body cannot be read.") from error
    if not parser.ended:
        raise ProblemError("malformed", "The multipart body ends before its last boundary.")
    values: dict[str, Any] = {}
    content: bytes | None = None
    for name, value in form.multi_items():
        if name not in FIELDS:
            raise invalid(name[:40], f"unknown field; known are {', '.join(FIELDS)}")
        if name in values or (name == "image" and content is not None):
            raise ProblemError("malformed", f"The field {name} is there twice.")
        if isinstance(value, UploadFile):
            if name != "image":
                raise invalid(name, "must be text, not a file")
            content = await value.read()
            continue
        if name == "image":
            raise invalid(name, "must be a file (addresses of pictures are not fetched)")
        values[name] = value
    try:
        return SelectRequest.model_validate(_typed(values)), content
    except ValidationError as error:
        raise from_validation(error) from error


async def _pieces(request: Request, limits: LimitsConfig) -> AsyncIterator[bytes]:
    async for chunk in bounded_stream(request, limits.body_bytes, limits.body_seconds):
        yield chunk


def _typed(values: dict[str, str]) -> dict[str, Any]:
    """Texts of a form as the types that JSON would have; an empty field is one that was left out."""
    typed: dict[str, Any] = {"task": values["task"]} if "task" in values else {}
    if values.get("fleet"):
        typed["fleet"] = _fleet(values["fleet"])
    if values.get("top_k"):
        if not values["top_k"].isascii() or not values["top_k"].isdigit() or len(values["top_k"]) > 9:
            raise invalid("top_k", "is not a whole number from 1")
        typed["top_k"] = int(values["top_k"])
    for name in ("reasoning", "attention"):
        if values.get(name):
            if values[name] not in ("true", "false"):
                raise invalid(name, "is neither true nor false")
            typed[name] = values[name] == "true"
    return typed


def _fleet(text: str) -> Any:
    """A name, or robots as JSON."""
    if text.lstrip()[:1] not in ("[", "{"):
        if len(text) > 64:
            raise invalid("fleet", f"is neither JSON nor a name ({FLEET_NAME})")
        return text
    try:
        value = json.loads(text)
        if isinstance(value, dict):
            if set(value) != {"robots"}:
                raise invalid("fleet", "an object must have the one field robots")
            value = value["robots"]
        return _ROBOTS.validate_python(value)
    except ValidationError as error:
        raise from_validation(error, "fleet") from error
    except (ValueError, RecursionError) as error:
        raise invalid("fleet", "starts like JSON and is none") from error
