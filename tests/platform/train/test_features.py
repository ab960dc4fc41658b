"""The feature cache: training sees what it would have seen, and the measurement decides."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from ember_platform import storage
from ember_platform.config import RunConfig
from ember_platform.data import feature_rows
from ember_platform.data.manifest import DataError, Manifest, Shard
from ember_platform.data.rows import Rows
from ember_platform.data.steps import StepMaker, plan_of
from ember_platform.train import features
from embervlm.data.schema import Record, to_table
from embervlm.stages import get_stage
from embervlm.world.dataset import build
from tests.models.fakes import tiny

KINDS = {1: "caption", 2: "instruction", 3: "selection", 4: "reasoning"}


class Here:
    """Encodes in this process, and counts."""

    def __init__(self) -> None:
        self.encoded: list[int] = []

    def call(self, job: features.Job, function: Callable[[features.Job], Any]) -> Any:
        return function(job)

    def encode(self, job: features.Job, shards: Sequence[int]) -> Iterator[dict[str, Any]]:
        encoder = features.Encoder(job)
        for shard in shards:
            self.encoded.append(shard)
            yield encoder({"shard": shard})


def shard(folder: Path, name: str, records: list[Record]) -> Shard:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(to_table(records), path)
    content = path.read_bytes()
    return Shard(name, len(records), storage.digest_bytes(content), len(content), "emberworld", name)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """A tiny model's folder, and a manifest with two shards a stage; one record has no picture."""
    folder = tmp_path_factory.mktemp("world")
    model = tiny()
    model.save_pretrained(folder / "model")
    model.processor.save_pretrained(folder / "model")
    shards: dict[str, dict[str, list[Shard]]] = {}
    for number, kind in KINDS.items():
        records = list(build("train", kind, 10, 0, 64, fleets=2))
        if number > 1:
            records[3].image = None
        parts = [shard(folder / "data", f"stage{number}/{i}.parquet", records[5 * i : 5 * i + 5]) for i in (0, 1)]
        shards[f"stage{number}"] = {"train": parts}
    return folder / "model", Manifest(str(folder / "data"), "r", 0, {}, shards)


def config(folder: Path, manifest: Manifest, cache: str, precision: str = "fp32", epochs: int = 4) -> RunConfig:
    stage = {"epochs": epochs, "batch_size": 4, "learning_rate": 1e-3, "precision": precision}
    counts = {f"stage{n}": {"train": 10, "validation": 1, "test": 1} for n in KINDS}
    data = {"dir": manifest.dir, "image_size": 64, "feature_cache": cache, "counts": counts}
    values = {"output_dir": str(folder), "data": data, "cluster": {"num_workers": 1}}
    return RunConfig.model_validate({**values, "stages": {str(n): stage for n in (0, *KINDS)}})


@pytest.mark.parametrize("number", KINDS)
def test_losses_are_those_without_the_cache(world: tuple[Path, Manifest], tmp_path: Path, number: int) -> None:
    folder, manifest = world
    settings = config(tmp_path, manifest, "on")
    stage = get_stage(number)
    target = features.prepare(settings, number, manifest, str(folder), runner=Here(), say=lambda line: None)
    assert target is not None
    model = tiny()
    stage.prepare(model, stage.phases[0])
    module = stage.module(model)
    files = tuple(feature_rows.file_of(target, s.sha256) for s in manifest.select(number, "train"))
    made = {}
    for name, used in (("cached", files), ("plain", None)):
        plan = plan_of(settings, stage, stage.phases[0], manifest)
        paths = tuple(manifest.paths(number, "train"))
        maker = StepMaker(plan, paths, stage, model.processor, 0, 1, 1, used)
        made[name] = [maker(step) for step in range(3)]
    for (info, (cached,)), (same, (plain,)) in zip(made["cached"], made["plain"], strict=True):
        assert info == same
        assert "pixel_values" not in cached
        assert cached.keys() - {"image_features"} == plain.keys() - {"pixel_values"}
        assert cached["image_features"].dtype == torch.bfloat16
        assert torch.equal(cached["image_mask"], plain["image_mask"])
        losses, expected = (module(batch, 0.0) for batch in (cached, plain))
        for key, value in expected.items():
            if "acc" not in key:
                assert float(losses[key]) == pytest.approx(float(value), rel=0.02, abs=0.01), key


def test_pictures_are_encoded_once(world: tuple[Path, Manifest], tmp_path: Path) -> None:
    folder, manifest = world
    settings, runner = config(tmp_path, manifest, "on"), Here()
    said: list[str] = []
    target = features.prepare(settings, 2, manifest, str(folder), runner=runner, say=said.append)
    again = features.prepare(settings, 2, manifest, str(folder), runner=Here(), say=said.append)
    assert target == again
    for number in runner.encoded:
        file = Path(feature_rows.file_of(str(target), manifest.select(2, "train")[number].sha256))
        file.unlink()
    runner = Here()
    features.prepare(settings, 2, manifest, str(folder), runner=runner, say=said.append)
    found = feature_rows.FeatureRows(
        [feature_rows.file_of(str(target), s.sha256) for s in manifest.select(2, "train")]
    ).take(range(10))
    pictures = [record.image for record in Rows(manifest.paths(2, "train"))]
    assert [f is None for f in found] == [p is None for p in pictures]
    bits = next(f for f in found if f is not None)
    assert bits.shape == (4, 32)


