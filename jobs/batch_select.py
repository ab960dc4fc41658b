"""Choose robots for many records: `python jobs/batch_select.py --config configs/laptop.yaml --input … --output …`.

Reads parquet and JSONL, writes `answers/*.parquet`, `quarantine/*.parquet` and `summary.json`. Interrupted, it goes on
where it was when it is started again. The model is `serving.model`, by default the registry's champion.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from ember_platform.batch.answering import Options
from ember_platform.batch.parts import BatchError
from ember_platform.batch.run import Summary, select_all
from ember_platform.config import ConfigError, load_config
from ember_platform.mlflow_store import StoreError
from ember_platform.registry import RegistryError
from ember_platform.storage import StorageError
from embervlm.fleet import Fleet, FleetError


def parser() -> argparse.ArgumentParser:
    """The command line's arguments."""
    program = argparse.ArgumentParser(description="Choose robots for every record of parquet and JSONL files.")
    program.add_argument("--config", default="configs/laptop.yaml", help="run configuration (YAML)")
    program.add_argument(
        "--input", action="append", required=True, help="a file or folder of records, local or s3://…; may come again"
    )
    program.add_argument("--output", required=True, help="folder of the answers, local or s3://…")
    program.add_argument("--fleet", help="fleet (YAML or JSON) of records that name none")
    program.add_argument("--reasoning", action="store_true", help="write reasoning and plan (far slower)")
    program.add_argument("--top_k", type=int, help="robots listed at most")
    program.add_argument("--workers", type=int, default=2, help="models at once (default: %(default)s)")
    program.add_argument("--part_rows", type=int, default=512, help="records written together (default: %(default)s)")
    program.add_argument("--batch_size", type=int, default=32, help="records of a model pass (default: %(default)s)")
    program.add_argument("overrides", nargs="*", metavar="key=value", help="dotted overrides, as serving.model=…")
    return program


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job; 0 where it answered, 1 where too many records are in quarantine, 2 where it could not begin."""
    options = parser().parse_args(arguments)
    for name in ("top_k", "workers", "part_rows", "batch_size"):
        value = getattr(options, name)
        if value is not None and value < 1:
            print(f"batch_select: --{name}: {value} is not a number from 1", file=sys.stderr)
            return 2
    try:
        config = load_config(options.config, options.overrides)
        fleet = json.dumps(Fleet.from_file(options.fleet).to_dicts()) if options.fleet else None
        asked = Options(
            reasoning=options.reasoning,
            top_k=options.top_k,
            fleet=fleet,
            batch_size=options.batch_size,
            decode_threads=config.serving.replica.decode_threads,
            max_new_tokens=config.serving.replica.max_new_tokens,
        )
        summary = select_all(config, options.input, options.output, asked, options.part_rows, options.workers)
    except (BatchError, ConfigError, FleetError, RegistryError, StorageError, StoreError) as error:
        print(f"batch_select: {error}", file=sys.stderr)
        return 2
    return told(summary, options.output, config.data.max_bad_share)


def told(summary: Summary, output: str, max_bad_share: float) -> int:
    """Print what was done; the exit code."""
    print(
        f"{summary.answered} of {summary.rows} records answered by {summary.model} {summary.version} "
        f"({summary.answered_now} now, in {summary.seconds:.1f} s) → {output}/answers"
    )
    for reason, count in list(summary.quarantined.items())[:10]:
        print(f"  quarantine: {count} × {reason}")
    if summary.bad_share > max_bad_share:
        print(
            f"batch_select: {summary.bad_share:.2%} of the records are in {output}/quarantine, more than "
            f"data.max_bad_share ({max_bad_share:.2%})",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
