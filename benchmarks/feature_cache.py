"""When the feature cache pays: a stage trained with and without it, over several numbers of epochs.

    python benchmarks/feature_cache.py --config configs/laptop.yaml --stage 3 --epochs 1,2,4 --rounds 1

Every run starts without features, so the time of the one with the cache includes making them. Printed are seconds from
submission to the end, what `auto` would have chosen and why, and how far the losses of the two runs are apart.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def main() -> int:
    """Measure, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/laptop.yaml")
    parser.add_argument("--stage", type=int, default=3)
    parser.add_argument("--epochs", default="1,2,4", help="numbers of epochs to try")
    parser.add_argument("--rounds", type=int, default=1, help="times that every contender runs")
    parser.add_argument("overrides", nargs="*", metavar="field=value")
    given = parser.parse_intermixed_args()
    epochs = [int(n) for n in given.epochs.split(",")]
    with tempfile.TemporaryDirectory(prefix="embervlm-benchmark-") as scratch:
        rows = [
            row
            for number in epochs
            for row in measure(given.config, given.overrides, given.stage, number, given.rounds, Path(scratch))
        ]
    print(f"{'epochs':>6} {'without':>9} {'with':>9} {'loss apart':>11}  auto")
    for row in rows:
        print(f"{row['epochs']:>6} {row['off']:>8.1f}s {row['on']:>8.1f}s {row['apart']:>11.4f}  {row['auto']}")
    print(json.dumps(rows))
    return 0


def measure(
    path: str, overrides: list[str], stage: int, epochs: int, rounds: int, scratch: Path
) -> list[dict[str, Any]]:
    """One row: both contenders with so many epochs, interleaved."""
    from ember_platform.config import load_config
    from ember_platform.data.ingest import prepare
    from ember_platform.data.rayed import ensure_ray
    from ember_platform.train import features
    from ember_platform.train.models import ModelDesk

    fixed = [*overrides, f"stages.{stage}.epochs={epochs}", f"stages.{stage}.eval_samples=8"]
    config = load_config(path, [*fixed, f"output_dir={scratch}"])
    ensure_ray(config)
    manifest = prepare(config)
    begin = ModelDesk(config, manifest.dir).begin(str(scratch / "begin"))
    seconds: dict[str, list[float]] = {"off": [], "on": []}
    losses: dict[str, list[float]] = {}
    for number in range(rounds):
        for cache in seconds:
            for folder in Path(manifest.dir).glob("features-*"):
                shutil.rmtree(folder)
            run = load_config(
                path, [*fixed, f"data.feature_cache={cache}", f"output_dir={scratch}/{epochs}-{number}-{cache}"]
            )
            started = time.monotonic()
            losses[cache] = train(run, stage, begin)
            seconds[cache].append(time.monotonic() - started)
    for folder in Path(manifest.dir).glob("features-*"):
        shutil.rmtree(folder)
    job = features.Job(config, manifest, stage, begin, str(scratch / "none"))
    missing = list(range(len(manifest.select(stage, "train"))))
    use, why = features.choose(job, missing, features.frozen_epochs(config, stage))
    apart = max(abs(a - b) / max(abs(a), 1e-9) for a, b in zip(losses["off"], losses["on"], strict=True))
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    return [{"epochs": epochs, **middle, "apart": apart, "auto": f"{'on' if use else 'off'}: {why}"}]


def train(config: Any, stage: int, begin: str) -> list[float]:
    """The losses of every step of a stage's run."""
    from ember_platform.train.checkpoint import read_history
    from ember_platform.train.stage_run import run_stage

    run_stage(config, stage, digest="benchmark", parent=begin)
    return [row["loss"] for row in read_history(Path(config.output_dir, f"stage{stage}", "history.parquet"))]


if __name__ == "__main__":
    sys.exit(main())
