"""Samples a second of stage 3: the platform with one and two workers, and a bare PyTorch loop, interleaved.

    python benchmarks/train_step.py --config configs/laptop.yaml --steps 60 --rounds 3

The bare loop has the same model, the same batches (made before it starts, so it never waits for data), the same
precision and optimizer, and as many threads as all workers together. The first steps of every run are left out. Each
round runs every contender once, so that whatever else the machine does is shared; the ratio is taken within a round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

STAGE = 3
_SKIP = 5


def main() -> int:
    """Measure, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/laptop.yaml")
    parser.add_argument("--steps", type=int, default=60, help="optimizer steps of a run, the first few not counted")
    parser.add_argument("--rounds", type=int, default=3, help="times that every contender runs")
    parser.add_argument("--workers", default="1,2", help="numbers of workers of the platform's runs")
    parser.add_argument("overrides", nargs="*", metavar="field=value")
    given = parser.parse_intermixed_args()
    workers = [int(n) for n in given.workers.split(",")]
    with tempfile.TemporaryDirectory(prefix="embervlm-benchmark-") as scratch:
        rates = measure(given.config, given.overrides, given.steps, given.rounds, workers, Path(scratch))
    report(rates)
    return 0


def measure(
    path: str, overrides: list[str], steps: int, rounds: int, workers: list[int], scratch: Path
) -> dict[str, list[float]]:
    """Samples a second of every contender, a value per round."""
    from ember_platform.config import load_config
    from ember_platform.data.ingest import prepare
    from ember_platform.data.rayed import ensure_ray
    from ember_platform.train.models import ModelDesk

    fixed = [
        f"stages.{STAGE}.max_steps={steps}",
        f"stages.{STAGE}.eval_every={steps}",
        f"stages.{STAGE}.save_every={steps}",
    ]
    fixed += [f"stages.{STAGE}.eval_samples=8", f"output_dir={scratch}", "figures.enabled=false"]
    fixed += ["data.feature_cache=off"]  # the bare loop encodes every picture, so the platform does, too
    config = load_config(path, [*overrides, *fixed])
    ensure_ray(config)
    manifest = prepare(config)
    begin = ModelDesk(config, manifest.dir).begin(str(scratch / "begin"))
    rates: dict[str, list[float]] = {"bare": [], **{f"{n} worker(s)": [] for n in workers}}
    for number in range(rounds):
        rates["bare"].append(bare(config, manifest, begin, steps))
        for count in workers:
            run = load_config(
                path, [*overrides, *fixed, f"cluster.num_workers={count}", f"output_dir={scratch}/{number}-{count}"]
            )
            rates[f"{count} worker(s)"].append(platform(run, begin))
        print(
            f"round {number + 1}: " + ", ".join(f"{name} {values[-1]:.1f}" for name, values in rates.items()),
            flush=True,
        )
    return rates


def bare(config: Any, manifest: Any, begin: str, steps: int) -> float:
    """Samples a second of a plain loop over prepared batches."""
    import os

    import torch

    from ember_platform.data.steps import StepMaker, plan_of
    from ember_platform.train.engine import autocast
    from ember_platform.train.optimizer import make_optimizer, set_rate
    from ember_platform.train.precision import resolve_precision
    from ember_platform.train.setup import device_of, load_model
    from embervlm.stages import get_stage
    from embervlm.stages.base import to_device

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    stage, settings = get_stage(STAGE), config.stage(STAGE)
    model, processor = load_model(begin)
    device = torch.device(device_of(config))
    model.to(device)
    stage.prepare(model, stage.phases[0])
    module = stage.module(model)
    maker = StepMaker(
        plan_of(config, stage, stage.phases[0], manifest),
        tuple(manifest.paths(STAGE, "train")),
        stage,
        processor,
        rank=0,
        world_size=1,
        micro_batches=1,
    )
    ready = [maker(step) for step in range(steps)]
    optimizer = make_optimizer(
        settings.optimizer,
        module,
        settings.weight_decay,
        model.pretrained_parameters(),
        settings.pretrained_rate,
    )
    set_rate(optimizer, settings.learning_rate_of(0))
    parameters = [p for p in module.parameters() if p.requires_grad]
    bf16 = resolve_precision(settings.precision, device.type) == "bf16"
    samples, started = 0, 0.0
    for number, (info, (batch,)) in enumerate(ready):
        if number == _SKIP:
            samples, started = 0, time.perf_counter()
        with autocast(device.type, bf16):
            loss = module(to_device(batch, device), number / steps, None)["loss"]
        loss.backward()
        if settings.clip:
            torch.nn.utils.clip_grad_norm_(parameters, settings.clip)
        optimizer.step()
        optimizer.zero_grad()
        samples += info.samples
    return samples / (time.perf_counter() - started)


def platform(config: Any, begin: str) -> float:
    """Samples a second of the same stage through Ray Data, Ray Train and DeepSpeed, from its recorded history."""
    from ember_platform.train.checkpoint import read_history
    from ember_platform.train.stage_run import run_stage

    run_stage(config, STAGE, digest="benchmark", parent=begin)
    rows = read_history(Path(config.output_dir, f"stage{STAGE}", "history.parquet"))[_SKIP:]
    return float(sum(row["samples"] for row in rows) / sum(row["seconds"] for row in rows))


def report(rates: dict[str, list[float]]) -> None:
    """The table, and one line of JSON."""
    ratios = {
        name: [value / base for value, base in zip(values, rates["bare"], strict=True)]
        for name, values in rates.items()
    }
    print(f"{'':<12} {'samples/s':>10} {'spread':>16} {'of bare':>8} {'spread':>13}")
    for name, values in rates.items():
        mid, ratio = statistics.median(values), ratios[name]
        print(
            f"{name:<12} {mid:>10.1f} {min(values):>7.1f}–{max(values):<8.1f} {statistics.median(ratio):>8.2f}"
            f" {min(ratio):>6.2f}–{max(ratio):<6.2f}"
        )
    print(json.dumps({"samples_per_second": rates, "ratio": ratios}))


if __name__ == "__main__":
    sys.exit(main())
