"""A Ray cluster of one machine that belongs to this checkout: start, stop, status, submit.

    python cluster/local.py start
    python cluster/local.py submit -- python jobs/train_all.py --config configs/laptop.yaml
    python cluster/local.py stop

Everything listens on the loopback address and on ports that were free, and the processes, addresses and
folders are written down in `.state/cluster.json`. So two checkouts live side by side, and `stop` ends the
processes that `start` began and no other Ray on the machine (`ray stop` would end them all).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import psutil
import yaml

ROOT = Path(__file__).resolve().parents[1]
STATE_DIR = ROOT / ".state"
STATE_FILE = STATE_DIR / "cluster.json"
LOG_FILE = STATE_DIR / "cluster.log"
#: Ray puts unix sockets below it, whose paths may have 107 characters: short, whatever the checkout is called.
TEMP_DIR = Path("/tmp") / f"ray-ember-{hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]}"
HOST = "127.0.0.1"
#: Names the folder that a job's relative paths count from (`ember_platform.storage.absolute`).
ROOT_VARIABLE = "EMBERVLM_ROOT"
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 20.0
PORTS = (
    "port",
    "dashboard-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "runtime-env-agent-port",
    "metrics-export-port",
    "ray-client-server-port",
    "node-manager-port",
    "object-manager-port",
)
#: Ports that only the environment sets; at their fixed defaults two clusters collide.
METRIC_PORTS = ("DASHBOARD_METRIC_PORT", "AUTOSCALER_METRIC_PORT")


class ClusterError(RuntimeError):
    """Something that the person at the shell can act on; printed as one line."""


@dataclass(frozen=True)
class State:
    """What `start` began. `pid` leads the session of all its processes; `created` tells a reused pid."""

    pid: int
    created: float
    address: str
    dashboard: str
    temp_dir: str

    @classmethod
    def load(cls) -> State | None:
        """The recorded cluster, or None where `start` left none."""
        if not STATE_FILE.exists():
            return None
        try:
            return cls(**json.loads(STATE_FILE.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise ClusterError(f"{STATE_FILE}: not readable ({error}); delete it if no cluster of ours runs") from error

    def save(self) -> None:
        """Write the state so that no reader ever sees half of it."""
        part = STATE_FILE.with_suffix(".part")
        part.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        part.replace(STATE_FILE)

    def leader(self) -> psutil.Process | None:
        """The process that `start` began, or None if it has ended (or its number is another's by now)."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.created) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return None
        return process if same else None

    def answers(self) -> bool:
        """Whether the dashboard, which takes the jobs, answers."""
        try:
            with urllib.request.urlopen(f"{self.dashboard}/api/version", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def environment() -> dict[str, str]:
    """The environment of the cluster's processes and of the clients that talk to it."""
    env = {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")}
    env.update(
        # All of it listens on loopback only; unset, the mode would depend on what other Rays left in the home folder.
        RAY_AUTH_MODE="disabled",
        # Despite its name: off, Ray keeps to the loopback address on every system; on (as on Linux), it
        # replaces a loopback `--node-ip-address` with the machine's own and listens on all of them.
        RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
        RAY_USAGE_STATS_ENABLED="0",
        RAY_enable_metrics_collection="false",
        **{name: str(port) for name, port in zip(METRIC_PORTS, free_ports(len(METRIC_PORTS)), strict=True)},
        RAY_ENABLE_UV_RUN_RUNTIME_ENV="0",
        RAY_COLOR_PREFIX="0",
        # `serve deploy` builds serve.app in the cluster's processes; a job's own copy comes first there.
        PYTHONPATH=os.pathsep.join((str(ROOT), str(ROOT / "platform"))),
        # `python`, `ray` and `ninja` of this environment, whether or not it is activated in the caller's shell.
        PATH=os.pathsep.join((str(Path(sys.executable).parent), env.get("PATH", ""))),
    )
    return env


def ray_program() -> str:
    """The `ray` command that belongs to the running Python."""
    program = Path(sys.executable).with_name("ray")
    if not program.exists():
        raise ClusterError(f"{program}: not found; install the platform (`make env`) and use its Python")
    return str(program)


def free_ports(count: int) -> list[int]:
    """Distinct TCP ports that are free on the loopback address at this moment."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((HOST, 0))
        return [one.getsockname()[1] for one in sockets]


def logical_cpus() -> int:
    """More CPUs than cores, so that data tasks are scheduled beside the training workers and never starve them out."""
    return max(8, 4 * (os.cpu_count() or 1))


def start(cpus: int | None, object_store_gb: float) -> State:
    """Start the cluster, or return the one that runs.

    Raises:
        ClusterError: Ray did not come up; names its log.
    """
    state = State.load()
    if state is not None:
        if state.leader() and state.answers():
            print(f"the cluster of this checkout is up: {state.dashboard}")
            return state
        stop()
    STATE_DIR.mkdir(exist_ok=True)
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    command = [
        *(ray_program(), "start", "--head", "--block", "--disable-usage-stats", "--log-style=record"),
        *(f"--node-ip-address={HOST}", f"--dashboard-host={HOST}", "--include-dashboard=true"),
        *(f"--num-cpus={cpus or logical_cpus()}", f"--object-store-memory={int(object_store_gb * 1e9)}"),
        *(f"--temp-dir={TEMP_DIR}", "--min-worker-port=0", "--max-worker-port=0"),
        *(f"--{name}={port}" for name, port in ports.items()),
    ]
    with LOG_FILE.open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command, cwd=STATE_DIR, env=environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    state = State(
        pid=process.pid,
        created=psutil.Process(process.pid).create_time(),
        address=f"{HOST}:{ports['port']}",
        dashboard=f"http://{HOST}:{ports['dashboard-port']}",
        temp_dir=str(TEMP_DIR),
    )
    state.save()
    deadline = time.monotonic() + START_TIMEOUT_S
    while not state.answers():
        if process.poll() is not None or time.monotonic() > deadline:
            tail = "\n".join(LOG_FILE.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
            stop()
            raise ClusterError(f"Ray did not start; the end of {LOG_FILE}:\n{tail}")
        time.sleep(0.2)
    print(f"cluster started: {state.dashboard}")
    return state


def _ours(state: State) -> list[psutil.Process]:
    """The processes of the recorded cluster: the leader, its descendants, and orphans of its session."""
    found: dict[int, psutil.Process] = {}
    leader = state.leader()
    if leader is not None:
        found = {one.pid: one for one in (leader, *leader.children(recursive=True))}
    for process in psutil.process_iter():
        try:
            # A number is only reused once the whole session is gone, so age settles whose session it is.
            if os.getsid(process.pid) == state.pid and process.create_time() >= state.created - 1.0:
                found[process.pid] = process
        except (ProcessLookupError, PermissionError, psutil.Error):
            continue  # ended while we looked, or another user's: not ours
    found.pop(os.getpid(), None)
    return list(found.values())


def stop() -> bool:
    """End the cluster that `start` recorded, and only it. Returns whether there was one."""
    state = State.load()
    if state is None:
        return False
    processes = _ours(state)
    leader = state.leader()
    if leader is not None:
        leader.terminate()  # `ray start --block` ends its own children in order
    _, alive = psutil.wait_procs(processes, timeout=STOP_TIMEOUT_S)
    for process in {*alive, *_ours(state)}:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(alive, timeout=5)
    STATE_FILE.unlink(missing_ok=True)
    shutil.rmtree(state.temp_dir, ignore_errors=True)
    return True


def require() -> State:
    """The running cluster.

    Raises:
        ClusterError: there is none, or it does not answer.
    """
    state = State.load()
    if state is None or state.leader() is None:
        raise ClusterError("no cluster of this checkout runs; start it: python cluster/local.py start")
    if not state.answers():
        raise ClusterError(f"{state.dashboard} does not answer; restart: python cluster/local.py stop, then start")
    return state


def runtime_env(address: str) -> dict[str, Any]:
    """`cluster/runtime_env.yaml`, and what a job cannot see in the copy of the repository that it runs in.

    That is where relative paths count from (the folder this was called in), which code this is, and which cluster it
    runs on: Ray Train's own actors look for one again, and where a machine has two they would find either.
    """
    values: dict[str, Any] = yaml.safe_load((ROOT / "cluster" / "runtime_env.yaml").read_text(encoding="utf-8"))
    values["env_vars"] |= {ROOT_VARIABLE: os.getcwd(), "RAY_ADDRESS": address}
    if (ROOT / ".git").exists() and shutil.which("git"):
        try:
            changed = "-changed" if _git("status", "--porcelain", "--untracked-files=no") else ""
            values["env_vars"] = {"EMBERVLM_REVISION": _git("rev-parse", "HEAD") + changed, **values["env_vars"]}
        except subprocess.CalledProcessError as error:
            print(f"the job will not know its revision; git says: {error.stderr.strip()}", file=sys.stderr)
    return values


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _running_job(state: State, entrypoint: str) -> str | None:
    """The id of a job of the same command from the same folder that is still at work (its submitter was killed)."""
    with urllib.request.urlopen(f"{state.dashboard}/api/jobs/", timeout=30) as answer:
        jobs = json.load(answer)
    for job in jobs:
        folder = ((job.get("runtime_env") or {}).get("env_vars") or {}).get(ROOT_VARIABLE, os.getcwd())
        same = job.get("entrypoint") == entrypoint and folder == os.getcwd()
        if same and job.get("status") in ("PENDING", "RUNNING"):
            return str(job["submission_id"])
    return None


def submit(entrypoint: list[str], metadata: dict[str, str] | None = None) -> int:
    """Run `ray job submit` on the cluster and follow the job; an interruption stops the job too.

    A job of the very same command that is still at work is followed instead of started twice. The metadata stand on the
    job's page of the Ray dashboard.

    Returns:
        The job's success as an exit code: 0, or 1 where it failed.
    """
    state = require()
    ray = ray_program()
    env = environment() | {"RAY_API_SERVER_ADDRESS": state.dashboard}
    text = shlex.join(entrypoint)
    job = _running_job(state, text)
    if job is not None:
        print(f"job {job} of this command is at work: following it")
        command = [ray, "job", "logs", "--follow", job]
    else:
        job = f"ember-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        environment_of_job = json.dumps(runtime_env(state.address))
        command = [ray, "job", "submit", "--submission-id", job, "--runtime-env-json", environment_of_job]
        command += ["--metadata-json", json.dumps(metadata)] if metadata else []
        command += ["--", *entrypoint]
    signal.signal(signal.SIGTERM, _interrupt)
    follower = subprocess.Popen(command, cwd=ROOT, env=env)
    try:
        code = follower.wait()
        if command[2] == "logs":
            with urllib.request.urlopen(f"{state.dashboard}/api/jobs/{job}", timeout=30) as answer:
                code = 0 if json.load(answer)["status"] == "SUCCEEDED" else 1
    except KeyboardInterrupt:
        print(f"\ninterrupted: stopping job {job}; the same command goes on from what is saved", file=sys.stderr)
        follower.terminate()
        subprocess.run([ray, "job", "stop", job], env=env, check=False, stdout=subprocess.DEVNULL)
        return 130
    return code


def _interrupt(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def parser() -> argparse.ArgumentParser:
    """The command line's arguments."""
    program = argparse.ArgumentParser(description="The Ray cluster of this checkout, on this machine.")
    commands = program.add_subparsers(dest="command", required=True)
    starting = commands.add_parser("start", help="start it (or say that it is up)")
    starting.add_argument(
        "--cpus", type=int, help=f"logical CPUs (default: {logical_cpus()}, more than there are cores)"
    )
    starting.add_argument("--object-store-gb", type=float, default=2.0, help="memory of the object store (default: 2)")
    commands.add_parser("stop", help="end it, and no other Ray")
    commands.add_parser("status", help="say whether it is up, and where")
    commands.add_parser("env", help="print exports for your shell, so that `ray job …` finds it")
    submitting = commands.add_parser(
        "submit", help="`ray job submit` a command from the repository root, and follow it"
    )
    submitting.add_argument(
        "--metadata", action="append", default=[], metavar="NAME=TEXT", help="shown on the job's page of the dashboard"
    )
    submitting.add_argument("entrypoint", nargs=argparse.REMAINDER, help="-- python jobs/….py …")
    return program


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code (status: 0 when up, 3 when down)."""
    args = parser().parse_args(argv)
    try:
        if args.command == "start":
            start(args.cpus, args.object_store_gb)
        elif args.command == "stop":
            print("cluster stopped" if stop() else "no cluster of this checkout runs")
        elif args.command == "env":
            state = require()
            print(f"export RAY_AUTH_MODE=disabled RAY_API_SERVER_ADDRESS={state.dashboard} RAY_ADDRESS={state.address}")
        elif args.command == "status":
            return _status()
        else:
            entrypoint = args.entrypoint[1:] if args.entrypoint[:1] == ["--"] else args.entrypoint
            if not entrypoint:
                raise ClusterError("submit: name the command to run after --")
            return submit(entrypoint, _metadata(args.metadata))
    except ClusterError as error:
        print(f"cluster/local.py: {error}", file=sys.stderr)
        return 2
    return 0


def _metadata(pairs: list[str]) -> dict[str, str]:
    """`NAME=TEXT` pairs as a mapping."""
    wrong = [pair for pair in pairs if "=" not in pair]
    if wrong:
        raise ClusterError(f"--metadata {wrong[0]}: expected NAME=TEXT")
    return dict(pair.split("=", 1) for pair in pairs)


def _status() -> int:
    state = State.load()
    if state is None or state.leader() is None:
        print("down")
        return 3
    print(f"up: dashboard {state.dashboard}, address {state.address}, files {state.temp_dir}, log {LOG_FILE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
