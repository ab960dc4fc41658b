"""The endpoint's client: `EmberClient`, and `AsyncEmberClient` for asyncio.

    with EmberClient("http://127.0.0.1:8000") as client:
        answer = client.select("Inspect the pier below the waterline", image="scene.jpg")
        print(answer.robots[0].robot, answer.robots[0].confidence)

Both need httpx and pydantic and neither torch nor Ray. A request that the server refuses for now (503, 429) or that is
lost on the way is sent again, as long as its deadline allows; whatever else the server says is a typed error.
"""

from __future__ import annotations

from ember_platform.client.asynchronous import AsyncEmberClient
from ember_platform.client.blocking import EmberClient
from ember_platform.client.calls import Event, PlanDelta, ReasoningDelta, Retry
from ember_platform.client.errors import (
    ApiError,
    ConnectionFailed,
    DeadlineExceeded,
    EmberError,
    InvalidRequest,
    NotFound,
    Overloaded,
    ProtocolError,
    RateLimited,
    ServerError,
    Unauthorized,
)

__all__ = [
    "ApiError",
    "AsyncEmberClient",
    "ConnectionFailed",
    "DeadlineExceeded",
    "EmberClient",
    "EmberError",
    "Event",
    "InvalidRequest",
    "NotFound",
    "Overloaded",
    "PlanDelta",
    "ProtocolError",
    "RateLimited",
    "ReasoningDelta",
    "Retry",
    "ServerError",
    "Unauthorized",
]
