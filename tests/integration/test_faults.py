"""Whatever is killed, at whatever step: the run goes on, no sample is lost or repeated, and no bit differs.

Each test compares with one run that nobody disturbed. What is killed is killed with SIGKILL, from inside the step.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.killable import (
    RECORDS,
    STAGE,
    STEPS_PER_EPOCH,
    WRITING,
    Cluster,
    Run,
    repeated_and_lost,
    running,
    tiny_config,
    works,
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

EPOCHS = 2
STEPS = EPOCHS * STEPS_PER_EPOCH


class Bench:
    """A cluster, the undisturbed run on it, and disturbed ones."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self.folder, self.cluster = folder, cluster
        self.numbers = itertools.count()
        self.whole = self.run()
        assert self.whole.finish() == 0, self.whole.tail()

    def run(self, cluster: Cluster | None = None, workers: int = 2, **changes: Any) -> Run:
        """A new run of the same settings; `changes` go to its stage's."""
        place = self.folder / f"run-{next(self.numbers)}"
        config = tiny_config(place / "out", self.folder / "data", EPOCHS, **changes)
        config["cluster"]["num_workers"] = workers
        return Run(place, cluster or self.cluster, config, self.folder / "begin")

    def compare(self, run: Run, exact: bool = True, whole: Run | None = None) -> None:
        """The run came to where the undisturbed one is."""
        whole = whole or self.whole
        expected, found = whole.weights(), run.weights()
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            close = torch.equal if exact else lambda a, b: torch.allclose(a, b, atol=1e-4)
            assert close(value, found[name]), name
        assert repeated_and_lost(run) == (0, 0)
        (history, samples), (expected_history, expected_samples) = run.history(), whole.history()
        assert samples == expected_samples
        assert [row["step"] for row in history] == list(range(1, STEPS + 1))
        for row, other in zip(history, expected_history, strict=True):
            for name in ("lr", "epoch", "samples"):
                assert row[name] == other[name], name
            assert row["loss"] == (other["loss"] if exact else pytest.approx(other["loss"], rel=1e-4))
        assert history[-1]["val_first_choice"] == expected_history[-1]["val_first_choice"]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with running() as cluster:
        yield Bench(tmp_path_factory.mktemp("faults"), cluster)


def killed(run: Run, who: str) -> bool:
    return any(run.seen.glob(f"killed-{who}-*"))


def test_a_killed_worker_then_a_killed_driver(bench: Bench) -> None:
    """The worker is replaced; after the driver the same command goes on."""
    run = bench.run()
    run.kills = [{"who": "worker", "step": 5}, {"who": "driver", "step": 8}]
    assert run.finish() < 0
    assert killed(run, "worker")
    assert not run.done
    assert run.finish() == 0, run.tail()
    assert len({event["pid"] for event in run.events()}) == 6  # two workers, three times
    bench.compare(run)


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 5, 6, STEPS])
def test_a_killed_worker_is_replaced(bench: Bench, step: int) -> None:
    run = bench.run()
    run.kills = [{"who": "worker", "step": step}]
    assert run.finish() == 0, run.tail()
    assert killed(run, "worker")
    assert len({event["pid"] for event in run.events()}) == 4  # two workers, twice
    bench.compare(run)


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 8, STEPS])
def test_after_a_killed_driver_the_same_command_goes_on(bench: Bench, step: int) -> None:
    run = bench.run()
    run.kills = [{"who": "driver", "step": step}]
    assert run.finish() < 0
    assert not run.done
    assert run.finish() == 0, run.tail()
    bench.compare(run)


@pytest.mark.slow
@pytest.mark.parametrize("moment", WRITING)
def test_a_worker_killed_in_writing_a_checkpoint(bench: Bench, moment: str) -> None:
    """The checkpoint of step 6 is never complete; the run goes on from that of step 4."""
    run = bench.run()
    run.kills = [{"who": moment, "step": 6, "rank": 0}]
    assert run.finish() == 0, run.tail()
    assert killed(run, moment)
    log = run.log.read_text()
    assert log.count("going on from the last checkpoint") == 1
    trained = [event["step"] for event in run.events() if event["rank"] == 0]
    assert trained.count(5) == 2
    assert trained.count(4) == 1
    bench.compare(run)


@pytest.mark.slow
def test_a_killed_controller_is_replaced(bench: Bench) -> None:
    run = bench.run()
    run.kills = [{"who": "controller", "step": 5}]
    assert run.finish() == 0, run.tail()
    assert "controller died" in run.log.read_text()
    bench.compare(run)


@pytest.mark.slow
def test_several_deaths_in_one_run(bench: Bench) -> None:
    run = bench.run()
    run.kills = [{"who": "worker", "step": 3, "rank": 0}, {"who": "worker", "step": 4}, {"who": "driver", "step": 7}]
    assert run.finish() < 0
    assert run.finish() == 0, run.tail()
    bench.compare(run)


