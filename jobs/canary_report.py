"""Compare champion and challenger on live requests: `python jobs/canary_report.py --config configs/laptop.yaml …`.

Reads the records that shadow and canary leave in `serving.state_dir` (or `--records`), prints a report, and with
`--out report.md` or `--out report.json` writes it too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ember_platform import storage
from ember_platform.config import ConfigError, load_config
from ember_platform.serving.comparison import FOLDER
from ember_platform.serving.comparison_report import ComparisonError, as_json, as_markdown, read_records, report


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job; 0 where there was something to compare, 1 where it says why not."""
    parser = argparse.ArgumentParser(description="Agreement, latency and confidence of champion and challenger.")
    parser.add_argument("--config", default="configs/laptop.yaml", help="run configuration (YAML)")
    parser.add_argument("--records", action="append", help="file or folder (default: those in serving.state_dir)")
    parser.add_argument("--since", help="only records from this ISO 8601 time on")
    parser.add_argument("--out", help="file for the report, .md or .json")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="dotted overrides")
    options = parser.parse_args(arguments)
    try:
        config = load_config(options.config, options.overrides)
        places = [Path(place) for place in options.records or [storage.join(config.serving.state_dir, FOLDER)]]
        content = report(read_records(places, options.since))
        if not content["comparisons"]:
            seen = ", ".join(map(str, places))
            raise ComparisonError(
                f"{seen}: no record of a challenger in {content['files']} files; "
                "set serving.rollout.shadow_percent or canary_percent and name a challenger"
            )
        text = as_markdown(content)
        if options.out:
            written = as_json(content) if options.out.endswith(".json") else text
            storage.write_bytes(options.out, written.encode())
    except (ConfigError, ComparisonError, OSError) as error:
        print(f"canary_report: {error}", file=sys.stderr)
        return 1
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
