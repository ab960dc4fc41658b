"""The load that measurements offer: what is counted, and where it may go."""

from __future__ import annotations

import asyncio
import threading
import time
from itertools import pairwise

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ember_platform.serving import load
from ember_platform.serving.load import Ask, Shot
from tests.platform.client.fakes import running

ASKS = [Ask.form("inspect", b"a picture"), Ask.form("lift", b"another")]


class Server:
    """Answers one request at a time, in 10 ms, and refuses those that find it busy where it is told to."""

    def __init__(self, refuses: bool) -> None:
        self.refuses = refuses
        self.bodies: set[bytes] = set()
        self.deadlines: set[str | None] = set()
        self.busy = threading.Lock()
        self.app = Starlette(routes=[Route("/v1/select", self.select, methods=["POST"])])

    async def select(self, request: Request) -> Response:
        self.bodies.add(await request.body())
        self.deadlines.add(request.headers.get("x-request-timeout"))
        if self.refuses and self.busy.locked():
            return Response(status_code=503)
        with self.busy:
            await asyncio.sleep(0.01)
        return JSONResponse({"robots": [{"robot": "Drone", "confidence": 0.9}], "model": {"version": "7"}})


def test_a_closed_loop_has_as_many_under_way_as_there_are_clients() -> None:
    server = Server(refuses=False)
    with running(server.app) as url:
        shots = asyncio.run(load.closed_loop(url, ASKS, 1, 0.3))
    assert {(shot.status, shot.robot, shot.version) for shot in shots} == {(200, "Drone", "7")}
    assert server.bodies == {ask.content for ask in ASKS}
    assert all(shot.seconds >= 0.01 for shot in shots)
    assert all(later.due >= shot.due + shot.seconds - 0.005 for shot, later in pairwise(shots))


def test_an_open_loop_keeps_to_its_times_whatever_the_server_does() -> None:
    server = Server(refuses=True)
    with running(server.app) as url:
        started = time.perf_counter()
        shots = asyncio.run(load.open_loop(url, ASKS, 200, 0.5, deadline=2.0))
        took = time.perf_counter() - started
    assert {"200", "503"} >= set(load.summary(shots)["statuses"])
    assert 50 <= len(shots) <= 200, "a hundred are due"
    assert took < 30
    assert server.deadlines == {"2.000"}
    assert max(shot.due for shot in shots) < 0.5


def test_the_summary_by_hand() -> None:
    shots = [Shot(float(i), 0.1 * (i + 1), 200) for i in range(10)] + [Shot(0.5, 0.001, 503), Shot(0.6, 9.0, 0)]
    found = load.summary(shots)
    assert found["statuses"] == {"200": 10, "503": 1, "0": 1}
    assert found["p50_ms"] == pytest.approx(550)
    assert found["max_ms"] == pytest.approx(1000)
    assert found["answered_per_s"] == pytest.approx(10 / 10.0)
    assert load.summary([Shot(0, 1, 503)]) == {"requests": 1, "statuses": {"503": 1}}


@pytest.mark.parametrize("url", ["http://192.168.0.7:8000", "http://example.org", "http://10.0.0.1"])
def test_load_goes_nowhere_but_here(url: str) -> None:
    with pytest.raises(ValueError, match="loopback address only"):
        asyncio.run(load.closed_loop(url, ASKS, 1, 0.1))


def test_a_server_that_does_not_answer_is_status_zero() -> None:
    from ember_platform.serving.trial import free_port

    shots = asyncio.run(load.closed_loop(f"http://127.0.0.1:{free_port()}", ASKS, 1, 0.01))
    assert {shot.status for shot in shots} == {0}
