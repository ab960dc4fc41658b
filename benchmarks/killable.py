"""A training run on a private Ray cluster that can be killed: for `benchmarks/chaos.py` and the fault tests.

The cluster's processes, the command that trains and the observers that record and kill are all here. The command is
this file, run with the path of an order; started again after it was killed, it goes on.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]

STAGE = 3
BATCH, RECORDS, SAVE_EVERY = 8, 48, 2
STEPS_PER_EPOCH = RECORDS // BATCH
PATIENCE_S = 1800.0
#: Moments of writing a checkpoint: half a file is written; all are, but not in their place; they are, and the other
#: workers do not know; everything is there but the record (which rank 0 writes).
WRITING = ("half-a-file", "before-its-place", "before-telling", "before-the-record")


def tiny_config(output_dir: Path, data_dir: Path, epochs: int, **changes: Any) -> dict[str, Any]:
    """A run of stage 3 in which a step takes a fraction of a second; `changes` go to its stage's settings."""
    text = {"model_type": "qwen3", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text |= {"num_key_value_heads": 1, "head_dim": 16, "intermediate_size": 48, "vocab_size": 1024}
    stage = {"epochs": epochs, "batch_size": BATCH, "learning_rate": 1e-3, "precision": "fp32", "log_every": 1}
    stage |= {"optimizer": "muon"}  # two optimizers in one: AdamW has what is no hidden matrix
    stage |= {"save_every": SAVE_EVERY, "eval_every": epochs * STEPS_PER_EPOCH}
    return {
        "name": "chaos",
        "output_dir": str(output_dir),
        "preset": "embervlm-nano",
        "model": {
            "vision_args": {"embed_dim": [8, 16, 24, 32], "depth": [1, 1, 1, 1]},
            "text_config": {**text, "max_position_embeddings": 1024, "tie_word_embeddings": True},
            "fusion_hidden": 32,
            "projection_dim": 16,
        },
        "data": {
            "dir": str(data_dir),
            "image_size": 64,
            "loader": "actor",
            "workers": 1,
            "counts": {"stage3": {"train": RECORDS, "validation": 8, "test": 8}},
        },
        "cluster": {"num_workers": 2, "cpus_per_worker": 1.0, "threads_per_worker": 1, "max_failures": -1},
        "stages": {str(STAGE): {**stage, **changes}},
    }


# ------------------------------------------------------------------------ what runs in the workers


@dataclass
class Recorder:
    """Writes down, apart from the run's own records, which samples every process trained on, and when."""

    folder: str

    def __call__(self, info: Any, row: dict[str, Any]) -> None:
        """After a step, on every rank."""
        import torch

        line = {"rank": torch.distributed.get_rank(), "step": row["step"], "indices": list(info.indices)}
        with open(f"{self.folder}/{os.getpid()}", "a") as file:
            file.write(json.dumps(line) + "\n")


@dataclass
class Killer:
    """Kills something after a step, once: worker, driver, node, cluster, or controller (Ray Train's own process).

    One of `WRITING` kills the worker in the writing of the checkpoint of that step.
    """

    who: str
    step: int
    folder: str
    driver: int
    leaders: list[int] = field(default_factory=list)
    rank: int = 1

    def __call__(self, info: Any, row: dict[str, Any]) -> None:
        """After a step, on every rank."""
        import torch

        marker = Path(self.folder, f"killed-{self.who}-{self.step}")
        if torch.distributed.get_rank() != self.rank or row["step"] != self.step or marker.exists():
            return
        marker.touch()
        if self.who == "worker":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.who == "driver":
            os.kill(self.driver, signal.SIGKILL)
        elif self.who == "node":
            kill_trees(os.getppid())  # the raylet that started this worker
        elif self.who == "cluster":
            kill_trees(self.driver, *self.leaders)
        elif self.who in WRITING:
            die_in_writing(self.who, self.step)
        else:
            for leader in self.leaders:
                for process in psutil.Process(leader).children(recursive=True):
                    if "TrainController" in " ".join(process.cmdline()):
                        process.kill()


def die_in_writing(moment: str, step: int) -> None:
    """SIGKILL for this process at a moment of writing the checkpoint of a step, one of `WRITING`."""
    from ember_platform.train import checkpoint, engine_state, saving

    module, name = {
        "half-a-file": (engine_state, "save_file"),
        "before-its-place": (checkpoint, "sums_of"),
        "before-telling": (saving, "_flush_folder"),
        "before-the-record": (checkpoint, "commit"),
    }[moment]
    function = getattr(module, name)

    def deadly(*given: Any, **more: Any) -> Any:
        if not any(f"-{step:06d}" in str(value) for value in given if isinstance(value, str | Path)):
            return function(*given, **more)
        if moment == "half-a-file":
            function(*given, **more)
            os.truncate(given[1], Path(given[1]).stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    setattr(module, name, deadly)


def kill_trees(*pids: int) -> None:
    """SIGKILL for processes and everything that they started: parents first, and this process last of all."""
    found: dict[int, psutil.Process] = {}
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(pid)
            found |= {process.pid: process for process in (parent, *parent.children(recursive=True))}
    own = found.pop(os.getpid(), None)
    for process in (*found.values(), *([own] if own else [])):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def works(pid: int) -> bool:
    """Whether a process is there and not only its entry, which stays until whoever inherited it asks for its end."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# --------------------------------------------------------------------------------- the driver


def drive(path: str) -> int:
    """The command that trains: started again after it was killed, it goes on."""
    import ray

    from ember_platform.config import RunConfig
    from ember_platform.data.ingest import prepare
    from ember_platform.train.models import ModelDesk
    from ember_platform.train.stage_run import run_stage

    order = json.loads(Path(path).read_text())
    config = RunConfig.model_validate(order["config"])
    ray.init(address=order["address"], log_to_driver=True, logging_level=logging.WARNING)
    manifest = prepare(config, say=lambda line: None)
    begin = ModelDesk(config, manifest.dir).begin(order["begin"])
    known = {"folder": order["seen"], "driver": os.getpid(), "leaders": order["leaders"]}
    observers: list[Any] = [Recorder(order["seen"]), *(Killer(**kill, **known) for kill in order["kills"])]
    result = run_stage(config, STAGE, digest="chaos", parent=begin, observers=observers)
    Path(order["result"]).write_text(json.dumps({"best": result.best, "checkpoint": result.state.name}))
    return 0


# -------------------------------------------------------------------------------- the cluster


class Cluster:
    """A private Ray cluster on this machine: a head and, where asked for, nodes beside it."""

    def __init__(self, cpus: int = 8, nodes: int = 0, node_cpus: int = 2) -> None:
        from cluster import local

        self.local = local
        self.cpus, self.nodes, self.node_cpus = cpus, nodes, node_cpus
        # Ray refuses a second node where it keeps to 127.0.0.1 (see `local.environment`), and replaces that address by
        # the machine's own where it does not. Another address of the loopback network is left as it is.
        self.host = "127.0.0.2" if nodes else local.HOST
        self.folder = Path(tempfile.mkdtemp(prefix="ray-chaos-", dir="/tmp"))
        self.environment = local.environment() | {
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "platform"))),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1" if nodes else "0",
            "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
            # A machine that is gone is noticed in seconds, not in half a minute.
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_failure_threshold": "3",
            "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",
        }
        self.leaders: list[subprocess.Popen[bytes]] = []
        self.address = ""

    def start(self) -> None:
        """Start the head and the nodes; again, after they were killed."""
        ports = dict(zip(self.local.PORTS, self.local.free_ports(len(self.local.PORTS)), strict=True))
        self.address = f"{self.host}:{ports['port']}"
        head = ["--head", "--include-dashboard=false", f"--temp-dir={self.folder}", f"--num-cpus={self.cpus}"]
        self._start([*head, "--object-store-memory=200000000"], ports)
        self._wait(1)
        for number in range(self.nodes):
            self.add_node()
            self._wait(number + 2)

    def add_node(self) -> None:
        """One more machine, as Ray sees it."""
        names = [name for name in self.local.PORTS if not name.startswith(("port", "dashboard-port", "ray-client"))]
        ports = dict(zip(names, self.local.free_ports(len(names)), strict=True))
        more = [f"--address={self.address}", f"--num-cpus={self.node_cpus}", "--object-store-memory=100000000"]
        self._start(more, ports)

    def _start(self, arguments: list[str], ports: dict[str, int]) -> None:
        command = [self.local.ray_program(), "start", "--block", "--disable-usage-stats", *arguments]
        command += [f"--node-ip-address={self.host}", "--min-worker-port=0", "--max-worker-port=0"]
        command += [f"--{name}={port}" for name, port in ports.items()]
        with (self.folder / "cluster.log").open("a") as log:
            self.leaders.append(
                subprocess.Popen(
                    command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    start_new_session=True,
                )
            )  # fmt: skip

    def _wait(self, count: int) -> None:
        """Until so many nodes answer."""
        code = f"import ray; ray.init('{self.address}', log_to_driver=False, logging_level='ERROR'); " + (
            f"import sys; sys.exit(sum(n['Alive'] for n in ray.nodes()) < {count})"
        )
        end = time.monotonic() + 300
        while subprocess.run([sys.executable, "-c", code], env=self.environment, capture_output=True).returncode:
            if time.monotonic() > end or self.leaders[-1].poll() is not None:
                raise RuntimeError(f"Ray did not start; see {self.folder / 'cluster.log'}")
            time.sleep(0.5)

    def kill(self) -> None:
        """SIGKILL for every process of it."""
        for leader in self.leaders:
            kill_trees(leader.pid)
            leader.wait()
        self.leaders = []

    def close(self) -> None:
        """End it and remove what it left."""
        self.kill()
        for _ in range(20):
            shutil.rmtree(self.folder, ignore_errors=True)
            if not self.folder.exists():
                return
            time.sleep(0.2)


@contextlib.contextmanager
def running(**sizes: int) -> Iterator[Cluster]:
    """A cluster for as long as the block lasts."""
    made = Cluster(**sizes)
    try:
        made.start()
        yield made
    finally:
        made.close()


# ------------------------------------------------------------------------------ one run of the command


class Run:
    """One training run, however often its command is started."""

    def __init__(self, folder: Path, cluster: Cluster, config: dict[str, Any], begin: Path) -> None:
        self.folder, self.cluster, self.config = folder, cluster, config
        self.seen, self.result, self.order = folder / "seen", folder / "result.json", folder / "order.json"
        self.begin, self.log = begin, folder / "driver.log"
        self.seen.mkdir(parents=True, exist_ok=True)
        self.kills: list[dict[str, Any]] = []
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        """Start the command; the same again where it was killed."""
        order: dict[str, Any] = {"config": self.config, "address": self.cluster.address, "begin": str(self.begin)}
        order |= {"seen": str(self.seen), "result": str(self.result)}
        order |= {"kills": self.kills, "leaders": [leader.pid for leader in self.cluster.leaders]}
        self.order.write_text(json.dumps(order))
        command = [sys.executable, str(Path(__file__).resolve()), str(self.order)]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                command, env=self.cluster.environment, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        return self.process

    def finish(self) -> int:
        """Start the command and wait for its end; its exit code (negative: the signal that killed it)."""
        return self.start().wait(timeout=PATIENCE_S)

    @property
    def done(self) -> bool:
        """Whether the run has come to its end."""
        return self.result.exists()

    def events(self) -> list[dict[str, Any]]:
        """What the recorder saw, each with the process that trained it."""
        found = []
        for path in self.seen.iterdir():
            if path.name.isdigit():
                lines = path.read_text().splitlines(keepends=True)
                found += [json.loads(line) | {"pid": int(path.name)} for line in lines if line.endswith("\n")]
        return found

    def tail(self, lines: int = 25) -> str:
        """The end of the command's log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def weights(self) -> dict[str, Any]:
        """The final model's tensors."""
        from safetensors.torch import load_file

        return load_file(Path(json.loads(self.result.read_text())["best"]) / "model.safetensors")

    def history(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The rows of the steps that count, and their samples."""
        from ember_platform.train.checkpoint import read_state

        name = json.loads(self.result.read_text())["checkpoint"]
        return read_state(Path(self.config["output_dir"], f"stage{STAGE}", name))[1:]


def repeated_and_lost(run: Run) -> tuple[int, int]:
    """Samples trained more than once in an epoch, and never, among the steps that count.

    Raises:
        AssertionError: a process trained another sample at a step than the run's own records have there.
    """
    from ember_platform.config import RunConfig
    from ember_platform.data.manifest import Manifest
    from ember_platform.data.steps import plan_of
    from ember_platform.train.samples import audit
    from embervlm.stages import get_stage

    config = RunConfig.model_validate(run.config)
    stage = get_stage(STAGE)
    _, samples = run.history()
    by_step = {number + 1: Counter(row["indices"]) for number, row in enumerate(samples)}
    for event in run.events():
        assert not Counter(event["indices"]) - by_step[event["step"]], f"step {event['step']}: other samples"
    found = audit(samples, [plan_of(config, stage, phase, Manifest.load(config.data.dir)) for phase in stage.phases])
    return found.repeated, found.lost


if __name__ == "__main__":
    sys.exit(drive(sys.argv[1]))
