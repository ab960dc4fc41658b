"""The page's server without a model: the routes that the page calls, behaving as a test says."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from email import message_from_bytes
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from embervlm.fleet import default_fleet
from tests.platform.client.fakes import MODEL, TIMINGS, problem

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PAGE = Path(__file__).resolve().parents[2] / "serve" / "page"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
STEPS = ["task: inspect the pier.", "place: harbour, calm, day.", "needs: water.", "send Underwater Robot."]
ORDER = ["Underwater Robot", "Drone", "Humanoid", "Robot with Wheels", "Robot with Legs"]


class PageServer:
    """`failures` are answered first, one a question; `hold` keeps a stream open after its first step."""

    def __init__(self) -> None:
        self.failures: list[tuple[int, str, dict[str, Any]]] = []
        self.key = ""
        self.hold = False
        self.none_of_these = 0.04
        self.asked: list[dict[str, Any]] = []
        self.app = Starlette(
            routes=[
                Route("/", lambda request: self.file("index.html")),
                Route("/page/{name}", lambda request: self.file(request.path_params["name"])),
                Route("/v1/fleet", self.fleet),
                Route("/v1/model", self.model),
                Route("/v1/select", self.select, methods=["POST"]),
            ]
        )

    def file(self, name: str) -> Response:
        return FileResponse(PAGE / name, headers={"Content-Security-Policy": POLICY, "Cache-Control": "no-store"})

    def locked(self, request: Request) -> Response | None:
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return JSONResponse(problem(401, "unauthorized", "a key is needed"), 401)
        return None

    async def fleet(self, request: Request) -> Response:
        fleet = {"name": "default", "digest": "d", "robots": default_fleet().to_dicts()}
        return self.locked(request) or JSONResponse({"default": fleet, "registered": []})

    async def model(self, request: Request) -> Response:
        return self.locked(request) or JSONResponse({"serving": MODEL, "limits": {"batch": 8}})

    async def select(self, request: Request) -> Response:
        asked = await question(request)
        self.asked.append(asked)
        if self.failures:
            status, slug, more = self.failures.pop(0)
            return JSONResponse(problem(status, slug, f"the detail of {slug}", **more), status, {"Retry-After": "0"})
        refusal = self.locked(request)
        if refusal is not None:
            return refusal
        if request.headers["accept"] == "text/event-stream":
            return StreamingResponse(self.stream(asked), media_type="text/event-stream")
        return JSONResponse(self.answer(asked))

    async def stream(self, asked: dict[str, Any]) -> AsyncIterator[str]:
        def event(name: str, data: dict[str, Any]) -> str:
            return f"event: {name}\ndata: {json.dumps(data)}\n\n"

        yield event("start", {"request_id": "r1", "model": MODEL})
        for i, step in enumerate(STEPS):
            for word in step.split(" "):
                yield event("reasoning", {"step": i, "text": word + " "})
                await asyncio.sleep(0.005)
            while self.hold:
                yield ": alive\n\n"
                await asyncio.sleep(0.01)
        yield event("plan", {"step": 0, "text": "dive "})
        yield event("answer", self.answer(asked))

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        """The answer; a model that cannot tell whether nobody is able answers about an edited fleet."""
        return {**answer(asked), "none_of_these": None if asked.get("fleet") else self.none_of_these}


async def question(request: Request) -> dict[str, Any]:
    """What was asked, from JSON or multipart; the picture as its length in bytes."""
    body = await request.body()
    if request.headers["content-type"] == "application/json":
        return dict(json.loads(body))
    head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
    asked: dict[str, Any] = {}
    for part in message_from_bytes(head + body).walk():
        if not part.is_multipart():
            name, content = str(part.get_param("name", header="content-disposition")), part.get_payload(decode=True)
            assert isinstance(content, bytes)
            asked[name] = len(content) if name == "image" else content.decode()
    return asked


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    """An answer about the fleet that was asked about."""
    fleet = asked.get("fleet")
    robots = json.loads(fleet) if isinstance(fleet, str) else fleet
    names = [robot["name"] for robot in robots] if robots else ORDER
    reasoned = asked.get("reasoning") in (True, "true")
    looked = asked.get("attention") == "true"
    return {
        "request_id": "r1",
        "model": MODEL,
        "fleet": {"name": None if robots else "default", "digest": "d", "robots": len(names)},
        "robots": [{"robot": name, "confidence": 0.97 * 0.3**i} for i, name in enumerate(names)],
        "team": names[:1],
        "familiarity": 0.03 if robots is None else 0.6,
        "plan": [{"order": 1, "subtask": "dive to the pier", "robot": names[0]}] if reasoned else [],
        "reasoning": "\n".join(STEPS) if reasoned else None,
        "attention": [{"robot": name, "weights": weights(i)} for i, name in enumerate(names)] if looked else None,
        "timings": TIMINGS,
    }


def weights(place: int) -> list[list[float]]:
    """Seven by seven, most of it in one cell of the diagonal."""
    rows = [[0.5 / 48] * 7 for _ in range(7)]
    rows[place % 7][place % 7] = 0.5
    return rows


def texts(page: Page, selector: str) -> list[str]:
    """What the elements of a page say."""
    return [text.strip() for text in page.locator(selector).all_inner_texts()]
