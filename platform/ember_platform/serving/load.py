"""Offering load to an endpoint on this machine, and what became of it. For measurements; not part of the server.

Times are of this process's clock, from before a request is sent until its whole answer is there. In a closed loop every
client sends its next request when it has the answer to the last; in an open loop requests come at their own times,
whatever the server does, so that slowness cannot hide by slowing the load.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np

from ember_platform.config_serving import is_loopback

#: No measurement of ours goes on for longer, whatever it is asked.
MAX_SECONDS = 3600.0


@dataclass(frozen=True)
class Shot:
    """One request: when it was due (seconds from the start), how long it took, its status (0: lost), what it said."""

    due: float
    seconds: float
    status: int
    robot: str = ""
    version: str = ""


@dataclass(frozen=True)
class Ask:
    """A request, ready to send: the body and its content type."""

    content: bytes
    content_type: str

    @classmethod
    def form(cls, task: str, picture: bytes) -> Ask:
        """A multipart question with a picture."""
        request = httpx.Request(
            "POST", "http://127.0.0.1", data={"task": task}, files={"image": ("scene.jpg", picture, "image/jpeg")}
        )
        return cls(request.read(), request.headers["content-type"])


def local_client(url: str, clients: int, timeout: float) -> httpx.AsyncClient:
    """A client of an endpoint on this machine.

    Raises:
        ValueError: the address is another machine's, which nobody may load from here.
    """
    host = httpx.URL(url).host
    if not is_loopback(host):
        raise ValueError(f"{url}: load is offered to the loopback address only")
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    return httpx.AsyncClient(base_url=url, limits=limits, timeout=timeout, trust_env=False)


async def fire(client: httpx.AsyncClient, ask: Ask, due: float, started: float, deadline: float | None) -> Shot:
    """Send one request."""
    headers = {"Content-Type": ask.content_type}
    if deadline is not None:
        headers["X-Request-Timeout"] = f"{deadline:.3f}"
    began = time.perf_counter()
    try:
        response = await client.post("/v1/select", content=ask.content, headers=headers)
    except httpx.HTTPError:
        return Shot(due, time.perf_counter() - began, 0)
    seconds = time.perf_counter() - began
    if response.status_code != 200:
        return Shot(due, seconds, response.status_code)
    answer: dict[str, Any] = response.json()
    version = str(answer.get("model", {}).get("version", ""))
    return Shot(due, seconds, 200, answer["robots"][0]["robot"], version)


async def closed_loop(url: str, asks: Sequence[Ask], clients: int, seconds: float) -> list[Shot]:
    """`clients` that each always wait for one answer, for so many seconds."""
    seconds = min(seconds, MAX_SECONDS)
    shots: list[Shot] = []
    order = itertools.cycle(asks)
    async with local_client(url, clients, 120) as client:
        started = time.perf_counter()

        async def one() -> None:
            while (now := time.perf_counter() - started) < seconds:
                shots.append(await fire(client, next(order), now, started, None))

        await asyncio.gather(*(one() for _ in range(clients)))
    return shots


async def open_loop(
    url: str, asks: Sequence[Ask], rate: float, seconds: float, deadline: float, most: int = 1000, seed: int = 0
) -> list[Shot]:
    """`rate` requests a second at random times, each with a deadline; `most` under way at once.

    Raises:
        RuntimeError: this process could not offer the load: more than `most` were under way.
    """
    seconds = min(seconds, MAX_SECONDS)
    draw, order = random.Random(seed), itertools.cycle(asks)
    shots: list[Shot] = []
    under_way: set[asyncio.Task[None]] = set()
    async with local_client(url, most, deadline + 30) as client:
        started = time.perf_counter()

        async def one(due: float) -> None:
            shots.append(await fire(client, next(order), due, started, deadline))

        due = 0.0
        while due < seconds:
            await asyncio.sleep(max(0.0, due - (time.perf_counter() - started)))
            if len(under_way) >= most:
                raise RuntimeError(f"{most} requests are under way: the server neither answers nor refuses")
            task = asyncio.create_task(one(due))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            due += draw.expovariate(rate)
        await asyncio.gather(*under_way)
    return shots


def summary(shots: Sequence[Shot]) -> dict[str, Any]:
    """ "requests", "statuses", "answered_per_s", and p50, p95, p99 and the longest of the answered, in milliseconds."""
    good = [shot for shot in shots if shot.status == 200]
    found: dict[str, Any] = {"requests": len(shots), "statuses": dict(Counter(str(s.status) for s in shots))}
    if good:
        first = min(shot.due for shot in shots)
        last = max(shot.due + shot.seconds for shot in good)
        found["answered_per_s"] = len(good) / (last - first)
        values = np.array([shot.seconds for shot in good]) * 1000
        for percent in (50, 95, 99):
            found[f"p{percent}_ms"] = float(np.percentile(values, percent))
        found["max_ms"] = float(values.max())
    return found
