"""Servers that a measurement starts and stops, and what it asks them. Only on the loopback address."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import psutil

from ember_platform.client import EmberClient, EmberError
from ember_platform.serving.load import Ask
from embervlm.data.schema import Record

ROOT = Path(__file__).resolve().parents[3]
START_S = 300.0


class TrialError(RuntimeError):
    """A server that did not start, or did not live. The message has the end of what it printed."""


def free_port() -> int:
    """A TCP port that is free on the loopback address at this moment."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Server:
    """A server in a process (and its children) of its own: started by `with`, ended with all of them after it.

    Args:
        name: for messages.
        command: a Python script and its arguments; PORT stands for the port it gets.
        ready: the path that answers 200 as soon as it is ready.
    """

    def __init__(self, name: str, command: Sequence[str], ready: str = "/readyz") -> None:
        self.name = name
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = [sys.executable, *(word.replace("PORT", str(self.port)) for word in command)]
        self._ready = ready
        self._process: subprocess.Popen[bytes] | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  gone with this object

    def __enter__(self) -> Server:
        paths = [str(ROOT), str(ROOT / "platform")]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
        env.pop("RAY_ADDRESS", None)
        self._process = subprocess.Popen(
            self._command, cwd=ROOT, env=env, stdout=self._log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _wait(self) -> None:
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            self.check()
            try:
                if httpx.get(self.url + self._ready, timeout=5, trust_env=False).status_code == 200:
                    return
            except httpx.HTTPError:
                pass  # not yet
            time.sleep(0.3)
        raise TrialError(f"{self.name} was not ready after {START_S:.0f} s:\n{self.said()}")

    def check(self) -> None:
        """That it lives.

        Raises:
            TrialError: it has ended.
        """
        assert self._process is not None
        if self._process.poll() is not None:
            raise TrialError(f"{self.name} ended with code {self._process.returncode}:\n{self.said()}")

    def said(self) -> str:
        """The end of what it printed."""
        self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, self._log.tell() - 4000))
        return self._log.read().decode("utf-8", "replace")

    def processes(self) -> list[psutil.Process]:
        """It and all that it started and still lives."""
        assert self._process is not None
        try:
            parent = psutil.Process(self._process.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def replicas(self) -> list[psutil.Process]:
        """Its replicas, where it is the endpoint on Ray Serve."""
        found = []
        for process in self.processes():
            try:
                title = " ".join(process.cmdline())
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            if title.startswith("ray::ServeReplica") and "Selector" in title:
                found.append(process)
        return found

    def memory(self) -> int:
        """Bytes that its processes hold for themselves (shared pages are counted once, by their share)."""
        total = 0
        for process in self.processes():
            try:
                total += process.memory_full_info().pss
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return total

    def stop(self) -> None:
        """End it: asked first, then made to, and nothing that it started is left."""
        if self._process is None:
            return
        family = self.processes()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):  # then it is made to
                self._process.wait(60)
        for process in family:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(family, timeout=10)
        self._process.wait(10)
        self._process = None


# ---------------------------------------------------------------- what is asked


def records(count: int, size: int = 480, seed: int = 5) -> list[Record]:
    """Questions of EmberWorld's test split, with pictures of `size` pixels a side."""
    from embervlm.world.dataset import build

    return list(build("test", "selection", count, seed, size))


def asks(of: Sequence[Record]) -> list[Ask]:
    """The same as requests about the default fleet."""
    return [Ask.form(record.instruction, record.image or b"") for record in of]


class Askers:
    """Clients with their default retries that ask one question after the other until stopped."""

    def __init__(self, url: str, count: int) -> None:
        self.answers: list[tuple[int, str, str, float]] = []  # question, version, first robot, its confidence
        self.failures: list[str] = []
        self._url = url
        self._questions = records(16)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(i,)) for i in range(count)]

    def __enter__(self) -> Askers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, place: int) -> None:
        with EmberClient(self._url, trust_env=False) as client:
            while not self._stop.is_set():
                number = place % len(self._questions)
                question = self._questions[number]
                place += 1
                try:
                    answer = client.select(question.instruction, image=question.image)
                except EmberError as error:
                    self.failures.append(f"{type(error).__name__} after {error.attempts} attempts: {error}")
                    continue
                first = answer.robots[0]
                self.answers.append((number, answer.model.version, first.robot, first.confidence))


def random_model(preset: str, folder: Path, seed: int = 0, texts: int = 4000) -> Path:
    """A model of a preset with random weights: it answers nonsense in the time that a trained one needs."""
    import torch

    from embervlm import EmberVLM, EmberVLMConfig, EmberVLMProcessor
    from embervlm.world.dataset import corpus

    torch.manual_seed(seed)
    config = EmberVLMConfig.preset(preset)
    processor = EmberVLMProcessor.build(config, corpus(0, texts))
    EmberVLM.from_parts(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def endpoint(config: str, overrides: Sequence[str], state_dir: Path) -> Server:
    """The endpoint, as `make serve` starts it."""
    fixed = ["serving.host=127.0.0.1", "serving.port=PORT", f"serving.state_dir={state_dir}"]
    return Server("endpoint", ["serve/local.py", "--config", config, *fixed, *overrides])


def figures(values: Sequence[float]) -> dict[str, Any]:
    """Median, least and most of some rounds' values."""
    ordered = sorted(values)
    return {"median": ordered[len(ordered) // 2], "min": ordered[0], "max": ordered[-1], "rounds": len(ordered)}
