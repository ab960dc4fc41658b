"""What both clients share: the calls as scripts that do no input or output of their own.

A script is a generator. It yields `Send` (send this, give me the reply) or a number (wait so many seconds) and returns
the call's result; a client drives it, blocking or not. So retries, deadlines and the reading of answers exist once.
"""

from __future__ import annotations

import base64
import io
import json
import random
import re
import uuid
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from ember_platform.client.errors import (
    ApiError,
    DeadlineExceeded,
    EmberError,
    InvalidRequest,
    ProtocolError,
    from_answer,
    from_problem,
)
from ember_platform.serving.schemas import (
    EVENT_STREAM,
    FLEET_NAME,
    BatchAnswer,
    Problem,
    SelectAnswer,
    StreamDelta,
    StreamStart,
)
from embervlm.fleet import Fleet, Robot

T = TypeVar("T")
Answer = TypeVar("Answer", bound=BaseModel)

#: Longest deadline that the server knows, in seconds.
MAX_TIMEOUT_S = 600.0
#: How much longer than the deadline an answer is waited for: the server's own word on it is better than none.
_GRACE_S = 1.0
_CONNECT_S = 10.0


class ReasoningDelta(StreamDelta):
    """More of the reasoning; `step` counts its steps from 0."""


class PlanDelta(StreamDelta):
    """More of the plan; `step` counts its entries from 0."""


Event = StreamStart | ReasoningDelta | PlanDelta | SelectAnswer


@dataclass(frozen=True)
class Retry:
    """How often a call is sent, and the seconds between: growing from `first_s` to `most_s`, with jitter.

    A wait is never shorter than the server's `Retry-After`, and none goes past the call's deadline.
    """

    attempts: int = 10
    first_s: float = 0.25
    most_s: float = 8.0

    def wait(self, attempt: int, at_least: float | None) -> float:
        """Seconds after the attempt with this number (from 1)."""
        bound = min(self.most_s, self.first_s * 2.0 ** (attempt - 1))
        if at_least is not None:
            return at_least + random.uniform(0, min(bound, 1.0))
        return random.uniform(bound / 2, bound)


@dataclass(frozen=True)
class Send:
    """One HTTP request. `body` holds httpx's keywords for it (`json`, or `data` and `files`)."""

    method: str
    path: str
    headers: dict[str, str]
    timeout: httpx.Timeout
    body: dict[str, Any] = field(default_factory=dict)
    stream: bool = False


@dataclass(frozen=True)
class Reply:
    """What came back: read to its end, or, for a stream that began, still open in `response`."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""
    response: httpx.Response | None = None


Script = Generator[Send | float, Reply | None, T]


def call(
    method: str,
    path: str,
    retry: Retry,
    timeout: float,
    body: dict[str, Any] | None = None,
    stream: bool = False,
) -> Script[Reply]:
    """Send a request until it is answered with a 2xx.

    Args:
        timeout: seconds for all attempts together.

    Raises:
        ValueError: a timeout that is not above 0 and at most 600.
        EmberError: what went wrong last.
    """
    if not 0 < timeout <= MAX_TIMEOUT_S:
        raise ValueError(f"timeout: {timeout!r} is not a number of seconds above 0 and up to {MAX_TIMEOUT_S:.0f}")
    deadline = monotonic() + timeout
    request_id = uuid.uuid4().hex
    for attempt in range(1, retry.attempts + 1):
        left = max(deadline - monotonic(), 0.001)
        headers = {
            "Accept": EVENT_STREAM if stream else "application/json",
            "X-Request-Timeout": f"{left:.3f}",
            "X-Request-ID": request_id,
        }
        limits = httpx.Timeout(left + _GRACE_S, connect=min(left, _CONNECT_S), pool=left)
        try:
            reply = yield Send(method, path, headers, limits, body or {}, stream)
            assert reply is not None
            if 200 <= reply.status < 300:
                return reply
            error = from_answer(reply.status, reply.headers, reply.body)
        except EmberError as lost:
            error = lost
        error.attempts = attempt
        error.request_id = error.request_id or request_id
        pause = retry.wait(attempt, getattr(error, "retry_after", None))
        if not error.retryable or attempt == retry.attempts or monotonic() + pause >= deadline:
            raise error
        yield pause
    raise ValueError(f"retry.attempts: {retry.attempts} is not a number from 1")


def typed(kind: type[Answer], script: Script[Reply]) -> Script[Answer]:
    """A call whose answer is of one type.

    Raises:
        ProtocolError: it is not.
    """
    reply = yield from script
    return parse(kind, reply.body, reply.headers.get("x-request-id", ""))


def parse(kind: type[Answer], body: bytes | str, request_id: str = "") -> Answer:
    """JSON as one of the API's types.

    Raises:
        ProtocolError: it is none.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ProtocolError(f"not a {kind.__name__}: {where or 'body'}: {first['msg']}", request_id) from error


# ---------------------------------------------------------------- requests


def fleet_of(fleet: Any) -> str | list[dict[str, Any]] | None:
    """A fleet as the API takes it: a text is the name of a registered one, a `Path` is a file.

    Raises:
        FleetError: what is wrong with it.
    """
    if fleet is None or isinstance(fleet, str):
        return fleet
    return Fleet.of(fleet).to_dicts()


def picture_of(image: Any) -> bytes | None:
    """A picture as bytes of a file: a path, bytes, or a PIL image (sent as PNG).

    Raises:
        OSError: the file cannot be read. TypeError: it is no picture.
    """
    if image is None or isinstance(image, bytes):
        return image
    if isinstance(image, bytearray | memoryview):
        return bytes(image)
    if isinstance(image, str | Path):
        return Path(image).read_bytes()
    if hasattr(image, "save"):
        file = io.BytesIO()
        image.save(file, format="PNG")
        return file.getvalue()
    raise TypeError(f"image: {type(image).__name__} is no picture; give a path, bytes of a file, or a PIL image")


