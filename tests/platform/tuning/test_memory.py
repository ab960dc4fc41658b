"""A node that runs out of memory ends trials, not the sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import OutOfMemoryError

from ember_platform.tuning import run
from ember_platform.tuning.ledger import FAILED, FINISHED, RUNNING, Ledger
from tests.platform.tuning.samples import base, record, sweep


def as_tune_tells_it() -> None:
    """What Ray Tune makes of a process that Ray ended for memory."""
    try:
        raise OutOfMemoryError("7 worker(s) were killed due to the node running low on memory")
    except OutOfMemoryError as error:
        raise RuntimeError(f"Caught unexpected exception: {error}") from error


def test_it_is_known_by_its_cause() -> None:
    with pytest.raises(RuntimeError) as caught:
        as_tune_tells_it()
    assert run.ended_for_memory(caught.value)
    assert not run.ended_for_memory(RuntimeError("Caught unexpected exception: OutOfMemoryError"))
    assert not run.ended_for_memory(KeyboardInterrupt())
    interrupted = KeyboardInterrupt()
    interrupted.__context__ = caught.value
    assert not run.ended_for_memory(interrupted)


def test_fewer_go_on_and_who_was_alone_has_failed(tmp_path: Path) -> None:
    ledger, said = Ledger(str(tmp_path / "sweep")), list[str]()
    for one in (record(0, [0.5]), record(1, [0.5], RUNNING), record(2, [], RUNNING)):
        ledger.put(one)
    assert run.after_memory(ledger, [1, 2], 2, said.append) == 1
    assert [one.status for one in ledger.records()] == [FINISHED, RUNNING, RUNNING]
    assert "(001, 002): they go on, 1 at once" in said[-1]
    assert run.after_memory(ledger, [1, 2], 1, said.append) == 1
    failed = ledger.records()[1]
    assert (failed.status, failed.fault) == (FAILED, "out of memory")
    assert "lack of memory" in str(failed.reason)
    assert len(failed.epochs) == 1, "what it had found is kept"
    assert ledger.records()[2].status == RUNNING, "it was waiting for its turn"


class Tune:
    """Stands for Ray Tune: out of memory as often as it is told, then every trial finishes."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.calls: list[tuple[list[int], int]] = []

    def __call__(self, sweep: Any, setup: Any, ledger: Ledger, watch: Any, numbers: list[int], at_once: int) -> None:
        self.calls.append((numbers, at_once))
        if len(self.calls) <= self.times:
            for number in numbers[:at_once]:
                ledger.put(record(number, [0.1], RUNNING))
            as_tune_tells_it()
        for number in numbers:
            ledger.put(record(number, [0.5]))


class Quiet:
    """Stands for what tells the trackers."""

    def __init__(self, *given: Any) -> None:
        self.closed: list[str] = []

    def tidy(self) -> None:
        """Nothing is left to tell."""

    def close(self, status: str) -> str:
        self.closed.append(status)
        return status


@pytest.mark.parametrize(
    ("times", "numbers", "statuses"),
    [
        (1, [[0, 1, 2], [0, 1, 2]], [FINISHED] * 3),
        (2, [[0, 1, 2], [0, 1, 2], [1, 2]], [FAILED, FINISHED, FINISHED]),
    ],
)
def test_the_sweep_goes_on(
    times: int, numbers: list[list[int]], statuses: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tune, ledger = Tune(times), Ledger(str(tmp_path / "sweep"))
    setup = type("Setup", (), {"threads": 1})()
    monkeypatch.setattr(run, "_prepare", lambda *given: (setup, {}, ledger))
    monkeypatch.setattr(run, "_place", lambda sweep, setup: (2 if sweep.concurrent == "auto" else 1, setup))
    monkeypatch.setattr(run, "_fit", tune)
    monkeypatch.setattr(run, "Watch", Quiet)
    monkeypatch.setattr(run, "_close", lambda *given: None)
    outcome = run.run_sweep(sweep(trials=3, concurrent="auto"), base(), "small", say=lambda line: None)
    assert [call[0] for call in tune.calls] == numbers
    assert [call[1] for call in tune.calls] == [2, 1, 1][: times + 1]
    assert outcome.complete
    assert [one.status for one in outcome.records] == statuses
