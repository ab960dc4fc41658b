"""The routes. What they take and give is in the docstring of `schemas`; what they do is in `service`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import Match

from ember_platform.config_serving import is_loopback
from ember_platform.serving import bodies, openapi
from ember_platform.serving.asgi import (
    GONE,
    PAGE_POLICY,
    EventResponse,
    Guard,
    page_files,
    problem_response,
    until_gone,
)
from ember_platform.serving.fleets import NamedFleet
from ember_platform.serving.keys import Key
from ember_platform.serving.limits import check_fleet, deadline_of
from ember_platform.serving.problems import ProblemError, invalid
from ember_platform.serving.schemas import (
    EVENT_STREAM,
    BatchAnswer,
    BatchItem,
    BatchRequest,
    FleetAnswer,
    FleetList,
    FleetName,
    FleetRequest,
    Health,
    ModelAnswer,
    SelectAnswer,
    SelectRequest,
)
from ember_platform.serving.service import Call, Event, Service

logger = logging.getLogger(__name__)


def create_app(service: Service, page: Path | None = None) -> FastAPI:
    """The application around a service, which it starts and stops.

    Args:
        page: folder of the page's files, with an index.html; there is no page where None.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        try:
            yield
        finally:
            await service.stop()

    app = FastAPI(
        title="EmberVLM robot selection",
        version="1",
        description="Which robots of a fleet should do a task in a scene.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service = service
    serving = service.config.serving

    def local_only() -> bool:
        return not service.keys.required and is_loopback(serving.host)

    app.add_middleware(Guard, metrics=service.metrics, local_only=local_only)
    _handlers(app, service)
    _questions(app, service)
    _fleets(app, service)
    _state(app, service)
    _page(app, page_files(page))
    openapi.install(app, secured=service.keys.required)
    return app


def _handlers(app: FastAPI, service: Service) -> None:
    @app.exception_handler(ProblemError)
    async def told(request: Request, error: ProblemError) -> Response:
        service.metrics.add("ember_refused", why=error.slug)
        return problem_response(error, request.state.request_id)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        slug = {404: "not-found", 405: "method-not-allowed"}.get(error.status_code, "malformed")
        headers = dict(error.headers or {})
        if error.status_code == 405:  # the router knows the methods of the first route at this path only
            headers["Allow"] = ", ".join(sorted(_methods(app, request)))
        problem = ProblemError(slug, "See /openapi.json for what there is.", headers=headers)
        return problem_response(problem, request.state.request_id)

    @app.exception_handler(RequestValidationError)
    async def unfit(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return await told(request, invalid(".".join(map(str, first["loc"][1:])), str(first["msg"])[:200]))


def _methods(app: FastAPI, request: Request) -> set[str]:
    """What the path of a request can be asked with."""
    routes = [route for route in app.routes if route.matches(request.scope)[0] is not Match.NONE]
    return {method for route in routes for method in getattr(route, "methods", None) or ()}


def _admit(request: Request, service: Service, questions: int = 1) -> tuple[Call, dict[str, str]]:
    """Who asks, with what deadline, and whether the key's rate allows it; and the headers that tell what is left."""
    key = service.keys.identify(request.headers.get("authorization"))
    request.state.key = key.id
    seconds = deadline_of(request.headers, service.config.serving.replica.deadline_s)
    headers = service.usage.take(key, questions) if questions else {}
    arrived = request.state.arrived
    return Call(request.state.request_id, arrived + seconds, key, arrived), headers


def _identify(request: Request, service: Service) -> Key:
    return _admit(request, service, 0)[0].key


def _json(model: BaseModel, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(model.model_dump_json(), status, headers=headers, media_type="application/json")


# ---------------------------------------------------------------- questions


def _questions(app: FastAPI, service: Service) -> None:
    @app.post("/v1/select", response_model=SelectAnswer, **openapi.SELECT)
    async def select(request: Request) -> Response:
        """Choose robots of a fleet for a task in a scene."""
        call, headers = _admit(request, service)
        question, content = await bodies.read_select(request, service.limits)
        if EVENT_STREAM in request.headers.get("accept", ""):
            events = service.stream(question, content, call)
            first = await until_gone(request, _first(events))
            if first is None:
                return Response(status_code=GONE)
            if hasattr(first[1], "model"):
                request.state.version = headers["X-Model-Version"] = first[1].model.version
            return EventResponse(_told(first, events, request, service), headers)
        answer = await until_gone(request, service.select(question, content, call))
        if answer is None:
            return Response(status_code=GONE)
        request.state.version = answer.model.version
        return _json(answer, headers={**headers, "X-Model-Version": answer.model.version})

    @app.post("/v1/select/batch", response_model=BatchAnswer, **openapi.BATCH)
    async def select_batch(request: Request) -> Response:
        """Several questions at once, each with its own outcome."""
        call, headers = _admit(request, service)
        limits = service.limits
        batch = await bodies.read_json(request, BatchRequest, limits.batch_body_bytes, limits.body_seconds)
        count = len(batch.requests)
        if count > limits.batch:
            raise invalid("requests", f"{count} questions; at most {limits.batch}")
        if count > 1:
            headers = service.usage.take(call.key, count - 1)
        service.check_room(call.deadline, False, count)
        work = asyncio.gather(*(_item(service, q, call, i) for i, q in enumerate(batch.requests)))
        items = await until_gone(request, _awaited(work))
        if items is None:
            return Response(status_code=GONE)
        return _json(BatchAnswer(request_id=call.request_id, items=items), headers=headers)


async def _first(events: AsyncIterator[Event]) -> Event:
    return await anext(events)


async def _awaited(work: asyncio.Future[list[BatchItem]]) -> list[BatchItem]:
    return await work


async def _item(service: Service, question: SelectRequest, call: Call, index: int) -> BatchItem:
    """One question of a batch."""
    own = Call(f"{call.request_id}.{index}", call.deadline, call.key, call.arrived)
    prefix = f"requests.{index}."
    try:
        content = await bodies.picture_of(question, service.limits, f"{prefix}image")
        return BatchItem(status=200, answer=await service.select(question, content, own, prefix))
    except ProblemError as problem:
        return BatchItem(status=problem.status, problem=problem.problem(own.request_id))


async def _told(first: Event, rest: AsyncIterator[Event], request: Request, service: Service) -> AsyncIterator[str]:
    """Events as text; an error ends them."""
    try:
        yield _event(*first)
        async for name, data in rest:
            yield _event(name, data)
    except ProblemError as problem:
        service.metrics.add("ember_refused", why=problem.slug)
        yield _event("error", problem.problem(request.state.request_id))
    except Exception as error:
        logger.error("stream %s failed: %s", request.state.request_id, type(error).__name__, exc_info=error)
        yield _event("error", ProblemError("internal", "The server failed.").problem(request.state.request_id))
    finally:
        close: Any = getattr(rest, "aclose", None)
        if close is not None:
            await close()


def _event(name: str, data: BaseModel) -> str:
    return f"event: {name}\ndata: {data.model_dump_json()}\n\n"


# ---------------------------------------------------------------- fleets


def _fleets(app: FastAPI, service: Service) -> None:
    @app.get("/v1/fleet", response_model=FleetList, **openapi.PLAIN)
    async def fleet(request: Request) -> Response:
        """The default fleet, and those that the caller registered."""
        key = _identify(request, service)
        return _json(FleetList(default=service.book.default.answer(), registered=await service.book.list(key.tenant)))

    @app.put("/v1/fleets/{name}", response_model=FleetAnswer, **openapi.PUT_FLEET)
    async def register(request: Request, name: FleetName) -> Response:
        """Register a fleet, or replace it; its keys and values are computed now."""
        call, headers = _admit(request, service)
        limits = service.limits
        body = await bodies.read_json(request, FleetRequest, limits.body_bytes, limits.body_seconds)
        named = NamedFleet.of(name, check_fleet(body.robots, limits, "robots"))
        new = await service.register(name, named, call)
        return _json(named.answer(), 201 if new else 200, headers)

    @app.get("/v1/fleets/{name}", response_model=FleetAnswer, **openapi.NAMED_FLEET)
    async def read(request: Request, name: FleetName) -> Response:
        """A fleet in full."""
        key = _identify(request, service)
        found = await service.book.get(key.tenant, name)
        if found is None:
            raise ProblemError("not-found", "No fleet of this name is registered.")
        return _json(found.answer())

    @app.delete("/v1/fleets/{name}", status_code=204, **openapi.NAMED_FLEET)
    async def forget(request: Request, name: FleetName) -> Response:
        """Forget a registered fleet."""
        key = _identify(request, service)
        await service.book.delete(key.tenant, name)
        return Response(status_code=204)


# ---------------------------------------------------------------- state and page


def _state(app: FastAPI, service: Service) -> None:
    @app.get("/v1/model", response_model=ModelAnswer, **openapi.PLAIN)
    async def model(request: Request) -> Response:
        """Which versions this replica has loaded, and its limits."""
        _identify(request, service)
        return _json(service.describe())

    @app.get("/healthz", response_model=Health)
    async def alive() -> Response:
        """Whether the process answers."""
        return _json(Health(status="ok"))

    @app.get("/readyz", response_model=Health, responses={503: {"model": Health}})
    async def ready() -> Response:
        """Whether a model answers."""
        champion = service.rollout.champion
        if champion is None or not service.ready:
            return _json(Health(status="not-ready"), 503, {"Retry-After": "5"})
        return _json(Health(status="ok", version=champion.version))


def _page(app: FastAPI, files: dict[str, tuple[bytes, str]]) -> None:
    headers = {"Content-Security-Policy": PAGE_POLICY, "Cache-Control": "no-cache"}

    async def page(name: str = "index.html") -> Response:
        found = files.get(name)
        if found is None:
            raise ProblemError("not-found", "There is no such file of the page.")
        return Response(found[0], media_type=found[1], headers=headers)

    async def index() -> Response:
        return await page()

    app.add_api_route("/", index, include_in_schema=False)
    app.add_api_route("/page/{name}", page, include_in_schema=False)
