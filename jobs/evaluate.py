"""Measure a model on a split of a run's data: `python jobs/evaluate.py --model outputs/stage3/final --stage 3 …`.

Writes `metrics.json` (for another split than test `metrics-<split>.json`) and `tables.json` into `--output`, by default
the stage's folder of the run, and prints a table.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ember_platform.config import ConfigError, load_config
from ember_platform.data.manifest import DataError
from ember_platform.measure import measure_stage
from ember_platform.mlflow_store import StoreError
from ember_platform.registry import RegistryError, model_folder
from ember_platform.storage import absolute
from embervlm.evaluation import MetricError, format_table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job; 0 where it measured, 1 where it says why not."""
    parser = argparse.ArgumentParser(description="Evaluate a model on a stage's test split.")
    parser.add_argument("--model", help="a model folder or models:/name@alias (default: the stage's final folder)")
    parser.add_argument("--config", required=True, help="the run's YAML configuration")
    parser.add_argument("--stage", type=int, required=True, choices=(1, 2, 3, 4))
    parser.add_argument("--split", default="test", choices=("train", "validation", "test"))
    parser.add_argument("--output", help="folder for metrics.json (default: <output_dir>/stage<N>)")
    parser.add_argument("overrides", nargs="*", help="dotted overrides, such as evaluation.samples=256")
    options = parser.parse_args(arguments)
    try:
        config = load_config(options.config, options.overrides)
        stage_dir = Path(config.output_dir, f"stage{options.stage}")
        folder = model_folder(config, options.model or str(stage_dir / "final"))
        output = Path(absolute(options.output)) if options.output else stage_dir
        name = "metrics.json" if options.split == "test" else f"metrics-{options.split}.json"
        found = measure_stage(config, options.stage, folder, options.split, output / name)
    except (ConfigError, DataError, RegistryError, StoreError, MetricError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(format_table(found["metrics"], found["baselines"]))
    print(f"{found['samples']} {options.split} records in {found['tables']['seconds']:.1f} s → {output / name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
