"""Shared state, drift, and what the processes around a replica are told."""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest

from ember_platform.config import ConfigError, RunConfig, load_config
from ember_platform.config_serving import ServingConfig, is_loopback
from ember_platform.serving import ingress
from ember_platform.serving.deployment import OpenError, build, check_open, is_private
from ember_platform.serving.drift import Drift, Reference, features
from ember_platform.serving.fleets import FleetBook, NamedFleet
from ember_platform.serving.keys import KeyRing, new_key, write_keys
from ember_platform.serving.problems import ProblemError
from ember_platform.serving.shared import LocalState
from embervlm.fleet import Fleet, Robot

YARD = NamedFleet.of("yard", Fleet([Robot("Crane", ("lifts",))]))


def test_fleets_outlive_a_restart_and_stay_with_their_owner(tmp_path: Path) -> None:
    async def register() -> None:
        book = FleetBook(LocalState(str(tmp_path)), ServingConfig().limits)
        assert await book.put("a", "yard", YARD)
        assert not await book.put("a", "yard", YARD)

    asyncio.run(register())
    again = LocalState(str(tmp_path))
    book = FleetBook(again, ServingConfig().limits)
    assert asyncio.run(book.get("b", "yard")) is None
    found = asyncio.run(book.find("yard", "a"))
    assert (found.fleet, found.digest) == (YARD.fleet, YARD.digest)
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(ValueError, match="not readable as the endpoint's state"):
        LocalState(str(tmp_path))


def test_a_fleet_that_another_replica_replaced_is_read_again() -> None:
    async def run() -> None:
        state = LocalState()
        one, other = (FleetBook(state, ServingConfig().limits) for _ in range(2))
        await one.put("a", "yard", YARD)
        assert (await other.find("yard", "a")).digest == YARD.digest
        new = NamedFleet.of("yard", Fleet([Robot("Boat")]))
        await one.put("a", "yard", new)
        other.learn((await state.sync("r", {}, {}, {})).fleets_revision)
        assert (await other.find("yard", "a")).digest == new.digest

    asyncio.run(run())


def test_an_owner_s_fleets_are_bounded() -> None:
    async def run() -> None:
        book = FleetBook(LocalState(), ServingConfig(limits={"fleets": 1}).limits)
        await book.put("a", "one", YARD)
        with pytest.raises(ProblemError) as error:
            await book.put("a", "two", YARD)
        assert error.value.slug == "too-many-fleets"
        await book.put("b", "two", YARD)

    asyncio.run(run())


# ---------------------------------------------------------------- drift


def rows(bright: float, count: int = 400, seed: int = 0) -> list[dict[str, float]]:
    random = np.random.default_rng(seed)
    pictures = random.normal(bright, 30, (count, 8, 8, 3)).clip(0, 255).astype(np.uint8)
    return [
        features("look " * int(n), 5, image) for n, image in zip(random.integers(3, 12, count), pictures, strict=True)
    ]


def test_the_same_requests_do_not_drift_and_darker_ones_do() -> None:
    reference = Reference.of(rows(128))
    same, dark = rows(128, seed=1), rows(60, seed=2)
    for name in ("task_words", "brightness", "contrast"):
        assert reference.index(name, [r[name] for r in same]) < 0.1
    assert reference.index("brightness", [r["brightness"] for r in dark]) > 0.25


def test_drift_says_nothing_before_it_knows_enough() -> None:
    drift = Drift(window=100)
    drift.see("look", 5, None)
    assert drift.indices() == {}
    drift.reference = Reference.of(rows(128))
    for _ in range(60):
        drift.see("look " * 40, 5, None)
    assert set(drift.indices()) == {"task_words", "robots"}
    assert drift.indices()["task_words"] > 0.25
    assert drift.indices()["robots"] < 0.1


# ---------------------------------------------------------------- around the replica


@pytest.mark.parametrize(
    ("host", "loopback", "private"),
    [
        ("127.0.0.1", True, True), ("localhost", True, True), ("::1", True, True), ("127.8.8.8", True, True),
        ("0.0.0.0", False, False), ("::", False, False), ("10.1.2.3", False, True), ("8.8.8.8", False, False),
        ("robots.example", False, False), ("localhost.example", False, False),
    ],
)  # fmt: skip
def test_which_addresses_strangers_reach(host: str, loopback: bool, private: bool) -> None:
    assert is_loopback(host) is loopback
    assert is_private(host) is private


