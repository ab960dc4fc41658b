"""A replica: requests in, answers out. No HTTP here and no Ray; `http` and `serve/app.py` put those around it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ember_platform.config import RunConfig
from ember_platform.config_serving import LimitsConfig, RolloutConfig
from ember_platform.serving import answers
from ember_platform.serving.comparison import Recorder, draw, recorded
from ember_platform.serving.drift import Drift, training_reference
from ember_platform.serving.engine import Engine, Request
from ember_platform.serving.fleets import FleetBook, NamedFleet
from ember_platform.serving.keys import ANYONE, Key, Keys, Usage
from ember_platform.serving.limits import check_text
from ember_platform.serving.metrics import Metrics
from ember_platform.serving.narrator import Narrator
from ember_platform.serving.problems import ProblemError
from ember_platform.serving.rollout import Rollout
from ember_platform.serving.schemas import ModelAnswer, SelectAnswer, SelectRequest, StreamDelta, StreamStart
from ember_platform.serving.shared import SharedState
from ember_platform.serving.sources import Source, source_of
from ember_platform.serving.worker import EngineFailedError, Job, OnToken, Worker
from ember_platform.train.precision import resolve_precision

logger = logging.getLogger(__name__)

SYNC_S = 1.0
DRIFT_EVERY = 10  # syncs
#: Shadow questions that may wait for a quiet moment; further ones are dropped and counted.
SHADOW_QUEUE = 8
Event = tuple[str, StreamStart | StreamDelta | SelectAnswer]


@dataclass
class Call:
    """Who asks, since when (`time.monotonic`), and how long the answer is of use."""

    request_id: str
    deadline: float
    key: Key = ANYONE
    arrived: float = field(default_factory=time.monotonic)


def threads_for(config: RunConfig) -> int:
    """Compute threads of a replica: its share of the machine's cores."""
    wanted = config.serving.replica.threads
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return wanted if wanted != "auto" else max(1, min(cores, math.floor(config.serving.replica.cpus)))


