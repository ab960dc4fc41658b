"""The loop in process, over the real engine, on a stage of a few hundred weights."""

from __future__ import annotations

import gc
import math
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ember_platform.config import EarlyStop
from ember_platform.train import checkpoint as ck
from ember_platform.train.loop import PhasePlan, TrainingError, train
from tests.platform.train.fakes import Run, interrupted_at, settings


def finish(folder: Path, **changes: Any) -> tuple[Run, ck.RunState, list[dict[str, Any]]]:
    folder.mkdir()
    phases = changes.pop("phases", 1)
    run = Run(folder, settings(**changes), phases)
    return run, *train(run.job)


def test_learns_and_records_every_step(tmp_path: Path) -> None:
    run, state, history = finish(tmp_path / "a", epochs=12)
    assert state.finished
    assert [row["step"] for row in history] == list(range(1, 61))
    assert history[-1]["loss"] < history[0]["loss"] / 2
    assert {"epoch", "lr", "grad_norm", "samples", "seconds", "samples_per_second", "size"} <= set(history[0])
    assert state.samples == 12 * 40
    # Every sample once an epoch.
    for epoch in range(12):
        assert sorted(i for part in run.seen[epoch * 5 : epoch * 5 + 5] for i in part) == list(range(40))
    assert any("samples/s" in line for line in run.lines)


@pytest.mark.parametrize("zero_stage", [0, 1, 3])
def test_resumes_exactly(tmp_path: Path, zero_stage: int) -> None:
    whole, _, history = finish(tmp_path / "whole", zero_stage=zero_stage, save_every=4, phases=2)
    folder = tmp_path / "cut"
    folder.mkdir()
    cut = Run(folder, settings(zero_stage=zero_stage, save_every=4), 2)
    interrupted_at(cut, 17)  # in the second phase, past a checkpoint
    with pytest.raises(KeyboardInterrupt):
        train(cut.job)
    last = folder / ck.names(str(folder))[-1]
    assert last.name in ("checkpoint-1-000004", "checkpoint-1-000005")  # of the newest only the writing was begun
    again = Run(folder, settings(zero_stage=zero_stage, save_every=4), 2)
    state, resumed = train(again.job, last)
    assert state.finished
    for name, value in whole.weights().items():
        assert torch.equal(value, again.weights()[name]), name
    assert again.seen == whole.seen[10 + int(last.name[-6:]) :]
    volatile = {"seconds", "samples_per_second"}
    assert [{k: v for k, v in row.items() if k not in volatile} for row in resumed] == [
        {k: v for k, v in row.items() if k not in volatile} for row in history
    ]


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_an_engine_that_is_collected_leaves_the_next_one_whole(tmp_path: Path, zero_stage: int) -> None:
    run = Run(tmp_path, settings(zero_stage=zero_stage))
    first = run.engine(0)
    first.close()
    second = run.engine(0)
    second.snapshot()(tmp_path)
    (file,) = tmp_path.glob("engine-*")
    before = load_file(file)
    assert {name.partition("@")[0] for name in before} >= {f"weight/{name}" for name in run.weights()}
    gone = weakref.ref(first._engine)
    del first
    gc.collect()
    assert gone() is None or zero_stage == 3  # whose hooks hold it
    second.snapshot()(tmp_path)
    assert load_file(file).keys() == before.keys()
    second.close()


def test_a_fault_of_the_code_names_its_place_and_is_not_tried_again(tmp_path: Path) -> None:
    run = Run(tmp_path, settings())

    def break_down(info: Any, row: dict[str, Any]) -> None:
        if row["step"] == 3:
            raise ValueError("no such robot")

    run.job.observers.append(break_down)
    with pytest.raises(
        TrainingError,
        match=r"stage 3, phase phase0, step 4, rank 0: ValueError: no such robot \(test_loop.py:\d+\).*not tried again",
    ):
        train(run.job)


@pytest.mark.parametrize("error", [OSError("no route to host"), torch.distributed.DistNetworkError("gone")])
def test_a_fault_of_the_surroundings_is_left_to_be_tried_again(tmp_path: Path, error: Exception) -> None:
    run = Run(tmp_path, settings())

    def break_down(info: Any, row: dict[str, Any]) -> None:
        raise error

    run.job.observers.append(break_down)
    with pytest.raises(type(error)) as caught:
        train(run.job)
    assert caught.value is error


