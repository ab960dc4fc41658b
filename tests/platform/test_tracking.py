"""Tracking keeps what it is told, and never stops what it watches."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ember_platform.config import RunConfig, TrackingConfig
from ember_platform.mlflow_store import StoreError, open_store, tracking_uri
from ember_platform.tracking import Tracker, flatten


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
