"""Where records come from: for each source, which shards it asks for and how one of them is read.

A shard's content is a pure function of its `ShardSpec`, so that shards are made anywhere and in any order.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import embervlm
from ember_platform import storage
from ember_platform.config import ALBUM_SOURCE, CROPS_SOURCE, WORDS_SOURCE, WORLD_SOURCE, RunConfig
from ember_platform.config_data import DataConfig, DataStage, SplitCounts
from ember_platform.data import published
from ember_platform.data.published import Part, PartNote, Source
from ember_platform.data.records import read_index
from embervlm.data.readers.base import Fault, Found, ReaderError
from embervlm.data.schema import SPLITS, Record

#: What makes a shard's bytes beside its records: the schema, the checks and the parquet settings.
FORMAT = "1"
KIND_OF_STAGE = {"stage1": "caption", "stage2": "instruction", "stage3": "selection", "stage4": "reasoning"}
STAGE_OF_KIND = {kind: stage for stage, kind in KIND_OF_STAGE.items()}
#: Fields that a shard's digest had once; with them, shards that were made then are still found.
_FORMER = {"folds": 0, "fold": 0}


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
    photographs: float = 0.0
    album: str = ""
    bare: float = 0.0

    @property
    def path(self) -> str:
        """Where it goes, relative to the data folder."""
        return f"{self.stage}/{self.split}/{shard_prefix(self.source)}-{self.index:05d}.parquet"

    @property
    def digest(self) -> str:
        """sha256 (hex) of everything that decides its content; where the origin lies does not."""
        content = {**asdict(self), "origin": "", "format": FORMAT, **_FORMER}
        del content["album"]  # the generator has what is in it
        if not self.photographs:
            del content["photographs"]  # shards made before there were any are still found
        if not self.bare:
            del content["bare"]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def shard_prefix(source: str) -> str:
    """What the names of a source's shards begin with: no source's numbers depend on another's."""
    return "shard" if source == WORLD_SOURCE else source


@dataclass(frozen=True)
class Planned:
    """What a configuration asks for: shards in a fixed order, and the parts of published datasets they come from."""

    specs: list[ShardSpec]
    generators: dict[str, str]
    parts: list[tuple[Part, PartNote]]


#: A reader gives the records of a spec, in order; with them where they stand, or why they cannot be used.
Reader = Callable[[ShardSpec], Iterator[Record | Found | Fault]]
#: Makes the missing notes of parts, in their order.
IndexParts = Callable[[list[Part]], Iterable[PartNote]]


def plan(config: RunConfig, index: IndexParts) -> Planned:
    """Every shard of a configuration in a fixed order.

    Args:
        config: what is asked for.
        index: reads the annotations of parts that are not indexed yet.

    Raises:
        ReaderError: a published dataset cannot be read.
    """
    digests: dict[str, Callable[[], str]] = {
        WORLD_SOURCE: lambda: _world_generator(config.data),
        WORDS_SOURCE: words_digest,
        CROPS_SOURCE: lambda: _with_material(config.data, "data.sources has panoramas"),
        ALBUM_SOURCE: lambda: _with_album(config.data, world_digest()),
    }
    generators: dict[str, str] = {name: digest() for name, digest in digests.items() if name in config.data.sources}
    specs = world_specs(config)
    parts: list[tuple[Part, PartNote]] = []
    for source in published.sources_of(config):
        found = _indexed(source, config.data.dir, index)
        parts += found
        generators[source.name] = source.digest
        specs += _published_specs(config, source, found)
    return Planned(specs, generators, parts)


def _indexed(source: Source, folder: str, index: IndexParts) -> list[tuple[Part, PartNote]]:
    """The parts of a dataset with their notes; of a limited one no more than the limit needs."""
    parts = published.parts_of(source, folder)
    notes = {part.number: note for part in parts if (note := published.indexed(part)) is not None}
    if source.limit is None:
        missing = [part for part in parts if part.number not in notes]
        notes |= dict(zip([part.number for part in missing], index(missing) if missing else [], strict=True))
        return [(part, notes[part.number]) for part in parts]
    found, room = [], source.limit
    for part in parts:
        if room <= 0:
            break
        note = notes.get(part.number) or next(iter(index([part])))
        found.append((part, note))
        room -= note.rows
    return found