def test_beyond_loopback_there_must_be_a_key(tmp_path: Path) -> None:
    check_open(ServingConfig(), "127.0.0.1")
    for host in ("0.0.0.0", "10.0.0.1", "::"):
        with pytest.raises(OpenError, match=r"serving\.keys"):
            check_open(ServingConfig(), host)
    file = tmp_path / "keys.yaml"
    write_keys(file, KeyRing())
    with pytest.raises(OpenError):
        check_open(ServingConfig(keys=str(file)), "0.0.0.0")
    write_keys(file, KeyRing(keys=[new_key("a")[0]]))
    check_open(ServingConfig(keys=str(file)), "0.0.0.0")
    check_open(ServingConfig(open_without_keys=True), "0.0.0.0")


def test_haproxy_is_kept_to_this_machine_and_says_503(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    echo = tmp_path / "echo"
    echo.write_text("#!/bin/sh\necho ran $*\n")
    echo.chmod(0o700)
    monkeypatch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", str(echo))
    script = ingress.write_wrapper(tmp_path, 9101, 8404)
    config = tmp_path / "haproxy.cfg"
    config.write_text(
        "    errorfile 503 /tmp/500.http\nfrontend prometheus\n    bind :9101\nfrontend http_frontend\n"
        "    bind *:8000\nlisten stats\n  bind *:8404\n"
        'backend default_backend\n    http-request return status 404 content-type text/plain lf-string "no %[path]"\n'
    )
    done = subprocess.run([script, "-db", "-f", str(config)], capture_output=True, text=True, check=True)
    assert done.stdout == f"ran -db -f {config}\n"
    lines = [line.strip() for line in config.read_text().splitlines()]
    assert lines == [
        f"errorfile 503 {tmp_path / '503.http'}", "frontend prometheus", "bind 127.0.0.1:9101",
        "frontend http_frontend", "bind *:8000", "listen stats", "bind 127.0.0.1:8404",
        "backend default_backend", f"http-request return status 503 errorfile {tmp_path / '503.http'}",
    ]  # fmt: skip
    head, _, body = (tmp_path / "503.http").read_bytes().partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert b"Retry-After: 1" in head


def test_both_ingresses_have_an_environment(tmp_path: Path, capsys: pytest.CaptureFixture[str], root: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="es-", dir="/tmp") as name:
        fast = ingress.environment(ServingConfig(), Path(name), 1, 2)
        assert fast["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
        arguments = ["--config", str(root / "configs" / "laptop.yaml"), "--folder", name]
        assert ingress.main(arguments) == 0
        assert "RAY_SERVE_ENABLE_HA_PROXY=1" in capsys.readouterr().out
        Path(name).chmod(0o777)
        assert ingress.main(arguments) == 2
        assert "others may write there" in capsys.readouterr().err
    with pytest.raises(ValueError, match="longer than"):
        ingress.environment(ServingConfig(), tmp_path, 1, 2)
    assert "RAY_SERVE_ENABLE_HA_PROXY" not in ingress.environment(ServingConfig(ingress="proxy"), tmp_path, 1, 2)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("serving.prot=1", "serving.prot: unknown key; did you mean 'port'?"),
        ("serving.scaling={min_replicas: 3, max_replicas: 2}", "serving.scaling.max_replicas: below min_replicas"),
        ("serving.limits.batch=100", "serving.limits.batch: more than serving.replica.queue"),
        ("serving.replica.threads=0", "serving.replica.threads: a replica needs at least one thread"),
        ("serving.state_dir=s3://bucket/x", "serving.state_dir: "),
        ("serving.rollout.canary_percent=101", "serving.rollout.canary_percent: "),
    ],
)
def test_faults_of_the_serving_section(override: str, said: str, root: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(root / "configs" / "laptop.yaml", [override])
    assert said in str(error.value)


def test_how_it_is_served_does_not_change_a_run(root: Path) -> None:
    path = root / "configs" / "laptop.yaml"
    assert load_config(path).digest() == load_config(path, ["serving.port=9000"]).digest()


def test_the_application_takes_a_configuration_and_overrides(root: Path) -> None:
    app = build({"config": str(root / "configs" / "laptop.yaml"), "overrides": "serving.replica.cpus=2 seed=3"}, None)
    assert app._bound_deployment.name == "Selector"
    assert app._bound_deployment.ray_actor_options["num_cpus"] == 2
    config = RunConfig.model_validate(app._bound_deployment.init_args[0])
    assert config.seed == 3
    with pytest.raises(ValueError, match="arguments of serve"):
        build({"confg": "x"}, None)
