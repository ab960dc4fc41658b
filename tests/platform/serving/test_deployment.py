"""What a replica's process is started with."""

from __future__ import annotations

from pathlib import Path

import yaml

from ember_platform.serving.deployment import REPLICA_ENVIRONMENT

ROOT = Path(__file__).resolve().parents[3]


def test_a_replica_keeps_its_memory_as_training_does() -> None:
    jobs = yaml.safe_load((ROOT / "cluster" / "runtime_env.yaml").read_text(encoding="utf-8"))["env_vars"]
    kept = {name: value for name, value in jobs.items() if name.startswith("MALLOC_")}
    assert kept
    assert kept == {name: value for name, value in REPLICA_ENVIRONMENT.items() if name.startswith("MALLOC_")}
