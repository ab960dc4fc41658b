"""Sweeps on a real cluster: trials finish, diverge and are stopped; a killed driver costs no finished trial."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from ember_platform.config import RunConfig, load_config
from ember_platform.mlflow_store import open_store
from ember_platform.tuning.ledger import Ledger, Record
from ember_platform.tuning.space import SweepConfig

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.timeout(1500)


def base(folder: Path, workers: int = 1) -> RunConfig:
    """Stage 3 from a new model: four steps an epoch."""
    values = {
        "name": "sweeps",
        "output_dir": str(folder),
        "preset": "embervlm-nano",
        "data": {
            "dir": str(folder / "data"),
            "image_size": 64,
            "loader": "actor",
            "counts": {"stage3": {"train": 32, "validation": 16, "test": 8}},
        },
        "cluster": {"num_workers": workers, "cpus_per_worker": 0.5},
        "stages": {"3": {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3, "precision": "fp32", "log_every": 1}},
        "evaluation": {"baselines": False},
        "figures": {"enabled": False},
    }
    return RunConfig.model_validate(values)


def space(**changes: Any) -> dict[str, Any]:
    """A rate that works and one with which the loss is not a number after the first step."""
    values: dict[str, Any] = {
        "stage": 3,
        "objectives": [{"metric": "first_choice", "mode": "max"}],
        "trials": 3,
        "concurrent": 1,
        "search": {"method": "random", "seed": 0},
        "space": {"stages.3.learning_rate": {"choice": [1e-3, 1e30], "default": 1e-3}},
    }
    return {**values, **changes}


def tuned(folder: Path) -> dict[int, Record]:
    return {record.number: record for record in Ledger(str(folder)).records()}


@pytest.mark.slow
def test_trials_finish_diverge_and_are_stopped(
    ray_cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.tune.schedulers import TrialScheduler
    from ray.util import placement_group_table

    from ember_platform.tuning.run import run_sweep
    from ember_platform.tuning.rungs import Rungs

    def decide(self: Rungs, controller: Any, trial: Any, result: dict[str, Any]) -> str:
        stop = trial.config["number"] == 2 and result.get("epoch") == 1
        return TrialScheduler.STOP if stop else TrialScheduler.CONTINUE

    monkeypatch.setattr(Rungs, "on_trial_result", decide)
    rates = [1e-3, 1e30, 1e-3]
    monkeypatch.setattr(
        "ember_platform.tuning.watch.propose", lambda s, b, known, number: {"stages.3.learning_rate": rates[number]}
    )
    config, lines = base(tmp_path), list[str]()
    outcome = run_sweep(SweepConfig.model_validate(space()), config, "tiny", say=lines.append, register=False)
    records = tuned(tmp_path / "tune" / "tiny")
    assert [records[n].status for n in range(3)] == ["finished", "failed", "stopped"], lines
    assert [len(records[n].epochs) for n in range(3)] == [2, 0, 1]
    assert records[1].fault == "diverged"
    assert "the loss is not a number" in str(records[1].reason)
    assert records[0].pace["steps"] == 8
    assert (records[0].first_step_seconds() or 0) > 0
    assert outcome.complete
    assert outcome.best is not None
    assert outcome.best.number == 0
    assert outcome.problems == []
    # Nothing is left on the cluster, and nothing of the stopped trial's checkpoints on the disk.
    left = [group for group in placement_group_table().values() if group["state"] != "REMOVED"]
    assert left == []
    assert not (tmp_path / "tune" / "tiny" / "trials" / "002" / "stage3").exists()
    best = load_config(outcome.files["best"])
    assert best.stage(3).learning_rate == 1e-3
    assert best.output_dir == config.output_dir
    assert Path(outcome.files["dashboard"]).stat().st_size > 1_000_000
    assert list((tmp_path / "tune" / "tiny" / "tensorboard").rglob("events.out.tfevents.*"))
    client = open_store(config)
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    (parent,) = [run for run in runs if run.data.tags.get("sweep") == "tiny"]
    trials = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert sorted(run.data.tags["status"] for run in trials) == ["failed", "finished", "stopped"]
    assert {run.data.params["stages.3.learning_rate"] for run in trials} == {"0.001", "1e+30"}


@pytest.mark.slow
def test_a_killed_sweep_goes_on_and_its_winner_is_registered(tmp_path: Path) -> None:
    """Killed in its second trial and resumed, it has the trials of an uninterrupted sweep, none of them run twice."""
    config, file = tmp_path / "base.yaml", tmp_path / "space.yaml"
    config.write_text(yaml.safe_dump(base(tmp_path, workers=2).model_dump(mode="json")))
    rates = {"stages.3.learning_rate": {"log_uniform": [1e-4, 1e-2]}}
    file.write_text(yaml.safe_dump(space(space=rates, config=str(config), search={"seed": 1, "startup": 2})))
    command = [sys.executable, "tune/sweep.py", "--space", str(file), "cluster.address=local"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "platform")))}

    def start(*more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*command, *more], cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    folder = tmp_path / "tune" / "space"
    first = start("--no-register")
    deadline = time.monotonic() + 600
    while not (1 in (found := tuned(folder)) and found[1].epochs) and time.monotonic() < deadline:
        assert first.poll() is None, first.communicate()[0]
        time.sleep(0.3)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    before = tuned(folder)
    assert before[0].status == "finished"
    assert before[1].status == "running"
    time.sleep(5)  # what the driver had begun notices that it is alone

    second = start("--resume")
    said = second.communicate(timeout=900)[0]
    assert second.returncode == 0, said
    after = tuned(folder)
    assert [record.status for record in after.values()] == ["finished"] * 3 or "stopped" in said
    assert after[0] == before[0]
    assert after[1].params == before[1].params
    assert after[1].epochs[0] == before[1].epochs[0]
    assert after[1].pace["steps"] < 16  # it went on, and did not begin again

    # The same sweep, uninterrupted, asks for the same trials.
    whole = start("--name", "whole", "--no-register")
    said = whole.communicate(timeout=900)[0]
    assert whole.returncode == 0, said
    for number, record in tuned(tmp_path / "tune" / "whole").items():
        assert (record.params, record.status) == (after[number].params, after[number].status)
        assert [e.value for e in record.epochs] == [e.value for e in after[number].epochs]

    client = open_store(base(tmp_path))
    (version,) = client.search_model_versions("name = 'embervlm'")
    assert version.tags["sweep"] == "space"
    winner = json.loads((folder / "trials" / version.tags["sweep_trial"] / "trial.json").read_text())
    assert winner["status"] == "finished"
    assert version.tags["parent_digest"] == (json.loads((folder / "sweep.json").read_text()))["identity"]["parent"]
