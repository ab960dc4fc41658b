"""The model's thread: batches, order, deadlines, cancellation, failures."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator
from typing import Any

import pytest
import torch

from ember_platform.config_serving import ReplicaConfig
from ember_platform.serving.engine import Request
from ember_platform.serving.problems import ProblemError
from ember_platform.serving.worker import EngineFailedError, Job, Worker
from embervlm.fleet import default_fleet

EOS = 2


class Slow:
    """An engine whose passes wait for a gate, and are written down."""

    version = "1"

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.passes: list[list[str]] = []
        self.model: Any = type("M", (), {"config": type("C", (), {"token_ids": {"eos": EOS}})})
        self.sent: list[Any] = []

    def select(self, requests: list[Request]) -> list[dict[str, Any]]:
        self.entered.set()
        assert self.gate.wait(20)
        self.passes.append([r.task for r in requests])
        if any(r.task == "bad" for r in requests):
            raise FloatingPointError("a score is not finite")
        return [{"task": r.task} for r in requests]

    def reason(self, requests: list[Request], most: int) -> Generator[Any, Any, list[dict[str, Any]]]:
        for i in range(most):
            self.passes.append([f"token {i}"])
            time.sleep(0.005)
            self.sent.append((yield torch.full((len(requests),), i + 10), torch.full((len(requests),), -1)))
        return [{"task": r.task, "text": True} for r in requests]


@pytest.fixture
def engine() -> Slow:
    return Slow()


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker(ReplicaConfig(max_batch=4, queue=8, max_new_tokens=5), threads=1)
    made.start()
    yield made
    made.stop()


def job(engine: Any, task: str, seconds: float = 30, reasoning: bool = False, **more: Any) -> Job:
    request = Request(task, default_fleet(), None, attention=False)
    return Job(engine, request, reasoning, time.monotonic() + seconds, **more)


def held(worker: Worker, engine: Slow) -> Any:
    """A first request that keeps the model busy."""
    first = worker.submit(job(engine, "first"))
    assert engine.entered.wait(10)
    return first


def test_a_lone_request_is_not_kept_waiting_and_others_share_the_next_pass(worker: Worker, engine: Slow) -> None:
    first = held(worker, engine)
    jobs = [job(engine, str(i)) for i in range(6)]
    rest = [worker.submit(one) for one in jobs]
    engine.gate.set()
    assert first.result(10) == {"task": "first"}
    assert [future.result(10)["task"] for future in rest] == [str(i) for i in range(6)]
    assert engine.passes == [["first"], ["0", "1", "2", "3"], ["4", "5"]]
    assert [one.batch_size for one in jobs] == [4, 4, 4, 4, 2, 2]


def test_versions_never_share_a_pass(worker: Worker, engine: Slow) -> None:
    other = Slow()
    other.gate.set()
    first = held(worker, engine)
    rest = [worker.submit(job(e, t)) for e, t in ((engine, "a"), (other, "b"), (engine, "c"))]
    engine.gate.set()
    for future in (first, *rest):
        future.result(10)
    assert engine.passes == [["first"], ["a", "c"]]
    assert other.passes == [["b"]]


def test_a_full_queue_refuses_at_once(worker: Worker, engine: Slow) -> None:
    held(worker, engine)
    rest = [worker.submit(job(engine, str(i))) for i in range(7)]
    with pytest.raises(ProblemError) as refused:
        worker.submit(job(engine, "one too many"))
    assert refused.value.slug == "overloaded"
    assert int(refused.value.headers["Retry-After"]) >= 1
    assert worker.pending == 8
    engine.gate.set()
    for future in rest:
        future.result(10)
    assert worker.pending == 0


def test_who_cannot_be_served_in_time_is_told_at_once(worker: Worker, engine: Slow) -> None:
    worker.select_s = 2.0
    first = held(worker, engine)
    with pytest.raises(ProblemError, match=r"longer than the request has") as refused:
        worker.submit(job(engine, "x", seconds=1))
    assert refused.value.slug == "overloaded"
    engine.gate.set()
    first.result(10)
    worker.select_s = 2.0  # a mean that a slow moment spoilt: with nobody ahead it is tried all the same
    assert worker.submit(job(engine, "x", seconds=1)).result(10) == {"task": "x"}


def test_who_would_be_late_makes_room_for_those_behind(worker: Worker, engine: Slow) -> None:
    first = held(worker, engine)
    late, good = job(engine, "late", seconds=3), job(engine, "good")
    futures = [worker.submit(late), worker.submit(good)]
    worker.select_s = 4.0  # passes turn out slower than they were when both were admitted
    engine.gate.set()
    assert futures[1].result(10) == {"task": "good"}
    with pytest.raises(ProblemError) as refused:
        futures[0].result(10)
    assert refused.value.slug == "overloaded"
    first.result(10)
    assert engine.passes == [["first"], ["good"]]


def test_the_last_of_a_queue_is_tried_though_the_means_say_it_is_late(worker: Worker, engine: Slow) -> None:
    first = held(worker, engine)
    last = worker.submit(job(engine, "last", seconds=10))
    worker.select_s = 60.0
    engine.gate.set()
    assert last.result(10) == {"task": "last"}
    first.result(10)
    assert worker.select_s < 60.0, "the mean recovers"


def test_a_deadline_that_passes_in_the_queue_costs_no_pass(worker: Worker, engine: Slow) -> None:
    first = held(worker, engine)
    late = worker.submit(job(engine, "late", seconds=0.05))
    time.sleep(0.1)
    engine.gate.set()
    first.result(10)
    with pytest.raises(ProblemError) as error:
        late.result(10)
    assert error.value.slug == "deadline-exceeded"
    assert engine.passes == [["first"]]


def test_work_that_nobody_waits_for_is_not_done(worker: Worker, engine: Slow) -> None:
    first = held(worker, engine)
    gone, kept = worker.submit(job(engine, "gone")), worker.submit(job(engine, "kept"))
    assert gone.cancel()
    engine.gate.set()
    first.result(10)
    kept.result(10)
    assert engine.passes == [["first"], ["kept"]]


def test_one_bad_request_does_not_fail_its_neighbours(worker: Worker, engine: Slow) -> None:
    first = held(worker, engine)
    rest = [worker.submit(job(engine, task)) for task in ("a", "bad", "b")]
    engine.gate.set()
    first.result(10)
    assert rest[0].result(10) == {"task": "a"}
    assert rest[2].result(10) == {"task": "b"}
    with pytest.raises(EngineFailedError, match="not finite"):
        rest[1].result(10)
    assert worker.alive


def test_a_selection_does_not_wait_for_a_text(worker: Worker, engine: Slow) -> None:
    engine.gate.set()
    tokens: list[int] = []
    text = worker.submit(job(engine, "text", reasoning=True, on_token=lambda token, _: tokens.append(token)))
    while not engine.passes:
        time.sleep(0.001)
    worker.submit(job(engine, "between")).result(10)
    assert text.result(10)["text"] is True
    assert tokens == [10, 11, 12, 13, 14]
    at = engine.passes.index(["between"])
    assert 0 < at < len(engine.passes) - 1, engine.passes


def test_a_text_that_nobody_reads_ends(worker: Worker, engine: Slow) -> None:
    worker.config = ReplicaConfig(max_new_tokens=100_0)
    text = worker.submit(job(engine, "text", reasoning=True))
    while not engine.passes:
        time.sleep(0.001)
    assert text.cancel()
    while worker.pending:
        time.sleep(0.01)
    assert len(engine.passes) < 500


@pytest.mark.parametrize("fault", ["it ends without answers", "its reader raises", "it raises"])
def test_a_text_that_fails_does_not_end_the_thread(worker: Worker, engine: Slow, fault: str) -> None:
    def reason(requests: list[Request], most: int) -> Generator[Any, Any, Any]:
        yield torch.tensor([10]), torch.tensor([-1])
        if fault == "it raises":
            raise FloatingPointError("a score is not finite")
        return None

    def read(token: int, mention: int) -> None:
        if fault == "its reader raises":
            raise RuntimeError("Event loop is closed")

    usual, engine.reason = engine.reason, reason  # type: ignore[method-assign]
    failed = worker.submit(job(engine, "text", reasoning=True, on_token=read))
    with pytest.raises(EngineFailedError, match="version 1"):
        failed.result(10)
    engine.reason = usual  # type: ignore[method-assign]
    assert worker.submit(job(engine, "next", reasoning=True)).result(10) == {"task": "next", "text": True}
    assert worker.pending == 0


def test_pieces_run_between_requests_and_raise_where_they_are_awaited(worker: Worker) -> None:
    assert worker.idle(lambda: 7).result(10) == 7
    with pytest.raises(ZeroDivisionError):
        worker.idle(lambda: 1 // 0).result(10)
    assert worker.alive


def test_stopping_tells_who_waits(engine: Slow) -> None:
    worker = Worker(ReplicaConfig(max_batch=1), threads=1)
    worker.start()
    first = held(worker, engine)
    waiting = worker.submit(job(engine, "waiting"))
    threading.Timer(0.1, engine.gate.set).start()
    worker.stop()
    first.result(10)
    with pytest.raises(ProblemError) as error:
        waiting.result(10)
    assert error.value.slug == "shutting-down"
    with pytest.raises(ProblemError):
        worker.submit(job(engine, "late"))