def question(
    task: str,
    image: Any = None,
    fleet: Any = None,
    top_k: int | None = None,
    reasoning: bool | None = None,
    attention: bool = False,
) -> dict[str, Any]:
    """A `SelectRequest` as JSON, picture in base64. What is not given is not sent."""
    picture = picture_of(image)
    fields = {
        "task": task,
        "image": base64.b64encode(picture).decode() if picture is not None else None,
        "fleet": fleet_of(fleet),
        "top_k": top_k,
        "reasoning": reasoning,
        "attention": attention or None,
    }
    return {key: value for key, value in fields.items() if value is not None}


def select_body(task: str, image: Any = None, fleet: Any = None, **options: Any) -> dict[str, Any]:
    """The body of one selection: JSON without a picture, multipart with one (a third shorter than base64)."""
    picture = picture_of(image)
    asked = question(task, None, fleet, **options)
    if picture is None:
        return {"json": asked}
    fields = {key: value if isinstance(value, str) else json.dumps(value) for key, value in asked.items()}
    # No content type of the file is claimed: the server looks at the bytes.
    return {"data": fields, "files": {"image": ("image", picture, "application/octet-stream")}}


def questions(requests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mappings of `question`'s arguments as `SelectRequest`s."""
    return [question(**request) for request in requests]


def select_many(
    asked: Sequence[dict[str, Any]], chunk: int, retry: Retry, timeout: float
) -> Script[list[SelectAnswer | EmberError]]:
    """Many `questions`, `chunk` to a call; those that the server had no room for are asked again.

    Returns:
        In the order of the requests an answer or the error that is its fate. What a call's body has wrong is the fate
        of all its questions; a server that is gone or wants another key is the fate of all that are left.
    """
    fates: list[SelectAnswer | EmberError] = []
    for start in range(0, len(asked), chunk):
        part = asked[start : start + chunk]
        try:
            fates += yield from _one_chunk(part, retry, timeout)
        except InvalidRequest as error:
            fates += [error] * len(part)
        except EmberError as error:
            return fates + [error] * (len(asked) - start)
    return fates


def _one_chunk(
    asked: Sequence[dict[str, Any]], retry: Retry, timeout: float
) -> Script[list[SelectAnswer | EmberError]]:
    deadline = monotonic() + timeout
    fates: dict[int, SelectAnswer | EmberError] = {}
    waiting = list(range(len(asked)))
    for attempt in range(1, retry.attempts + 1):
        body = {"json": {"requests": [asked[i] for i in waiting]}}
        left = max(deadline - monotonic(), 0.001)
        answer = yield from typed(BatchAnswer, call("POST", "/v1/select/batch", retry, left, body))
        if len(answer.items) != len(waiting):
            raise ProtocolError(f"{len(answer.items)} items answer {len(waiting)} requests", answer.request_id)
        errors: dict[int, EmberError] = {}
        for i, item in zip(waiting, answer.items, strict=True):
            if item.answer is None:
                errors[i] = from_problem(item.problem or _missing(item.status, answer.request_id))
                errors[i].attempts = attempt
            fates[i] = item.answer or errors[i]
        waiting = [i for i, error in errors.items() if error.retryable]
        pause = retry.wait(attempt, None)
        if not waiting or attempt == retry.attempts or monotonic() + pause >= deadline:
            break
        yield pause
    return [fates[i] for i in range(len(asked))]


def _missing(status: int, request_id: str) -> Problem:
    return Problem(type="about:blank", title="empty item", status=status, detail="", request_id=request_id)


# ---------------------------------------------------------------- streams


def event_of(name: str, data: str, request_id: str = "") -> Event:
    """One event of a stream.

    Raises:
        EmberError: the stream's `error` event, typed. ProtocolError: an event that is not of this API.
    """
    kinds: dict[str, type[BaseModel]] = {
        "start": StreamStart,
        "reasoning": ReasoningDelta,
        "plan": PlanDelta,
        "answer": SelectAnswer,
        "error": Problem,
    }
    if name not in kinds:
        raise ProtocolError(f"an event called {name!r}", request_id)
    value = parse(kinds[name], data, request_id)
    if isinstance(value, Problem):
        raise from_problem(value)
    return value  # type: ignore[return-value]


def check_deadline(deadline: float, request_id: str) -> None:
    """Stop a stream whose time is over, which the server should have done.

    Raises:
        DeadlineExceeded: it is.
    """
    if monotonic() > deadline + _GRACE_S:
        raise DeadlineExceeded("the stream went on past its deadline", request_id)


def robots_body(fleet: Fleet | Path | Iterable[Robot | dict[str, Any]]) -> dict[str, Any]:
    """The body that registers a fleet.

    Raises:
        FleetError: what is wrong with it.
    """
    return {"json": {"robots": Fleet.of(fleet).to_dicts()}}


def gone(script: Script[Reply]) -> Script[None]:
    """A deletion: what a lost first attempt already deleted is no error."""
    try:
        yield from script
    except ApiError as error:
        if error.status != 404 or error.attempts == 1:
            raise


def fleet_path(name: str) -> str:
    """The route of a registered fleet.

    Raises:
        ValueError: no fleet can have this name.
    """
    if not re.fullmatch(FLEET_NAME, name):
        raise ValueError(f"fleet: {name!r} is no name: letters, digits, '.', '_', '-', at most 64, no sign first")
    return f"/v1/fleets/{name}"
