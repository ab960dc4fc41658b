"""Sweeps and trials for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ember_platform.config import RunConfig
from ember_platform.tuning.ledger import FINISHED, Epoch, Record
from ember_platform.tuning.space import SweepConfig

SPACE: dict[str, Any] = {
    "stages.3.optimizer": {"choice": ["adamw", "muon"], "default": "adamw"},
    "stages.3.learning_rate": {"log_uniform": [1e-4, 1e-1]},
    "stages.3.weight_decay": {"uniform": [0.0, 0.5], "when": {"stages.3.optimizer": ["adamw"]}},
    "stages.3.batch_size": {"choice": [8, 16]},
    "stages.3.early_stop.patience": {"integer": [1, 4], "default": 2},
}


def sweep(**changes: Any) -> SweepConfig:
    """A sweep of stage 3."""
    values = {
        "stage": 3,
        "objectives": [{"metric": "first_choice", "mode": "max"}],
        "trials": 8,
        "search": {"startup": 3},
        "space": SPACE,
    }
    return SweepConfig.model_validate({**values, **changes})


def base(folder: Path | str = "outputs", **changes: Any) -> RunConfig:
    """A small run with stages 3 and 4."""
    stage = {"epochs": 4, "batch_size": 8, "learning_rate": 1e-3, "precision": "fp32"}
    values: dict[str, Any] = {
        "output_dir": str(folder),
        "preset": "embervlm-nano",
        "data": {
            "dir": str(Path(folder, "data")),
            "image_size": 64,
            "loader": "actor",
            "counts": {name: {"train": 32, "validation": 8, "test": 8} for name in ("stage3", "stage4")},
        },
        "cluster": {"num_workers": 1, "cpus_per_worker": 0.5},
        "stages": {"3": stage, "4": {**stage, "learning_rate": [1e-3, 1e-4]}},
    }
    return RunConfig.model_validate({**values, **changes})


def params(rate: float = 1e-3, decay: float | None = 0.01, batch: int = 8) -> dict[str, Any]:
    """A trial's parameters; without decay it is Muon's."""
    found: dict[str, Any] = {"stages.3.optimizer": "muon" if decay is None else "adamw", "stages.3.learning_rate": rate}
    if decay is not None:
        found["stages.3.weight_decay"] = decay
    return {**found, "stages.3.batch_size": batch, "stages.3.early_stop.patience": 2}


def record(number: int, values: list[float], status: str = FINISHED, **fields: Any) -> Record:
    """A trial with these values, an epoch each, a second apart."""
    epochs = [
        Epoch(i, 4 * i, value, {"first_choice": value, "team_exact": value / 2}, 1000.0 + 10 * number + i)
        for i, value in enumerate(values, 1)
    ]
    figures = {"first_choice": values[-1]} if status == FINISHED and values else {}
    made = {
        "params": params(10 ** (-4 + (number * 7 % 10) / 4)),
        "epochs": epochs,
        "figures": figures,
        "started": 1000.0,
    }
    return Record(number, status=status, **{**made, **fields})
