"""ASHA over numbered trials, and after a kill."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from ray.tune.schedulers import TrialScheduler

from ember_platform.tuning.ledger import RUNNING, STOPPED, Epoch, Record
from ember_platform.tuning.rungs import Rungs, milestones
from ember_platform.tuning.space import SchedulerConfig
from tests.platform.tuning.samples import record

EPOCHS = 8


def trial(number: int, name: str = "x") -> Any:
    return SimpleNamespace(trial_id=f"{name}{number}", config={"number": number})


def tell(scheduler: Rungs, number: int, epoch: int, value: float) -> str:
    return scheduler.on_trial_result(None, trial(number), {"epoch": epoch, "value": value})


def test_rungs_grow_by_the_reduction_and_end_before_the_training() -> None:
    assert milestones(SchedulerConfig(grace=1, reduction=2), 8) == [1, 2, 4]
    assert milestones(SchedulerConfig(grace=2, reduction=3), 20) == [2, 6, 18]
    assert milestones(SchedulerConfig(grace=1, reduction=1.5), 4) == [1, 2, 3]
    assert milestones(SchedulerConfig(method="none"), 8) == []


def test_the_worse_half_stops_and_a_last_epoch_is_never_judged() -> None:
    scheduler = Rungs(SchedulerConfig(), "max", EPOCHS)
    for number in range(3):
        scheduler.on_trial_add(None, trial(number))
    assert tell(scheduler, 0, 1, 0.5) == TrialScheduler.CONTINUE
    assert tell(scheduler, 1, 1, 0.4) == TrialScheduler.STOP
    assert tell(scheduler, 2, 1, 0.6) == TrialScheduler.CONTINUE
    assert scheduler.on_trial_result(None, trial(2), {"last_epoch": 8, "value": 0.0}) == TrialScheduler.CONTINUE


def test_less_is_better_where_asked() -> None:
    scheduler = Rungs(SchedulerConfig(), "min", EPOCHS, [record(0, [0.5])])
    scheduler.on_trial_add(None, trial(1))
    assert tell(scheduler, 1, 1, 0.6) == TrialScheduler.STOP


def test_who_was_to_be_stopped_when_the_driver_died_is_stopped_after_it() -> None:
    known = [record(0, [0.5, 0.6]), record(1, [0.4], RUNNING)]
    scheduler = Rungs(SchedulerConfig(), "max", EPOCHS, known)
    scheduler.on_trial_add(None, trial(1))
    assert tell(scheduler, 1, 1, 0.4) == TrialScheduler.STOP


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.floats(0, 1)), min_size=1, max_size=40),
    st.integers(0, 40),
)
def test_a_kill_changes_no_decision(told: list[tuple[int, float]], cut: int) -> None:
    """The same reports lead to the same decisions, whether or not the driver was killed in between."""

    def run(scheduler: Rungs, reports: list[tuple[int, float]], records: dict[int, Record], start: int) -> list[str]:
        actions = []
        for at, (number, value) in enumerate(reports, start):
            one = records.setdefault(number, Record(number, {}, RUNNING))
            epoch = len(one.epochs) + 1
            if one.status == STOPPED or epoch >= EPOCHS:
                continue
            one.epochs.append(Epoch(epoch, epoch, value, {}, float(at)))
            scheduler.on_trial_add(None, trial(number))
            action = tell(scheduler, number, epoch, value)
            if action == TrialScheduler.STOP:
                one.status = STOPPED
            actions.append(action)
        return actions

    whole = run(Rungs(SchedulerConfig(), "max", EPOCHS), told, {}, 0)
    records: dict[int, Record] = {}
    before = run(Rungs(SchedulerConfig(), "max", EPOCHS), told[:cut], records, 0)
    again = Rungs(SchedulerConfig(), "max", EPOCHS, list(records.values()))
    assert before + run(again, told[cut:], records, cut) == whole
