"""A small server that behaves as a test says: what it is asked is kept, what it answers is given."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import uvicorn

from ember_platform.client import Retry

TIMINGS = {"read_ms": 1.0, "queue_ms": 0.0, "model_ms": 20.0, "total_ms": 21.5, "batch_size": 1}
MODEL = {"name": "embervlm", "version": "3", "alias": "champion"}
ANSWER: dict[str, Any] = {
    "request_id": "r1",
    "model": MODEL,
    "fleet": {"name": "default", "digest": "d", "robots": 2},
    "robots": [{"robot": "Drone", "confidence": 0.9}, {"robot": "Humanoid", "confidence": 0.1}],
    "team": ["Drone"],
    "none_of_these": 0.2,
    "plan": [],
    "reasoning": None,
    "attention": None,
    "timings": TIMINGS,
    "a_field_of_tomorrow": 1,
}
#: No pause worth waiting for in a test.
QUICK = Retry(attempts=5, first_s=0.001, most_s=0.002)


def problem(status: int, slug: str, detail: str = "no", **more: Any) -> dict[str, Any]:
    """The body of a problem."""
    kind = f"urn:embervlm:problem:{slug}"
    return {"type": kind, "title": slug, "status": status, "detail": detail, "request_id": "r1", **more}


class Scripted:
    """A transport that gives one answer after the other: (status, body, headers), or an exception to raise."""

    def __init__(self, *answers: tuple[int, Any] | tuple[int, Any, dict[str, str]] | Exception) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        status, body, *headers = answer
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return httpx.Response(status, content=content, headers=headers[0] if headers else {})

    @property
    def transport(self) -> httpx.MockTransport:
        """For `httpx.Client(transport=…)`."""
        return httpx.MockTransport(self)


@contextlib.contextmanager
def running(app: Callable[..., Any]) -> Iterator[str]:
    """An ASGI application behind uvicorn on a free port of the loopback address; yields its URL."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="error", lifespan="auto", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=20)
