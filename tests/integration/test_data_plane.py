"""The data plane on a real Ray cluster: shards made in tasks, steps handed over in order by either loader."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from ember_platform.config import RunConfig
from embervlm.data.schema import Record

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.delenv("RAY_ADDRESS", raising=False)
        ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        yield
        ray.shutdown()


def config(folder: Path, loader: str, batch_size: int = 6) -> RunConfig:
    counts = {"train": 40, "validation": 2, "test": 2}
    stage = {"epochs": 2, "batch_size": batch_size, "learning_rate": 1e-3}
    data = {"dir": str(folder), "counts": {"stage3": counts}, "image_size": 32, "shard_rows": 16, "loader": loader}
    return RunConfig.model_validate({"data": data, "stages": {"3": stage}})


def test_prepare_then_read_with_both_loaders(cluster: None, tmp_path: Path) -> None:
    import ray

    from ember_platform.data import reader
    from ember_platform.data.ingest import prepare
    from ember_platform.data.reader import batches, plan_of

    class Stage:
        # Inside the test, so that it travels to the workers by value.
        number, name, phases = 3, "robot_selection", ("main",)

        def length(self, record: Record) -> int:
            return len(record.instruction)

        def group(self, record: Record) -> str:
            return record.tags["fleet"]

        def collate(self, processor: Any, records: Sequence[Record], seed: int | None) -> dict[str, Any]:
            lengths = torch.tensor([len(record.instruction) for record in records])
            return {"lengths": lengths, "ids": [record.id for record in records], "seed": seed}

    manifest = prepare(config(tmp_path, "actor"), say=lambda line: None)
    assert manifest.counts()["stage3"] == {"train": 40, "validation": 2, "test": 2}

    stage, seen = Stage(), {}
    plan = plan_of(config(tmp_path, "actor"), stage, "main", manifest)
    for loader in ("actor", "ray_data"):
        run = config(tmp_path, loader)
        seen[loader] = [
            [(info, parts[0]["ids"], parts[0]["seed"]) for info, parts in steps]
            for rank in (0, 1)
            for steps in [batches(run, stage, "main", manifest, None, rank=rank, world_size=2, plan=plan)]
        ]
    assert seen["actor"] == seen["ray_data"]
    left, right = seen["actor"]
    assert [info.step for info, _, _ in left] == list(range(plan.steps)) == list(range(14))
    for epoch in (0, 1):
        ids = [i for side in (left, right) for info, names, _ in side if info.epoch == epoch for i in names]
        assert len(ids) == len(set(ids)) == 40

    steps = batches(config(tmp_path, "actor"), stage, "main", manifest, None, start_step=9, plan=plan)
    info, parts = next(steps)
    assert (info.step, parts[0]["ids"]) == (9, left[9][1] + right[9][1])
    steps.close()

    # One training after the other in a process that keeps its loaders: each has its own steps, from the same processes.
    def told(keep: bool, size: int, start: int) -> list[Any]:
        run = config(tmp_path, "actor", size)
        steps = batches(run, stage, "main", manifest, None, start_step=start, keep=keep)
        return [(info, parts[0]["ids"]) for info, parts in steps]

    loaders = []
    for size, start in ((6, 9), (8, 0), (6, 0)):
        assert told(True, size, start) == told(False, size, start)
        loaders.append({actor._actor_id for actor in reader._idle})
    assert loaders[0] == loaders[1] == loaders[2] != set()
    while reader._idle:
        ray.kill(reader._idle.pop())
    assert ray.is_initialized()
