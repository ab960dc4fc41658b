"""What is in a data folder: shards with their rows and digests, written last and at once."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from ember_platform import storage
from embervlm.data.schema import SPLITS

FILE = "manifest.json"
QUARANTINE = "quarantine.parquet"
_VERSION = 1


class DataError(RuntimeError):
    """Data that cannot be used. The message names what is missing or wrong, where, and what to do."""


@dataclass(frozen=True)
class Shard:
    """One parquet file: `path` relative to the data folder, `spec` the digest of what it was asked to hold."""

    path: str
    rows: int
    sha256: str
    bytes: int
    source: str
    spec: str


def stage_folder(stage: int) -> str:
    """The folder whose records a stage reads: the vision warm-up (0) reads those of stage 1."""
    return f"stage{max(stage, 1)}"


@dataclass(frozen=True)
class Manifest:
    """The shards of every stage and split, in order, and where they came from."""

    dir: str
    request: str
    seed: int
    generators: dict[str, str]
    shards: dict[str, dict[str, list[Shard]]]
    quarantined: dict[str, int] = field(default_factory=dict)
    merged: int = 0

    @property
    def digest(self) -> str:
        """sha256 (hex) of every shard's place and content."""
        return self._digest(sorted(self.shards))

    def stage_digest(self, stage: int) -> str:
        """The same, of the records that one stage reads.

        Raises:
            DataError: the folder has no records of that stage.
        """
        return self._digest([self._folder(stage)])

    def _digest(self, folders: list[str]) -> str:
        content = [
            [folder, split, shard.path, shard.rows, shard.sha256]
            for folder in folders
            for split in SPLITS
            for shard in self.shards[folder].get(split, [])
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def _folder(self, stage: int) -> str:
        folder = stage_folder(stage)
        if folder not in self.shards:
            raise DataError(
                f"{storage.join(self.dir, FILE)}: no records of {folder}; it has {', '.join(sorted(self.shards))}. "
                f"Set data.counts.{folder} (or data.robot_data for stage 3) and prepare the data again"
            )
        return folder

    def select(self, stage: int, split: str) -> list[Shard]:
        """The shards of a stage's split, in order.

        Raises:
            DataError: no such stage, or no such split.
        """
        if split not in SPLITS:
            raise DataError(f"split {split!r} is none of {', '.join(SPLITS)}")
        return self.shards[self._folder(stage)].get(split, [])

    def paths(self, stage: int, split: str) -> list[str]:
        """Full paths of a stage's shards of a split, in order.

        Raises:
            DataError: no such stage or split, or no rows there.
        """
        shards = self.select(stage, split)
        if not sum(shard.rows for shard in shards):
            raise DataError(f"{storage.join(self.dir, FILE)}: stage {stage} has no {split} records")
        return [storage.join(self.dir, shard.path) for shard in shards]

    def rows(self, stage: int, split: str) -> int:
        """How many records a stage's split has."""
        return sum(shard.rows for shard in self.select(stage, split))

    def sources(self, stage: int, split: str) -> dict[str, int]:
        """Rows of a stage's split by the source that they come from."""
        found = Counter[str]()
        for shard in self.select(stage, split):
            found[shard.source] += shard.rows
        return dict(found)

    def counts(self) -> dict[str, dict[str, int]]:
        """Rows per stage folder and split."""
        return {
            folder: {split: sum(s.rows for s in splits.get(split, [])) for split in SPLITS}
            for folder, splits in sorted(self.shards.items())
        }

    def to_json(self) -> str:
        """The file's text: the same content gives the same bytes."""
        content: dict[str, Any] = {
            "version": _VERSION,
            "digest": self.digest,
            "request": self.request,
            "seed": self.seed,
            "generators": self.generators,
            "counts": self.counts(),
            "quarantined": self.quarantined,
            "merged": self.merged,
            "stages": {
                folder: {split: [asdict(shard) for shard in shards] for split, shards in splits.items()}
                for folder, splits in self.shards.items()
            },
        }
        return json.dumps(content, indent=1, sort_keys=True) + "\n"

    def save(self) -> None:
        """Write `manifest.json` at once."""
        storage.write_bytes(storage.join(self.dir, FILE), self.to_json().encode())

    @classmethod
    def load(cls, path: str) -> Manifest:
        """Read it, from the file or from the folder it is in.

        Raises:
            DataError: there is none, or it is damaged.
        """
        folder = str(path).removesuffix(FILE).rstrip("/") or "."
        file = storage.join(folder, FILE)
        if not storage.exists(file):
            raise DataError(f"{file}: no such manifest; run jobs/prepare_data.py with this configuration first")
        try:
            content = json.loads(storage.read_bytes(file))
            manifest = cls(
                dir=folder,
                request=content["request"],
                seed=content["seed"],
                generators=content["generators"],
                shards={
                    stage: {split: [Shard(**shard) for shard in shards] for split, shards in splits.items()}
                    for stage, splits in content["stages"].items()
                },
                quarantined=content["quarantined"],
                merged=content["merged"],
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{file}: damaged ({type(error).__name__}: {error}); prepare the data again") from error
        if manifest.digest != content.get("digest"):
            raise DataError(f"{file}: damaged (its digest does not match its shards); prepare the data again")
        return manifest
