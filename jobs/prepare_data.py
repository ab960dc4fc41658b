"""Make the shards of a run: `python jobs/prepare_data.py --config configs/laptop.yaml [key=value …]`.

A second run with the same configuration finds them made. `--dry-run` prints what would be made and starts nothing.

Published datasets are named in the configuration (`data.datasets`). `--source` makes the shards of one, or of
several, by itself and leaves out what else the configuration names; a training run that names the same datasets finds
them made:

    python jobs/prepare_data.py --config configs/laptop.yaml --source coco --limit 1000 \
        --annotations annotations/captions_train2017.json --images s3://pictures/train2017
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from ember_platform.config import (
    CROPS_SOURCE,
    ROBOT_SOURCE,
    WORDS_SOURCE,
    WORLD_SOURCE,
    ConfigError,
    RunConfig,
    load_config,
)
from ember_platform.data import published
from ember_platform.data.ingest import prepare
from ember_platform.data.manifest import DataError
from ember_platform.data.sources import world_specs
from ember_platform.storage import StorageError
from embervlm.data.readers.base import ReaderError

#: Flags of a source: what they are for. Each is a field of `data.datasets.<name>`.
FIELDS = {
    "format": "how its files are read, where its name does not say",
    "annotations": "its annotation file, or a folder of files: a path or s3://bucket/key",
    "images": "folder of its pictures",
    "questions": "VQA: the file of questions",
    "limit": "the first so many rows only",
    "split": "auto, train, validation or test",
    "augment": "records made of each training record of a task: itself and other wordings",
    "max_bad_share": "share of rows that may be unusable, 0 to 1",
}


class _Source(argparse.Action):
    """`--source` begins a dataset; the flags after it are its fields."""

    def __call__(self, parser: argparse.ArgumentParser, space: Any, values: Any, option: str | None = None) -> None:
        found: list[dict[str, str]] = list(space.source or [])
        if self.dest == "source":
            found.append({"name": values})
        elif not found:
            parser.error(f"{option}: name the dataset before it with --source")
        else:
            found[-1] = {**found[-1], self.dest: values}
        space.source = found


def main(arguments: list[str] | None = None) -> int:
    """Run the job; the exit code is 2 where configuration or input is at fault."""
    options = parser().parse_intermixed_args(arguments)
    try:
        config = load_config(options.config, overrides(options))
        if options.dry_run:
            describe(config)
            return 0
        manifest = prepare(config, again=options.again)
        print(f"data: manifest {manifest.dir}/manifest.json, digest {manifest.digest}")
        for name, one in config.data.datasets.items() if options.source else ():
            settings = json.dumps(one.model_dump(mode="json", exclude_defaults=True), ensure_ascii=False)
            print(f"data: a training run reads it with 'data.datasets.{name}={settings}'")
    except (ConfigError, DataError, ReaderError, StorageError) as error:
        print(f"prepare_data: {error}", file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    made.add_argument("--config", default="configs/laptop.yaml", help="run configuration (YAML)")
    made.add_argument("--robot_data", help="robot-selection JSON file, or a folder of them")
    made.add_argument("--source", action=_Source, help="a published dataset to make by itself; may come several times")
    for flag, text in FIELDS.items():
        made.add_argument(f"--{flag}", action=_Source, default=argparse.SUPPRESS, help=f"of its --source: {text}")
    made.add_argument("--again", action="store_true", help="make shards again that have rows in quarantine")
    made.add_argument("--dry-run", action="store_true", help="print what would be made")
    made.add_argument("overrides", nargs="*", metavar="key=value", help="dotted overrides, as in data.workers=4")
    return made


def overrides(options: argparse.Namespace) -> list[str]:
    """The dotted overrides that the flags mean.

    Raises:
        ConfigError: a source twice, or a flag that it does not have.
    """
    found: list[str] = []
    if options.robot_data:
        found.append(f"data.robot_data={options.robot_data}")
    if options.source:
        names = [one["name"] for one in options.source]
        double = next((name for name in names if names.count(name) > 1), None)
        if double:
            raise ConfigError(f"--source {double}: given twice; a dataset in two parts has two names and a --format")
        made = [name for name in (WORLD_SOURCE, WORDS_SOURCE, CROPS_SOURCE) if name in names]
        found.append(f"data.sources=[{', '.join(made)}]")
        found += ["stages={}", "data.datasets={}"]  # nothing is trained, so nothing else is needed
    for one in options.source or []:
        name, fields = one["name"], {key: value for key, value in one.items() if key != "name"}
        if name in (WORLD_SOURCE, WORDS_SOURCE, CROPS_SOURCE, ROBOT_SOURCE):
            known = {
                WORLD_SOURCE: {},
                WORDS_SOURCE: {},
                CROPS_SOURCE: {},
                ROBOT_SOURCE: {"annotations": "robot_data", "augment": "robot_augment"},
            }[name]
            wrong = next((field for field in fields if field not in known), None)
            if wrong or (known and "annotations" not in fields):
                raise ConfigError(f"--source {name}: takes {', '.join(f'--{k}' for k in known) or 'no other flag'}")
            found += [f"data.{known[field]}={value}" for field, value in fields.items()]
        else:
            found.append(f"data.datasets.{name}={json.dumps(fields, ensure_ascii=False)}")
    return [*found, *options.overrides]


def describe(config: RunConfig) -> None:
    """Print the shards and rows that the configuration asks for, as far as they can be known without reading."""
    print(f"in {config.data.dir}, {config.data.workers} tasks at once")
    rows: dict[tuple[str, str, str], int] = {}
    for spec in world_specs(config):
        key = (spec.stage, spec.split, spec.source)
        rows[key] = rows.get(key, 0) + spec.count
    for (stage, split, source_name), count in sorted(rows.items()):
        print(f"  {stage} {split:<10} {source_name:<16} {count:>8} rows")
    for source in published.sources_of(config):
        for part in published.parts_of(source, config.data.dir):
            note = published.indexed(part)
            known = ", ".join(f"{n} {s}" for s, n in note.counts.items()) if note else "not read yet"
            print(f"  {source.kind} {source.name}, part {part.number}: {known} ({', '.join(part.files) or part.index})")


if __name__ == "__main__":
    sys.exit(main())
