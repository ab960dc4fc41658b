"""Checkpoints: complete or absent, beside the step, whatever storage does; a run goes on from the newest whole one."""

from __future__ import annotations

import errno
import json
import resource
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.killable import WRITING, die_in_writing
from ember_platform import storage
from ember_platform.config import EarlyStop
from ember_platform.train import checkpoint as ck
from ember_platform.train import engine_state, resume, saving
from ember_platform.train.loop import TrainingError, train
from tests.platform.train.fakes import Run, interrupted_at, settings


def run_in(folder: Path, **changes: Any) -> Run:
    folder.mkdir(exist_ok=True)
    return Run(folder, settings(**{"save_every": 2, "eval_every": 99, "epochs": 2, "keep": 9, **changes}))


def go_on(folder: Path, **changes: Any) -> tuple[Run, Path | None]:
    """The same command again: from the newest whole checkpoint to the end."""
    run = run_in(folder, **changes)
    with resume.newest(str(folder), run.lines.append) as found:
        train(run.job, found)
    return run, found


@pytest.fixture
def finished(tmp_path: Path) -> Run:
    """A run of ten steps with checkpoints after every second."""
    run = run_in(tmp_path / "whole")
    train(run.job)
    return run


def assert_same(run: Run, other: Run) -> None:
    for name, value in run.weights().items():
        assert torch.equal(value, other.weights()[name]), name


