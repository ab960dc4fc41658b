"""Proposals: a function of what is known, and of nothing else."""

from __future__ import annotations

import math

import pytest

from ember_platform.tuning.ledger import FAILED, RUNNING, STOPPED
from ember_platform.tuning.search import LedgerSearch, propose, study_of
from tests.platform.tuning.samples import base, params, record, sweep

KNOWN = [
    record(0, [0.2, 0.3, 0.4, 0.5]),
    record(1, [0.1], STOPPED, params=params(5e-4, None)),
    record(2, [], FAILED, fault="diverged"),
    record(3, [0.2], FAILED, fault="crashed"),
    record(4, [0.3], RUNNING),
    record(5, [0.4, 0.4, 0.5, 0.6]),
]


def test_the_first_trial_has_the_defaults() -> None:
    assert propose(sweep(), base(), [], 0) == sweep().defaults(base())


@pytest.mark.parametrize("method", ["tpe", "random"])
def test_the_same_is_proposed_again(method: str) -> None:
    made = sweep(search={"method": method, "startup": 2, "seed": 3})
    first = propose(made, base(), KNOWN, 6)
    assert propose(made, base(), KNOWN[::-1], 6) == first
    assert propose(made, base(), KNOWN, 7) != first
    assert propose(sweep(search={"method": method, "startup": 2, "seed": 4}), base(), KNOWN, 6) != first


def test_random_search_looks_at_no_result() -> None:
    made = sweep(search={"method": "random"})
    assert propose(made, base(), KNOWN, 6) == propose(made, base(), [], 6)


def test_what_failed_by_its_parameters_counts_as_worst_and_what_crashed_says_nothing() -> None:
    states = [trial.state.name for trial in study_of(sweep(), KNOWN).trials]
    assert states == ["COMPLETE", "PRUNED", "PRUNED", "FAIL", "RUNNING", "COMPLETE"]


def test_tpe_goes_where_it_was_good() -> None:
    """Near 1e-2 all is well and elsewhere not: most proposals come closer to it than random ones do."""
    made = sweep(search={"startup": 4}, space={"stages.3.learning_rate": {"log_uniform": [1e-4, 1e-1]}})
    seen = []
    for number in range(14):
        chosen = propose(made, base(), seen, number)
        distance = abs(math.log10(chosen["stages.3.learning_rate"]) + 2)
        seen.append(record(number, [-distance], params=chosen))
    late = [-one.epochs[-1].value for one in seen[6:]]
    assert sorted(late)[len(late) // 2] < 0.5  # of a random choice from three decades: 0.75


def test_two_objectives_are_searched_with_stopped_trials_among_them() -> None:
    made = sweep(objectives=[{"metric": "first_choice", "mode": "max"}, {"metric": "ece", "mode": "min"}])
    known = [record(n, [0.1 * n], figures={"first_choice": 0.1 * n, "ece": 0.01 * n}) for n in range(6)]
    known += [record(6, [0.1], STOPPED), record(7, [], FAILED, fault="out of memory")]
    chosen = propose(made, base(), known, 8)
    assert all(made.space[name].holds(value) for name, value in chosen.items())


def test_tune_is_handed_each_number_once() -> None:
    search = LedgerSearch([3, 5], lambda number: {"number": number})
    assert [search.suggest("a"), search.suggest("b"), search.suggest("c")] == [
        {"number": 3},
        {"number": 5},
        LedgerSearch.FINISHED,
    ]
