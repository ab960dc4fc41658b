"""The client against a real server on the loopback address: streams, lost connections, cancelled calls."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from ember_platform.client import (
    AsyncEmberClient,
    ConnectionFailed,
    DeadlineExceeded,
    EmberClient,
    EmberError,
    InvalidRequest,
    Overloaded,
    PlanDelta,
    ProtocolError,
    ReasoningDelta,
    Retry,
)
from ember_platform.serving.schemas import SelectAnswer, StreamStart
from tests.platform.client.fakes import ANSWER, MODEL, QUICK, problem, running


def event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


START = event("start", {"request_id": "r1", "model": MODEL})
DELTAS = [event("reasoning", {"step": 0, "text": text}) for text in ("the pier ", "is wet\u2028\r")]
PLAN = event("plan", {"step": 0, "text": "dive"})
LAST = event("answer", ANSWER)


class Server:
    """Its streams go piece by piece, each when the test says so, or at once."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.gates: list[asyncio.Event] = []
        self.loop: asyncio.AbstractEventLoop | None = None
        self.gone = threading.Event()
        self.asked = 0
        self.refusals = 0
        self.app = Starlette(routes=[Route("/v1/select", self.select, methods=["POST"])])

    async def select(self, request: Request) -> Response:
        self.asked += 1
        self.loop = asyncio.get_running_loop()
        body = await request.body()
        task = json.loads(body)["task"]
        if self.refusals:
            self.refusals -= 1
            return JSONResponse(problem(503, "overloaded"), 503, {"Retry-After": "0"})
        if task == "wait":
            return await self.wait(request)
        if task == "trickle":
            return StreamingResponse(self.trickle(), media_type="application/json")
        if task == "html":
            return Response("<html>", media_type="text/html")
        return StreamingResponse(self.stream(), media_type="text/event-stream", headers={"X-Request-ID": "r1"})

    async def wait(self, request: Request) -> Response:
        while not await request.is_disconnected():
            await asyncio.sleep(0.01)
        self.gone.set()
        return JSONResponse(ANSWER)

    async def trickle(self) -> AsyncIterator[str]:
        for _ in range(1000):
            yield " "
            await asyncio.sleep(0.05)

    async def stream(self) -> AsyncIterator[str]:
        for piece in self.pieces:
            if piece == "wait for the reader":
                gate = asyncio.Event()
                self.gates.append(gate)
                await asyncio.wait_for(gate.wait(), 30)
            elif piece == "break off":
                raise ConnectionError("the replica was killed")
            else:
                yield piece

    def go_on(self) -> None:
        """Let the stream write its next piece."""
        assert self.loop is not None
        for gate in self.gates:
            self.loop.call_soon_threadsafe(gate.set)


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def url(server: Server) -> Iterator[str]:
    with running(server.app) as address:
        yield address


def test_the_reasoning_arrives_before_the_answer(server: Server, url: str) -> None:
    server.pieces = [START, ": alive\n\n", DELTAS[0], "wait for the reader", DELTAS[1], PLAN, LAST, "never read"]
    server.refusals = 2
    seen: list[Any] = []
    with EmberClient(url, retry=QUICK) as client:
        for found in client.stream("inspect", timeout=60):
            seen.append(found)
            if isinstance(found, ReasoningDelta) and found.text == "the pier ":
                server.go_on()  # only now does the server write the rest
    assert [type(found) for found in seen] == [StreamStart, ReasoningDelta, ReasoningDelta, PlanDelta, SelectAnswer]
    assert seen[2].text == "is wet\u2028\r", "line ends within a text are text"
    assert server.asked == 3


def test_a_stream_under_asyncio(server: Server, url: str) -> None:
    server.pieces = [START, *DELTAS, LAST]

    async def read() -> list[type]:
        async with AsyncEmberClient(url, retry=QUICK) as client:
            return [type(found) async for found in client.stream("inspect", timeout=60)]

    assert asyncio.run(read()) == [StreamStart, ReasoningDelta, ReasoningDelta, SelectAnswer]


@pytest.mark.parametrize(
    ("pieces", "kind", "words"),
    [
        ([START, DELTAS[0], "break off"], ConnectionFailed, "lost"),
        ([START, DELTAS[0]], ConnectionFailed, "ended before its answer"),
        ([START, event("error", problem(503, "shutting-down"))], Overloaded, "shutting-down"),
        ([START, event("error", problem(408, "deadline-exceeded"))], DeadlineExceeded, "deadline"),
        ([START, event("error", problem(422, "invalid"))], InvalidRequest, "422"),
        ([event("surprise", {})], ProtocolError, "surprise"),
        ([event("start", {"request_id": 5})], ProtocolError, "not a StreamStart"),
    ],
)
def test_a_stream_that_fails_is_not_begun_again(
    server: Server, url: str, pieces: list[str], kind: type[EmberError], words: str
) -> None:
    server.pieces = pieces
    with EmberClient(url, retry=QUICK) as client, pytest.raises(kind, match=words) as error:
        list(client.stream("inspect", timeout=60))
    assert server.asked == 1
    assert error.value.request_id in {"r1", error.value.request_id}


def test_something_else_than_a_stream(url: str) -> None:
    with EmberClient(url) as client, pytest.raises(ProtocolError, match="text/html"):
        list(client.stream("html", timeout=60))


def test_an_answer_that_never_ends_has_a_deadline(url: str) -> None:
    with EmberClient(url) as client, pytest.raises(DeadlineExceeded):
        client.select("trickle", timeout=0.1)

    async def ask() -> None:
        async with AsyncEmberClient(url) as client:
            with pytest.raises(DeadlineExceeded):
                await client.select("trickle", timeout=0.1)

    asyncio.run(ask())


def test_a_cancelled_call_tells_the_server(server: Server, url: str) -> None:
    async def ask() -> None:
        async with AsyncEmberClient(url) as client:
            task = asyncio.create_task(client.select("wait", timeout=60))
            while not server.asked:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(ask())
    assert server.gone.wait(20)


def test_nobody_there_and_then_somebody(server: Server) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    with EmberClient(address, retry=Retry(attempts=2, first_s=0.01)) as client:
        with pytest.raises(ConnectionFailed, match="cannot be reached"):
            client.model()
        with pytest.raises(ConnectionFailed):
            client.wait_ready(timeout=0.3)
