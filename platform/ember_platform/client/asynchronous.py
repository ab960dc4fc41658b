"""The client for asyncio: `EmberClient` with every method awaited."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import httpx
import httpx_sse

from ember_platform.client import calls
from ember_platform.client.calls import Event, Reply, Retry, Script, Send, T
from ember_platform.client.connection import DEFAULT_TIMEOUT_S, failure, settings
from ember_platform.client.errors import ConnectionFailed, DeadlineExceeded, EmberError
from ember_platform.serving.schemas import FleetAnswer, FleetList, ModelAnswer, SelectAnswer


class AsyncEmberClient:
    """`EmberClient` for asyncio: the same arguments, methods and errors. A cancelled call closes its connection, by
    which the server knows that nobody waits for the answer any more.
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
        self._http = httpx.AsyncClient(**settings(url, key, http))

    async def __aenter__(self) -> AsyncEmberClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    # ------------------------------------------------------------ selection

    async def select(
        self,
        task: str,
        image: Any = None,
        fleet: Any = None,
        top_k: int | None = None,
        reasoning: bool | None = None,
        attention: bool = False,
        timeout: float | None = None,
    ) -> SelectAnswer:
        """See `EmberClient.select`."""
        options = {"top_k": top_k, "reasoning": reasoning, "attention": attention}
        # Reading a file and encoding a picture do not hold up the event loop.
        body = await asyncio.to_thread(calls.select_body, task, image, fleet, **options)
        return await self._run(calls.typed(SelectAnswer, self._call("POST", "/v1/select", timeout, body)))

    async def stream(
        self,
        task: str,
        image: Any = None,
        fleet: Any = None,
        top_k: int | None = None,
        reasoning: bool | None = None,
        attention: bool = False,
        timeout: float | None = None,
    ) -> AsyncIterator[Event]:
        """See `EmberClient.stream`."""
        options = {"top_k": top_k, "reasoning": reasoning, "attention": attention}
        body = await asyncio.to_thread(calls.select_body, task, image, fleet, **options)
        deadline = time.monotonic() + (timeout or self.timeout)
        reply = await self._run(self._call("POST", "/v1/select", timeout, body, stream=True))
        request_id = reply.headers.get("x-request-id", "")
        assert reply.response is not None
        try:
            async for event in httpx_sse.EventSource(reply.response).aiter_sse():
                calls.check_deadline(deadline, request_id)
                found = calls.event_of(event.event, event.data, request_id)
                yield found
                if isinstance(found, SelectAnswer):
                    return
            raise ConnectionFailed("the stream ended before its answer", request_id)
        except httpx.HTTPError as error:
            raise failure(error, request_id) from error
        finally:
            await reply.response.aclose()

    async def select_many(
        self, requests: Sequence[Mapping[str, Any]], chunk: int | None = None, timeout: float | None = None
    ) -> list[SelectAnswer | EmberError]:
        """See `EmberClient.select_many`."""
        if not requests:
            return []
        chunk = chunk or (await self.model()).limits["batch"]
        asked = await asyncio.to_thread(calls.questions, requests)
        return await self._run(calls.select_many(asked, chunk, self.retry, timeout or self.timeout))

    # --------------------------------------------------------------- fleets

    async def fleets(self) -> FleetList:
        """See `EmberClient.fleets`."""
        return await self._run(calls.typed(FleetList, self._call("GET", "/v1/fleet")))

    async def fleet(self, name: str) -> FleetAnswer:
        """See `EmberClient.fleet`."""
        return await self._run(calls.typed(FleetAnswer, self._call("GET", calls.fleet_path(name))))

    async def register_fleet(self, name: str, fleet: Any) -> FleetAnswer:
        """See `EmberClient.register_fleet`."""
        body = calls.robots_body(fleet)
        return await self._run(calls.typed(FleetAnswer, self._call("PUT", calls.fleet_path(name), None, body)))

    async def delete_fleet(self, name: str) -> None:
        """See `EmberClient.delete_fleet`."""
        await self._run(calls.gone(self._call("DELETE", calls.fleet_path(name))))

    # ------------------------------------------------------------- the rest

    async def model(self) -> ModelAnswer:
        """See `EmberClient.model`."""
        return await self._run(calls.typed(ModelAnswer, self._call("GET", "/v1/model")))

    async def wait_ready(self, timeout: float | None = None) -> None:
        """See `EmberClient.wait_ready`."""
        patient = Retry(attempts=10_000, first_s=0.1, most_s=1.0)
        await self._run(calls.call("GET", "/readyz", patient, timeout or self.timeout))

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

    async def _run(self, script: Script[T]) -> T:
        try:
            step = next(script)
            while True:
                if isinstance(step, Send):
                    try:
                        reply = await self._send(step)
                    except EmberError as error:
                        step = script.throw(error)
                    else:
                        step = script.send(reply)
                else:
                    await asyncio.sleep(step)
                    step = script.send(None)
        except StopIteration as done:
            return done.value

    async def _send(self, send: Send) -> Reply:
        request = self._http.build_request(
            send.method, send.path, headers=send.headers, timeout=send.timeout, **send.body
        )
        try:
            response = await self._http.send(request, stream=True)
            if send.stream and response.is_success:
                return Reply(response.status_code, response.headers, response=response)
            try:
                async with asyncio.timeout(send.timeout.read):
                    return Reply(response.status_code, response.headers, await response.aread())
            except TimeoutError as error:
                raise DeadlineExceeded("the answer did not end within the deadline") from error
            finally:
                await response.aclose()
        except httpx.HTTPError as error:
            raise failure(error) from error
