"""Published datasets from their files to shards: what is kept, what is set aside and why, what is done again."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from ember_platform.config import ROBOT_SOURCE, ConfigError, DataConfig, RunConfig, load_config
from ember_platform.config_data import DATASETS
from ember_platform.data.ingest import prepare
from ember_platform.data.manifest import DataError, Manifest
from ember_platform.data.rows import Rows
from ember_platform.data.sources import STAGE_OF_KIND
from embervlm.data.readers import FORMATS
from embervlm.data.readers.base import ReaderError

ROOT = Path(__file__).parents[2]
FILES = ROOT / "tests" / "data" / "files"


class Serial:
    """Does jobs here, and remembers which; fails after so many."""

    def __init__(self, until: int | None = None) -> None:
        self.made: list[str] = []
        self.until = until

    def __call__(self, jobs: list[Any], make: Callable[[Any], Any]) -> Iterable[Any]:
        for job in jobs:
            if len(self.made) == self.until:
                raise KeyboardInterrupt
            self.made.append(job.path)
            yield make(job)


def jpeg(colour: tuple[int, int, int] = (200, 90, 30), size: tuple[int, int] = (64, 48)) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", size, colour).save(sink, "JPEG")
    return sink.getvalue()


def pictures(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(jpeg())
    return folder


def config(folder: Path, **data: Any) -> RunConfig:
    fields = {
        "dir": str(folder / "out"),
        "sources": [],
        "image_size": 32,
        "shard_rows": 2,
        "max_bad_share": 1.0,
        **data,
    }
    return RunConfig.model_validate({"data": fields})


def run(folder: Path, serial: Serial | None = None, again: bool = False, **data: Any) -> Manifest:
    return prepare(config(folder, **data), runner=serial or Serial(), again=again, say=lambda line: None)


def coco(folder: Path, **fields: Any) -> dict[str, Any]:
    """COCO of 2014 as a dataset; picture 30 is missing."""
    names = [f"COCO_train2014_{number:012d}.jpg" for number in (9, 25)]
    images = pictures(folder / "train2014", *names)
    return {
        "datasets": {
            "coco": {
                "annotations": str(FILES / "captions_train2014.json"),
                "images": str(images),
                "split": "train",
                **fields,
            }
        }
    }


def quarantine(manifest: Manifest) -> list[dict[str, Any]]:
    return pq.read_table(Path(manifest.dir, "quarantine.parquet")).to_pylist()


def test_records_pictures_and_quarantine(tmp_path: Path) -> None:
    manifest = run(tmp_path, **coco(tmp_path))
    assert manifest.counts() == {"stage1": {"train": 4, "validation": 0, "test": 0}}
    records = list(Rows(manifest.paths(1, "train")))
    assert [r.id for r in records] == ["coco-25-101", "coco-25-103", "coco-9-102", "coco-9-104"]
    assert {(r.source, r.kind, r.split) for r in records} == {("coco", "caption", "train")}
    for record in records:
        picture = Image.open(io.BytesIO(record.image or b""))
        assert (picture.format, picture.size) == ("JPEG", (43, 32))
    rows = quarantine(manifest)
    assert {(row["stage"], row["source"], row["line"]) for row in rows} == {("stage1", "coco", 1)}
    assert {Path(row["file"]).name for row in rows} == {"captions_train2014.json"}
    assert [row["reason"].split(" (")[0] for row in rows] == [
        "annotations[6]: expected image_id, id and caption, found {'image_id': 30, 'id': 107}",
        "image_id: 77 is not among images",
        "response: empty text",
        "image: no such file",
    ]
    assert sum(manifest.quarantined.values()) == 4


def test_a_second_run_does_nothing_and_an_interrupted_one_goes_on(tmp_path: Path) -> None:
    data = coco(tmp_path)
    died = Serial(until=2)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, died, **data)
    assert [Path(path).name for path in died.made] == ["00000.json", "coco-00000.parquet"]
    assert not (tmp_path / "out" / "manifest.json").exists()
    goes_on = Serial()
    first = run(tmp_path, goes_on, **data)
    assert [Path(path).name for path in goes_on.made] == ["coco-00001.parquet", "coco-00002.parquet"]
    again = Serial()
    assert run(tmp_path, again, **data).digest == first.digest
    assert again.made == []


def test_missing_pictures_that_come_are_taken_in_when_asked(tmp_path: Path) -> None:
    data = coco(tmp_path)
    run(tmp_path, **data)
    pictures(tmp_path / "train2014", "COCO_train2014_000000000030.jpg")
    assert run(tmp_path, **data).rows(1, "train") == 4
    serial = Serial()
    manifest = run(tmp_path, serial, again=True, **data)
    assert manifest.rows(1, "train") == 5
    assert len(serial.made) == 2  # those that had faults, and no other


def test_what_changes_is_read_again_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "captions.json"
    shutil.copy(FILES / "captions_train2014.json", file)
    data = coco(tmp_path, annotations=str(file))
    first = run(tmp_path, **data)
    file.write_text(file.read_text().replace("Crates, stacked.", "Stacked crates!"))
    second = run(tmp_path, **data)
    assert second.digest != first.digest
    assert "Stacked crates!" in [r.response for r in Rows(second.paths(1, "train"))]
    limited = run(tmp_path, **coco(tmp_path, annotations=str(file), limit=3))
    assert limited.rows(1, "train") + len(quarantine(limited)) == 3
    assert len(list((tmp_path / "out" / "stage1" / "train").glob("coco-*.parquet"))) == len(limited.select(1, "train"))
    # The annotations may go: what was read of them is enough.
    file.unlink()
    again = Serial()
    assert run(tmp_path, again, **coco(tmp_path, annotations=str(file), limit=3)).digest == limited.digest
    assert again.made == []
    with pytest.raises(ReaderError, match=r"captions\.json"):
        run(tmp_path, **coco(tmp_path, annotations=str(file), limit=2))


def test_a_second_dataset_leaves_the_first_as_it_is(tmp_path: Path) -> None:
    first = run(tmp_path, **coco(tmp_path))
    files = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "stage1").rglob("*.parquet")}
    pictures(tmp_path / "flickr", "1000092795.jpg", "10002456.jpg")
    flickr = {
        "format": "flickr30k",
        "annotations": str(FILES / "results_20130124.token"),
        "images": str(tmp_path / "flickr"),
        "split": "train",
    }
    data = coco(tmp_path)
    data["datasets"]["afar"] = flickr
    both = run(tmp_path, **data)
    assert {p: p.stat().st_mtime_ns for p in files} == files
    assert both.rows(1, "train") == first.rows(1, "train") + 4
    assert [shard.source for shard in both.select(1, "train")] == ["afar"] * 2 + ["coco"] * 3
    alone = run(tmp_path, **coco(tmp_path))
    assert alone.digest == first.digest
    assert (tmp_path / "out" / "stage1" / "train" / "afar-00000.parquet").exists()


def test_webdataset_archives(tmp_path: Path) -> None:
    folder = tmp_path / "cc3m"
    folder.mkdir()
    for number in range(3):
        with tarfile.open(folder / f"{number:05d}.tar", "w") as made:
            for sample in range(4):
                for end, content in (("jpg", jpeg((sample * 60, 0, 0))), ("txt", f"crane {number} {sample}".encode())):
                    info = tarfile.TarInfo(f"{number}{sample}.{end}")
                    info.size = len(content)
                    made.addfile(info, io.BytesIO(content))
    one = {"annotations": str(folder), "split": "train"}
    manifest = run(tmp_path, datasets={"cc3m": one})
    texts = [r.response for r in Rows(manifest.paths(1, "train"))]
    assert texts == [f"crane {n} {s}" for n in range(3) for s in range(4)]
    brightness = [Image.open(io.BytesIO(r.image or b"")).getpixel((5, 5))[0] for r in Rows(manifest.paths(1, "train"))][
        :4
    ]  # type: ignore[index]
    assert brightness == pytest.approx([0, 60, 120, 180], abs=6)
    serial = Serial()
    limited = run(tmp_path, serial, datasets={"cc3m": {**one, "limit": 6}})
    assert [r.response for r in Rows(limited.paths(1, "train"))] == texts[:6]
    assert sum(path.endswith(".json") for path in serial.made) == 2  # the third archive was not opened


def test_cc3m_table_finds_what_was_downloaded_and_says_what_was_not(tmp_path: Path) -> None:
    urls = ["http://example.org/crane.jpg", "http://example.org/diver.jpg?size=large"]
    codes = [zlib.crc32(url.encode()) for url in urls]
    images = pictures(tmp_path / "training", f"0_{codes[0]}", f"{codes[1]}.jpg", "plain/named.png")
    (images / "plain" / "named.png").write_bytes(b"<html>gone</html>")
    table = {"annotations": str(FILES / "Train_GCC-training.tsv"), "images": str(images), "split": "train"}
    manifest = run(tmp_path, datasets={"cc3m": table})
    assert manifest.rows(1, "train") == 2
    reasons = {row["line"]: row["reason"] for row in quarantine(manifest)}
    assert reasons[4].startswith("image: no such file")
    assert reasons[6].startswith("image: cannot be decoded: HTML or XML text")
    assert sorted(reasons) == [3, 4, 5, 6, 7]


def test_a_dataset_may_have_more_bad_rows_than_others(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"4 of 8 rows of coco .* more than data\.max_bad_share .*captions_train2014\.json line 1"
    ):
        run(tmp_path, **coco(tmp_path), max_bad_share=0.1)
    with pytest.raises(DataError, match=r"raise data\.datasets\.coco\.max_bad_share"):
        run(tmp_path, **coco(tmp_path, max_bad_share=0.2), max_bad_share=0.1)
    assert run(tmp_path, **coco(tmp_path, max_bad_share=0.5), max_bad_share=0.1).rows(1, "train") == 4


def test_names_that_lead_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(jpeg())
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "folder.jpg").mkdir()
    names = ["../secret.jpg", "folder.jpg", "x" * 300 + ".jpg", "a\0b.jpg", "secret.jpg/below.jpg"]
    (tmp_path / "captions.csv").write_text("image,caption\n" + "".join(f"{name},A secret.\n" for name in names))
    one = {"annotations": str(tmp_path / "captions.csv"), "images": str(tmp_path / "in"), "split": "train"}
    manifest = run(tmp_path, datasets={"flickr30k": one})
    assert manifest.rows(1, "train") == 0
    reasons = [row["reason"] for row in quarantine(manifest)]
    assert "leads out of the folder" in reasons[0]
    assert len(reasons) == len(names)
    assert all(reason.startswith("image: no such file") for reason in reasons[1:])


def test_robot_tasks_in_other_words(tmp_path: Path) -> None:
    fleet = "Robots: Crane, Mole. Which?\nMole:\ncapabilities: digging,\nCrane:\ncapabilities: lifting,"
    items = [
        {"instruction": fleet, "input": f"Task: Inspect the large pipe number {i}.", "output": "Mole"}
        for i in range(40)
    ]
    (tmp_path / "robots.json").write_text(json.dumps(items))
    plain = run(tmp_path, robot_data=str(tmp_path / "robots.json"))
    more = run(tmp_path, robot_data=str(tmp_path / "robots.json"), robot_augment=4)
    assert more.rows(3, "train") == 4 * plain.rows(3, "train")
    for split in ("validation", "test"):
        assert [r.id for r in Rows(more.paths(3, split))] == [r.id for r in Rows(plain.paths(3, split))]
    tasks = {
        split: {r.instruction.casefold() for r in Rows(more.paths(3, split))}
        for split in ("train", "validation", "test")
    }
    assert not tasks["train"] & (tasks["validation"] | tasks["test"])
    assert len(tasks["train"]) == more.rows(3, "train")


def test_a_killed_process_leaves_what_the_next_one_goes_on_from(tmp_path: Path) -> None:
    """SIGKILL in the middle of a shard, then the same run again."""
    data = coco(tmp_path)
    code = (
        "import os, sys, json\n"
        "from ember_platform.config import RunConfig\n"
        "from ember_platform.data import ingest\n"
        "made = []\n"
        "def run(jobs, make):\n"
        "    for job in jobs:\n"
        "        if len(made) == 2:\n"
        "            ingest.storage.write_bytes = lambda *a: os.kill(os.getpid(), 9)\n"
        "        made.append(job.path)\n"
        "        yield make(job)\n"
        "ingest.prepare(RunConfig.model_validate(json.loads(sys.argv[1])), runner=run)\n"
    )
    settings = json.dumps(config(tmp_path, **data).model_dump(mode="json"))
    died = subprocess.run(
        [sys.executable, "-c", code, settings], check=False, timeout=240, cwd=ROOT, capture_output=True
    )
    assert died.returncode == -9, died.stderr.decode()[-2000:]
    serial = Serial()
    manifest = run(tmp_path, serial, **data)
    assert [Path(path).name for path in serial.made] == ["coco-00001.parquet", "coco-00002.parquet"]
    assert manifest.digest == run(tmp_path / "other", **data).digest


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.datasets.coco={}", "data.datasets.coco.annotations: "),
        ("data.datasets.coco={annotations: a}", "data.datasets.coco.images: coco needs the folder of its pictures"),
        ("data.datasets.mine={annotations: a}", "data.datasets.mine.format: 'mine' is no format"),
        ("data.datasets.vqa_v2={annotations: a, images: b}", "data.datasets.vqa_v2.questions: vqa_v2 has questions"),
        ("data.datasets.emberworld={format: coco, annotations: a, images: b}", "this name is taken"),
        ("data.datasets.coco={annotations: a, images: b, augment: 2}", "data.datasets.coco.augment: only tasks"),
        ("data.datasets.coco={annotations: a, images: b, test: 0.6, validation: 0.6}", "leave nothing to train on"),
        ("data.datasets.coco={annotations: a, image: b}", "unknown key; did you mean 'images'?"),
        ("data.datasets.Coco={format: coco, annotations: a, images: b}", "data.datasets.Coco"),
    ],
)
def test_settings_that_cannot_be_meant(override: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(ROOT / "configs" / "laptop.yaml", [override])
    assert said in str(error.value)


def test_weights_are_checked_against_the_sources_of_their_stage() -> None:
    named = "data.datasets.coco={annotations: a, images: b}"
    laptop = ROOT / "configs" / "laptop.yaml"
    config = load_config(laptop, [named, "stages.1.mixing={coco: 0.5, emberworld: 2}"])
    assert config.sources == ["emberworld", "coco"]
    with pytest.raises(
        ConfigError, match=r"stages\.2\.mixing: 'coco' has no records for stage 2; it is served by emberworld"
    ):
        load_config(laptop, [named, "stages.2.mixing={coco: 1}"])
    with pytest.raises(ConfigError, match="no source has records for it"):
        load_config(laptop, [named, "data.sources=[]"])
    plain, ones, halves = (
        load_config(laptop, [named, f"stages.1.mixing={weights}"]).stage_digest(1)
        for weights in ("{}", "{coco: 1.0}", "{coco: 0.5}")
    )
    assert plain == ones != halves


def test_the_job_makes_one_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location("prepare_data_job", ROOT / "jobs" / "prepare_data.py")
    assert spec is not None
    assert spec.loader is not None
    job = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(job)
    one = coco(tmp_path)["datasets"]["coco"]
    line = ["--config", str(ROOT / "configs" / "laptop.yaml"), "--source", "coco", "--limit", "3", "--dry-run"]
    line += ["--annotations", one["annotations"], "--images", one["images"], f"data.dir={tmp_path / 'out'}"]
    assert job.main(line) == 0
    assert "caption coco, part 0: not read yet" in capsys.readouterr().out
    options = job.parser().parse_intermixed_args(
        [
            "--source",
            "coco",
            "--annotations",
            "a",
            "--images",
            "i",
            "--limit",
            "5",
            "--source",
            "robot_selection",
            "--annotations",
            "r",
            "--augment",
            "3",
            "--source",
            "mine",
            "--format",
            "cc3m",
            "--annotations",
            "c",
        ]
    )
    config = load_config(ROOT / "configs" / "laptop.yaml", job.overrides(options))
    assert config.sources == ["coco", "mine", "robot_selection"]
    assert (config.data.datasets["coco"].limit, config.data.robot_augment) == (5, 3)
    assert config.stages == {}
    for bad in (["--source", "coco", "--source", "coco"], ["--source", "emberworld", "--limit", "3"]):
        assert job.main(["--config", str(ROOT / "configs" / "laptop.yaml"), *bad]) == 2
    assert "takes no other flag" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        job.main(["--limit", "3"])


def test_every_format_that_a_configuration_may_name_has_a_reader_and_its_stage() -> None:
    assert {*DATASETS, ROBOT_SOURCE} == set(FORMATS)
    images = {"annotations": "a.json", "images": "i", "questions": "q.json"}
    data = DataConfig.model_validate({"datasets": dict.fromkeys(DATASETS, images)})
    for name in DATASETS:
        assert data.stages_of(name) == [STAGE_OF_KIND[FORMATS[name].KIND]]
