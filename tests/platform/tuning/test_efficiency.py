"""What the benchmark takes over instead of training it again is what training it again would tell."""

from __future__ import annotations

from pathlib import Path

from benchmarks.sweep_efficiency import reach, replay, taken
from ember_platform.tuning.ledger import FINISHED, STOPPED, Record
from ember_platform.tuning.search import propose
from tests.platform.tuning.samples import base, record, sweep

CURVES = [
    [0.3, 0.4, 0.5, 0.6],
    [0.2, 0.3, 0.8, 0.9],
    [0.4, 0.5, 0.6, 0.7],
    [0.45, 0.44, 0.5, 0.5],
    [0.1, 0.2, 0.2, 0.2],
]


def test_tpe_begins_with_the_trials_of_the_random_search(tmp_path: Path) -> None:
    config = base(tmp_path)
    for seed in (0, 1):
        arms = [sweep(search={"method": method, "seed": seed, "startup": 4}) for method in ("random", "tpe")]
        known: list[list[Record]] = [[], []]
        for number in range(4):
            told = [propose(arm, config, before, number) for arm, before in zip(arms, known, strict=True)]
            assert told[0] == told[1]
            for before, params in zip(known, told, strict=True):
                before.append(record(number, [0.1 * number], params=params))
        assert propose(arms[0], config, known[0], 5) != propose(arms[0], config, known[0], 6)


def test_a_curve_is_cut_where_asha_stops_the_trial(tmp_path: Path) -> None:
    config = base(tmp_path)
    made = sweep(scheduler={"method": "asha", "grace": 1, "reduction": 2})
    known: list[Record] = []
    for number, values in enumerate(CURVES):
        known.append(replay(made, config, number, record(number, values), known, "elsewhere"))
    assert [r.status for r in known] == [FINISHED, STOPPED, FINISHED, STOPPED, STOPPED]
    assert [len(r.epochs) for r in known] == [4, 1, 4, 2, 1]
    assert known[1].figures == {}
    assert known[2].figures == {"first_choice": 0.7}
    times = [epoch.at for one in known for epoch in one.epochs]
    assert times == sorted(times)
    assert all(map(taken, known))
    whole = sweep(scheduler={"method": "none"})
    assert len(replay(whole, config, 1, record(1, CURVES[1]), [], "elsewhere").epochs) == 4


def test_the_goal_is_reached_where_the_best_first_is_as_good() -> None:
    course = [{"paid": 1.0, "best": 0.3}, {"paid": 2.5, "best": 0.5}, {"paid": 4.0, "best": 0.6}]
    assert [reach(course, goal) for goal in (0.3, 0.4, 0.5, 0.7)] == [1.0, 2.5, 2.5, None]
