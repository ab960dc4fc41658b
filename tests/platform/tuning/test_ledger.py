"""A sweep's folder: what is written is read again, and nothing that cannot be compared is mixed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ember_platform.train.plan import PlanError
from ember_platform.tuning.ledger import FAILED, PACE, RUNNING, STOPPED, Ledger, LedgerError, best_of, pareto
from ember_platform.tuning.placement import need, process, room, threads
from ember_platform.tuning.space import Objective
from tests.platform.tuning.samples import base, record, sweep

HEADER = {"name": "s", "identity": {"data": "a", "seed": 1}, "began": 1.0}


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path / "sweep"))
    records = [record(1, [0.1, 0.2]), record(0, [], FAILED, fault="diverged", reason="the loss is not a number")]
    for one in records:
        ledger.put(one)
    (tmp_path / "sweep" / "trials" / "001" / PACE).write_text('{"first_step": 1012.5, "steps": 9}')
    (tmp_path / "sweep" / "trials" / "002").mkdir()
    (tmp_path / "sweep" / "trials" / "002" / "trial.json").write_text('{"number": 2, "par')  # half written
    found = ledger.records()
    assert [one.number for one in found] == [0, 1]
    assert found[0] == records[1]
    assert found[1].epochs == records[0].epochs
    assert found[1].first_step_seconds() == 12.5
    assert found[0].first_step_seconds() is None


def test_a_sweep_is_not_mixed_with_another(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path / "sweep"))
    with pytest.raises(LedgerError, match="no sweep in"):
        ledger.begin(HEADER, resume=True)
    ledger.begin(HEADER, resume=False)
    ledger.put(record(0, [0.5]))
    with pytest.raises(LedgerError, match="holds a sweep of 1 trials; go on with --resume"):
        ledger.begin(HEADER, resume=False)
    ledger.begin({**HEADER, "began": 9.0}, resume=True)
    assert (ledger.header() or {})["began"] == 1.0
    with pytest.raises(LedgerError, match=r"other settings \(data\)"):
        ledger.begin({**HEADER, "identity": {"data": "b", "seed": 1}}, resume=True)


def test_the_best_is_a_finished_one() -> None:
    objective = Objective(metric="first_choice", mode="max")
    records = [
        record(0, [0.5]),
        record(1, [0.9], STOPPED),
        record(2, [0.7]),
        record(3, [0.8], RUNNING),
        record(4, [0.7]),
    ]
    best = best_of(records, objective)
    assert best is not None
    assert best.number == 2
    assert best_of(records[1:2], objective) is None


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12))
def test_the_front_is_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    objectives = [Objective(metric="a", mode="max"), Objective(metric="b", mode="min")]
    records = [record(i, [0.0], figures={"a": float(a), "b": float(b)}) for i, (a, b) in enumerate(points)]
    front = {one.number for one in pareto(records, objectives)}
    for i, (a, b) in enumerate(points):
        beaten = any(c >= a and d <= b and (c, d) != (a, b) for c, d in points)
        assert (i in front) == (not beaten)


def test_no_more_trials_begin_than_have_room() -> None:
    config = base(cluster={"num_workers": 2, "cpus_per_worker": 0.5})
    assert need(config) == {"CPU": pytest.approx(1.51)}
    assert room(config, {"CPU": 8.0}, "auto", 64) == 5
    assert room(config, {"CPU": 8.0}, "auto", 2) == 1  # there are more logical CPUs than cores
    assert room(config, {"CPU": 8.0}, 2, 2) == 2
    with pytest.raises(PlanError, match="at most 5"):
        room(config, {"CPU": 8.0}, 6, 64)
    with pytest.raises(PlanError, match="one trial has no room"):
        room(config, {"CPU": 1.0}, "auto", 64)


def test_a_trial_with_one_worker_is_that_worker() -> None:
    config = base(cluster={"num_workers": 1, "cpus_per_worker": 2})
    assert process(config) == {"CPU": 2}
    assert need(config) == {"CPU": 2.5}
    assert room(config, {"CPU": 8.0}, "auto", 2) == 2
    config = base(cluster={"num_workers": 1, "use_gpu": True})
    assert process(config)["GPU"] == need(config)["GPU"] == 1
    assert room(config, {"CPU": 64.0, "GPU": 3.0}, "auto", 2) == 3
    config = base(cluster={"num_workers": 1, "use_gpu": True, "gpu_share": 0.25})
    assert room(config, {"CPU": 64.0, "GPU": 3.0}, "auto", 2) == 12
    with pytest.raises(ValidationError, match="need a GPU each"):
        base(cluster={"num_workers": 2, "use_gpu": True, "gpu_share": 0.25})
    config = base(cluster={"num_workers": 2, "use_gpu": True})
    assert "GPU" not in process(config)
    assert need(config)["GPU"] == 2


def test_threads_are_shared_among_the_trials_at_once() -> None:
    config = base(cluster={"num_workers": 2, "cpus_per_worker": 0.5})
    assert [threads(config, 16, trials) for trials in (1, 2, 4, 16)] == [8, 4, 2, 1]
    assert threads(base(cluster={"threads_per_worker": 3}), 16, 4) == 3
    assert sweep().concurrent == "auto"
