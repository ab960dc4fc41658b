"""Tracking keeps what it is told, and never stops what it watches."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ember_platform.config import RunConfig, TrackingConfig
from ember_platform.mlflow_store import StoreError, open_store, tracking_uri, with_store
from ember_platform.tracking import Tracker, flatten
from ember_platform.train.worker import Order, _Log


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One database for the module: its creation takes seconds."""
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture
def config(store: Path, request: pytest.FixtureRequest) -> RunConfig:
    return RunConfig(output_dir=str(store), tracking=TrackingConfig(experiment=request.node.name))


def test_a_pipeline_with_a_stage(config: RunConfig, tmp_path: Path) -> None:
    tracker = Tracker(config)
    parent = tracker.start_pipeline({"workers": 2})
    child = tracker.start_stage(3, params={"learning_rate": 1e-4})
    for step in range(30):
        tracker.log_metrics({"loss": 1 / (step + 1), "accuracy": step / 30}, step)
    shard_folder = tmp_path / "data"
    shard_folder.mkdir()
    tracker.log_dataset("stage3", "a" * 64, str(shard_folder))
    (tmp_path / "metrics.json").write_text("{}")
    tracker.log_artifact(tmp_path / "metrics.json")
    tracker.set_tags({"note": "x"})
    tracker.end_stage()
    assert tracker.finish() == f"tracking: everything is in {tracking_uri(config)}"

    client = open_store(config)
    run = client.get_run(child)
    assert run.data.tags["mlflow.parentRunId"] == parent
    assert run.data.params["learning_rate"] == "0.0001"
    assert run.data.params["data.train.digest"] == "a" * 64
    assert [m.value for m in client.get_metric_history(child, "loss")] == [1 / (i + 1) for i in range(30)]
    assert run.inputs.dataset_inputs[0].dataset.digest == "a" * 36
    assert run.info.status == client.get_run(parent).info.status == "FINISHED"
    assert [a.path for a in client.list_artifacts(child)] == ["metrics.json"]
    assert Path(config.output_dir, "mlartifacts").is_dir()
    assert client.get_run(parent).data.params["cluster.num_workers"] == "2"
    assert client.get_run(parent).data.params["workers"] == "2"


def test_an_interrupted_pipeline_and_stage_are_taken_up(config: RunConfig) -> None:
    first = Tracker(config)
    parent, child = first.start_pipeline(), first.start_stage(4, "joint")
    again = Tracker(config)
    assert again.start_pipeline() == parent
    assert again.start_stage(4, "joint") == child
    assert again.start_stage(4, "modules") != child
    worker = Tracker(config, parent_run_id=parent)
    assert worker.start_stage(4, "joint") == child
    again.finish()
    assert Tracker(config).start_pipeline() != parent, "a finished one is not"


