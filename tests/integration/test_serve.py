"""The endpoint on Ray Serve, as `make serve` starts it: fed by a registry, with a replica that dies under load."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from ember_platform import registry
from ember_platform.config import RunConfig
from ember_platform.mlflow_store import open_store

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
TASK = {"task": "inspect the pier below the waterline"}


@dataclass
class Server:
    """A running `serve/local.py`, and the registry that feeds it."""

    process: subprocess.Popen[bytes]
    url: str
    config: RunConfig
    log: Path

    def ask(self, path: str, body: Any = None, tries: int = 60) -> dict[str, Any]:
        """A request, asked again as a client does: after 503 and after connections that break."""
        data = None if body is None else json.dumps(body).encode()
        for attempt in range(tries):
            request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                if error.code != 503 or attempt == tries - 1:
                    raise AssertionError(f"{error.code}: {error.read()[:500]!r}") from error
            except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
                if attempt == tries - 1:
                    raise AssertionError(f"{path}: {error}") from error
            time.sleep(0.5)
        raise AssertionError(path)

    def move(self, version: int) -> None:
        client = open_store(self.config)
        client.set_registered_model_alias(self.config.registry.prefix, registry.CHAMPION, str(version))

    def replicas(self) -> list[psutil.Process]:
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [one for one in children if "Selector" in " ".join(one.cmdline())]


@dataclass
class Load:
    """Clients that ask one after the other until they are told to stop."""

    server: Server
    clients: int = 3
    versions: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def __enter__(self) -> Load:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.versions[self.server.ask("/v1/select", TASK)["model"]["version"]] += 1
            except (AssertionError, KeyError, ValueError) as error:
                self.faults.append(repr(error))

    def wait_for(self, version: str, count: int, seconds: float = 120) -> None:
        """Until so many more answers came from a version."""
        wanted, end = self.versions[version] + count, time.monotonic() + seconds
        while self.versions[version] < wanted:
            assert time.monotonic() < end, f"{self.versions}, {self.faults[:3]}"
            time.sleep(0.05)


@pytest.fixture(scope="module")
def server(nano_folder: Path, tmp_path_factory: pytest.TempPathFactory, root: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("serve")
    config = RunConfig(output_dir=str(folder / "out"))
    registry.register_stage(config, 4, nano_folder, {"metrics": {}}, {})
    first = registry.register_final(config)
    client = open_store(config)
    known = client.get_model_version(config.registry.prefix, str(first))
    client.create_model_version(config.registry.prefix, str(known.source), tags=known.tags)
    client.set_registered_model_alias(config.registry.prefix, registry.CHAMPION, str(first))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "output_dir": str(folder / "out"),
        "data": {"dir": str(folder / "data")},
        "serving": {
            "port": port,
            "state_dir": str(folder / "state"),
            "replica": {"cpus": 1, "precision": "fp32"},
            "scaling": {"min_replicas": 2, "max_replicas": 2, "drain_s": 1},
            "rollout": {"poll_s": 1, "golden": {"samples": 2}},
        },
    }
    (folder / "run.yaml").write_text(json.dumps(settings))
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "serve/local.py", "--config", str(folder / "run.yaml")],
            cwd=root, stdout=out, stderr=out, start_new_session=True,
            env={**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'platform'}"},
        )  # fmt: skip
    one = Server(process, f"http://127.0.0.1:{port}", config, log)
    end = time.monotonic() + 300
    while b"serving on" not in log.read_bytes():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.2)
    started = psutil.Process(process.pid).children(recursive=True)
    yield one
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    assert process.wait(90) == 0, log.read_text()
    _, left = psutil.wait_procs(started, timeout=10)
    for process_left in left:
        process_left.kill()
    assert [p for p in left if p.name() != "haproxy"] == []


def test_it_answers_with_the_registry_s_champion(server: Server) -> None:
    answer = server.ask("/v1/select", {**TASK, "reasoning": True})
    assert answer["model"] == {"name": "embervlm", "version": "1", "alias": "champion"}
    assert answer["reasoning"] is not None
    assert server.ask("/readyz") == {"status": "ok", "version": "1"}


def test_a_stream_arrives_in_pieces(server: Server) -> None:
    headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
    request = urllib.request.Request(f"{server.url}/v1/select", json.dumps(TASK).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        first = response.readline()
        text = response.read().decode()
    assert first == b"event: start\n"
    assert "event: answer\n" in text


def test_a_registered_fleet_is_known_to_every_replica(server: Server) -> None:
    body = json.dumps({"robots": [{"name": "Crane"}, {"name": "Boat"}]}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{server.url}/v1/fleets/yard", body, headers, method="PUT")
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.status == 201
    replicas = set()
    for _ in range(200):
        answered = server.ask("/v1/select", {**TASK, "fleet": "yard"})
        assert len(answered["robots"]) == 2
        replicas |= {server.ask("/v1/model")["replica"] for _ in range(2)}  # an odd number of requests a round
        if len(replicas) == 2:
            return
    raise AssertionError(f"only {replicas} answered")


def test_the_alias_moves_under_load_and_no_request_fails(server: Server) -> None:
    with Load(server) as load:
        load.wait_for("1", 10)
        server.move(2)
        load.wait_for("2", 20)
        server.move(1)
        load.wait_for("1", 20)
    assert load.faults == []
    assert set(load.versions) == {"1", "2"}


def test_a_replica_that_is_killed_under_load_fails_no_request(server: Server) -> None:
    victims = server.replicas()
    assert len(victims) >= 2, [p.cmdline() for p in psutil.Process(server.process.pid).children(recursive=True)]
    with Load(server) as load:
        load.wait_for("1", 10)
        victims[0].kill()
        load.wait_for("1", 60)
    assert load.faults == []


def test_what_is_under_way_at_the_end_is_finished(server: Server) -> None:
    """The last test: the server ends."""
    headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
    request = urllib.request.Request(f"{server.url}/v1/select", json.dumps(TASK).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        assert response.readline() == b"event: start\n"
        server.process.send_signal(signal.SIGTERM)
        assert "event: answer\n" in response.read().decode()
    assert server.process.wait(90) == 0
