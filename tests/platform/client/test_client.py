"""The client: what it sends, what it makes of answers, and when it asks again."""

from __future__ import annotations

import asyncio
import base64
import inspect
import io
import json
import subprocess
import sys
from email import message_from_bytes
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ember_platform.client import (
    ApiError,
    AsyncEmberClient,
    ConnectionFailed,
    DeadlineExceeded,
    EmberClient,
    EmberError,
    InvalidRequest,
    NotFound,
    Overloaded,
    ProtocolError,
    RateLimited,
    Retry,
    ServerError,
    Unauthorized,
    calls,
)
from ember_platform.client.errors import retry_after
from ember_platform.serving.schemas import SelectAnswer, SelectRequest
from embervlm.fleet import Fleet, Robot, default_fleet
from tests.platform.client.fakes import ANSWER, MODEL, QUICK, Scripted, problem


def client_of(script: Scripted, retry: Retry = QUICK, **settings: Any) -> EmberClient:
    return EmberClient("http://server.test", retry=retry, transport=script.transport, **settings)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that a client would have made."""
    made: list[float] = []
    monkeypatch.setattr("ember_platform.client.blocking.time.sleep", made.append)
    return made


# ---------------------------------------------------------------- what is sent


def test_a_task_alone_is_json_and_its_answer_typed() -> None:
    script = Scripted((200, ANSWER))
    with client_of(script, key="ember_a_b") as client:
        answer = client.select("inspect the pier", top_k=2, timeout=5)
    request = script.requests[0]
    assert (request.method, request.url.path) == ("POST", "/v1/select")
    assert json.loads(request.content) == {"task": "inspect the pier", "top_k": 2}
    assert request.headers["authorization"] == "Bearer ember_a_b"
    assert 4 < float(request.headers["x-request-timeout"]) <= 5
    assert request.headers["accept"] == "application/json"
    assert isinstance(answer, SelectAnswer)
    assert [(r.robot, r.confidence) for r in answer.robots] == [("Drone", 0.9), ("Humanoid", 0.1)]
    assert (answer.none_of_these, answer.familiarity) == (0.2, None)
    assert answer.model.version == "3"


def parts_of(request: httpx.Request) -> dict[str, bytes]:
    head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
    message = message_from_bytes(head + request.read())
    return {
        part.get_param("name", header="content-disposition"): part.get_payload(decode=True)
        for part in message.walk()
        if not part.is_multipart()
    }  # type: ignore[misc]


def test_a_picture_goes_as_multipart(tmp_path: Path) -> None:
    script = Scripted((200, ANSWER))
    picture = b"\x89PNG not looked at here"
    (tmp_path / "scene.png").write_bytes(picture)
    with client_of(script) as client:
        for image in (picture, str(tmp_path / "scene.png"), tmp_path / "scene.png", bytearray(picture)):
            client.select("go", image=image, fleet=[Robot("Mole", ("digs",))], reasoning=True, attention=True)
    for request in script.requests:
        parts = parts_of(request)
        assert parts.pop("image") == picture
        robots = [{"name": "Mole", "capabilities": ["digs"], "limitations": [], "environments": []}]
        assert json.loads(parts.pop("fleet")) == robots
        assert parts == {"task": b"go", "reasoning": b"true", "attention": b"true"}


def test_a_pil_image_goes_as_png() -> None:
    script = Scripted((200, ANSWER))
    with client_of(script) as client:
        client.select("go", image=Image.new("RGB", (9, 7), "red"))
    sent = Image.open(io.BytesIO(parts_of(script.requests[0])["image"]))
    assert (sent.format, sent.size) == ("PNG", (9, 7))


def test_what_is_no_picture_is_not_sent(tmp_path: Path) -> None:
    script = Scripted((200, ANSWER))
    with client_of(script) as client:
        with pytest.raises(TypeError, match="image: int is no picture"):
            client.select("go", image=7)
        with pytest.raises(FileNotFoundError):
            client.select("go", image=tmp_path / "absent.png")
    assert script.requests == []


@given(
    task=st.text(min_size=1, max_size=40),
    fleet=st.sampled_from([None, "port-crew", default_fleet(), [Robot("Solo", ("drives",))]]),
    top_k=st.none() | st.integers(1, 9),
    reasoning=st.none() | st.booleans(),
    attention=st.booleans(),
    image=st.none() | st.binary(max_size=20),
)
def test_every_question_is_what_the_server_takes(**asked: Any) -> None:
    request = SelectRequest.model_validate_json(json.dumps(calls.question(**asked)))
    assert (request.task, request.top_k, request.attention) == (asked["task"], asked["top_k"], asked["attention"])
    assert request.reasoning == asked["reasoning"]
    assert request.image == (None if asked["image"] is None else base64.b64encode(asked["image"]).decode())
    if isinstance(asked["fleet"], Fleet | list):
        assert [robot.name for robot in request.fleet] == [robot.name for robot in asked["fleet"]]  # type: ignore[union-attr]
    else:
        assert request.fleet == asked["fleet"]


def test_the_key_may_come_from_the_environment_and_stays_out_of_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBERVLM_KEY", "ember_env_secret")
    script = Scripted((401, problem(401, "unauthorized")))
    with client_of(script) as client, pytest.raises(Unauthorized) as error:
        client.select("go")
    assert script.requests[0].headers["authorization"] == "Bearer ember_env_secret"
    assert "secret" not in str(error.value)
    assert "secret" not in repr(error.value)
    with pytest.raises(ValueError, match="key: "):
        EmberClient("http://server.test", key="two words")
    with pytest.raises(ValueError, match="url: "):
        EmberClient("server.test")


def test_fleets_by_route() -> None:
    robots = default_fleet().to_dicts()
    fleet = {"name": "crew", "digest": "d", "robots": robots}
    script = Scripted(
        (201, fleet),
        (200, fleet),
        (200, {"default": fleet, "registered": [{"name": "crew", "digest": "d", "robots": 5}]}),
        (204, b""),
    )
    with client_of(script) as client:
        assert client.register_fleet("crew", default_fleet()).name == "crew"
        assert Fleet.of([r.model_dump() for r in client.fleet("crew").robots]) == default_fleet()
        assert client.fleets().registered[0].robots == 5
        client.delete_fleet("crew")
        with pytest.raises(ValueError, match="no name"):
            client.fleet("../secrets")
    sent = [f"{r.method} {r.url.path}" for r in script.requests]
    assert sent == ["PUT /v1/fleets/crew", "GET /v1/fleets/crew", "GET /v1/fleet", "DELETE /v1/fleets/crew"]
    assert json.loads(script.requests[0].content) == {"robots": robots}


# ---------------------------------------------------------------- typed errors


@pytest.mark.parametrize(
    ("status", "slug", "kind", "sent"),
    [
        (400, "malformed", InvalidRequest, 1),
        (401, "unauthorized", Unauthorized, 1),
        (404, "not-found", NotFound, 1),
        (408, "deadline-exceeded", DeadlineExceeded, 1),
        (413, "picture-too-large", InvalidRequest, 1),
        (415, "unsupported-picture", InvalidRequest, 1),
        (422, "invalid", InvalidRequest, 1),
        (429, "quota-exhausted", RateLimited, 1),
        (429, "too-many-fleets", RateLimited, 1),
        (429, "rate-limited", RateLimited, QUICK.attempts),
        (500, "internal", ServerError, QUICK.attempts),
        (503, "overloaded", Overloaded, QUICK.attempts),
        (503, "not-ready", Overloaded, QUICK.attempts),
    ],
)
def test_problems_are_types_and_only_some_are_asked_again(
    status: int, slug: str, kind: type[EmberError], sent: int, pauses: list[float]
) -> None:
    faults = [{"field": "fleet.0.name", "message": "too long"}]
    script = Scripted((status, problem(status, slug, "what is wrong", errors=faults)))
    with client_of(script) as client, pytest.raises(EmberError) as error:
        client.select("go")
    assert type(error.value) is kind
    assert (len(script.requests), error.value.attempts, error.value.request_id) == (sent, sent, "r1")
    assert "what is wrong" in str(error.value)
    assert len({request.headers["x-request-id"] for request in script.requests}) == 1
    if isinstance(error.value, ApiError):
        assert (error.value.status, error.value.slug) == (status, slug)
        assert "fleet.0.name: too long" in str(error.value)


@pytest.mark.parametrize("body", [b"<html>bad gateway</html>", b"", b"\xff\xfe", b"[1]", b'{"status": "x"}'])
def test_a_proxy_that_speaks_no_problem_is_an_error_too(body: bytes, pauses: list[float]) -> None:
    script = Scripted((502, body), (200, ANSWER))
    with client_of(script) as client:
        assert client.select("go").team == ["Drone"]
    script = Scripted((403, body))
    with client_of(script) as client, pytest.raises(Unauthorized) as error:
        client.select("go")
    assert error.value.slug == "http-403"


@pytest.mark.parametrize("body", [b"", b"{}", b"null", b'{"robots": 3}', b"\xff"])
def test_an_answer_that_is_none_is_said_so(body: bytes) -> None:
    with client_of(Scripted((200, body))) as client, pytest.raises(ProtocolError, match="not a SelectAnswer"):
        client.select("go")


# ---------------------------------------------------------------- asking again


def test_refused_and_lost_requests_are_sent_again(pauses: list[float]) -> None:
    script = Scripted(
        (503, problem(503, "overloaded"), {"retry-after": "2"}),
        httpx.ReadError("reset"),
        httpx.RemoteProtocolError("closed"),
        httpx.ConnectError("refused"),
        (200, ANSWER),
    )
    with client_of(script) as client:
        assert client.select("go").team == ["Drone"]
    assert len(pauses) == 4
    assert 2 <= pauses[0] < 3, "as long as the server asked for, and no two clients at the same moment"
    assert max(pauses[1:]) <= QUICK.most_s
    left = [float(request.headers["x-request-timeout"]) for request in script.requests]
    assert left == sorted(left, reverse=True), "the deadline stays where it was"


def test_no_pause_goes_past_the_deadline(pauses: list[float]) -> None:
    script = Scripted((503, problem(503, "overloaded"), {"retry-after": "30"}))
    with client_of(script) as client, pytest.raises(Overloaded) as error:
        client.select("go", timeout=10)
    assert (len(script.requests), pauses, error.value.retry_after) == (1, [], 30.0)


def test_a_lost_connection_is_named_after_the_last_attempt(pauses: list[float]) -> None:
    script = Scripted(httpx.ConnectError("refused"))
    with client_of(script) as client, pytest.raises(ConnectionFailed, match="cannot be reached") as error:
        client.select("go")
    assert error.value.attempts == QUICK.attempts
    assert error.value.request_id == script.requests[0].headers["x-request-id"]


def test_time_that_ran_out_here(pauses: list[float]) -> None:
    script = Scripted(httpx.ReadTimeout("slow"))
    with client_of(script) as client:
        with pytest.raises(DeadlineExceeded):
            client.select("go")
        for timeout in (0, -1, 601, float("nan")):
            with pytest.raises(ValueError, match="timeout: "):
                client.select("go", timeout=timeout)
    assert len(script.requests) == 1


def test_a_deletion_that_was_lost_after_it_happened(pauses: list[float]) -> None:
    with client_of(Scripted(httpx.ReadError("reset"), (404, problem(404, "not-found")))) as client:
        client.delete_fleet("crew")
    with client_of(Scripted((404, problem(404, "not-found")))) as client, pytest.raises(NotFound):
        client.delete_fleet("crew")


@given(
    attempt=st.integers(1, 40), first=st.floats(0.001, 2), most=st.floats(0.001, 20), asked=st.none() | st.floats(0, 90)
)
def test_pauses_grow_to_a_bound_and_keep_to_retry_after(
    attempt: int, first: float, most: float, asked: float | None
) -> None:
    pause = Retry(first_s=first, most_s=most).wait(attempt, asked)
    if asked is None:
        assert min(most, first) / 2 <= pause <= most
    else:
        assert asked <= pause <= asked + 1


def test_retry_after_is_a_number_or_a_date() -> None:
    assert retry_after({"retry-after": " 7 "}) == 7
    assert (
        50 < (retry_after({"retry-after": formatdate(usegmt=True, timeval=__import__("time").time() + 60)}) or 0) < 61
    )
    assert retry_after({"retry-after": formatdate(usegmt=True, timeval=0)}) == 0
    for text in ("", "soon", "-3", "٣"):
        assert retry_after({"retry-after": text}) is None


# ---------------------------------------------------------------- many


def item(number: int) -> dict[str, Any]:
    return {"status": 200, "answer": ANSWER | {"request_id": f"b.{number}"}}


def refused(slug: str, status: int) -> dict[str, Any]:
    return {"status": status, "problem": problem(status, slug)}


def test_a_batch_keeps_the_order_and_asks_again_for_what_was_refused(pauses: list[float]) -> None:
    script = Scripted(
        (200, {"request_id": "b", "items": [item(0), refused("overloaded", 503), refused("unknown-fleet", 422)]}),
        (200, {"request_id": "c", "items": [item(1)]}),
        (200, {"request_id": "d", "items": [item(3)]}),
    )
    with client_of(script) as client:
        fates = client.select_many([{"task": f"t{i}"} for i in range(4)], chunk=3)
    asked = [[q["task"] for q in json.loads(request.content)["requests"]] for request in script.requests]
    assert asked == [["t0", "t1", "t2"], ["t1"], ["t3"]]
    assert isinstance(fates[2], InvalidRequest)
    assert [fate.request_id for fate in fates if isinstance(fate, SelectAnswer)] == ["b.0", "b.1", "b.3"]


def test_the_fate_of_a_whole_call_is_that_of_its_questions(pauses: list[float]) -> None:
    script = Scripted(
        (200, {"request_id": "b", "items": [item(0)]}),
        (422, problem(422, "invalid")),
        (401, problem(401, "unauthorized")),
    )
    with client_of(script) as client:
        fates = client.select_many([{"task": "t"}] * 4, chunk=1)
    assert [type(fate).__name__ for fate in fates] == ["SelectAnswer", "InvalidRequest", "Unauthorized", "Unauthorized"]
    assert len(script.requests) == 3


def test_a_batch_asks_the_server_for_its_bound() -> None:
    version = {
        "name": "embervlm", "version": "3", "alias": None, "source": "folder", "digest": "", "parameters": 1,
        "precision": "fp32", "loaded_at": "", "lineage": {}, "metrics": {}, "golden": {},
    }  # fmt: skip
    model = {
        "serving": version, "previous": None, "challenger": None, "canary_percent": 0, "shadow_percent": 0,
        "rejected": {}, "limits": {"batch": 2}, "replica": "r",
    }  # fmt: skip
    both = (200, {"request_id": "b", "items": [item(0), item(1)]})
    script = Scripted((200, model), both)
    with client_of(script) as client:
        assert len(client.select_many([{"task": "t"}] * 4)) == 4
        assert client.select_many([]) == []
    assert len(script.requests) == 3


def test_items_that_do_not_match_the_questions() -> None:
    script = Scripted((200, {"request_id": "b", "items": [item(0)]}))
    with client_of(script) as client:
        fates = client.select_many([{"task": "t"}] * 2, chunk=2)
    assert [str(fate) for fate in fates] == ["1 items answer 2 requests"] * 2


# ---------------------------------------------------------------- asyncio, imports


def test_both_clients_have_the_same_methods() -> None:
    def shape(kind: type) -> dict[str, list[str]]:
        found = inspect.getmembers(kind, inspect.isfunction)
        return {name: list(inspect.signature(f).parameters) for name, f in found if not name.startswith("_")}

    assert shape(AsyncEmberClient) == shape(EmberClient)
    assert list(inspect.signature(AsyncEmberClient).parameters) == list(inspect.signature(EmberClient).parameters)


def test_asyncio_retries_and_types_alike() -> None:
    script = Scripted((503, problem(503, "overloaded")), httpx.ReadError("reset"), (200, ANSWER))
    refusing = Scripted((422, problem(422, "invalid")))

    async def ask() -> None:
        async with AsyncEmberClient("http://server.test", retry=QUICK, transport=script.transport) as client:
            answers = await asyncio.gather(*(client.select("go", image=b"p") for _ in range(3)))
        assert [answer.team for answer in answers] == [["Drone"]] * 3
        async with AsyncEmberClient("http://server.test", retry=QUICK, transport=refusing.transport) as client:
            with pytest.raises(InvalidRequest):
                await client.select("go")

    asyncio.run(ask())
    assert len(script.requests) == 5


def test_a_robotics_team_needs_neither_torch_nor_ray() -> None:
    code = (
        "import sys, ember_platform.client; print([m for m in ('torch', 'ray', 'mlflow', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


def test_who_answers_is_in_every_answer() -> None:
    assert SelectAnswer.model_validate(ANSWER).model.model_dump() == MODEL