def test_a_tracker_that_fails_stops_nothing_and_says_so(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    tracker = Tracker(config, clock=lambda: now[0])
    tracker.start_pipeline()
    client = tracker._client()
    real, down = client.log_batch, [True]

    def log_batch(*arguments: Any, **named: Any) -> None:
        if down[0]:
            raise ConnectionError("nobody there")
        real(*arguments, **named)

    monkeypatch.setattr(client, "log_batch", log_batch)
    tracker.log_metrics({"loss": 1.0}, 0)
    tracker.flush()
    assert tracker.failures["log metrics"] == 1
    tracker.log_metrics({"loss": 0.5}, 1)
    tracker.flush()
    assert tracker.failures["log metrics"] == 1, "the door stays closed for a while"
    assert sum("nobody there" in (r.exc_text or "") for r in caplog.records) == 1
    down[0], now[0] = False, 60.0
    tracker.log_metrics({"loss": 0.25}, 2)
    assert [m.value for m in client.get_metric_history(tracker.run_id, "loss")] == [1.0, 0.5, 0.25], "nothing is lost"
    assert tracker.finish().startswith("tracking: everything is in")

    down[0] = True
    other = Tracker(config, clock=lambda: now[0])
    other._client_made = client
    other.start_pipeline()
    other.log_metrics({"loss": 1.0, "bad": float("nan")}, 0)
    message = other.finish()
    assert "metric values not stored: 1" in message
    assert "metric values not finite: 1" in message
    assert "log parameters: 1" in message
    assert "nobody there" in message


def test_no_server_at_all(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    config = RunConfig(
        output_dir=str(tmp_path), tracking=TrackingConfig(mlflow_uri=f"sqlite:///{tmp_path}/file/not/a/folder.db")
    )
    tracker = Tracker(config)
    assert tracker.start_pipeline() is None
    assert tracker.start_stage(1) is None
    tracker.log_metrics({"loss": 1.0}, 0)
    tracker.log_artifact("nowhere")
    assert "start a run: 2" in tracker.finish()


def test_addresses(tmp_path: Path) -> None:
    assert tracking_uri(RunConfig(output_dir=str(tmp_path))) == f"sqlite:///{tmp_path}/mlflow.db"
    relative = RunConfig(output_dir=str(tmp_path), tracking=TrackingConfig(mlflow_uri="sqlite:///x.db"))
    assert tracking_uri(relative) == f"sqlite:///{Path.cwd()}/x.db", "workers have other working directories"
    with pytest.raises(StoreError, match=r"set tracking\.mlflow_uri"):
        tracking_uri(RunConfig(output_dir="s3://bucket/prefix"))


def test_trainings_below_a_run_share_its_store(tmp_path: Path) -> None:
    shared = with_store(RunConfig(output_dir=str(tmp_path)))
    assert tracking_uri(shared.model_copy(update={"output_dir": str(tmp_path / "trial")})) == tracking_uri(shared)
    away = RunConfig(output_dir="s3://bucket/prefix")
    assert with_store(away) == away, "there is none to share, and each training says so"


def test_wandb_is_offline_without_a_key(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def mode(**fields: Any) -> str:
        return Tracker(RunConfig(output_dir=config.output_dir, tracking=TrackingConfig(**fields))).wandb_mode()

    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert mode() == "disabled"
    assert mode(wandb_project="p") == "offline"
    assert mode(wandb_project="p", wandb_mode="online") == "online"
    monkeypatch.setenv("WANDB_API_KEY", "k")
    assert mode(wandb_project="p") == "online"
    assert mode(wandb_project="p", wandb_mode="offline") == "offline"


def order(folder: Path, **tracking: Any) -> Order:
    """A worker's order for stage 3."""
    counts = {"train": 4, "validation": 1, "test": 1}
    config = RunConfig.model_validate(
        {
            "name": "tracked",
            "output_dir": str(folder),
            "data": {"counts": {"stage3": counts}},
            "stages": {"3": {"epochs": 1, "batch_size": 4, "learning_rate": 1e-3}},
            "tracking": tracking,
        }
    )
    return Order(config=config, stage=3, digest="d", data_dir="data", parent="parent")


def offline_records(content: bytes) -> Iterator[bytes]:
    """The records of a W&B run file, a log of LevelDB's format behind a header of seven bytes.

    Blocks of 32 KiB; a piece is a checksum (4 bytes), its length (2), its kind (1: whole, 2: first, 3: middle, 4: last)
    and its bytes; less than seven bytes at the end of a block are padding.
    """
    place, block, record = 7, 1 << 15, b""
    while place + 7 <= len(content):
        if block - place % block < 7:
            place += block - place % block
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        if place + 7 + length > len(content):
            return  # still being written
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


def closed_run(file: Path, seconds: float = 60) -> list[Any]:
    """The records of a run's file once W&B's own process has written its end, which `finish` does not wait for."""
    from wandb.proto.wandb_internal_pb2 import Record

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        records = [Record.FromString(data) for data in offline_records(file.read_bytes())]
        if any(record.HasField("exit") for record in records):
            return records
        time.sleep(0.1)
    raise AssertionError(f"{file} has no end after {seconds} seconds")


def offline_rows(file: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The logged rows and the configuration in a run's offline file."""
    rows, settings = [], {}
    for record in closed_run(file):
        if record.HasField("history"):
            items = record.history.item
            rows.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
        for item in record.run.config.update:
            settings[item.key] = json.loads(item.value_json)
    return rows, settings


def test_a_tracked_stage_leaves_an_offline_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B really started, as the worker starts it: no key, no network, and everything that was logged is there."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    log = _Log(order(tmp_path, wandb_project="ember-test"))
    for step in (1, 2, 3):
        log.put({"step": step, "phase": 0, "phase_step": step, "loss": 1 / step, "val_first_choice": step / 4})
    log.close()
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    (file,) = folder.glob("run-*.wandb")
    rows, settings = offline_rows(file)
    found = [(r["_step"], r["loss"], r["val_first_choice"]) for r in rows]
    assert found == [
        (1, 1.0, 0.25),
        (2, 0.5, 0.5),
        (3, 1 / 3, 0.75),
    ]
    assert settings["name"] == "tracked"
    assert settings["learning_rate"] == 1e-3
    client = open_store(order(tmp_path).config)
    (run,) = client.search_runs([client.get_experiment_by_name("embervlm").experiment_id])
    assert run.data.metrics["loss"] == 1 / 3, "and MLflow has it too"


def test_a_wandb_that_fails_stops_nothing(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[str] = []

    def broken(*arguments: Any, **named: Any) -> None:
        asked.append("log")
        raise OSError("disk full")

    def half(**named: Any) -> Any:
        asked.append("init")
        if len(asked) == 1:
            raise RuntimeError("no licence")
        return SimpleNamespace(log=broken, finish=broken)

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=half, Settings=lambda **named: None))
    tracked = config.model_copy(update={"tracking": TrackingConfig(experiment="w", wandb_project="p")})
    tracker = Tracker(tracked)
    tracker.start_pipeline()
    for phase in ("modules", "joint"):
        tracker.start_stage(4, phase)
        tracker.log_metrics({"loss": 1.0}, 1)
        tracker.end_stage()
    message = tracker.finish()
    assert asked == ["init", "init", "log", "log"]
    for part in ("start W&B: 1", "log to W&B: 1", "close W&B: 1"):
        assert part in message
    assert "disk full" in caplog.text
    client = open_store(tracked)
    runs = client.search_runs([client.get_experiment_by_name("w").experiment_id], "tags.stage = '4'")
    assert [run.data.metrics["loss"] for run in runs] == [1.0, 1.0], "MLflow goes on"


@pytest.mark.parametrize("where", ["made", "start_stage", "log_metrics", "end_stage"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_whatever_breaks_in_tracking_the_worker_goes_on(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even a tracker with a fault of its own: rows are taken, and closing does not wait for it."""

    class Broken:
        def __init__(self, *arguments: Any, **named: Any) -> None:
            self.do("made")

        def do(self, what: str) -> None:
            if what == where:
                raise RuntimeError(f"{what} is broken")

        def start_stage(self, *arguments: Any) -> None:
            self.do("start_stage")

        def log_metrics(self, *arguments: Any, **named: Any) -> None:
            self.do("log_metrics")

        def end_stage(self) -> None:
            self.do("end_stage")

    monkeypatch.setattr("ember_platform.tracking.Tracker", Broken)
    log = _Log(order(tmp_path))
    for step in range(5):
        log.put({"step": step, "phase": 0, "phase_step": step, "loss": 1.0})
    log.close()
    assert not log.thread.is_alive()


def test_flatten() -> None:
    assert flatten({"a": {"b": 1, "c": {}}, "d": [1, 2]}) == {"a.b": "1", "a.c": "{}", "d": "[1, 2]"}


def test_importing_the_tracker_imports_neither_mlflow_nor_wandb() -> None:
    code = (
        "import sys, ember_platform.tracking, ember_platform.registry; "
        "sys.exit(any(m in sys.modules for m in ('mlflow', 'wandb', 'torch')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": "platform:."}, cwd=Path(__file__).parents[2], timeout=60
    )
    assert done.returncode == 0


def test_no_row_waits_for_a_slow_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row is taken while the server has not answered the first; all arrive, in order, once it does."""
    asked, answered = threading.Event(), threading.Event()
    stored: list[int] = []

    class Slow:
        def __init__(self, *arguments: Any, **named: Any) -> None:
            pass

        def start_stage(self, *arguments: Any) -> None:
            pass

        def log_metrics(self, numbers: Any, step: int) -> None:
            asked.set()
            answered.wait(60)
            stored.append(step)

        def end_stage(self) -> None:
            pass

    monkeypatch.setattr("ember_platform.tracking.Tracker", Slow)
    log = _Log(order(tmp_path))
    log.put({"step": 0, "phase": 0, "phase_step": 0, "loss": 1.0})
    assert asked.wait(60)
    for step in range(1, 500):
        log.put({"step": step, "phase": 0, "phase_step": step, "loss": 1.0})
    assert stored == [], "training is through, and the server still at its first row"
    answered.set()
    log.close()
    assert stored == list(range(500))
