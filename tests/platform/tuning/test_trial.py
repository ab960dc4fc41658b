"""One trial, watched: epochs in their order, its end, its failures, its stop. The training itself is played."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ember_platform.config import ConfigError
from ember_platform.train.checkpoint import write_history
from ember_platform.train.loop import TrainingError
from ember_platform.tuning import trial as module
from ember_platform.tuning.ledger import PACE, Ledger
from ember_platform.tuning.space import Objective, apply
from ember_platform.tuning.trial import STOP, Pace, Setup, Trial, classify, epochs
from tests.platform.tuning.samples import base, params


def setup_in(folder: Path, metric: str = "first_choice") -> Setup:
    return Setup(
        base=base(folder),
        stage=3,
        objectives=[Objective(metric=metric, mode="max")],
        folder=str(folder / "sweep"),
        data_dir=str(folder / "data"),
        data_digest="d",
        parent="p",
        parent_digest="p",
        threads=1,
    )


def rows(values: list[float], phases: list[int] | None = None) -> list[dict[str, Any]]:
    """A history with a validation every second step."""
    found: list[dict[str, Any]] = []
    for i, value in enumerate(values):
        place = {"phase": phases[i] if phases else 0, "loss": 1.0}
        found += [
            {"step": 2 * i + 1, **place},
            {"step": 2 * i + 2, **place, "val_first_choice": value, "val_team_loss": 1 - value, "val_other": -value},
        ]
    return found


class Played:
    """A training that writes an epoch's checkpoint whenever it is told to."""

    def __init__(self, folder: str) -> None:
        self.stage, self.root = Path(folder, "stage3"), Path(folder)
        self.values: list[float] = []
        self.go = threading.Semaphore(0)
        self.error: BaseException | None = None

    def epoch(self, value: float) -> None:
        self.values.append(value)
        folder = self.stage / f"checkpoint-0-{2 * len(self.values):06d}"
        folder.mkdir(parents=True)
        write_history(rows(self.values), folder / "history.parquet")
        for name in ("state.json", "checkpoint.json"):
            (folder / name).write_text("{}")

    def train(self, *arguments: Any) -> dict[str, Any]:
        self.go.acquire()
        if self.error is not None:
            raise self.error
        if (self.root / STOP).exists():
            raise TrainingError("stopped after step 3")
        write_history(rows(self.values), self.stage / "history.parquet")
        return {"figures": {"first_choice": max(self.values)}, "model": "m", "startup": {"imports": 1.0}}


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Trial, Played]]:
    shared = setup_in(tmp_path)
    training = Played(Ledger(shared.folder).trial_dir(7))

    class Local(Trial):
        def setup(self, config: dict[str, Any], setup: Setup | None = None) -> None:
            super().setup(config, shared)

    monkeypatch.setattr(module, "train", training.train)
    monkeypatch.setattr(module, "_POLL_LOCAL", 0.01)
    made = Local(config={"number": 7, "params": params()})
    yield made, training
    training.go.release()
    made.thread.join(10)


def test_epochs_come_one_by_one_and_the_last_with_the_figures(played: tuple[Trial, Played]) -> None:
    trial, training = played
    for value in (0.3, 0.5, 0.4):
        training.epoch(value)
    reports = [trial.step() for _ in range(3)]
    assert [(r["epoch"], r["value"]) for r in reports] == [(1, 0.3), (2, 0.5), (3, 0.5)]
    training.epoch(0.6)  # of four: nothing is left to stop, so it waits for the end
    timer = threading.Timer(0.2, training.go.release)
    timer.start()
    last = trial.step()
    assert last["done"]
    assert "epoch" not in last
    assert (last["last_epoch"], last["value"], last["figures"]) == (4, 0.6, {"first_choice": 0.6})


def test_a_failure_is_a_report(played: tuple[Trial, Played]) -> None:
    trial, training = played
    training.epoch(0.3)
    training.error = TrainingError("stage 3, step 5: the loss is not a number (rank 0: nan)")
    training.go.release()
    assert trial.step()["epoch"] == 1
    end = trial.step()
    assert end["done"]
    assert end["fault"] == "diverged"
    assert "step 5" in end["reason"]


