"""What a worker says of its start."""

from __future__ import annotations

import pytest

from ember_platform.train import worker


def test_start_up_ends_with_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    now = worker._BORN + 1.0
    monkeypatch.setattr(worker.time, "time", lambda: now)
    clock = worker._Clock(sent=worker._BORN - 2.0)
    for name in ("before_engine", "engine", "first_batch", "first_step", "before_engine", "engine", "first_batch"):
        now += 10.0  # the second phase begins long after
        clock.mark(name)
    assert clock.parts == pytest.approx(
        {
            "worker_start": 2.0,
            "train_function": 1.0,
            "before_engine": 10.0,
            "engine": 10.0,
            "first_batch": 10.0,
            "first_step": 10.0,
        }
    )