def test_resuming_a_finished_run_does_nothing(tmp_path: Path) -> None:
    _, state, history = finish(tmp_path / "a")
    again = Run(tmp_path / "a", settings())
    state_again, history_again = train(again.job, tmp_path / "a" / state.name)
    assert state_again == state
    assert history_again == history
    assert again.seen == []


def test_only_the_phase_s_parameters_train(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    run = Run(tmp_path / "a", settings(), 2)
    before = run.weights()
    interrupted_at(run, 10)  # the last step of the first phase
    with pytest.raises(KeyboardInterrupt):
        train(run.job)
    after = run.weights()
    assert torch.equal(before["backbone.weight"], after["backbone.weight"])
    assert not torch.equal(before["head.weight"], after["head.weight"])


def test_accumulation_gives_the_same_steps(tmp_path: Path) -> None:
    one = Run(tmp_path, settings(epochs=1, save_every=99))
    two = Run(tmp_path, settings(epochs=1, save_every=99, gradient_accumulation=2))
    for run, name in ((one, "one"), (two, "two")):
        run.model.dropout.p = 0.0
        run.folder = tmp_path / name
        run.folder.mkdir()
        train(run.job)
    for name, value in one.weights().items():
        assert torch.allclose(value, two.weights()[name], atol=1e-5), name


def test_keeps_the_best_and_stops_early(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    run = Run(tmp_path / "a", settings(epochs=9, early_stop=EarlyStop(patience=2, min_delta=0.05), save_every=999))
    run.scores = [0.5, 0.7, 0.72, 0.6, 0.9]
    state, history = train(run.job)
    assert state.phase_over
    assert state.finished
    assert state.step == 20  # four validations: the last two gained too little
    assert (state.best.value, state.best.checkpoint) == (0.72, "checkpoint-0-000015")
    assert [name for _, name in run.reports] == [f"checkpoint-0-{n:06d}" for n in (5, 10, 15, 20)]
    # Kept are the best and the two newest.
    assert ck.names(str(tmp_path / "a")) == [f"checkpoint-0-{n:06d}" for n in (15, 20)]
    assert [row["val_score"] for row in history if "val_score" in row] == [0.5, 0.7, 0.72, 0.6]


def test_a_loss_that_is_no_number_names_step_and_records_and_spares_the_weights(tmp_path: Path) -> None:
    run = Run(tmp_path, settings())
    run.poison = 3
    weights: list[dict[str, torch.Tensor]] = []
    run.job.observers.append(lambda info, row: weights.append(run.weights()))
    with pytest.raises(TrainingError, match=r"stage 3, phase phase0, step 4: the loss is not a number.*record-\d+"):
        train(run.job)
    assert all(math.isfinite(float(v.sum())) for v in run.weights().values())
    assert all(torch.equal(weights[-1][k], v) for k, v in run.weights().items())


def test_missing_validation_metric_is_named(tmp_path: Path) -> None:
    run = Run(tmp_path, settings())
    run.job.metric = "other"
    with pytest.raises(TrainingError, match=r"'other'.*only score"):
        train(run.job)


def test_data_that_ends_too_soon_is_an_error(tmp_path: Path) -> None:
    run = Run(tmp_path, settings())
    run.job.batches = lambda phase, start: iter(())
    with pytest.raises(TrainingError, match="ended after 0 of 10 steps"):
        train(run.job)


@pytest.mark.parametrize("empty", [0, 1])
def test_a_phase_of_no_steps_is_passed_over(tmp_path: Path, empty: int) -> None:
    run = Run(tmp_path, settings(), 2)
    run.job.phases[empty] = PhasePlan("none", 0)
    state, history = train(run.job)
    assert (state.phase, state.finished) == (1 - empty, True)
    assert {row["phase"] for row in history} == {1 - empty}
    again = Run(tmp_path, settings(), 2)
    again.job.phases[empty] = PhasePlan("none", 0)
    assert train(again.job, tmp_path / state.name)[0] == state
    assert again.seen == []


def test_refuses_a_checkpoint_of_other_settings(tmp_path: Path) -> None:
    _, state, _ = finish(tmp_path / "a")
    other = Run(tmp_path, settings())
    other.job.digest = "e"
    with pytest.raises(ck.CheckpointError, match="other settings"):
        train(other.job, tmp_path / "a" / state.name)


def test_refuses_half_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-0-000001").mkdir()
    with pytest.raises(ck.CheckpointError, match="no complete checkpoint"):
        ck.read_state(tmp_path / "checkpoint-0-000001")