def test_another_encoder_has_another_key(world: tuple[Path, Manifest], tmp_path: Path) -> None:
    folder, manifest = world
    settings = config(tmp_path, manifest, "on")
    key = features.key_of(features.Job(settings, manifest, 1, str(folder), ""))
    assert key == features.key_of(features.Job(settings, manifest, 3, str(folder), ""))
    other = tiny()
    with torch.no_grad():
        next(iter(other.language.parameters())).add_(1)
    other.save_pretrained(tmp_path / "language")
    other.processor.save_pretrained(tmp_path / "language")
    assert features.key_of(features.Job(settings, manifest, 1, str(tmp_path / "language"), "")) == key
    with torch.no_grad():
        next(iter(other.vision.backbone.parameters())).add_(1e-3)
    other.save_pretrained(tmp_path / "vision")
    other.processor.save_pretrained(tmp_path / "vision")
    assert features.key_of(features.Job(settings, manifest, 1, str(tmp_path / "vision"), "")) != key


def test_only_frozen_epochs_count(world: tuple[Path, Manifest], tmp_path: Path) -> None:
    _, manifest = world
    settings = config(tmp_path, manifest, "on")
    assert [features.frozen_epochs(settings, n) for n in (0, 1, 2, 3, 4)] == [0, 4, 4, 4, 2]
    assert features.prepare(settings, 0, manifest, "nowhere", runner=Here()) is None
    assert features.prepare(config(tmp_path, manifest, "off"), 1, manifest, "nowhere", runner=Here()) is None
    few = config(tmp_path, manifest, "auto")
    assert features.prepare(few, 1, manifest, "nowhere", runner=Here()) is None  # too little to be worth a measurement


def test_auto_follows_the_measurement_and_keeps_to_it(
    world: tuple[Path, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, manifest = world
    monkeypatch.setattr("ember_platform.train.precision.cpu_has_bf16", lambda: True)
    monkeypatch.setattr(features, "_LEAST_REPEATS", 0)
    found = {"dear": features.Measured(10.0, 0.1, 256), "cheap": features.Measured(0.2, 0.1, 256)}
    monkeypatch.setattr(features, "measure", lambda job: found[Path(job.config.output_dir).name])
    chosen: dict[str, str | None] = {}
    for name in found:
        said: list[str] = []
        settings = config(tmp_path / name, manifest, "auto", "bf16")
        chosen[name] = features.prepare(settings, 3, manifest, str(folder), runner=Here(), say=said.append)
        assert "ms to encode a picture" in said[0] or "they are there" in said[0]
        monkeypatch.setattr(features, "choose", lambda *a, **k: pytest.fail("asked again"))
        assert features.prepare(settings, 3, manifest, str(folder), runner=Here(), say=said.append) == chosen[name]
        monkeypatch.undo()
        monkeypatch.setattr("ember_platform.train.precision.cpu_has_bf16", lambda: True)
        monkeypatch.setattr(features, "_LEAST_REPEATS", 0)
        monkeypatch.setattr(features, "measure", lambda job: found[Path(job.config.output_dir).name])
        for file in Path(manifest.dir).glob("features-*/*"):
            file.unlink()
    assert chosen["dear"] is not None
    assert chosen["cheap"] is None
    fp32 = config(tmp_path / "fp32", manifest, "auto", "fp32")
    assert features.prepare(fp32, 3, manifest, str(folder), runner=Here(), say=lambda line: None) is None


def test_auto_is_decided_on_the_cluster(
    world: tuple[Path, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray_cluster: Any
) -> None:
    folder, manifest = world
    monkeypatch.setattr(features, "_LEAST_REPEATS", 0)
    said: list[str] = []
    features.prepare(config(tmp_path, manifest, "auto"), 3, manifest, str(folder), say=said.append)
    assert said[0].startswith("stage 3: features of the frozen encoder are ")
    assert storage.exists(storage.join(str(tmp_path), "stage3", "features.json"))


def test_what_is_gained() -> None:
    found = features.Measured(encode=0.010, read=0.0005, bytes=1)
    assert found.gain(1000, 1000, 1) == pytest.approx(-0.5)
    assert found.gain(1000, 1000, 5) == pytest.approx(37.5)
    assert found.gain(1000, 0, 1) == pytest.approx(9.5)


def test_measuring_measures(world: tuple[Path, Manifest], tmp_path: Path) -> None:
    folder, manifest = world
    found = features.measure(features.Job(config(tmp_path, manifest, "auto"), manifest, 3, str(folder), ""))
    assert found.read > 0
    assert found.encode > 0
    assert found.bytes == 4 * 32 * 2


def test_files_that_are_missing_or_damaged_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such features"):
        feature_rows.FeatureRows([str(tmp_path / "none.arrow")])
    (tmp_path / "bad.arrow").write_bytes(b"nothing")
    with pytest.raises(DataError, match="damaged"):
        feature_rows.FeatureRows([str(tmp_path / "bad.arrow")])
    feature_rows.write(str(tmp_path / "good.arrow"), [np.ones((2, 3), np.uint16), None], (2, 3))
    rows = feature_rows.FeatureRows([str(tmp_path / "good.arrow")])
    assert len(rows) == 2
    assert [None if f is None else f.tolist() for f in rows.take([1, 0])] == [None, [[1, 1, 1], [1, 1, 1]]]