def test_every_file_of_a_checkpoint_is_in_its_record(finished: Run) -> None:
    names = ck.names(str(finished.folder))
    assert names == [f"checkpoint-0-{n:06d}" for n in (2, 4, 6, 8, 10)]
    folder = finished.folder / names[1]
    files = set(json.loads((folder / ck.RECORD).read_text())["files"])
    parquet = {"history.parquet", "samples.parquet"}
    assert files == {"engine-0-of-1.safetensors", "model/weights.safetensors", "state.json"} | parquet
    assert files | {ck.RECORD} == {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert ck.damage(folder) is None


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a flipped bit is not what was written": lambda c: flip(c / "engine-0-of-1.safetensors"),
    "model/weights.safetensors is missing": lambda c: (c / "model" / "weights.safetensors").unlink(),
    "bytes, and": lambda c: (c / "state.json").write_text((c / "state.json").read_text() + " "),
    "checkpoint.json cannot be read": lambda c: (c / ck.RECORD).write_text('{"files": {"a'),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(finished: Run, what: str) -> None:
    cut = run_in(finished.folder.parent / "cut")
    interrupted_at(cut, 9)
    with pytest.raises(KeyboardInterrupt):
        train(cut.job)
    newest = cut.folder / ck.names(str(cut.folder))[-1]
    DAMAGES[what](newest)
    again, found = go_on(cut.folder)
    assert found is not None
    assert found.name < newest.name
    said = " ".join(again.lines)
    assert f"{newest}: damaged" in said
    assert what.replace("a flipped bit", "engine-0-of-1.safetensors") in said
    assert_same(again, finished)
    assert ck.damage(newest) is None  # made anew


def test_a_checkpoint_that_was_never_completed_does_not_count(finished: Run) -> None:
    newest = finished.folder / "checkpoint-0-000010"
    (newest / ck.RECORD).unlink()
    again, found = go_on(finished.folder)
    assert found == finished.folder / "checkpoint-0-000008"
    assert not any("damaged" in line for line in again.lines)
    assert_same(again, finished)


def test_where_every_checkpoint_is_damaged_the_run_begins_again(finished: Run) -> None:
    for name in ck.names(str(finished.folder)):
        (finished.folder / name / "state.json").unlink()
    again, found = go_on(finished.folder)
    assert found is None
    assert sum("damaged" in line for line in again.lines) == 5
    assert_same(again, finished)


def test_a_checkpoint_that_the_user_names_is_not_exchanged(finished: Run) -> None:
    (finished.folder / "checkpoint-0-000010" / "history.parquet").unlink()
    with (
        pytest.raises(ck.CheckpointError, match=r"history\.parquet is missing"),
        resume.given(str(finished.folder / "checkpoint-0-000010")),
    ):
        pass


def test_the_best_model_is_checked_too(finished: Run) -> None:
    said: list[str] = []
    folder = str(finished.folder)
    flip(finished.folder / "checkpoint-0-000006" / "model" / "weights.safetensors")
    found = resume.best_model(folder, "checkpoint-0-000006", "checkpoint-0-000010", said.append)
    assert found == f"{folder}/checkpoint-0-000010/model"
    assert "checkpoint-0-000006: damaged: model/weights.safetensors is not what was written" in said[0]
    for name in ck.names(folder):
        (finished.folder / name / ck.STATE).unlink()
    with pytest.raises(ck.CheckpointError, match="no checkpoint there has a whole model"):
        resume.best_model(folder, "checkpoint-0-000006", "checkpoint-0-000010", said.append)


def test_the_best_of_every_kept_checkpoint_is_kept(tmp_path: Path) -> None:
    run = run_in(tmp_path, keep=2, eval_every=2, epochs=3)
    run.scores = [0.1, 0.5, 0.2, 0.6, 0.3, 0.2, 0.2, 0.1]
    train(run.job)
    # 14 and 15 are the newest, and both know 8 as the best.
    assert ck.names(str(tmp_path)) == [f"checkpoint-0-{n:06d}" for n in (8, 14, 15)]


def test_best_and_patience_go_on(tmp_path: Path) -> None:
    """The curve of a validation metric, cut anywhere: the same best, and the stop at the same step."""
    curve = {3: 0.5, 6: 0.7, 9: 0.72, 12: 0.6, 15: 0.71, 18: 0.9, 21: 0.9}

    def run(folder: Path) -> Run:
        stop = EarlyStop(patience=3, min_delta=0.05)
        made = run_in(folder, epochs=9, eval_every=3, save_every=1, early_stop=stop)
        at: list[int] = []
        made.job.observers.append(lambda info, row: at.append(row["phase_step"]))
        made.job.validate = lambda: {"score": curve[at[-1]]}
        return made

    state, _ = train(run(tmp_path / "whole").job)
    assert (state.step, state.stale, state.best.step, state.best.value) == (15, 3, 9, 0.72)
    for cut_at in (7, 10, 14):
        folder = tmp_path / str(cut_at)
        cut = run(folder)
        interrupted_at(cut, cut_at)
        with pytest.raises(KeyboardInterrupt):
            train(cut.job)
        with resume.newest(str(folder), print) as found:
            assert found is not None
            again, history = train(run(folder).job, found)
        assert again == state
        assert {row["step"]: row["val_score"] for row in history if "val_score" in row} == {
            step: value for step, value in curve.items() if step <= 15
        }


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_in(tmp_path, save_every=4)
    entered, leave = threading.Event(), threading.Event()
    store = saving.store
    steps_meanwhile: list[int] = []

    def slow(target: str, write: saving.Write) -> ck.Sums:
        entered.set()
        assert leave.wait(60)
        return store(target, write)

    def watch(info: Any, row: dict[str, Any]) -> None:
        if entered.is_set() and not leave.is_set():
            steps_meanwhile.append(row["step"])
            if row["step"] == 7:
                assert ck.names(str(tmp_path)) == []
                leave.set()

    monkeypatch.setattr(saving, "store", slow)
    run.job.observers.append(watch)
    train(run.job)
    assert steps_meanwhile == [5, 6, 7]
    # What was written is the state of step 4, not of when it was written.
    monkeypatch.undo()
    other = run_in(tmp_path / "other", save_every=4)
    train(other.job)
    sums = [ck.sums_of(f / "checkpoint-0-000004") for f in (tmp_path, tmp_path / "other")]
    for name in (engine_state.file_name(0, 1), "model/weights.safetensors", "samples.parquet", "state.json"):
        assert sums[0][name] == sums[1][name], name


def test_a_killed_run_loses_no_more_than_the_checkpoint_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: Run
) -> None:
    commit = ck.commit

    def killed(checkpoint: str, sums: ck.Sums) -> None:
        if checkpoint.endswith("000006"):
            raise KeyboardInterrupt  # every file is there, but nobody comes to say so
        commit(checkpoint, sums)

    monkeypatch.setattr(ck, "commit", killed)
    cut = run_in(tmp_path / "cut")
    with pytest.raises(KeyboardInterrupt):
        train(cut.job)
    monkeypatch.undo()
    assert ck.names(str(cut.folder))[-1] == "checkpoint-0-000004"
    again, found = go_on(cut.folder)
    assert found == cut.folder / "checkpoint-0-000004"
    assert_same(again, finished)


