"""Make the shards of a run: `python jobs/prepare_data.py --config configs/laptop.yaml [key=value …]`.

A second run with the same configuration finds them made. `--dry-run` prints what would be made and starts nothing.
"""

from __future__ import annotations

import argparse
import sys

from ember_platform.config import ConfigError, RunConfig, load_config
from ember_platform.data.ingest import prepare
from ember_platform.data.manifest import DataError
from ember_platform.data.sources import plan
from ember_platform.storage import StorageError
from embervlm.data.readers.robot_selection import ReaderError


def main(arguments: list[str] | None = None) -> int:
    """Run the job; the exit code is 2 where configuration or input is at fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--config", default="configs/laptop.yaml", help="run configuration (YAML)")
    parser.add_argument("--robot_data", help="robot-selection JSON file, or a folder of them")
    parser.add_argument("--dry-run", action="store_true", help="print what would be made")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="dotted overrides, as in data.workers=4")
    options = parser.parse_args(arguments)
    overrides = list(options.overrides)
    if options.robot_data:
        overrides.append(f"data.robot_data={options.robot_data}")
    try:
        config = load_config(options.config, overrides)
        if options.dry_run:
            describe(config)
        else:
            manifest = prepare(config)
            print(f"data: manifest {manifest.dir}/manifest.json, digest {manifest.digest}")
    except (ConfigError, DataError, ReaderError, StorageError) as error:
        print(f"prepare_data: {error}", file=sys.stderr)
        return 2
    return 0


def describe(config: RunConfig) -> None:
    """Print the shards and rows that the configuration asks for."""
    planned, generators = plan(config)
    print(f"{len(planned.specs)} shards in {config.data.dir}, {config.data.workers} tasks at once")
    rows: dict[tuple[str, str, str], int] = {}
    for spec in planned.specs:
        key = (spec.stage, spec.split, spec.source)
        rows[key] = rows.get(key, 0) + spec.count
    for (stage, split, source), count in sorted(rows.items()):
        print(f"  {stage} {split:<10} {source:<16} {count:>8} rows")
    for source, digest in sorted(generators.items()):
        print(f"  {source} is read by {digest[:12]}")
    if planned.faults or planned.merged:
        print(f"  {len(planned.faults)} rows would go to quarantine, {planned.merged} doubles are merged")


if __name__ == "__main__":
    sys.exit(main())
