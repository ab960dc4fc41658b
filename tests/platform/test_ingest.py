"""From a source to shards: what is refused, what is kept, what is done again."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from ember_platform.config import RunConfig
from ember_platform.data.ingest import Note, prepare
from ember_platform.data.manifest import DataError, Manifest
from ember_platform.data.rows import Rows
from ember_platform.data.sources import READERS, ShardSpec, world_specs
from embervlm.data.readers.base import ReaderError
from embervlm.data.schema import Record
from embervlm.fleet import default_fleet


def picture(number: int, size: int = 32) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (size, size), (number % 256, 90, 30)).save(sink, "JPEG")
    return sink.getvalue()


def good(spec: ShardSpec, number: int) -> Record:
    return Record(
        id=f"{spec.split}-{number}",
        source="emberworld",
        kind=spec.kind,
        split=spec.split,
        image=picture(number),
        instruction="carry the crate",
        response="a crate",
        reasoning=["one", "two", "three", "four"],
        robots=default_fleet().to_dicts(),
        labels=["Drone"],
        tags={"number": number},
    )


def reader(spec: ShardSpec) -> Iterator[Record]:
    return (good(spec, n) for n in range(spec.start, spec.start + spec.count))


def spoiled(**changes: object) -> Callable[[ShardSpec], Iterator[Record]]:
    """Good records, but the fourth of training has these fields."""

    def read(spec: ShardSpec) -> Iterator[Record]:
        for record in reader(spec):
            if record.id == "train-3":
                record.__dict__.update(changes)
            yield record

    return read


def config(folder: Path, **data: object) -> RunConfig:
    counts = {"train": 20, "validation": 4, "test": 4}
    return RunConfig.model_validate(
        {"data": {"dir": str(folder), "counts": {"stage3": counts}, "shard_rows": 8, "max_bad_share": 0.1, **data}}
    )


class Serial:
    """Makes shards here, and remembers which."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def __call__(self, specs: list[ShardSpec], make: Callable[[ShardSpec], Note]) -> Iterable[Note]:
        for spec in specs:
            self.made.append(spec.path)
            yield make(spec)


def run(folder: Path, read: object = reader, serial: Serial | None = None, **data: object) -> Manifest:
    readers = {**READERS, "emberworld": read}
    return prepare(config(folder, **data), runner=serial or Serial(), readers=readers, say=lambda line: None)  # type: ignore[arg-type]


def test_records_come_back_as_they_went_in(tmp_path: Path) -> None:
    manifest = run(tmp_path)
    assert manifest.counts()["stage3"] == {"train": 20, "validation": 4, "test": 4}
    assert Manifest.load(str(tmp_path)).digest == manifest.digest
    rows = Rows(manifest.paths(3, "train"))
    spec = ShardSpec("emberworld", "stage3", "train", 0, "selection", 0, 20, 0, 32, "", 1)
    assert len(rows) == 20
    assert rows[11] == good(spec, 11)
    assert [r.tags["number"] for r in rows.take([19, 0, 8, 0])] == [19, 0, 8, 0]
    assert [r.id for r in rows] == rows.column("id") == [r.id for r in rows.texts()]
    assert rows[-1].id == "train-19"
    assert [r.id for r in rows[7:9]] == ["train-7", "train-8"]
    with pytest.raises(IndexError):
        rows[20]


def test_a_second_run_does_nothing_and_a_killed_one_goes_on(tmp_path: Path) -> None:
    first = run(tmp_path)
    contents = {p: p.read_bytes() for p in tmp_path.rglob("*.parquet")}
    again = Serial()
    assert run(tmp_path, serial=again).digest == first.digest
    assert again.made == []

    (tmp_path / "manifest.json").unlink()
    (tmp_path / "stage3/train/shard-00001.parquet").unlink()
    (tmp_path / "stage3/test/shard-00000.parquet").write_bytes(b"half a sh")
    again = Serial()
    assert run(tmp_path, serial=again).digest == first.digest
    assert again.made == ["stage3/train/shard-00001.parquet", "stage3/test/shard-00000.parquet"]
    assert {p: p.read_bytes() for p in tmp_path.rglob("*.parquet")} == contents

    (tmp_path / "manifest.json").write_text("{")
    again = Serial()
    assert run(tmp_path, serial=again).digest == first.digest
    assert again.made == []


