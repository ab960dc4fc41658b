"""The local cluster, for real: a checkout's own Ray is started, given jobs, and ended without a trace."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]

JOB = """
import pathlib, platform, sys
import ember_platform, embervlm, ray
assert platform.machine()
ray.init()

@ray.remote(num_cpus=0.5)
def where():
    import ember_platform, embervlm
    return embervlm.__file__, ember_platform.__file__

@ray.remote(num_cpus=0.5)
def cluster():
    import os
    return os.environ["RAY_ADDRESS"]

# Ray Train's own actors look for a cluster; with another one on the machine they must be told which.
assert ray.get(cluster.remote()) == ray.get_runtime_context().gcs_address
print("files", *ray.get(where.remote()))
from ember_platform.storage import absolute
print("relative", absolute("here"))
pathlib.Path(sys.argv[1]).write_text("done")
"""


def local(checkout: Path, *arguments: str, timeout: float = 200) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "cluster/local.py", *arguments]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=timeout, check=False)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A second checkout, with a deep path, whose cluster is up."""
    folder = tmp_path_factory.mktemp("a-checkout-with-a-long-name") / ("deep/" * 12)
    folder.mkdir(parents=True)
    for name in ("cluster", "embervlm", "platform"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (".gitignore", ".rayignore"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "job.py").write_text(JOB)
    (folder / "outputs").mkdir()
    (folder / "outputs" / "large.bin").write_bytes(bytes(5_000_000))
    done = local(folder, "start", "--cpus", "4", "--object-store-gb", "0.2")
    try:
        assert done.returncode == 0, done.stderr
        yield folder
    finally:
        local(folder, "stop")


def state(checkout: Path) -> dict[str, object]:
    return json.loads((checkout / ".state" / "cluster.json").read_text())


@pytest.mark.cluster
def test_a_job_runs_in_a_copy_and_its_exit_code_is_told(checkout: Path) -> None:
    out = checkout / "outputs" / "result.txt"
    done = local(checkout, "submit", "--", "python", "job.py", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    assert out.read_text() == "done"
    files = next(line for line in done.stdout.splitlines() if "files /" in line)
    assert "working_dir_files" in files
    assert "py_modules_files" in files
    assert f"relative {Path(checkout.resolve(), 'here')}" in done.stdout, "from where it was submitted, not the copy"
    failed = local(checkout, "submit", "--", "python", "-c", "raise SystemExit(3)")
    assert failed.returncode == 1
    assert "exit code 3" in failed.stdout + failed.stderr


@pytest.mark.cluster
def test_uploads_are_small(checkout: Path) -> None:
    folder = Path(str(state(checkout)["temp_dir"])).resolve()
    packages = list(folder.glob("session_2*/runtime_resources/working_dir_files/_ray_pkg_*"))
    assert packages
    assert not [path for package in packages for path in package.rglob("large.bin")]


@pytest.mark.cluster
def test_it_listens_on_loopback_only(checkout: Path) -> None:
    leader = psutil.Process(int(str(state(checkout)["pid"])))
    listening = {
        (connection.laddr.ip, connection.laddr.port)
        for process in (leader, *leader.children(recursive=True))
        for connection in process.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening
    assert {ip for ip, _ in listening} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


@pytest.mark.cluster
def test_starting_twice_is_one_cluster(checkout: Path) -> None:
    before = state(checkout)
    assert local(checkout, "start").returncode == 0
    assert state(checkout) == before
    assert local(checkout, "status").returncode == 0
    assert f"RAY_ADDRESS={before['address']}" in local(checkout, "env").stdout


@pytest.mark.cluster
def test_an_interrupted_submission_stops_its_job(checkout: Path) -> None:
    command = [sys.executable, "cluster/local.py", "submit", "--", "python", "-c", "import time; time.sleep(300)"]
    follower = subprocess.Popen(command, cwd=checkout, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert follower.stdout is not None
        assert any("Running entrypoint" in line for line in follower.stdout)
        follower.terminate()
        assert follower.wait(timeout=60) == 130
    finally:
        follower.kill()
        follower.wait()
    deadline = time.monotonic() + 30
    env = os.environ | {"RAY_API_SERVER_ADDRESS": str(state(checkout)["dashboard"])}
    ray = str(Path(sys.executable).with_name("ray"))
    while "RUNNING" in subprocess.run([ray, "job", "list"], env=env, capture_output=True, text=True, check=True).stdout:
        assert time.monotonic() < deadline, "the job goes on without its submitter"
        time.sleep(0.5)


@pytest.mark.cluster
def test_stop_ends_all_of_it_and_nothing_else(checkout: Path) -> None:
    before = state(checkout)
    leader = psutil.Process(int(str(before["pid"])))
    family = [leader, *leader.children(recursive=True)]
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "raylet"])
    try:
        assert local(checkout, "stop").returncode == 0
        assert not [process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
    assert not Path(str(before["temp_dir"])).exists()
    host, port = str(before["address"]).split(":")
    with socket.socket() as probe:
        assert probe.connect_ex((host, int(port))) != 0
    assert local(checkout, "status").returncode == 3
    assert local(checkout, "submit", "--", "python", "job.py").returncode == 2
    assert local(checkout, "stop").returncode == 0