def test_stopping_waits_for_the_training_and_the_process_takes_the_next(played: tuple[Trial, Played]) -> None:
    trial, training = played
    threading.Timer(0.2, training.go.release).start()
    trial.cleanup()
    assert not trial.thread.is_alive()
    assert trial.fault == ("crashed", "stopped after step 3")
    assert trial.reset_config({"number": 8, "params": params()})
    assert (trial.number, trial.reported, trial.process) == (8, 0, 0.0)


def test_the_value_of_an_epoch_is_that_of_the_best_model_of_its_phase(tmp_path: Path) -> None:
    told = rows([0.5, 0.4, 0.1, 0.3, 0.2], [0, 0, 1, 1, 1])
    assert [e["value"] for e in epochs(told, setup_in(tmp_path))] == [0.5, 0.5, 0.1, 0.3, 0.3]
    assert [e["value"] for e in epochs(told, setup_in(tmp_path, "other"))] == [-0.5, -0.5, -0.1, -0.3, -0.3]
    by_loss = setup_in(tmp_path, "team_loss")
    by_loss = replace(by_loss, base=apply(by_loss.base, ["stages.3.best=team_loss"]))
    assert [e["value"] for e in epochs(told, by_loss)] == pytest.approx([0.5, 0.5, 0.9, 0.7, 0.7])
    # What is measured only at the end cannot compare epochs.
    assert [e["value"] for e in epochs(told, setup_in(tmp_path, "ece"))] == [0.5, 0.5, 0.1, 0.3, 0.3]


def test_a_trial_has_a_folder_and_threads_of_its_own_and_the_parameters(tmp_path: Path) -> None:
    shared = setup_in(tmp_path)
    config = shared.config(7, params(5e-3, None, 16))
    assert config.output_dir == f"{shared.folder}/trials/007"
    assert config.data.dir == shared.base.data.dir
    assert (config.stage(3).learning_rate, config.stage(3).batch_size, config.stage(3).optimizer) == (5e-3, 16, "muon")
    assert config.stage_digest(3) != shared.config(8, params()).stage_digest(3)
    assert shared.config(9, params(5e-3, None, 16)).stage_digest(3) == config.stage_digest(3)


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (TrainingError("stage 3, phase main, step 9: the loss is not a number (rank 0: nan)"), "diverged"),
        (TrainingError("stage 3: no checkpoint was the best; its validation metric was never a number"), "diverged"),
        (TrainingError("rank 0: torch.OutOfMemoryError: CUDA out of memory"), "out of memory"),
        (MemoryError(), "out of memory"),
        (TrainingError("WorkerGroupStartupTimeoutError: no room"), "no room"),
        (ConfigError("override 'x=1': batch_size does not divide"), "configuration"),
        (KeyError("objectives: no metric 'speed'"), "crashed"),
    ],
)
def test_a_failure_is_told_by_its_cause(error: BaseException, fault: str) -> None:
    found, reason = classify(error)
    assert found == fault
    assert reason


def test_the_pace_is_written_and_goes_on_after_a_restart(tmp_path: Path) -> None:
    for last in (3, 5):
        pace = Pace(str(tmp_path))
        pace.every = 0.0
        for step in range(last - 2, last + 1):
            pace(SimpleNamespace(samples=8), {"step": step})
    found = module.folders.read_json(str(tmp_path / PACE)) or {}
    assert (found["steps"], found["samples"], found["step"]) == (6, 48, 5)  # step 3 was done twice, and paid twice
    assert found["first_step"] <= found["at"] <= time.time()


def test_a_trial_ends_between_steps_when_it_is_asked_to(tmp_path: Path) -> None:
    pace = Pace(str(tmp_path))
    pace.every = 0.0
    pace(SimpleNamespace(samples=8), {"step": 1})
    (tmp_path / STOP).touch()
    with pytest.raises(TrainingError, match="stopped after step 2"):
        pace(SimpleNamespace(samples=8), {"step": 2})
