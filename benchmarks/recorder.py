"""What recording costs a training step: blocks of steps with the recorder and without, interleaved in one process.

    python benchmarks/recorder.py --config configs/laptop.yaml --pairs 12

It needs a run's prepared data (`data.dir=…`). On: every loss term is read, a row per step is kept, merged and logged to
the tracker as in a worker. Off: only the loss is read, which the step itself needs. A pair is one block of each, in
turns first; the ratio is taken within a pair, so that whatever else the machine does is shared. Blocks are as short as
the rows' interval (`log_every`), several times shorter than a run's, which makes the recorder dearer than it is.
Snapshots of the weights for figures are few, so one is timed and weighed by the steps of the run's phase.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ember_platform.config import RunConfig, load_config
from ember_platform.data.steps import StepInfo
from ember_platform.train import checkpoint as ck
from ember_platform.train import loop
from ember_platform.train.saving import Saver

#: Pairs at the start that are not counted.
_WARM = 1


class _LossOnly:
    """An engine that hands on the loss alone."""

    def __init__(self, engine: Any, off: Callable[[], bool]) -> None:
        self.engine, self.off = engine, off

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def forward(self, *given: Any) -> list[dict[str, Any]]:
        losses = self.engine.forward(*given)
        return [{"loss": part["loss"]} for part in losses] if self.off() else losses


class _Switched(loop._Phase):
    """A phase that records in every other block of steps, and knows when every step began."""

    def __init__(self, block: int, *given: Any) -> None:
        self.block, self.began, self.inside = block, list[float](), list[float]()
        super().__init__(*given)
        self.engine = _LossOnly(self.engine, lambda: not self.on(len(self.began) - 1))

    def on(self, step: int) -> bool:
        """Whether a step is recorded: on off, off on, on off, …"""
        pair, second = divmod(step // self.block, 2)
        return second == pair % 2

    def step(self, info: StepInfo, micro_batches: list[dict[str, Any]]) -> dict[str, Any]:
        self.began.append(time.perf_counter())
        return super().step(info, micro_batches)

    def record(self, info: StepInfo, row: dict[str, Any]) -> None:
        start = time.perf_counter()
        if self.on(len(self.began) - 1):
            super().record(info, row)
        self.inside.append(time.perf_counter() - start)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the shares and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/laptop.yaml")
    parser.add_argument("--stage", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=12, help="pairs of blocks, the first not counted")
    parser.add_argument("--block", type=int, default=10, help="steps of a block, and of a row's interval")
    parser.add_argument("overrides", nargs="*", metavar="field=value")
    given = parser.parse_intermixed_args(arguments)
    if given.pairs <= _WARM:
        parser.error(f"--pairs: {given.pairs} leaves nothing to count; at least {_WARM + 1}")
    with tempfile.TemporaryDirectory(prefix="embervlm-benchmark-") as scratch:
        own = [f"output_dir={scratch}", f"stages.{given.stage}.log_every={given.block}"]
        own.append(f"stages.{given.stage}.max_steps={2 * given.pairs * given.block}")
        config = load_config(given.config, [*given.overrides, *own])
        found = measure(config, given.stage, given.block, Path(scratch))
        full = load_config(given.config, given.overrides)
        report(found, full, given.stage)
    return 0


def measure(config: RunConfig, number: int, block: int, scratch: Path) -> dict[str, Any]:
    """Seconds of every block with and without the recorder, of the recorder itself, and of a snapshot."""
    import torch

    from ember_platform.data.manifest import Manifest
    from ember_platform.data.steps import StepMaker, plan_of
    from ember_platform.train.engine import Engine, EngineSettings
    from ember_platform.train.models import ModelDesk
    from ember_platform.train.precision import resolve_precision
    from ember_platform.train.setup import device_of, load_model
    from ember_platform.train.worker import _Log
    from embervlm.stages import get_stage

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    manifest, stage, settings = Manifest.load(config.data.dir), get_stage(number), config.stage(number)
    model, processor = load_model(ModelDesk(config, manifest.dir).begin(str(scratch / "begin")))
    device = torch.device(device_of(config))
    model.to(device)
    plan, name = plan_of(config, stage, stage.phases[0], manifest), stage.phases[0]
    maker = StepMaker(
        plan, tuple(manifest.paths(number, "train")), stage, processor, rank=0, world_size=1, micro_batches=1
    )
    ready = [maker(step) for step in range(plan.steps)]
    wanted = EngineSettings(
        micro_batch=settings.batch_size,
        accumulation=1,
        weight_decay=settings.weight_decay,
        clip=settings.clip,
        precision=resolve_precision(settings.precision, device.type),
        zero_stage=settings.zero_stage,
        optimizer=settings.optimizer,
    )
    module = stage.module(model)
    log = _Log(SimpleNamespace(config=config, stage=number, tracking_run=None))  # type: ignore[arg-type]
    job = loop.Job(
        number=number,
        digest="benchmark",
        seed=config.seed,
        folder=str(scratch / "stage"),
        settings=settings,
        phases=[loop.PhasePlan(name, plan.steps)],
        batches=lambda phase, start: iter(ready),
        ids=lambda places: [str(place) for place in places],
        engine=lambda phase: Engine(module, wanted, device),
        prepare=lambda phase: stage.prepare(model, name),
        validate=lambda: {stage.metric: 0.0},
        metric=stage.metric,
        mode=stage.mode,
        snapshot_model=lambda: lambda folder: folder.mkdir(parents=True),
        report=lambda metrics, path, name: None,
        log=log.put,
        say=lambda line: None,
    )
    saver = Saver(job.folder, settings.keep, job.patience, job.report, job.say)
    try:
        phase = _Switched(block, job, 0, ck.RunState(number, job.digest, 1), loop._Log(), saver)
        phase.run(None)
    finally:
        saver.close()
        log.close()
    return {**blocks(phase), "block": block, "snapshot": snapshot_seconds(model, processor, scratch)}


def blocks(phase: _Switched) -> dict[str, list[float]]:
    """Seconds per pair: of the block with the recorder, of that without, and inside the recorder."""
    # The last block ends with what ends a phase, and no step begins behind it: its pair is left out.
    pairs = (len(phase.began) - 1) // (2 * phase.block)
    found: dict[str, list[float]] = {"on": [], "off": [], "inside": []}
    for pair in range(_WARM, pairs):
        for half in (0, 1):
            first = (2 * pair + half) * phase.block
            seconds = phase.began[first + phase.block] - phase.began[first]
            found["on" if phase.on(first) else "off"].append(seconds)
            if phase.on(first):
                found["inside"].append(sum(phase.inside[first : first + phase.block]))
    return found


def snapshot_seconds(model: Any, processor: Any, scratch: Path) -> float:
    """Seconds that copying and writing the weights once takes, as a worker does it for the figures."""
    start = time.perf_counter()
    state = {name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()}
    model.save_pretrained(scratch / "snapshot", state_dict=state)
    processor.save_pretrained(scratch / "snapshot")
    return time.perf_counter() - start


def report(found: dict[str, Any], full: RunConfig, number: int) -> None:
    """The shares of step time with their spread, and one line of JSON."""
    from ember_platform.data.manifest import Manifest
    from ember_platform.data.steps import plan_of
    from embervlm.stages import get_stage

    on, off, inside = (np.array(found[name]) for name in ("on", "off", "inside"))
    ratio = on / off
    rng = np.random.default_rng(0)
    means = ratio[rng.integers(len(ratio), size=(2000, len(ratio)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    stage = get_stage(number)
    plans = [plan_of(full, stage, name, Manifest.load(full.data.dir)) for name in stage.phases]
    steps = sum(plan.steps for plan in plans)
    step = float(np.median(off)) / found["block"]
    print(f"{len(on)} pairs, a step takes {1000 * step:.0f} ms")
    print(f"with / without: mean {ratio.mean():.4f} (95% {low:.4f} to {high:.4f}), median {np.median(ratio):.4f}")
    print(f"inside the recorder: {inside.sum() / on.sum():.4%} of the step time, at most {(inside / on).max():.4%}")
    share = full.figures.snapshots * len(plans) * found["snapshot"] / (steps * step)
    print(
        f"{full.figures.snapshots} snapshots a phase of {found['snapshot'] * 1000:.0f} ms in {steps} steps: {share:.4%}"
    )
    shares = {"inside": float(inside.sum() / on.sum()), "snapshots": share}
    print(json.dumps({"ratio": ratio.tolist(), "interval": [low, high], **shares, **found}))


if __name__ == "__main__":
    sys.exit(main())