def test_fewer_records_leave_no_old_shard_behind(tmp_path: Path) -> None:
    run(tmp_path)
    manifest = run(tmp_path, counts={"stage3": {"train": 8, "validation": 4, "test": 4}})
    assert len(list((tmp_path / "stage3/train").glob("*.parquet"))) == 1
    assert manifest.rows(3, "train") == 8


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image": picture(1)[:200]}, "image: cannot be decoded"),
        ({"image": b""}, "image: zero bytes"),
        ({"image": b"<html>not found</html>"}, "image: cannot be decoded"),
        ({"image": picture(1, 4000)}, "image: 4000×4000 pixels are more than"),
        ({"instruction": "  "}, "instruction: empty text"),
        ({"labels": ["Dron"]}, "labels: unknown robot 'Dron'"),
        ({"robots": []}, "robots: fleet: empty"),
        ({"kind": "caption"}, "kind: 'caption' where 'selection' is read"),
        ({"id": "train-2"}, "id: given twice"),
        ({"plan": [{"order": 1, "subtask": "go", "robot": "Nobody"}]}, "plan[0].robot: unknown robot"),
        ({"plan": [{"order": "first", "subtask": "go", "robot": "Drone"}]}, "schema: "),
    ],
)
def test_a_bad_row_is_set_aside_with_its_reason(tmp_path: Path, changes: dict[str, object], reason: str) -> None:
    manifest = run(tmp_path, spoiled(**changes), max_image_pixels=1_000_000)
    assert manifest.rows(3, "train") == 19
    (row,) = pq.read_table(tmp_path / "quarantine.parquet").to_pylist()
    assert (row["source"], row["line"], row["split"]) == ("emberworld", 3, "train")
    assert row["reason"].startswith(reason)
    assert sum(manifest.quarantined.values()) == 1


def test_too_many_bad_rows_stop_the_ingest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"1 of 28 rows of emberworld .* line 3: labels: unknown robot 'X'"):
        run(tmp_path, spoiled(labels=["X"]), max_bad_share=0.01)
    assert not (tmp_path / "manifest.json").exists()
    assert (tmp_path / "quarantine.parquet").exists()


def test_a_manifest_that_is_missing_damaged_or_lacks_a_stage(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such manifest; run jobs/prepare_data\.py"):
        Manifest.load(str(tmp_path))
    manifest = run(tmp_path)
    with pytest.raises(DataError, match="no records of stage1"):
        manifest.paths(0, "train")
    path = tmp_path / "manifest.json"
    content = json.loads(path.read_text())
    content["stages"]["stage3"]["train"][0]["rows"] = 7
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="damaged"):
        Manifest.load(str(tmp_path))
    (tmp_path / "stage3/train/shard-00000.parquet").unlink()
    with pytest.raises(DataError, match=r"shard-00000\.parquet: no such shard"):
        Rows(manifest.paths(3, "train"))


def test_photographs_are_part_of_what_a_shard_is_asked_for(tmp_path: Path, material_folder: Path) -> None:
    def asked(**data: object) -> list[ShardSpec]:
        counts = {"stage1": {"train": 4, "validation": 1, "test": 1}}
        return world_specs(RunConfig.model_validate({"data": {"counts": counts, "image_size": 32, **data}}))

    plain = asked()
    assert [s.digest for s in asked(material=str(tmp_path))] == [s.digest for s in plain]
    assert {s.photographs for s in plain} == {0.0}
    mixed = asked(photographs=1.0, material=str(material_folder))
    assert not {s.digest for s in mixed} & {s.digest for s in plain}
    assert all("picture" in record.tags for record in READERS["emberworld"](mixed[0]))  # type: ignore[union-attr]
    with pytest.raises(ReaderError, match=r"data\.photographs is 0\.5: .*make material"):
        asked(photographs=0.5, material=str(tmp_path))


