"""Errors as callers see them (RFC 9457): what was wrong and what to do, never a stack, a path or what was sent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pydantic import ValidationError

from ember_platform.serving.schemas import PROBLEM_TYPE, FieldError, Problem

#: Slug → status and title. The whole list is in the docstring of `schemas`.
KINDS: dict[str, tuple[int, str]] = {
    "malformed": (400, "The request cannot be read"),
    "unauthorized": (401, "A valid key is needed"),
    "cross-origin": (403, "Another site's page may not ask here"),
    "not-found": (404, "There is no such thing"),
    "method-not-allowed": (405, "This method is not offered here"),
    "deadline-exceeded": (408, "The time that the request gave itself ran out"),
    "body-too-large": (413, "The body is too large"),
    "picture-too-large": (413, "The picture is too large"),
    "unsupported-media-type": (415, "This kind of body is not taken"),
    "unsupported-picture": (415, "This kind of picture is not taken"),
    "invalid": (422, "The request does not fit its description"),
    "unknown-fleet": (422, "No fleet of this name is registered"),
    "unreadable-picture": (422, "The picture cannot be read"),
    "rate-limited": (429, "Too many requests for this key"),
    "quota-exhausted": (429, "The quota of this key is used up"),
    "too-many-fleets": (429, "No more fleets can be registered"),
    "internal": (500, "The server failed"),
    "overloaded": (503, "The server has no room for this request"),
    "not-ready": (503, "No model is ready to answer"),
    "shutting-down": (503, "This replica is about to stop"),
}
MAX_ERRORS = 20


class ProblemError(Exception):
    """An error with an answer for the caller.

    Args:
        slug: one of `KINDS`.
        detail: one sentence for the caller; shown as it is.
        errors: faults by field.
        retry_after_s: seconds after which another try makes sense.
        headers: more headers of the answer.
    """

    def __init__(
        self,
        slug: str,
        detail: str,
        errors: Sequence[FieldError] = (),
        retry_after_s: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.slug = slug
        self.status, self.title = KINDS[slug]
        self.detail = detail
        self.errors = list(errors)[:MAX_ERRORS]
        self.headers = dict(headers or {})
        if retry_after_s is not None:
            self.headers["Retry-After"] = str(max(1, math.ceil(retry_after_s)))
        if slug == "unauthorized":
            self.headers.setdefault("WWW-Authenticate", "Bearer")

    def problem(self, request_id: str) -> Problem:
        """The body of the answer."""
        return Problem(
            type=f"{PROBLEM_TYPE}{self.slug}",
            title=self.title,
            status=self.status,
            detail=self.detail,
            request_id=request_id,
            errors=self.errors,
        )


def invalid(field: str, message: str, slug: str = "invalid") -> ProblemError:
    """One fault of one field."""
    return ProblemError(slug, f"{field}: {message}", [FieldError(field=field, message=message)])


def from_validation(error: ValidationError, prefix: str = "") -> ProblemError:
    """What pydantic found, by field, without the values that were sent.

    Text that is no JSON at all is `malformed`.
    """
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    if any(fault["type"] == "json_invalid" for fault in faults):
        return ProblemError("malformed", "The body is not valid JSON.")
    errors: dict[str, FieldError] = {}
    for fault in faults:
        # Names of union branches ("list[…]", "constrained-str") are pydantic's, not the caller's.
        parts = [str(p) for p in fault["loc"] if isinstance(p, int) or str(p).isidentifier()]
        field = ".".join([*([prefix] if prefix else []), *parts])
        message = "unknown field" if fault["type"] == "extra_forbidden" else str(fault["msg"])
        errors.setdefault(f"{field}{message}", FieldError(field=field[:200], message=message[:300]))
    first = next(iter(errors.values()))
    more = f" ({len(errors) - 1} more)" if len(errors) > 1 else ""
    return ProblemError("invalid", f"{first.field or 'body'}: {first.message}{more}", list(errors.values()))
