"""Put the challenger through the gate, or go back: `python jobs/promote.py --config …`, `--version N`, `--rollback`.

A champion that was measured on other test data is measured again on this run's data before it is compared.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ember_platform.config import ConfigError, RunConfig, load_config
from ember_platform.data.manifest import DataError
from ember_platform.measure import measure_stage
from ember_platform.mlflow_store import StoreError
from ember_platform.registry import RegistryError, promote, roll_back


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job; 0 where the version is the champion now, 1 where the gate stopped it, 2 on errors."""
    parser = argparse.ArgumentParser(description="Promote a registered model to champion.")
    parser.add_argument("--config", required=True, help="the run's YAML configuration")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--version", type=int, help="the version to promote (default: the challenger)")
    what.add_argument("--rollback", action="store_true", help="make the version before the champion champion again")
    parser.add_argument("--stage", type=int, default=4, choices=(3, 4), help="the stage whose test split decides")
    parser.add_argument("overrides", nargs="*", help="dotted overrides, such as registry.gate.min_gain=0.01")
    options = parser.parse_args(arguments)
    try:
        config = load_config(options.config, options.overrides)
        if options.rollback:
            print(f"{config.registry.prefix}: version {roll_back(config)} is the champion again")
            return 0
        return _promote(config, options.version, options.stage)
    except (ConfigError, DataError, RegistryError, StoreError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _promote(config: RunConfig, version: int | None, stage: int) -> int:
    def remeasure(folder: Path) -> dict[str, Any]:
        print("the champion was measured on other test data; measuring it on this run's")
        return measure_stage(config, stage, folder)

    found = promote(config, version, remeasure)
    for check in found.checks:
        print(f"{'passed' if check.passed else 'FAILED'}  {check.name}: {check.message}")
    verdict = "is the champion" if found.promoted else "stays challenger"
    print(f"{found.name} version {found.version} {verdict}")
    return 0 if found.promoted else 1


if __name__ == "__main__":
    sys.exit(main())