def test_bare_pictures_change_only_the_training_shards_of_stages_3_and_4(material_folder: Path) -> None:
    counts = {stage: {"train": 4, "validation": 1, "test": 1} for stage in ("stage1", "stage2", "stage3", "stage4")}
    data = {"counts": counts, "image_size": 32, "photographs": 1.0, "material": str(material_folder)}
    specs = [world_specs(RunConfig.model_validate({"data": data | {"bare": bare}})) for bare in (0.0, 1.0)]
    changed = {(a.stage, a.split) for a, b in zip(*specs, strict=True) if a.digest != b.digest}
    assert changed == {("stage3", "train"), ("stage4", "train")}
    shards = [s for s in specs[1] if (s.stage, s.split) == ("stage4", "train")]
    made = [record for spec in shards for record in READERS["emberworld"](spec)]
    shown = {record.tags["picture"]["background"] for record in made if record.tags["picture"].get("bare")}  # type: ignore[union-attr]
    assert "painted" not in shown


def test_an_album_is_a_source_and_a_background(tmp_path: Path, material_folder: Path) -> None:
    from PIL import Image

    own = tmp_path / "album"
    own.mkdir()
    for i in range(16):
        Image.new("RGB", (100, 100), (10 * i, 90, 120)).save(own / f"{i}.png")
    (own / "labels.csv").write_text("file,environment\n" + "".join(f"{i}.png,roof\n" for i in range(16)))
    counts = {"train": 4, "validation": 2, "test": 1}
    data = {"sources": ["album"], "album": str(own), "views": counts, "image_size": 32, "dir": str(tmp_path / "data")}
    config = RunConfig.model_validate({"data": data})
    manifest = prepare(config, runner=lambda jobs, make: [make(job) for job in jobs], say=lambda line: None)
    assert manifest.counts() == {"stage1": counts}
    assert {record.source for record in Rows(manifest.paths(0, "train")).take(range(4))} == {"album"}
    with pytest.raises(ReaderError, match=r"data\.sources has album: data\.album is null"):
        world_specs(RunConfig.model_validate({"data": {**data, "album": None}}))
    with pytest.raises(ReaderError, match=r"data\.album: .*nowhere: no such folder"):
        world_specs(RunConfig.model_validate({"data": {**data, "album": str(tmp_path / "nowhere")}}))
    world = {"sources": ["emberworld"], "counts": {"stage1": counts}, "image_size": 32, "photographs": 1.0}
    specs = [
        world_specs(RunConfig.model_validate({"data": {**world, "material": str(material_folder), "album": album}}))
        for album in (None, str(own))
    ]
    assert not {s.digest for s in specs[0]} & {s.digest for s in specs[1]}
    assert {s.album for s in specs[1]} == {str(own)}


def test_crops_of_panoramas_are_a_source(tmp_path: Path, material_folder: Path) -> None:
    counts = {"train": 4, "validation": 2, "test": 1}
    data = {"sources": ["panoramas"], "panoramas": counts, "image_size": 32, "dir": str(tmp_path / "data")}
    config = RunConfig.model_validate({"data": {**data, "material": str(material_folder)}})
    manifest = prepare(config, runner=lambda jobs, make: [make(job) for job in jobs], say=lambda line: None)
    assert manifest.counts() == {"stage1": counts}
    found = Rows(manifest.paths(0, "train")).take(range(4))
    assert {record.source for record in found} == {"panoramas"}
    with pytest.raises(ReaderError, match=r"data\.sources has panoramas: .*make material"):
        world_specs(RunConfig.model_validate({"data": {**data, "material": str(tmp_path)}}))
