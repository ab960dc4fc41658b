"""The thread on which the model computes: requests in batches, reasoning a token at a time between them.

A request that comes alone is worked on at once; those that come while the model is busy share the next pass. Texts
that are being written take one step after every pass over waiting requests, so that a selection never waits for a
whole text. Work that nobody waits for (golden questions, shadow answers) comes after both, one piece at a time.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from ember_platform.config_serving import ReplicaConfig
from ember_platform.serving.engine import Engine, Request
from ember_platform.serving.problems import ProblemError

logger = logging.getLogger(__name__)

#: Weight of the newest measurement in running means.
NEWEST = 0.2
#: Tokens of a text, until the first ones were written.
USUAL_TOKENS = 96
#: A wait that is expected must fit this many times into the time left: passes take longer now and then, and an answer
#: has a way to go. In five minutes of overload 2.8% of the answers were more than 0.1 s late at 1.1, 0.25% at 1.4.
MARGIN = 2.0
OnToken = Callable[[int, int], None]


class EngineFailedError(RuntimeError):
    """The model failed on a request that was checked before. `engine` says which version it was."""

    def __init__(self, engine: Engine, cause: BaseException) -> None:
        super().__init__(f"version {engine.version}: {type(cause).__name__}: {cause}")
        self.engine = engine


@dataclass(eq=False)
class Job:
    """A request on its way. `deadline` and the other times are of `time.monotonic`."""

    engine: Engine
    request: Request
    reasoning: bool
    deadline: float
    on_token: OnToken | None = None
    result: Future[dict[str, Any]] = field(default_factory=Future)
    queued: float = field(default_factory=time.monotonic)
    started: float = 0.0
    finished: float = 0.0
    batch_size: int = 0

    def dead(self) -> bool:
        """Whether nobody waits any more; a deadline that has passed is told."""
        if self.result.cancelled():
            return True
        if time.monotonic() > self.deadline:
            self.fail(ProblemError("deadline-exceeded", "The answer would have come after the request's deadline."))
            return True
        return False

    def done(self, answer: dict[str, Any]) -> None:
        """Give the answer, unless the caller has gone."""
        self.finished = time.monotonic()
        if self.result.set_running_or_notify_cancel():
            self.result.set_result(answer)

    def fail(self, error: BaseException) -> None:
        """Give the error, unless the caller has gone."""
        self.finished = time.monotonic()
        if self.result.set_running_or_notify_cancel():
            self.result.set_exception(error)


@dataclass
class _Writing:
    """A batch of texts under way."""

    jobs: list[Job]
    steps: Generator[Any, Any, list[dict[str, Any]]]
    ended: list[bool]
    tokens: int = 0


class Worker:
    """See the module. `submit` and `idle` are called from any thread."""

    def __init__(self, config: ReplicaConfig, threads: int) -> None:
        self.config = config
        self.threads = threads
        self._lock = threading.Condition()
        self._selects: deque[Job] = deque()
        self._writes: deque[Job] = deque()
        self._pieces: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._writing: list[_Writing] = []
        self._busy = 0
        self._stopped = False
        #: Admitted requests whose pictures are still being decoded; kept by the caller.
        self.preparing = 0
        self.select_s = 0.0  # running means: seconds per selection, per token of a batch, tokens per text
        self.token_s = 0.0
        self.text_tokens = float(USUAL_TOKENS)
        self.on_batch: Callable[[str, int, float], None] = lambda kind, size, seconds: None
        self._thread = threading.Thread(target=self._run, name="ember-model", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the pass under way and end; whoever still waits is told so."""
        with self._lock:
            self._stopped = True
            self._lock.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout=30)
        error = ProblemError("shutting-down", "This replica is about to stop.", retry_after_s=1)
        for job in [*self._selects, *self._writes, *(job for w in self._writing for job in w.jobs)]:
            if not job.result.done():
                job.fail(error)
        for _, future in self._pieces:
            future.cancel()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    # ------------------------------------------------------------ from other threads

    @property
    def pending(self) -> int:
        """Requests that wait or are worked on."""
        with self._lock:
            return self._pending()

    def _pending(self) -> int:
        waiting = len(self._selects) + len(self._writes) + self.preparing
        return waiting + self._busy + sum(len(w.jobs) for w in self._writing)

    def expected_wait(self, reasoning: bool) -> float:
        """Seconds until a request that came now would be answered, by the running means."""
        with self._lock:
            return self._expected(reasoning)

    def _expected(self, reasoning: bool) -> float:
        step = self.token_s * max(1, len(self._writing))
        selects = (len(self._selects) + self._busy + self.preparing + 1) * self.select_s
        if not reasoning:
            return selects + (step if self._writing else 0.0)
        room = self.config.max_writing - len(self._writing)
        ahead = len(self._writes) // self.config.max_batch + (0 if room > 0 else 1)
        return selects + (1 + ahead / self.config.max_writing) * self.text_tokens * max(step, self.token_s)

    def check_room(self, deadline: float, reasoning: bool, places: int = 1) -> None:
        """That so many requests can be answered in time, as far as can be told.

        Raises:
            ProblemError: the queue is full, or the answer would come too late: told at once, not after the wait.
        """
        with self._lock:
            # Without anybody ahead it is tried: means that were spoilt by a slow moment must be able to recover.
            waits = self._expected(reasoning) if self._pending() else 0.0
            if self._stopped:
                raise ProblemError("shutting-down", "This replica is about to stop.", retry_after_s=1)
            if self._pending() + places > self.config.queue:
                raise ProblemError("overloaded", "All places in the queue are taken.", retry_after_s=max(1.0, waits))
        if time.monotonic() + waits * MARGIN > deadline:
            text = f"An answer would take about {waits:.2g} s, longer than the request has."
            raise ProblemError("overloaded", text, retry_after_s=max(1.0, waits))

    def submit(self, job: Job) -> Future[dict[str, Any]]:
        """Queue a request; `cancel()` of the result takes it back.

        Raises:
            ProblemError: see `check_room`.
        """
        self.check_room(job.deadline, job.reasoning)
        with self._lock:
            (self._writes if job.reasoning else self._selects).append(job)
            self._lock.notify()
        return job.result

    def idle(self, function: Callable[[], Any]) -> Future[Any]:
        """Call a function on the model's thread between requests."""
        future: Future[Any] = Future()
        with self._lock:
            if self._stopped:
                future.cancel()
            else:
                self._pieces.append((function, future))
                self._lock.notify()
        return future

    async def aidle(self, function: Callable[[], Any]) -> Any:
        """The same, awaited."""
        return await asyncio.wrap_future(self.idle(function))

    # ------------------------------------------------------------ on the thread

    def _run(self) -> None:
        import torch

        # The first parallel operation of a thread takes the number that any thread set last, so it comes first.
        torch.get_num_threads()
        torch.set_num_threads(self.threads)
        while True:
            with self._lock:
                while not (self._stopped or self._selects or self._writes or self._writing or self._pieces):
                    self._lock.wait()
                if self._stopped:
                    return
                selects = self._take(self._selects, self.select_s)
                self._busy = len(selects)
            self._select(selects)
            self._begin_texts()
            for writing in list(self._writing):
                self._step(writing)
            self._piece()

    def _take(self, queue: deque[Job], each: float) -> list[Job]:
        """The next batch: the first that lives and those that can share its pass, the others kept in order.

        Args:
            each: seconds that a request of a full batch is expected to take. One that would be answered too late makes
                room for those behind it and is told so now; the last of a queue is tried all the same.
        """
        taken: list[Job] = []
        kept: list[Job] = []
        ends = time.monotonic() + each * min(len(queue), self.config.max_batch)
        while queue and len(taken) < self.config.max_batch:
            job = queue.popleft()
            if job.dead():
                continue
            if each and ends > job.deadline and (queue or taken or kept):
                text = "More requests than expected came before it."
                job.fail(ProblemError("overloaded", text, retry_after_s=1))
                continue
            alike = not taken or (job.engine is taken[0].engine and job.request.attention == taken[0].request.attention)
            (taken if alike else kept).append(job)
        queue.extendleft(reversed(kept))
        now = time.monotonic()
        for job in taken:
            job.started, job.batch_size = now, len(taken)
        return taken

    def _select(self, jobs: list[Job]) -> None:
        if not jobs:
            return
        started = time.monotonic()
        engine = jobs[0].engine
        try:
            answers = engine.select([job.request for job in jobs])
        except Exception as error:
            if len(jobs) > 1:  # one of them may be at fault: the others get their answers
                for job in jobs:
                    self._select([job])
            else:
                logger.warning("worker: version %s failed: %s", engine.version, type(error).__name__, exc_info=error)
                jobs[0].fail(EngineFailedError(engine, error))
            answers = []
        seconds = time.monotonic() - started
        with self._lock:
            self._busy = 0
        if answers:
            each = seconds / len(jobs)
            self.select_s = each if self.select_s == 0 else (1 - NEWEST) * self.select_s + NEWEST * each
            self.on_batch("select", len(jobs), seconds)
            for job, answer in zip(jobs, answers, strict=True):
                job.done(answer)

    def _begin_texts(self) -> None:
        if not self._writes or len(self._writing) >= self.config.max_writing:
            return
        with self._lock:
            jobs = self._take(self._writes, 0.0)
            if jobs:
                steps = jobs[0].engine.reason([job.request for job in jobs], self.config.max_new_tokens)
                self._writing.append(_Writing(jobs, steps, [False] * len(jobs)))

    def _step(self, writing: _Writing) -> None:
        """One more token of every text of a batch; a batch that has ended, failed or lost its callers is put away."""
        gone = [job.result.done() or job.dead() for job in writing.jobs]
        if all(gone):
            writing.steps.close()
            self._writing.remove(writing)
            return
        try:
            if self._token(writing, gone):
                return
            self._writing.remove(writing)
        except Exception as error:
            # Whatever it was, it is these texts' failure: the thread goes on with the other requests.
            self._writing.remove(writing)
            engine = writing.jobs[0].engine
            logger.warning("worker: version %s failed: %s", engine.version, type(error).__name__, exc_info=error)
            for job in writing.jobs:
                if not job.result.done():
                    job.fail(EngineFailedError(engine, error))

    def _token(self, writing: _Writing, gone: list[bool]) -> bool:
        """Write one token of every text that somebody waits for.

        Args:
            gone: whose caller does not wait any more.

        Returns:
            Whether there is more to write; where not, the answers are given.
        """
        import torch

        started = time.monotonic()
        try:
            if writing.tokens:
                tokens, mentions = writing.steps.send(torch.tensor(gone) if any(gone) else None)
            else:
                tokens, mentions = next(writing.steps)
        except StopIteration as end:
            for job, answer in zip(writing.jobs, end.value, strict=True):
                if not job.result.done():
                    job.done(answer)
            self.text_tokens = (1 - NEWEST) * self.text_tokens + NEWEST * writing.tokens
            self.on_batch("reason", len(writing.jobs), started - writing.jobs[0].started)
            return False
        if writing.tokens:  # the first step also reads picture, task and fleet
            seconds = time.monotonic() - started
            self.token_s = seconds if self.token_s == 0 else (1 - NEWEST) * self.token_s + NEWEST * seconds
        writing.tokens += 1
        end_token = writing.jobs[0].engine.model.config.token_ids["eos"]
        for i, job in enumerate(writing.jobs):
            if not gone[i] and not writing.ended[i] and job.on_token is not None:
                job.on_token(int(tokens[i]), int(mentions[i]))
            writing.ended[i] = writing.ended[i] or int(tokens[i]) == end_token
        return True

    def _piece(self) -> None:
        with self._lock:
            if not self._pieces:
                return
            function, future = self._pieces.popleft()
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(function())
        except Exception as error:  # noqa: BLE001  raised where the result is read
            future.set_exception(error)
