"""The audit of samples finds what is repeated and what is lost."""

from __future__ import annotations

from typing import Any

import pytest

from ember_platform.train import checkpoint as ck
from ember_platform.train.loop import train
from ember_platform.train.samples import Audit, audit
from tests.platform.train.fakes import Run, settings


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[dict[str, Any]]]:
    made = Run(tmp_path_factory.mktemp("run"), settings(epochs=2), phases=2, count=21)
    train(made.job)
    return made, ck.read_state(made.folder / ck.names(str(made.folder))[-1])[2]


def test_a_run_trains_every_sample_once_an_epoch(run: tuple[Run, list[dict[str, Any]]]) -> None:
    made, rows = run
    assert audit(rows, [made.plan(0), made.plan(1)]) == Audit(0, 0, 4)
    assert audit(rows[:-2], [made.plan(0), made.plan(1)]) == Audit(0, 0, 4)  # stopped early


def test_what_is_repeated_or_lost_is_counted(run: tuple[Run, list[dict[str, Any]]]) -> None:
    made, rows = run
    plans = [made.plan(0), made.plan(1)]
    twice = [*rows[:3], rows[2], *rows[3:]]
    assert audit(twice, plans) == Audit(len(rows[2]["indices"]), 0, 4)
    assert audit([*rows[:2], *rows[3:]], plans) == Audit(0, len(rows[2]["indices"]), 4)
    swapped = [dict(row) for row in rows]
    swapped[0]["indices"] = [*rows[0]["indices"][1:], rows[1]["indices"][0]]
    assert audit(swapped, plans) == Audit(1, 1, 4)