@pytest.mark.slow
def test_a_run_that_makes_no_headway_ends(bench: Bench) -> None:
    """Killed at the same step every time: after `max_failures` without a new checkpoint it stops, and says why."""
    run = bench.run()
    run.config["cluster"]["max_failures"] = 1
    run.kills = [{"who": "worker", "step": 1}, {"who": "worker", "step": 2, "rank": 0}]
    assert run.finish() == 1
    assert "2 failures in a row without a new checkpoint (cluster.max_failures: 1)" in run.log.read_text()


@pytest.mark.slow
def test_a_fault_of_the_code_is_not_tried_again(bench: Bench) -> None:
    run = bench.run(losses={"selection": 0.6, "no_such_loss": 1.0})
    assert run.finish() == 1
    log = run.log.read_text()
    assert "no_such_loss" in log
    assert "going on from the last checkpoint" not in log
    assert run.events() == []


@pytest.mark.slow
def test_a_killed_node_is_done_without(bench: Bench) -> None:
    # Both workers fill a node, so their batches come from another one; the head has room for nothing.
    with running(cpus=0, nodes=3, node_cpus=2) as cluster:
        run = bench.run(cluster)
        run.kills = [{"who": "node", "step": 5}]
        assert run.finish() == 0, run.tail()
        assert killed(run, "node")
    bench.compare(run)


@pytest.mark.slow
@pytest.mark.parametrize("step", [3, 8])
def test_after_the_whole_cluster_was_killed_the_same_command_goes_on(bench: Bench, step: int) -> None:
    with running() as cluster:
        run = bench.run(cluster)
        run.kills = [{"who": "cluster", "step": step}]
        assert run.finish() < 0
        cluster.kill()
        assert not any(works(event["pid"]) for event in run.events())
        cluster.start()
        assert run.finish() == 0, run.tail()
    bench.compare(run)


@pytest.mark.slow
@pytest.mark.parametrize(
    "way",
    [(0, "muon"), (0, "adamw"), (1, "adamw"), (2, "adamw"), (3, "adamw")],
    ids=lambda way: f"zero{way[0]}-{way[1]}",
)
def test_the_number_of_workers_may_change_on_the_way(bench: Bench, way: tuple[int, str]) -> None:
    """2 → 1 → 2 workers by the same command with another `cluster.num_workers`."""
    changes = {"zero_stage": way[0], "optimizer": way[1]}
    whole = bench.run(**changes)
    assert whole.finish() == 0, whole.tail()
    run = bench.run(**changes)
    run.kills = [{"who": "driver", "step": 4}, {"who": "driver", "step": 8, "rank": 0}]
    for workers, code in ((2, -9), (1, -9), (2, 0)):
        run.config["cluster"]["num_workers"] = workers
        assert run.finish() == code, run.tail()
    assert sum(len(event["indices"]) == 8 for event in run.events()) >= 3
    bench.compare(run, exact=False, whole=whole)


@pytest.mark.slow
def test_where_a_node_is_missing_fewer_workers_go_on(bench: Bench) -> None:
    with running(cpus=0, nodes=2) as cluster:
        run = bench.run(cluster)
        run.config["cluster"] |= {"min_workers": 1, "cpus_per_worker": 1.5}  # a node has room for one
        run.kills = [{"who": "node", "step": 5}]
        assert run.finish() == 0, run.tail()
        assert "room for 1 of 2 workers" in run.log.read_text()
    bench.compare(run, exact=False)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over_on_a_cluster(bench: Bench) -> None:
    run = bench.run()
    run.kills = [{"who": "driver", "step": 9}]
    assert run.finish() < 0
    newest = max(Path(run.config["output_dir"], f"stage{STAGE}").glob("checkpoint-*/checkpoint.json")).parent
    part = newest / "engine-1-of-2.safetensors"
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    assert run.finish() == 0, run.tail()
    assert f"{newest}: damaged: engine-1-of-2.safetensors is not what was written" in run.log.read_text()
    bench.compare(run)


def test_the_record_of_samples_is_complete(bench: Bench) -> None:
    """The run's own record against what every process wrote down for itself."""
    _, samples = bench.whole.history()
    seen: dict[int, list[int]] = {}
    for event in sorted(bench.whole.events(), key=lambda e: e["rank"]):
        seen.setdefault(event["step"], []).extend(event["indices"])
    assert [seen[step] for step in range(1, STEPS + 1)] == [row["indices"] for row in samples]
    for epoch in range(EPOCHS):
        trained = [i for row in samples if row["epoch"] == epoch for i in row["indices"]]
        assert sorted(trained) == list(range(RECORDS))
    assert json.loads(bench.whole.result.read_text())["checkpoint"] == f"checkpoint-0-{STEPS:06d}"
