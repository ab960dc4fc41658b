"""What a trial's epochs do not tell: figures of its best model on the validation split."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ember_platform.config import RunConfig
from ember_platform.data.manifest import Manifest

LATENCY, PARAMETERS = "latency_ms", "parameters"
_REQUESTS, _WARM = 24, 4


def measure(config: RunConfig, stage: int, model: str, data_dir: str, names: Sequence[str]) -> dict[str, float]:
    """Figures of a model, calibrated as the stage finishes it, by name.

    `latency_ms` is the median time of one request with its own fleet and picture, `parameters` the model's size, the
    others are those of `measure_stage` on validation records. These also fitted the calibration, so a calibration
    error measured here is a little too small; trials are compared by it, nothing is reported from it.

    Raises:
        KeyError: no such figure.
    """
    import torch

    from ember_platform.measure import measure_stage
    from ember_platform.train.models import ModelDesk
    from ember_platform.train.setup import load_model

    desk = ModelDesk(config, data_dir)  # it takes all cores, and other trials run beside this one
    torch.set_num_threads(int(config.cluster.threads_per_worker) * config.cluster.num_workers)
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="embervlm-trial-") as temporary:
        folder = str(Path(temporary, "model"))
        desk.finish(stage, model, folder)
        if set(names) - {LATENCY, PARAMETERS}:
            quick = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"baselines": False})})
            found |= measure_stage(quick, stage, folder, split="validation")["metrics"]
        if {LATENCY, PARAMETERS} & set(names):
            loaded, processor = load_model(folder)
            loaded.processor = processor
            found[PARAMETERS] = float(sum(p.numel() for p in loaded.parameters()))
            if LATENCY in names:
                found[LATENCY] = latency_ms(loaded.eval(), config, data_dir, stage)
    missing = [name for name in names if name not in found]
    if missing:
        raise KeyError(f"objectives: no metric {missing[0]!r} was measured; there are: {', '.join(sorted(found))}")
    return {name: float(found[name]) for name in names}


def latency_ms(model: Any, config: RunConfig, data_dir: str, stage: int) -> float:
    """Median milliseconds of a request, one after the other, in this process."""
    from ember_platform.train.setup import split_records

    records = split_records(Manifest.load(data_dir), stage, "validation", _REQUESTS, config.seed)
    times: list[float] = []
    for record in [*records[:_WARM], *records]:
        started = time.perf_counter()
        model.select_robots(image=record.image, task=record.instruction, fleet=record.robots, top_k=1)
        times.append(time.perf_counter() - started)
    return statistics.median(times[_WARM:]) * 1e3
