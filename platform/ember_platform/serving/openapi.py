"""What OpenAPI cannot read off the routes: two kinds of body, streams, problems, headers, keys."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from ember_platform.serving.limits import SECONDS
from ember_platform.serving.problems import KINDS
from ember_platform.serving.schemas import (
    EVENT_STREAM,
    PROBLEM_JSON,
    REQUEST_ID,
    BatchRequest,
    FleetRequest,
    Problem,
    SelectRequest,
    StreamDelta,
    StreamStart,
)

REF = "#/components/schemas/{model}"
OPEN_PATHS = ("/healthz", "/readyz")


def _ref(model: str) -> dict[str, str]:
    return {"$ref": REF.format(model=model)}


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    found: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        slugs = ", ".join(slug for slug, (own, _) in KINDS.items() if own == status)
        found[status] = {"description": slugs, "content": {PROBLEM_JSON: {"schema": _ref("Problem")}}}
    return found


_TIMEOUT = {
    "name": "X-Request-Timeout",
    "in": "header",
    "required": False,
    "description": "seconds from arrival in which the answer is of use",
    "schema": {"type": "string", "pattern": SECONDS},
}
_REQUEST_ID = {
    "name": "X-Request-ID",
    "in": "header",
    "required": False,
    "description": f"comes back in the answer where it matches {REQUEST_ID}; any other is replaced",
    "schema": {"type": "string"},
}
_FORM = {
    "type": "object",
    "required": ["task"],
    "additionalProperties": False,
    "properties": {
        "task": {"type": "string", "minLength": 1},
        "image": {"type": "string", "format": "binary", "description": "one JPEG, PNG or WebP file"},
        "fleet": {"type": "string", "description": "a registered name, or robots as JSON"},
        "top_k": {"type": "integer", "minimum": 1},
        "reasoning": {"type": "boolean"},
        "attention": {"type": "boolean"},
    },
}
_EVENTS = {
    "description": "the robots, best first; or events (start, reasoning, plan, then answer or error) where asked for",
    "content": {EVENT_STREAM: {"schema": {"type": "string"}}},
}
_HEADERS = {"parameters": [_TIMEOUT, _REQUEST_ID]}


def _body(model: str) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": _ref(model)}}}


SELECT: dict[str, Any] = {
    "responses": {200: _EVENTS, **_problems(400, 401, 403, 408, 413, 415, 422, 429, 500, 503)},
    "openapi_extra": {
        **_HEADERS,
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": _ref("SelectRequest")},
                "multipart/form-data": {"schema": _FORM},
            },
        },
    },
}
BATCH: dict[str, Any] = {
    "responses": _problems(400, 401, 403, 408, 413, 415, 422, 429, 500, 503),
    "openapi_extra": {**_HEADERS, "requestBody": _body("BatchRequest")},
}
PUT_FLEET: dict[str, Any] = {
    "responses": {
        201: {"description": "registered", "content": {"application/json": {"schema": _ref("FleetAnswer")}}},
        **_problems(400, 401, 403, 408, 413, 415, 422, 429, 500, 503),
    },
    "openapi_extra": {**_HEADERS, "requestBody": _body("FleetRequest")},
}
NAMED_FLEET: dict[str, Any] = {"responses": _problems(401, 403, 404, 422, 500, 503)}
PLAIN: dict[str, Any] = {"responses": _problems(401, 403, 422, 500, 503)}


def install(app: FastAPI, secured: bool) -> None:
    """Give the application its OpenAPI document, made when first asked for."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, secured)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _document(app: FastAPI, secured: bool) -> dict[str, Any]:
    made = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    models = (SelectRequest, BatchRequest, FleetRequest, Problem, StreamStart, StreamDelta)
    _, definitions = models_json_schema([(model, "validation") for model in models], ref_template=REF)
    schemas = made.setdefault("components", {}).setdefault("schemas", {})
    for name, schema in definitions.get("$defs", {}).items():
        schemas.setdefault(name, schema)
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    for path, item in made["paths"].items():
        for operation in item.values():
            if path in OPEN_PATHS:
                continue
            if secured:
                operation["security"] = [{"bearer": []}]
            else:
                operation.get("responses", {}).pop("401", None)
    if secured:
        made["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    return made
