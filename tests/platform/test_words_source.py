"""Free words as a source of stage 3: read only where they are named, made like EmberWorld's shards, mixed by weight."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from ember_platform.config import ConfigError, RunConfig, load_config
from ember_platform.data.ingest import prepare
from ember_platform.data.rows import Rows
from ember_platform.data.sources import words_digest, world_digest, world_specs
from ember_platform.train.setup import model_config

CONFIGS = Path(__file__).parents[2] / "configs"


def here(jobs: list[Any], make: Callable[[Any], Any]) -> Iterable[Any]:
    return map(make, jobs)


def words_only(folder: Path, **more: Any) -> RunConfig:
    words = {"train": 24, "validation": 4, "test": 4}
    data = {"dir": str(folder), "sources": ["emberwords"], "words": words, "image_size": 32, "shard_rows": 10}
    return RunConfig.model_validate({"data": {**data, **more}})


@pytest.mark.parametrize("name", ["laptop", "training_stages", "published", "embervlm_37m"])
def test_free_words_are_read_where_the_text_side_is_pretrained(name: str) -> None:
    config = load_config(CONFIGS / f"{name}.yaml")
    pretrained = bool(model_config(config).language)
    assert ("emberwords" in config.sources) == ("emberwords" in config.stage(3).mixing) == pretrained
    assert ("emberwords" in {spec.source for spec in world_specs(config)}) == pretrained


def test_shards_of_free_words_are_made_and_found_again(tmp_path: Path) -> None:
    config = words_only(tmp_path)
    manifest = prepare(config, runner=here, say=lambda line: None)
    assert manifest.counts() == {"stage3": {"train": 24, "validation": 4, "test": 4}}
    assert manifest.generators == {"emberwords": words_digest()}
    assert words_digest() != world_digest()
    rows = Rows(tuple(manifest.paths(3, "train")))
    found = rows.take(list(range(24)))
    assert {record.source for record in found} == {"emberwords"}
    assert all(record.image is None for record in found)
    assert (tmp_path / "stage3" / "train" / "emberwords-00002.parquet").exists()
    said: list[str] = []
    prepare(config, runner=here, say=said.append)
    assert "is complete" in said[0]


def test_free_words_serve_stage_3_alone_and_are_weighed_there() -> None:
    named = "data.sources=[emberworld,emberwords]"
    config = load_config(CONFIGS / "laptop.yaml", [named, "stages.3.mixing={emberwords: 0.5}"])
    assert config.stage(3).mixing == {"emberwords": 0.5}
    specs = world_specs(config)
    assert {spec.stage for spec in specs if spec.source == "emberwords"} == {"stage3"}
    assert len({spec.path for spec in specs}) == len(specs)
    with pytest.raises(ConfigError, match="'emberwords' has no records for stage 2"):
        load_config(CONFIGS / "laptop.yaml", [named, "stages.2.mixing={emberwords: 1}"])
    plain = load_config(CONFIGS / "laptop.yaml")
    assert plain.stage_digest(3) != config.stage_digest(3)
