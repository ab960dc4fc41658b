"""Measure and draw the figures of a run that is trained, from the models that it kept.

    ray job submit --runtime-env cluster/runtime_env.yaml -- python jobs/figures.py --config configs/laptop.yaml

The pipeline does this by itself (`figures.enabled`); here it is done again, or for a run made without. Where the data
is measured and only the drawing is wanted: `embervlm figures`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ember_platform import figures
from ember_platform.config import ConfigError, load_config
from ember_platform.data.manifest import DataError
from ember_platform.train import folders
from embervlm.evaluation import MetricError
from embervlm.monitoring.data import FigureDataError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job; 0 where everything was drawn that could be, 1 where it says why not."""
    parser = argparse.ArgumentParser(description="Measure and draw the figures of a trained run.")
    parser.add_argument("--config", required=True, help="the run's YAML configuration")
    parser.add_argument("--stages", default="1,2,3,4", help="stages to measure again, such as 3,4 (default: all)")
    parser.add_argument("overrides", nargs="*", help="dotted overrides, such as output_dir=outputs")
    options = parser.parse_args(arguments)
    try:
        config = load_config(options.config, options.overrides)
        for number in [int(text) for text in options.stages.split(",") if text]:
            if folders.read_json(f"{folders.stage_dir(config.output_dir, number)}/{folders.DONE}") is not None:
                figures.measure(config, number, config.data.dir)
        figures.measure_rest(config, config.data.dir)
        print("\n".join(figures.draw(config, report=True)))
    except (ConfigError, DataError, FigureDataError, MetricError, figures.FiguresError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