def _published_specs(config: RunConfig, source: Source, parts: list[tuple[Part, PartNote]]) -> list[ShardSpec]:
    """A dataset's shards; none has rows of two parts, so that a part that changes costs its own shards only."""
    data, stage = config.data, STAGE_OF_KIND[source.kind]
    specs, numbers, room = [], dict.fromkeys(SPLITS, 0), source.limit
    for part, note in parts:
        counts = note.counts if room is None else published.rows_before(part, note, room)
        room = None if room is None else room - note.rows
        for split in SPLITS:
            for start in range(0, counts[split], data.shard_rows):
                specs.append(
                    ShardSpec(
                        source=source.name,
                        stage=stage,
                        split=split,
                        index=numbers[split],
                        kind=source.kind,
                        start=start,
                        count=min(data.shard_rows, counts[split] - start),
                        seed=0,
                        image_size=data.image_size,
                        generator=note.content,
                        max_image_pixels=data.max_image_pixels,
                        origin=f"{part.index}-{split}.parquet",
                    )
                )
                numbers[split] += 1
    return sorted(specs, key=lambda spec: SPLITS.index(spec.split))


def world_specs(config: RunConfig) -> list[ShardSpec]:
    """The shards that a configuration asks for of what is made here: EmberWorld's, then those in free words."""
    data = config.data
    specs: list[ShardSpec] = []
    if WORLD_SOURCE in data.sources:
        made = _made_specs(config, WORLD_SOURCE, data.counts, _world_generator(data))
        origin = data.material if data.photographs else ""
        own = data.album or "" if data.photographs else ""
        specs += [_on_photographs(spec, data, origin, own) for spec in made]
    if WORDS_SOURCE in data.sources:
        specs += _made_specs(config, WORDS_SOURCE, {"stage3": data.words}, words_digest())
    if CROPS_SOURCE in data.sources:
        generator = _with_material(data, "data.sources has panoramas")
        made = _made_specs(config, CROPS_SOURCE, {"stage1": data.panoramas}, generator)
        specs += [replace(spec, origin=data.material) for spec in made]
    if ALBUM_SOURCE in data.sources:
        made = _made_specs(config, ALBUM_SOURCE, {"stage1": data.views}, _with_album(data, world_digest()))
        specs += [replace(spec, origin=data.album or "") for spec in made]
    return specs


def _on_photographs(spec: ShardSpec, data: DataConfig, origin: str, own: str) -> ShardSpec:
    """A shard of EmberWorld with what its pictures may stand on."""
    from embervlm.world.dataset import BARE_KINDS

    # Only these are made with bare pictures: a change of the share makes no other shard again.
    bare = data.bare if spec.split == "train" and spec.kind in BARE_KINDS else 0.0
    return replace(spec, photographs=data.photographs, origin=origin, album=own, bare=bare)


def _world_generator(data: DataConfig) -> str:
    """The digest of what makes EmberWorld's records: the code and, where they are asked for, the photographs.

    Raises:
        ReaderError: the photographs are asked for and not installed.
    """
    if not data.photographs:
        return world_digest()
    made = _with_material(data, f"data.photographs is {data.photographs:g}")
    return made if data.album is None else _with_album(data, made)


def _with_album(data: DataConfig, generator: str) -> str:
    """The digest of a generator and of the album that it shows.

    Raises:
        ReaderError: there is no album, or it cannot be used.
    """
    from embervlm.world.album import AlbumError

    if data.album is None:
        raise ReaderError("data.sources has album: data.album is null; name the folder of your photographs")
    try:
        return hashlib.sha256((generator + album_digest(data.album)).encode()).hexdigest()
    except AlbumError as error:
        raise ReaderError(f"data.album: {error}") from error


