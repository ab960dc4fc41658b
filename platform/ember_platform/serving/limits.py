"""What requests may hold: texts, fleets, bodies and deadlines, each checked before work is spent on it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import unicodedata
from collections.abc import AsyncIterator, Mapping

from fastapi import Request
from starlette.requests import ClientDisconnect

from ember_platform.config_serving import LimitsConfig
from ember_platform.serving.problems import ProblemError, invalid
from ember_platform.serving.schemas import REQUEST_ID, RobotIn
from embervlm.fleet import Fleet, FleetError, Robot

#: Line breaks and tabs separate words; every other control character, surrogate or unassigned code point is refused.
_ALLOWED_CONTROLS = frozenset("\n\r\t")
_REFUSED = frozenset({"Cc", "Cs", "Cn", "Co"})
#: Characters that turn the direction of what follows: a robot's name could show as another's.
_DIRECTION = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
MAX_DEADLINE_S = 600.0
#: Seconds above 0, at most the maximum, as a decimal without an exponent.
SECONDS = r"^(0\.(?=0*[1-9])[0-9]{1,6}|([1-9][0-9]?|[1-5][0-9]{2})(\.[0-9]{1,6})?|600)$"
#: What is read of a body that is refused, so that its sender is still there to hear why.
DRAIN_S = 2.0


def check_text(text: str, field: str, most: int) -> str:
    """A text without characters that no task or name has.

    Raises:
        ProblemError: too long, blank, or a character that is refused, naming the field and the place.
    """
    if len(text) > most:
        raise invalid(field, f"{len(text)} characters; at most {most}")
    if not text.strip():
        raise invalid(field, "is blank")
    for i, character in enumerate(text):
        category = unicodedata.category(character)
        if character in _DIRECTION or (category in _REFUSED and character not in _ALLOWED_CONTROLS):
            raise invalid(field, f"character {i} (U+{ord(character):04X}) is a control character or none at all")
    return text


def check_fleet(robots: list[RobotIn], limits: LimitsConfig, field: str = "fleet") -> Fleet:
    """Robots as a fleet.

    Raises:
        ProblemError: too many robots, two of one name, or a text that is refused.
    """
    if len(robots) > limits.robots:
        raise invalid(field, f"{len(robots)} robots; at most {limits.robots}")
    checked = []
    for i, robot in enumerate(robots):
        check_text(robot.name, f"{field}.{i}.name", 10_000)
        for part in ("capabilities", "limitations", "environments"):
            for j, item in enumerate(getattr(robot, part)):
                check_text(item, f"{field}.{i}.{part}.{j}", 10_000)
        if any(mark in robot.name for mark in "[]"):
            raise invalid(f"{field}.{i}.name", "brackets mark mentions in the reasoning; leave them out")
        checked.append(Robot.from_dict(robot.model_dump(), f"{field}.{i}"))
    try:
        return Fleet(checked)
    except FleetError as error:
        raise invalid(field, str(error).removeprefix("fleet: ")[:300]) from error


def fleet_digest(fleet: Fleet) -> str:
    """sha256 (hex) over the robots in their order."""
    text = json.dumps(fleet.to_dicts(), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


# ---------------------------------------------------------------- headers and bodies


def request_id_of(headers: Mapping[str, str]) -> str | None:
    """The caller's request id where it is one, else None."""
    given = headers.get("x-request-id", "")
    return given if re.fullmatch(REQUEST_ID, given) else None


def deadline_of(headers: Mapping[str, str], default_s: float) -> float:
    """Seconds that the request may take.

    Raises:
        ProblemError: the header is no number of seconds above 0 and up to the maximum.
    """
    given = headers.get("x-request-timeout")
    if given is None:
        return default_s
    if not re.fullmatch(SECONDS, given):
        raise invalid("X-Request-Timeout", f"is not a number of seconds above 0, at most {MAX_DEADLINE_S:g}")
    return float(given)


async def read_body(request: Request, most: int, seconds: float) -> bytes:
    """The body, refused as soon as it is known to be too large or too slow.

    Raises:
        ProblemError: more bytes than `most`, or not there after `seconds`.
    """
    return b"".join([chunk async for chunk in bounded_stream(request, most, seconds)])


async def bounded_stream(request: Request, most: int, seconds: float) -> AsyncIterator[bytes]:
    """The body's pieces, as `read_body`."""
    declared = request.headers.get("content-length", "0")
    loop = asyncio.get_running_loop()
    end, size = loop.time() + seconds, 0
    stream = request.stream()
    if declared.isdigit() and int(declared[:20]) > most:
        raise await _too_large(stream, most)
    while True:
        try:
            async with asyncio.timeout_at(end):
                chunk = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            raise ProblemError("deadline-exceeded", f"The body was not there after {seconds:g} seconds.") from error
        size += len(chunk)
        if size > most:
            raise await _too_large(stream, most)
        yield chunk


async def _too_large(stream: AsyncIterator[bytes], most: int) -> ProblemError:
    # As much again is thrown away, for whoever only reads the answer after having sent everything.
    size = 0
    try:
        async with asyncio.timeout(DRAIN_S):
            async for chunk in stream:
                size += len(chunk)
                if size > most:
                    break
    except (TimeoutError, ClientDisconnect):
        pass  # the answer is sent to whoever is there
    # The rest is not read, so the connection cannot carry another request.
    return ProblemError("body-too-large", f"The body has more than {most} bytes.", headers={"Connection": "close"})