def killed_in_writing(number: int, folder: str) -> None:
    """A process of its own that dies in the writing of the checkpoint of step 6."""
    run = run_in(Path(folder, WRITING[number]))
    die_in_writing(WRITING[number], 6)
    train(run.job)


def test_a_process_killed_in_writing_leaves_the_checkpoint_before(tmp_path: Path, finished: Run) -> None:
    context = torch.multiprocessing.get_context("spawn")
    processes = [context.Process(target=killed_in_writing, args=(n, str(tmp_path))) for n in range(len(WRITING))]
    for process in processes:
        process.start()
    for moment, process in zip(WRITING, processes, strict=True):
        process.join(240)
        assert process.exitcode == -signal.SIGKILL, moment
        left = {path.name for path in (tmp_path / moment / "checkpoint-0-000006").rglob("*")}
        assert ("state.json" in left) == (moment != "half-a-file"), moment
        assert (".part-0" in left) == (moment != "before-the-record"), moment
        again, found = go_on(tmp_path / moment)
        assert found == tmp_path / moment / "checkpoint-0-000004"
        assert_same(again, finished)
        assert ck.names(str(again.folder)) == ck.names(str(finished.folder))
        assert not list(again.folder.rglob(".part-*"))


class Refusing:
    """Storage that says no for a while, from one checkpoint on."""

    def __init__(self, times: int, error: int, name: str) -> None:
        self.times, self.error, self.name = times, error, name
        self.write = storage.write_bytes

    def __call__(self, path: str, content: Any) -> None:
        if self.times and self.name in path:
            self.times -= 1
            raise storage.StorageError(self.error, "no", path)
        self.write(path, content)


def test_storage_that_refuses_for_a_while_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: Run
) -> None:
    monkeypatch.setattr(storage, "write_bytes", Refusing(2, errno.EIO, "000006"))
    monkeypatch.setattr(saving, "_FIRST_PAUSE_S", 0.01)
    run = run_in(tmp_path / "slow")
    run.job.patience = 60.0
    train(run.job)
    assert sum("storage refuses it" in line for line in run.lines) == 2
    assert ck.names(str(run.folder)) == ck.names(str(finished.folder))
    assert_same(run, finished)


@pytest.mark.parametrize("where", ["record", "files"])
def test_storage_that_goes_on_refusing_stops_the_run_with_the_last_checkpoint_intact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: Run, where: str
) -> None:
    if where == "record":
        monkeypatch.setattr(storage, "write_bytes", Refusing(99, errno.EROFS, "000006"))
    else:
        store = saving.store

        def full(target: str, write: saving.Write) -> ck.Sums:
            if target.endswith("000006"):
                raise OSError(errno.ENOSPC, "No space left on device", target)
            return store(target, write)

        monkeypatch.setattr(saving, "store", full)
    run = run_in(tmp_path / "full")
    with pytest.raises(TrainingError, match=r"could not be stored.*checkpoint-0-000004 is intact.*same command again"):
        train(run.job)
    monkeypatch.undo()
    again, found = go_on(run.folder)
    assert found == run.folder / "checkpoint-0-000004"
    assert_same(again, finished)


def test_a_file_system_without_room_is_survived(tmp_path: Path) -> None:
    """The system itself refuses: no file may grow beyond a megabyte, and the model takes two."""
    run = run_in(tmp_path / "a")
    run.ballast = {"ballast": torch.zeros(500_000)}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def shrink(info: Any, row: dict[str, Any]) -> None:
        if ck.names(str(run.folder)):
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))

    run.job.observers.append(shrink)
    try:
        with pytest.raises(TrainingError, match="could not be stored"):
            train(run.job)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    names = ck.names(str(run.folder))
    assert 1 <= len(names) < 5
    assert all(ck.damage(run.folder / name) is None for name in names)
    assert not list(run.folder.rglob(".part-*"))
    again, found = go_on(run.folder)
    assert found == run.folder / names[-1]
    assert again.reports[-1][1] == "checkpoint-0-000010"
