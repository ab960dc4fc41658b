"""The client that waits: one method per route."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import httpx
import httpx_sse

from ember_platform.client import calls
from ember_platform.client.calls import Event, Reply, Retry, Script, Send, T
from ember_platform.client.connection import DEFAULT_TIMEOUT_S, failure, settings
from ember_platform.client.errors import ConnectionFailed, EmberError
from ember_platform.serving.schemas import FleetAnswer, FleetList, ModelAnswer, SelectAnswer


class EmberClient:
    """A client of one endpoint. Threads may share it; close it, or use it as a context.

    Args:
        url: where the endpoint is, as `http://127.0.0.1:8000`.
        key: the bearer key; the environment's EMBERVLM_KEY where None.
        timeout: seconds that a call may take with all its attempts, where the call names no other; at most 600.
        retry: how often and after which pauses a call is sent again.
        http: keywords of `httpx.Client`, such as `verify`, `proxy` or `limits`.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
        retry: Retry | None = None,
        **http: Any,
    ) -> None:
        self.timeout = timeout
        self.retry = retry or Retry()
        self._http = httpx.Client(**settings(url, key, http))

    def __enter__(self) -> EmberClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # ------------------------------------------------------------ selection

    def select(
        self,
        task: str,
        image: Any = None,
        fleet: Any = None,
        top_k: int | None = None,
        reasoning: bool | None = None,
        attention: bool = False,
        timeout: float | None = None,
    ) -> SelectAnswer:
        """Which robots should do the task.

        Args:
            task: what is to be done, in words.
            image: path, bytes of a file, or PIL image of the scene; None for a task without a picture.
            fleet: the name of a registered fleet, a `Fleet`, a list of robots, a `Path` of a file; None: the default.
            top_k: robots listed at most.
            reasoning: write the reasoning and the plan.
            attention: also say where in the picture the model looked.
            timeout: seconds for this call.

        Raises:
            EmberError: what went wrong, typed. FleetError, OSError: a fleet or a picture that cannot be used.
        """
        options = {"top_k": top_k, "reasoning": reasoning, "attention": attention}
        body = calls.select_body(task, image, fleet, **options)
        return self._run(calls.typed(SelectAnswer, self._call("POST", "/v1/select", timeout, body)))

    def stream(
        self,
        task: str,
        image: Any = None,
        fleet: Any = None,
        top_k: int | None = None,
        reasoning: bool | None = None,
        attention: bool = False,
        timeout: float | None = None,
    ) -> Iterator[Event]:
        """As `select`, with the reasoning as it is written.

        Yields:
            `StreamStart`, `ReasoningDelta`s, `PlanDelta`s, and last the `SelectAnswer`.

        Raises:
            EmberError: as `select`; a stream that began is not begun again, but ends with the error.
        """
        options = {"top_k": top_k, "reasoning": reasoning, "attention": attention}
        body = calls.select_body(task, image, fleet, **options)
        deadline = time.monotonic() + (timeout or self.timeout)
        reply = self._run(self._call("POST", "/v1/select", timeout, body, stream=True))
        request_id = reply.headers.get("x-request-id", "")
        assert reply.response is not None
        try:
            for event in httpx_sse.EventSource(reply.response).iter_sse():
                calls.check_deadline(deadline, request_id)
                found = calls.event_of(event.event, event.data, request_id)
                yield found
                if isinstance(found, SelectAnswer):
                    return
            raise ConnectionFailed("the stream ended before its answer", request_id)
        except httpx.HTTPError as error:
            raise failure(error, request_id) from error
        finally:
            reply.response.close()

    def select_many(
        self, requests: Sequence[Mapping[str, Any]], chunk: int | None = None, timeout: float | None = None
    ) -> list[SelectAnswer | EmberError]:
        """Many questions: mappings of `select`'s arguments.

        Args:
            chunk: questions to a call; the server's own bound where None.
            timeout: seconds for one call.

        Returns:
            In the order of the questions an answer or the error that is its fate.
        """
        if not requests:
            return []
        chunk = chunk or self.model().limits["batch"]
        return self._run(calls.select_many(calls.questions(requests), chunk, self.retry, timeout or self.timeout))

    # --------------------------------------------------------------- fleets

    def fleets(self) -> FleetList:
        """The default fleet, and which ones are registered."""
        return self._run(calls.typed(FleetList, self._call("GET", "/v1/fleet")))

    def fleet(self, name: str) -> FleetAnswer:
        """A registered fleet. Raises `NotFound` where there is none."""
        return self._run(calls.typed(FleetAnswer, self._call("GET", calls.fleet_path(name))))

    def register_fleet(self, name: str, fleet: Any) -> FleetAnswer:
        """Register a fleet (a `Fleet`, a list of robots, a file), or replace it; from then on `fleet=name` means it."""
        body = calls.robots_body(fleet)
        return self._run(calls.typed(FleetAnswer, self._call("PUT", calls.fleet_path(name), None, body)))

    def delete_fleet(self, name: str) -> None:
        """Forget a registered fleet. Raises `NotFound` where there is none."""
        self._run(calls.gone(self._call("DELETE", calls.fleet_path(name))))

    # ------------------------------------------------------------- the rest

    def model(self) -> ModelAnswer:
        """What is served, and the server's limits."""
        return self._run(calls.typed(ModelAnswer, self._call("GET", "/v1/model")))

    def wait_ready(self, timeout: float | None = None) -> None:
        """Return as soon as a model answers.

        Raises:
            Overloaded, ConnectionFailed: none did in time.
        """
        patient = Retry(attempts=10_000, first_s=0.1, most_s=1.0)
        self._run(calls.call("GET", "/readyz", patient, timeout or self.timeout))

    # --------------------------------------------------------------- inside

    def _call(
        self,
        method: str,
        path: str,
        timeout: float | None = None,
        body: dict[str, Any] | None = None,
        stream: bool = False,
    ) -> Script[Reply]:
        return calls.call(method, path, self.retry, self.timeout if timeout is None else timeout, body, stream)

    def _run(self, script: Script[T]) -> T:
        try:
            step = next(script)
            while True:
                if isinstance(step, Send):
                    try:
                        reply = self._send(step)
                    except EmberError as error:
                        step = script.throw(error)
                    else:
                        step = script.send(reply)
                else:
                    time.sleep(step)
                    step = script.send(None)
        except StopIteration as done:
            return done.value

    def _send(self, send: Send) -> Reply:
        request = self._http.build_request(
            send.method, send.path, headers=send.headers, timeout=send.timeout, **send.body
        )
        try:
            response = self._http.send(request, stream=True)
            if send.stream and response.is_success:
                return Reply(response.status_code, response.headers, response=response)
            try:
                # In pieces: httpx bounds the wait for each, and nothing else bounds all of them.
                deadline, pieces = time.monotonic() + float(send.timeout.read or 0), []
                for piece in response.iter_bytes():
                    calls.check_deadline(deadline, send.headers["X-Request-ID"])
                    pieces.append(piece)
                return Reply(response.status_code, response.headers, b"".join(pieces))
            finally:
                response.close()
        except httpx.HTTPError as error:
            raise failure(error) from error
