"""Weights per dataset and stage, from the configuration to the samples that are trained, in their order."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ember_platform.config import RunConfig, load_config
from ember_platform.data.ingest import prepare
from ember_platform.data.manifest import Manifest
from ember_platform.data.order import Plan, epoch_samples, epoch_size
from ember_platform.data.rows import Rows
from ember_platform.data.steps import StepMaker, plan_of
from embervlm.stages import get_stage

ROOT = Path(__file__).parents[2]
SIZES = {"flickr30k": 30, "afar": 12}


def here(jobs: list[Any], make: Callable[[Any], Any]) -> Iterable[Any]:
    return map(make, jobs)


def run_config(folder: Path, mixing: dict[str, float], seed: int = 0) -> RunConfig:
    sets = {
        name: {
            "format": "flickr30k",
            "annotations": str(folder / f"{name}.token"),
            "images": str(folder),
            "split": "train",
        }
        for name in SIZES
    }
    stage = {"epochs": 4, "batch_size": 6, "learning_rate": 1e-3, "mixing": mixing}
    data = {"dir": str(folder / "out"), "sources": [], "datasets": sets, "image_size": 32, "shard_rows": 8}
    return RunConfig.model_validate({"seed": seed, "data": data, "stages": {"1": stage}})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("mixing")
    sink = io.BytesIO()
    Image.new("RGB", (32, 32)).save(sink, "JPEG")
    (made / "p.jpg").write_bytes(sink.getvalue())
    for name, count in SIZES.items():
        lines = [f"p.jpg#{i}\t{name} caption {'long ' * (i % 7)}{i}\n" for i in range(count)]
        (made / f"{name}.token").write_text("".join(lines))
    prepare(run_config(made, {}), runner=here, say=lambda line: None)
    return made


def trained(folder: Path, config: RunConfig, world: int = 1) -> list[list[str]]:
    """The ids that are trained, in order, per epoch."""
    manifest, stage = Manifest.load(str(folder / "out")), get_stage(1)
    plan = plan_of(config, stage, "main", manifest)
    paths = tuple(manifest.paths(1, "train"))
    rows = Rows(paths)
    makers = [StepMaker(plan, paths, stage, None, rank, world, 1) for rank in range(world)]
    epochs: list[list[str]] = [[] for _ in range(plan.epochs)]
    for step in range(plan.steps):
        for maker in makers:
            info = maker.info(step)
            epochs[info.epoch] += [record.id for record in rows.take(info.indices)]
    return epochs


def test_the_vision_warm_up_mixes_captions_of_all_lengths(folder: Path) -> None:
    """It reads no caption; sorted by them, a batch would be of one source, and batch normalisation of that alone."""
    manifest, settings = Manifest.load(str(folder / "out")), {"epochs": 1, "batch_size": 6, "learning_rate": 1e-3}
    config = RunConfig.model_validate(run_config(folder, {}).model_dump() | {"stages": {"0": settings, "1": settings}})
    captions = [len(record.response) for record in Rows(tuple(manifest.paths(1, "train"))).texts()]

    def spread(number: int) -> float:
        batches = plan_of(config, get_stage(number), "main", manifest).epoch(0)
        return float(np.mean([max(captions[i] for i in batch) - min(captions[i] for i in batch) for batch in batches]))

    assert spread(0) > 1.5 * spread(1)


def by_source(ids: list[str]) -> Counter[str]:
    return Counter(identity.split("-")[0] for identity in ids)


@pytest.mark.parametrize("world", [1, 2])
def test_the_weights_of_the_configuration_are_what_is_trained(folder: Path, world: int) -> None:
    weights = {"flickr30k": 0.5, "afar": 2.0}
    epochs = trained(folder, run_config(folder, weights), world)
    for ids in epochs:
        assert by_source(ids) == {"flickr30k": 15, "afar": 24}
        assert set(Counter(i for i in ids if i.startswith("afar")).values()) == {2}
        assert set(Counter(i for i in ids if i.startswith("flickr30k")).values()) == {1}
    # Two halves are a whole: nothing is left out, nothing comes early.
    for first, second in (epochs[:2], epochs[2:]):
        assert len({i for i in [*first, *second] if i.startswith("flickr30k")}) == 30
    assert epochs == trained(folder, run_config(folder, weights))  # whatever the number of workers


def test_every_epoch_mixes_the_sources_and_orders_them_anew(folder: Path) -> None:
    epochs = trained(folder, run_config(folder, {}))
    assert [by_source(ids) for ids in epochs] == [SIZES] * 4
    assert len({tuple(ids) for ids in epochs}) == 4
    for ids in epochs:
        halves = by_source(ids[:21]), by_source(ids[21:])
        assert all(half[name] > 0 for half in halves for name in SIZES)
    assert epochs != trained(folder, run_config(folder, {}, seed=1))


def test_a_weight_of_nothing_leaves_a_source_out(folder: Path) -> None:
    epochs = trained(folder, run_config(folder, {"afar": 0}))
    assert [by_source(ids) for ids in epochs] == [{"flickr30k": 30}] * 4


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.floats(0, 3)), min_size=1, max_size=4),
    st.integers(0, 2**31 - 1),
    st.integers(0, 6),
)
def test_an_epoch_is_a_pure_function_of_seed_and_epoch(sets: list[tuple[int, float]], seed: int, epoch: int) -> None:
    sources = [str(i) for i, (count, _) in enumerate(sets) for _ in range(count)]
    mixing = {str(i): weight for i, (_, weight) in enumerate(sets)}

    def plan() -> Plan:
        return Plan(np.arange(len(sources)), sources, 4, 8, seed, "s", mixing)

    late = plan()
    for other in (3, 0, epoch + 1):
        late.epoch(other)
    batches = plan().epoch(epoch)
    assert batches == late.epoch(epoch)
    counts = Counter(sources[i] for batch in batches for i in batch)
    for name, weight in mixing.items():
        assert abs(counts[name] - weight * sources.count(name)) < 1 + 1e-6
    assert sorted(i for batch in batches for i in batch) == epoch_samples(sources, mixing, seed, epoch).tolist()
    assert epoch_size(Counter(sources), mixing) == len(epoch_samples(sources, mixing, seed, 0))


def test_published_weights_and_sizes_are_those_of_the_documentation() -> None:
    config = load_config(ROOT / "configs" / "published.yaml")
    limits = {name: one.limit for name, one in config.data.datasets.items()}
    assert {name: limits[name] for name in ("coco", "flickr30k", "cc3m", "llava_instruct", "vqa_v2")} == {
        "coco": 100_000,
        "flickr30k": 30_000,
        "cc3m": 200_000,
        "llava_instruct": 150_000,
        "vqa_v2": 100_000,
    }
    full = load_config(ROOT / "configs" / "training_stages.yaml")
    for number in (1, 2, 3, 4):
        ours, theirs = config.stage(number), full.stage(number)
        assert (ours.epochs, ours.batch_size, ours.learning_rate) == (
            theirs.epochs,
            theirs.batch_size,
            theirs.learning_rate,
        )
