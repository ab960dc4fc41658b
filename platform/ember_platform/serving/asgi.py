"""What stands around the routes: request ids, security headers, the last resort for errors, streams, the page."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import mimetypes
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from fastapi import Request, Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ember_platform.config_serving import is_loopback
from ember_platform.serving.limits import request_id_of
from ember_platform.serving.metrics import Metrics
from ember_platform.serving.problems import ProblemError
from ember_platform.serving.schemas import EVENT_STREAM, PROBLEM_JSON

logger = logging.getLogger(__name__)
access = logging.getLogger("ember_platform.serving.access")
Result = TypeVar("Result")

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
#: For the page and its files: scripts, styles and requests of this server only, no inline code.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
KEEP_ALIVE_S = 10.0
#: Status of requests whose client has gone; for logs and metrics, nobody reads it.
GONE = 499
PAGE_TYPES = (".html", ".css", ".js", ".svg", ".png", ".jpg", ".jpeg", ".webp", ".json", ".ico", ".txt")


class Guard:
    """The outermost layer of the application.

    Args:
        local_only: refuse what a page of another site could send: without keys, whoever is on this machine is trusted,
            but not every page in their browser (cross-site requests, and host names that were pointed here).
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, local_only: Callable[[], bool]) -> None:
        self.app = app
        self.metrics = metrics
        self.local_only = local_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and see that it ends in an answer."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = request_id_of(headers) or uuid.uuid4().hex
        started, status = time.monotonic(), 0
        scope.setdefault("state", {}).update(request_id=request_id, arrived=started, key="-", version="-")

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = MutableHeaders(scope=message)
                own["X-Request-ID"] = request_id
                for name, value in HEADERS.items():
                    own.setdefault(name, value)
            await send(message)

        try:
            if self.local_only():
                check_origin(headers)
            await self.app(scope, receive, sending)
        except ClientDisconnect:
            status = GONE  # while the body was read: there is nobody to tell
        except ProblemError as problem:
            if not status:
                await problem_response(problem, request_id)(scope, receive, sending)
        except Exception as error:
            logger.error("request %s failed: %s", request_id, type(error).__name__, exc_info=error)
            if not status:
                failed = ProblemError("internal", "The server failed on this request; its log knows the request id.")
                await problem_response(failed, request_id)(scope, receive, sending)
        finally:
            state, route = scope["state"], getattr(scope.get("route"), "path", "none")
            self.metrics.add("ember_requests", route=route, status=str(status))
            seconds = time.monotonic() - started
            line = "%s %s %s key=%s version=%s %.1f ms"
            access.info(line, request_id, route, status, state["key"], state["version"], 1000 * seconds)


def check_origin(headers: Headers) -> None:
    """That a request was not sent by a page of another site.

    Raises:
        ProblemError: it was, or it asked for a host that is not this machine.
    """
    host = headers.get("host", "")
    name = urlsplit(f"//{host}").hostname if "@" not in host else None
    if name is None or not is_loopback(name):
        raise ProblemError("cross-origin", "Without keys this server answers to localhost and 127.0.0.1 only.")
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != host:
        raise ProblemError("cross-origin", "Without keys this server does not answer pages of other sites.")


def problem_response(problem: ProblemError, request_id: str) -> Response:
    """A problem as a response."""
    body = problem.problem(request_id).model_dump_json()
    return Response(body, problem.status, headers=problem.headers, media_type=PROBLEM_JSON)


async def until_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result | None:
    """The result of some work, or None where the client hangs up first: then the work is cancelled.

    The body must have been read.
    """
    task, gone = asyncio.create_task(work), asyncio.create_task(_gone(request.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        return None
    finally:
        for one in (task, gone):
            one.cancel()
        # Waited for, so that nothing of the request outlives it; its own error was raised above.
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventResponse(Response):
    """Server-sent events: texts of an iterator, comments while it is silent, and its end when the client goes."""

    media_type = EVENT_STREAM

    def __init__(self, events: AsyncIterator[str], headers: dict[str, str] | None = None) -> None:
        super().__init__(headers={**(headers or {}), "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self.events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        work, gone = asyncio.create_task(self._send(send)), asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            for one in (work, gone):
                one.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)
            close = getattr(self.events, "aclose", None)
            if close is not None:
                await close()

    async def _send(self, send: Send) -> None:
        pending: asyncio.Task[str] | None = None
        try:
            while True:
                pending = pending or asyncio.ensure_future(anext(self.events))
                done, _ = await asyncio.wait({pending}, timeout=KEEP_ALIVE_S)
                if not done:
                    await send({"type": "http.response.body", "body": b": still at it\n\n", "more_body": True})
                    continue
                try:
                    text = pending.result()
                except StopAsyncIteration:
                    break
                pending = None
                await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
        finally:
            if pending is not None:
                pending.cancel()
                with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration):
                    await pending
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def page_files(folder: Path | None) -> dict[str, tuple[bytes, str]]:
    """The page's files by name, with their media types; read once, so that no request ever names a path."""
    if folder is None or not folder.is_dir():
        return {}
    files = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in PAGE_TYPES:
            kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
            charset = "; charset=utf-8" if kind.startswith("text/") or kind.endswith(("javascript", "json")) else ""
            files[path.name] = (path.read_bytes(), kind + charset)
    return files