class Service:
    """See the module.

    Args:
        source: where versions come from; of `serving.model` where None.
    """

    def __init__(
        self,
        config: RunConfig,
        shared: SharedState,
        metrics: Metrics,
        replica: str = "local",
        source: Source | None = None,
    ) -> None:
        serving = config.serving
        self.config = config
        self.limits: LimitsConfig = serving.limits
        self.metrics = metrics
        self.replica = replica
        self.keys = Keys(serving.keys)
        self.usage = Usage()
        self.book = FleetBook(shared, serving.limits)
        self.worker = Worker(serving.replica, threads_for(config))
        self.worker.on_batch = self._saw_batch
        self.drift = Drift(serving.drift.window)
        self.recorder = Recorder(serving.state_dir, replica, serving.rollout.record_bytes)
        self._shared = shared
        self._recent: OrderedDict[Any, None] = OrderedDict()
        device = "cuda" if serving.replica.gpus else "cpu"
        precision = resolve_precision(serving.replica.precision, device, "serving.replica.precision")
        self.rollout = Rollout(
            serving.rollout,
            source or source_of(config),
            self.worker,
            metrics,
            "bf16" if precision == "bf16" else "fp32",
            serving.replica.fleet_cache,
            device,
            lambda: list(self._recent),
        )
        self._decoders = ThreadPoolExecutor(serving.replica.decode_threads, thread_name_prefix="ember-decode")
        self._tasks: set[asyncio.Task[Any]] = set()
        self.draining = False
        self._shadows = 0
        self._syncs = 0
        self._started = False

    # ------------------------------------------------------------ life

    async def start(self) -> None:
        """Load the champion and begin to follow the registry; does nothing the second time.

        Raises:
            UnfitError, RegistryError: there is nothing that can be served.
        """
        if self._started:
            return
        self._started = True
        self.worker.start()
        try:
            await self._sync(first=True)
            await self.rollout.start()
        except BaseException:
            self._started = False
            self.worker.stop()
            raise
        assert self.rollout.champion is not None
        size = self.rollout.champion.image_size
        self.drift.reference = await asyncio.to_thread(training_reference, self.config, size)
        for loop in (self._follow(), self._sync_on()):
            self._keep(asyncio.create_task(loop))

    async def stop(self) -> None:
        """End every task and thread."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self.worker.stop)
        self._decoders.shutdown(wait=False, cancel_futures=True)
        with contextlib.suppress(OSError):
            await self._sync()

    def reconfigure(self, rollout: RolloutConfig, draining: bool = False) -> None:
        """Change how versions take over, and whether new requests are taken, while those under way go on."""
        self.rollout.config = rollout
        self.draining = draining

    @property
    def ready(self) -> bool:
        """Whether a model answers."""
        return self.rollout.champion is not None and self.worker.alive and not self.draining

    def check(self) -> None:
        """For a health check.

        Raises:
            RuntimeError: the thread on which the model computes has died.
        """
        if self._started and not self.worker.alive:
            raise RuntimeError("the model's thread has died")

    def _keep(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self.rollout.config.poll_s)
            try:
                await self.rollout.poll()
            except Exception as error:  # noqa: BLE001  logged, and tried again
                # The registry may be away for any reason; what is loaded goes on answering.
                logger.error("rollout: the registry could not be followed (%s): %s", type(error).__name__, error)

    async def _sync_on(self) -> None:
        while True:
            await asyncio.sleep(SYNC_S)
            try:
                await self._sync()
            except Exception as error:  # noqa: BLE001  logged, and tried again
                logger.error("sync: the shared state does not answer (%s): %s", type(error).__name__, error)

    async def _sync(self, first: bool = False) -> None:
        """Tell the others what was used here, and learn from them."""
        await asyncio.to_thread(self.keys.refresh)
        unsent, self.rollout.unsent = self.rollout.unsent, {}
        try:
            snapshot = await self._shared.sync(self.replica, self.usage.unsent(), unsent, self.rollout.aliases)
        except BaseException:
            self.rollout.unsent = {**unsent, **self.rollout.unsent}
            raise
        self.usage.learn(snapshot.usage)
        self.book.learn(snapshot.fleets_revision)
        self.rollout.learn(snapshot.rejected)
        self.metrics.put("ember_queue", self.worker.pending)
        self._syncs += 1
        if not first and self._syncs % DRIFT_EVERY == 0:
            for name, index in self.drift.indices().items():
                self.metrics.put("ember_drift", index, feature=name)

    def _saw_batch(self, kind: str, size: int, seconds: float) -> None:
        self.metrics.see("ember_batch_size", size, kind=kind)

    # ------------------------------------------------------------ questions

    async def select(
        self, question: SelectRequest, content: bytes | None, call: Call, prefix: str = ""
    ) -> SelectAnswer:
        """Answer a question.

        Args:
            content: the picture's bytes, or None.
            prefix: of field names in errors, as "requests.3.".

        Raises:
            ProblemError: what is wrong with the question, or that it cannot be answered now.
        """
        return await self._select(question, content, call, prefix, bool(question.reasoning), None)

    async def stream(self, question: SelectRequest, content: bytes | None, call: Call) -> AsyncIterator[Event]:
        """Answer a question bit by bit: start, pieces of text, answer.

        Raises:
            ProblemError: as `select`; before the first event where it is known by then.
        """
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Event | BaseException] = asyncio.Queue()
        narrator: list[Narrator] = []

        def begin(engine: Engine, fleet: NamedFleet) -> None:
            narrator[:] = [Narrator(engine.model.processor, fleet.fleet.names)]
            queue.put_nowait(("start", StreamStart(request_id=call.request_id, model=engine.ref)))

        def tell(token: int, mention: int) -> None:
            for event in narrator[0].feed(token, mention):
                queue.put_nowait(event)

        def on_token(token: int, mention: int) -> None:
            loop.call_soon_threadsafe(tell, token, mention)

        async def work() -> None:
            reasoning = question.reasoning is not False
            try:
                answer = await self._select(question, content, call, "", reasoning, on_token, begin)
                for event in narrator[0].end():
                    queue.put_nowait(event)
                queue.put_nowait(("answer", answer))
            except Exception as error:  # noqa: BLE001  raised where the events are read
                queue.put_nowait(error)

        task = asyncio.create_task(work())
        try:
            while True:
                event = await queue.get()
                if isinstance(event, BaseException):
                    raise event
                yield event
                if event[0] == "answer":
                    return
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def check_room(self, deadline: float, reasoning: bool, places: int = 1) -> None:
        """That a request can be taken: asked before a picture is decoded, and not after.

        Raises:
            ProblemError: this replica is about to stop; or see `Worker.check_room`.
        """
        if self.draining:
            raise ProblemError("shutting-down", "This replica is about to stop.", retry_after_s=1)
        self.worker.check_room(deadline, reasoning, places)

    async def _select(
        self,
        question: SelectRequest,
        content: bytes | None,
        call: Call,
        prefix: str,
        reasoning: bool,
        on_token: OnToken | None,
        begin: Any = None,
    ) -> SelectAnswer:
        self.check_room(call.deadline, reasoning)
        check_text(question.task, f"{prefix}task", self.limits.task_chars)
        fleet = await self.book.find(question.fleet, call.key.tenant, f"{prefix}fleet")
        drawn = draw(call.request_id, self.rollout.config.canary_percent, self.rollout.config.shadow_percent)
        engine = self._engine_for(drawn)
        job = await self._prepared(engine, question, fleet, content, call, prefix, reasoning, on_token)
        if begin is not None:
            self.worker.check_room(call.deadline, reasoning)  # refused before the first event, where it can be
            begin(engine, fleet)
        job, answer = await self._answered(job, question, fleet, content, call, prefix)
        self._note(job, answer, fleet, drawn, call)
        return answers.select_answer(job, answer, question, fleet, call.request_id, call.arrived, reasoning)

    def _engine_for(self, drawn: str | None) -> Engine:
        champion, challenger = self.rollout.champion, self.rollout.challenger
        if champion is None:
            raise ProblemError("not-ready", "No model is loaded yet.", retry_after_s=5)
        return challenger if drawn == "canary" and challenger is not None else champion

    async def _prepared(
        self,
        engine: Engine,
        question: SelectRequest,
        fleet: NamedFleet,
        content: bytes | None,
        call: Call,
        prefix: str,
        reasoning: bool,
        on_token: OnToken | None,
    ) -> Job:
        loop = asyncio.get_running_loop()
        self.worker.preparing += 1
        try:
            request: Request = await loop.run_in_executor(
                self._decoders,
                partial(engine.prepare, question.task, fleet.fleet, content, question.attention, self.limits, prefix),
            )
        finally:
            self.worker.preparing -= 1
        hit = engine.model.knows_fleet(fleet.fleet)
        self.metrics.add("ember_fleet_cache", outcome="hit" if hit else "miss")
        self._recent[fleet.fleet] = None
        self._recent.move_to_end(fleet.fleet)
        while len(self._recent) > self.config.serving.replica.fleet_cache:
            self._recent.popitem(last=False)
        return Job(engine, request, reasoning, call.deadline, on_token)

    async def _answered(
        self, job: Job, question: SelectRequest, fleet: NamedFleet, content: bytes | None, call: Call, prefix: str
    ) -> tuple[Job, dict[str, Any]]:
        """The model's answer; where its version fails and another one is there, that one's."""
        try:
            answer = await asyncio.wrap_future(self.worker.submit(job))
            self.rollout.outcome(job.engine, True)
            return job, answer
        except EngineFailedError as error:
            other = self.rollout.replacement(job.engine)
            if other is None or other.version == job.engine.version:
                raise ProblemError("internal", "The model failed on this request.") from error
        try:
            # The text of the version that failed may have been shown in part: its successor's comes as a whole.
            again = await self._prepared(other, question, fleet, content, call, prefix, job.reasoning, None)
            answer = await asyncio.wrap_future(self.worker.submit(again))
        except EngineFailedError as error:
            # Both failed: more likely the request's fault than the version's, so that it is not counted.
            raise ProblemError("internal", "The model failed on this request.") from error
        self.rollout.outcome(job.engine, False)
        return again, answer

    # ------------------------------------------------------------ afterwards

    def _note(self, job: Job, answer: dict[str, Any], fleet: NamedFleet, drawn: str | None, call: Call) -> None:
        """Metrics, drift and the comparison's record."""
        first = answer["robots"][0]
        known = fleet.name == "default"
        self.metrics.add("ember_robot_first", robot=first["robot"] if known else "other")
        self.metrics.see("ember_confidence", first["confidence"])
        for part, seconds in (
            ("read", job.queued - call.arrived),
            ("queue", job.started - job.queued),
            ("model", job.finished - job.started),
            ("total", time.monotonic() - call.arrived),
        ):
            self.metrics.see("ember_latency_ms", 1000 * seconds, part=part)
        self.drift.see(job.request.task, len(fleet.fleet), job.request.image)
        challenger = self.rollout.challenger
        if drawn is None or challenger is None:
            return
        if drawn == "shadow":
            self._shadow(job, answer, fleet, challenger, call)
            return
        side = "challenger" if job.engine is challenger else "champion"
        other = "champion" if side == "challenger" else "challenger"
        mine = recorded(job.engine.version, answer, 1000 * (job.finished - job.started))
        self._record("canary", job, fleet, call, **{side: mine, other: None})

    def _shadow(self, job: Job, answer: dict[str, Any], fleet: NamedFleet, challenger: Engine, call: Call) -> None:
        if self._shadows >= SHADOW_QUEUE or challenger.image_size != job.engine.image_size:
            self.metrics.add("ember_shadow", outcome="dropped")
            return
        self._shadows += 1
        self._keep(asyncio.create_task(self._shadowed(job, answer, fleet, challenger, call)))

    async def _shadowed(
        self, job: Job, answer: dict[str, Any], fleet: NamedFleet, challenger: Engine, call: Call
    ) -> None:
        """The challenger's answer to a request that was answered already, in a quiet moment."""
        champion = recorded(job.engine.version, answer, 1000 * (job.finished - job.started))

        def ask() -> tuple[dict[str, Any], float]:
            started = time.monotonic()
            if not job.reasoning:
                other = challenger.select([job.request])[0]
            else:
                steps = challenger.reason([job.request], self.config.serving.replica.max_new_tokens)
                other = answers.drained(steps)[0]
            return other, 1000 * (time.monotonic() - started)

        try:
            other, milliseconds = await self.worker.aidle(ask)
            agreed = other["robots"][0]["robot"] == answer["robots"][0]["robot"]
            self.metrics.add("ember_shadow", outcome="agreed" if agreed else "differed")
            rival = recorded(challenger.version, other, milliseconds)
            self.rollout.outcome(challenger, True)
        except Exception as error:
            logger.warning("shadow: version %s failed: %s", challenger.version, type(error).__name__, exc_info=error)
            self.metrics.add("ember_shadow", outcome="failed")
            self.rollout.outcome(challenger, False)
            rival = recorded(challenger.version, None, 0.0, type(error).__name__)
        finally:
            self._shadows -= 1
        self._record("shadow", job, fleet, call, champion=champion, challenger=rival)

    def _record(self, kind: str, job: Job, fleet: NamedFleet, call: Call, **sides: Any) -> None:
        values = {
            "kind": kind,
            "request_id": call.request_id,
            "task_chars": len(job.request.task),
            "has_image": job.request.image is not None,
            "fleet_digest": fleet.digest,
            "reasoning": job.reasoning,
            **sides,
        }
        self._keep(asyncio.create_task(asyncio.to_thread(self.recorder.write, **values)))

    # ------------------------------------------------------------ fleets and model

    async def register(self, name: str, fleet: NamedFleet, call: Call) -> bool:
        """Register a fleet and compute its keys and values; True where the name is new.

        Raises:
            ProblemError: a description that the model cannot read, or no more room for fleets.
        """
        engine = self._engine_for(None)
        await asyncio.get_running_loop().run_in_executor(self._decoders, engine.check_fleet, fleet.fleet, "robots")
        new = await self.book.put(call.key.tenant, name, fleet)
        self._recent[fleet.fleet] = None
        await self.worker.aidle(lambda: engine.read_fleet(fleet.fleet))
        return new

    def describe(self) -> ModelAnswer:
        """What this replica serves.

        Raises:
            ProblemError: nothing yet.
        """
        rollout, limits = self.rollout, self.limits
        if rollout.champion is None:
            raise ProblemError("not-ready", "No model is loaded yet.", retry_after_s=5)
        return ModelAnswer(
            serving=rollout.champion.info(),
            previous=rollout.previous.info() if rollout.previous else None,
            challenger=rollout.challenger.info() if rollout.challenger else None,
            canary_percent=rollout.config.canary_percent,
            shadow_percent=rollout.config.shadow_percent,
            rejected={version: verdict.why for version, verdict in rollout.verdicts.items()},
            limits={name: int(value) for name, value in limits.model_dump().items()},
            replica=self.replica,
        )