def _with_material(data: DataConfig, why: str) -> str:
    """The digest of the code that makes pictures and of the photographs that they are made of.

    Raises:
        ReaderError: the photographs are not installed; the message begins with why they are needed.
    """
    from embervlm.world.material import MaterialError, digest

    try:
        material = digest(data.material)
    except MaterialError as error:
        raise ReaderError(f"{why}: {error}") from error
    return hashlib.sha256((world_digest() + material).encode()).hexdigest()


def _made_specs(
    config: RunConfig, source: str, wanted: Mapping[DataStage, SplitCounts], generator: str
) -> list[ShardSpec]:
    data = config.data
    return [
        ShardSpec(
            source=source,
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
        for stage, counts in sorted(wanted.items())
        for split in SPLITS
        for total in [getattr(counts, split)]
        for index, start in enumerate(range(0, total, data.shard_rows))
    ]


def read_world(spec: ShardSpec) -> Iterator[Record]:
    """Records of EmberWorld."""
    from embervlm.world.dataset import build

    return build(
        spec.split,
        spec.kind,
        spec.count,
        spec.seed,
        spec.image_size,
        start=spec.start,
        photographs=spec.photographs,
        material=spec.origin or None,
        own=spec.album or None,
        bare=spec.bare,
    )


def read_words(spec: ShardSpec) -> Iterator[Record]:
    """Tasks and fleets in free words."""
    from embervlm.world.lexicon.dataset import build

    return build(spec.split, spec.count, spec.seed, start=spec.start)


def read_crops(spec: ShardSpec) -> Iterator[Record]:
    """Crops of panoramas."""
    from embervlm.world.crops import build

    return build(spec.split, spec.count, spec.seed, spec.image_size, spec.origin, start=spec.start)


def read_album(spec: ShardSpec) -> Iterator[Record]:
    """Views of one's own photographs."""
    from embervlm.world.album import build

    return build(spec.split, spec.count, spec.seed, spec.image_size, spec.origin, start=spec.start)


def read_published(spec: ShardSpec) -> Iterator[Found | Fault]:
    """Records of a published dataset, from its index."""
    return read_index(spec.origin, spec.start, spec.count, spec.image_size, spec.max_image_pixels)


#: Source → its reader, where it is no published dataset.
READERS: dict[str, Reader] = {
    WORLD_SOURCE: read_world,
    WORDS_SOURCE: read_words,
    CROPS_SOURCE: read_crops,
    ALBUM_SOURCE: read_album,
}


@functools.cache
def album_digest(folder: str) -> str:
    """sha256 (hex) of an album, whose files are all read for it. Errors as `embervlm.world.album.album`."""
    from embervlm.world.album import digest

    return digest(folder)


@functools.cache
def world_digest() -> str:
    """sha256 (hex) of the code that makes EmberWorld and of the libraries that make its pixels."""
    root = Path(embervlm.__file__).parent
    lexicon = set((root / "world" / "lexicon").rglob("*.py"))
    code = sorted(path for path in (root / "world").rglob("*.py") if path not in lexicon)
    files = [*code, root / "fleet.py", root / "data" / "schema.py"]
    versions = [importlib.metadata.version(name) for name in ("numpy", "pillow", "opencv-python-headless")]
    return hashlib.sha256((_files_digest(files) + " ".join(versions)).encode()).hexdigest()


@functools.cache
def words_digest() -> str:
    """sha256 (hex) of the lexicon, of the code that makes tasks and fleets of it, and of what they rest on."""
    root = Path(embervlm.__file__).parent
    made = sorted(path for path in (root / "world" / "lexicon").rglob("*") if path.suffix in (".py", ".txt"))
    files = [*made, root / "world" / "ontology.py", root / "fleet.py", root / "data" / "schema.py"]
    return hashlib.sha256((_files_digest(files) + importlib.metadata.version("numpy")).encode()).hexdigest()


def _files_digest(files: list[Path]) -> str:
    total = hashlib.sha256()
    for file in files:
        total.update(file.name.encode() + b"\0" + storage.digest(str(file)).encode())
    return total.hexdigest()
