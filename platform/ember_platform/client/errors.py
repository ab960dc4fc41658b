"""What can go wrong for a caller of the endpoint, as types."""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from time import time

from pydantic import ValidationError

from ember_platform.serving.schemas import PROBLEM_TYPE, FieldError, Problem


class EmberError(Exception):
    """Any failure of a call. `attempts` is how often it was sent, `request_id` what the server's log knows it by."""

    def __init__(self, message: str, request_id: str = "", attempts: int = 1) -> None:
        super().__init__(message)
        self.request_id = request_id
        self.attempts = attempts

    @property
    def retryable(self) -> bool:
        """Whether the same call may go through a moment later."""
        return False


class ConnectionFailed(EmberError):
    """The server could not be reached, or the connection was lost before the answer."""

    @property
    def retryable(self) -> bool:
        """Yes: no call changes more by being sent twice."""
        return True


class ProtocolError(EmberError):
    """What answered does not speak this API."""


class ApiError(EmberError):
    """The server said no.

    `problem` is what it said: `status`, `slug`, `detail`, and `errors` with the fields at fault. `retry_after` is in
    seconds, None where the server named no time.
    """

    def __init__(self, problem: Problem, retry_after: float | None = None) -> None:
        faults = "".join(f"\n  {fault.field or 'body'}: {fault.message}" for fault in problem.errors)
        super().__init__(f"{problem.status} {problem.slug}: {problem.detail}{faults}", problem.request_id)
        self.problem = problem
        self.retry_after = retry_after

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.problem.status

    @property
    def slug(self) -> str:
        """The kind of problem, as `overloaded`."""
        return self.problem.slug

    @property
    def errors(self) -> list[FieldError]:
        """The fields at fault, where the request was."""
        return self.problem.errors


class InvalidRequest(ApiError):
    """400, 405, 413, 415, 422: the request is at fault; sending it again changes nothing."""


class Unauthorized(ApiError):
    """401, 403: no key, or one that is unknown, revoked or expired."""


class NotFound(ApiError):
    """404: no such fleet or route."""


class DeadlineExceeded(EmberError):
    """The call's own time ran out, here or at the server (408)."""


class RateLimited(ApiError):
    """429: the key's rate or quota is used up, or it has registered too many fleets."""

    @property
    def retryable(self) -> bool:
        """Only a rate comes back soon."""
        return self.slug == "rate-limited"


class ServerError(ApiError):
    """5xx: the server failed, or a proxy before it."""

    @property
    def retryable(self) -> bool:
        """Yes: no call changes more by being sent twice."""
        return True


class Overloaded(ServerError):
    """503: the server takes no more for now, is not ready or is shutting down."""


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that `Retry-After` names, as a number or as a date; None where it names none."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time())
    except ValueError:
        return None


def from_answer(status: int, headers: Mapping[str, str], body: bytes) -> EmberError:
    """The error that an answer is, its body being a problem or, from a proxy on the way, anything at all."""
    try:
        problem = Problem.model_validate_json(body)
    except ValidationError:
        text = " ".join(body[:200].decode("utf-8", "replace").split())
        problem = Problem(
            type=f"{PROBLEM_TYPE}http-{status}",
            title="not an answer of this API",
            status=status,
            detail=text or "empty answer",
            request_id=headers.get("x-request-id", ""),
        )
    return from_problem(problem, retry_after(headers))


def from_problem(problem: Problem, wait: float | None = None) -> EmberError:
    """The typed error of a problem."""
    status = problem.status
    if status == 408:
        return DeadlineExceeded(f"408 {problem.slug}: {problem.detail}", problem.request_id)
    kinds = {401: Unauthorized, 403: Unauthorized, 404: NotFound, 429: RateLimited, 503: Overloaded}
    kind = kinds.get(status) or (ServerError if status >= 500 else InvalidRequest)
    return kind(problem, wait)
