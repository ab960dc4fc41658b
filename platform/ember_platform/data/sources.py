"""Where records come from: for each source, which shards it asks for and how one of them is read.

A shard's content is a pure function of its `ShardSpec`, so that shards are made anywhere and in any order.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import embervlm
from ember_platform import storage
from ember_platform.config import ROBOT_SOURCE, WORLD_SOURCE, RunConfig
from embervlm.data.readers import robot_selection
from embervlm.data.schema import SPLITS, Record

#: What makes a shard's bytes beside its records: the schema, the checks and the parquet settings.
FORMAT = "1"
KIND_OF_STAGE = {"stage1": "caption", "stage2": "instruction", "stage3": "selection", "stage4": "reasoning"}


@dataclass(frozen=True)
class ShardSpec:
    """One shard to make: rows `start` to `start + count` of a source's split."""

    source: str
    stage: str
    split: str
    index: int
    kind: str
    start: int
    count: int
    seed: int
    image_size: int
    generator: str
    max_image_pixels: int
    origin: str = ""
    folds: int = 0
    fold: int = 0

    @property
    def path(self) -> str:
        """Where it goes, relative to the data folder."""
        return f"{self.stage}/{self.split}/shard-{self.index:05d}.parquet"

    @property
    def digest(self) -> str:
        """sha256 (hex) of everything that decides its content; where the origin lies does not."""
        content = {**asdict(self), "origin": "", "format": FORMAT}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Planned:
    """What a source asks for, with the faults that planning already met."""

    specs: list[ShardSpec]
    faults: list[robot_selection.Fault] = field(default_factory=list)
    merged: int = 0


#: A reader gives the records of a spec, in order.
Reader = Callable[[ShardSpec], Iterator[Record]]


def plan(config: RunConfig) -> tuple[Planned, dict[str, str]]:
    """Every shard of a configuration in a fixed order, and the generator digest of each source.

    Raises:
        ReaderError: robot_data cannot be read.
    """
    generators: dict[str, str] = {}
    specs: list[ShardSpec] = []
    planned = Planned([])
    if WORLD_SOURCE in config.data.sources:
        generators[WORLD_SOURCE] = world_digest()
        specs += _world_specs(config, generators[WORLD_SOURCE])
    if config.data.robot_data:
        planned = _robot_specs(config, after=specs)
        specs += planned.specs
        generators[ROBOT_SOURCE] = planned.specs[0].generator if planned.specs else ""
    return Planned(specs, planned.faults, planned.merged), generators


def _world_specs(config: RunConfig, generator: str) -> list[ShardSpec]:
    data = config.data
    return [
        ShardSpec(
            source=WORLD_SOURCE,
            stage=stage,
            split=split,
            index=index,
            kind=KIND_OF_STAGE[stage],
            start=start,
            count=min(data.shard_rows, total - start),
            seed=config.seed,
            image_size=data.image_size,
            generator=generator,
            max_image_pixels=data.max_image_pixels,
        )
        for stage, counts in sorted(data.counts.items())
        for split in SPLITS
        for total in [getattr(counts, split)]
        for index, start in enumerate(range(0, total, data.shard_rows))
    ]


def _robot_specs(config: RunConfig, after: list[ShardSpec]) -> Planned:
    """The shards of the robot-selection files; they follow those that stage 3 already has."""
    data = config.data
    assert data.robot_data is not None
    read = robot_selection.read(data.robot_data, data.robot_folds, data.robot_fold)
    generator = _files_digest([Path(robot_selection.__file__), *robot_selection.json_files(data.robot_data)])
    specs = []
    for split in SPLITS:
        total = sum(record.split == split for record in read.records)
        taken = sum(spec.stage == "stage3" and spec.split == split for spec in after)
        specs += [
            ShardSpec(
                source=ROBOT_SOURCE,
                stage="stage3",
                split=split,
                index=taken + number,
                kind="selection",
                start=start,
                count=min(data.shard_rows, total - start),
                seed=0,
                image_size=0,
                generator=generator,
                max_image_pixels=data.max_image_pixels,
                origin=data.robot_data,
                folds=data.robot_folds,
                fold=data.robot_fold,
            )
            for number, start in enumerate(range(0, total, data.shard_rows))
        ]
    return Planned(specs, read.faults, read.merged)


def read_world(spec: ShardSpec) -> Iterator[Record]:
    """Records of EmberWorld."""
    from embervlm.world.dataset import build

    return build(spec.split, spec.kind, spec.count, spec.seed, spec.image_size, start=spec.start)


def read_robots(spec: ShardSpec) -> Iterator[Record]:
    """Records of the robot-selection files."""
    records = robot_selection.read(spec.origin, spec.folds, spec.fold).records
    chosen = [record for record in records if record.split == spec.split]
    return iter(chosen[spec.start : spec.start + spec.count])


READERS: dict[str, Reader] = {WORLD_SOURCE: read_world, ROBOT_SOURCE: read_robots}


@functools.cache
def world_digest() -> str:
    """sha256 (hex) of the code that makes EmberWorld and of the libraries that make its pixels."""
    root = Path(embervlm.__file__).parent
    files = [*sorted((root / "world").rglob("*.py")), root / "fleet.py", root / "data" / "schema.py"]
    versions = [importlib.metadata.version(name) for name in ("numpy", "pillow", "opencv-python-headless")]
    return hashlib.sha256((_files_digest(files) + " ".join(versions)).encode()).hexdigest()


def _files_digest(files: list[Path]) -> str:
    total = hashlib.sha256()
    for file in files:
        total.update(file.name.encode() + b"\0" + storage.digest(str(file)).encode())
    return total.hexdigest()
