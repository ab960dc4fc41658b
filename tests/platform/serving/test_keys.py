"""Keys, rates, quotas, and who may ask at all."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ember_platform.serving.keys import KeyFileError, KeyRing, Keys, Usage, added, main, new_key, read_keys, write_keys
from ember_platform.serving.problems import ProblemError
from tests.platform.serving.fakes import TASK, Folders, client, service


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.yaml"


def test_the_file_holds_no_key_and_only_its_owner_reads_it(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["create", "--file", str(file), "--name", "yard", "--rate", "5"]) == 0
    token = capsys.readouterr().out.strip()
    assert token.split("_", 2)[2] not in file.read_text()
    assert file.stat().st_mode & 0o077 == 0
    key = Keys(str(file)).identify(f"Bearer {token}")
    assert (key.name, key.rate_per_minute) == ("yard", 5)
    assert main(["list", "--file", str(file)]) == 0
    assert "valid" in capsys.readouterr().out
    assert main(["revoke", "--file", str(file), "--id", key.id]) == 0
    with pytest.raises(ProblemError):
        Keys(str(file)).identify(f"Bearer {token}")
    assert main(["revoke", "--file", str(file), "--id", "00000000"]) == 2


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer x",
        "Basic abc",
        "Bearer ember_00000000_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "Bearer ember__",
    ],
)
def test_what_is_no_key_is_refused_alike(file: Path, header: str | None) -> None:
    key, _ = new_key("a")
    write_keys(file, KeyRing(keys=[key]))
    with pytest.raises(ProblemError) as error:
        Keys(str(file)).identify(header)
    assert error.value.status == 401
    assert error.value.headers["WWW-Authenticate"] == "Bearer"
    assert error.value.detail == "Send a valid key: Authorization: Bearer ember_…"


def test_expired_wrong_and_changed_keys(file: Path) -> None:
    key, token = new_key("a")
    old, old_token = new_key("b")
    old = old.model_copy(update={"expires": datetime.now(UTC) - timedelta(seconds=1)})
    write_keys(file, KeyRing(keys=[key, old]))
    keys = Keys(str(file))
    assert keys.identify(f"bearer {token}").id == key.id
    for wrong in (old_token, token[:-1] + ("a" if token[-1] != "a" else "b"), f"ember_{old.id}_{token[15:]}"):
        with pytest.raises(ProblemError):
            keys.identify(f"Bearer {wrong}")
    write_keys(file, KeyRing(keys=[key.model_copy(update={"revoked": True})]))
    keys.refresh()
    with pytest.raises(ProblemError):
        keys.identify(f"Bearer {token}")


def test_a_file_that_breaks_while_serving_keeps_the_keys_in_force(file: Path) -> None:
    key, token = new_key("a")
    write_keys(file, KeyRing(keys=[key]))
    keys = Keys(str(file))
    file.write_text("keys: [nonsense")
    os.utime(file, (1, 1))
    keys.refresh()
    assert keys.identify(f"Bearer {token}").id == key.id
    file.unlink()
    keys.refresh()
    assert keys.identify(f"Bearer {token}").id == key.id


@pytest.mark.parametrize("text", ["keys: 5", "keys: [{id: x}]", "keys: [", "other: 1"])
def test_a_key_file_that_cannot_be_used_stops_the_start(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(KeyFileError, match=r"keys\.yaml"):
        Keys(str(file))
    with pytest.raises(KeyFileError):
        Keys(str(file.with_name("none.yaml")))


def test_an_expiry_needs_a_time_zone(file: Path) -> None:
    key, _ = new_key("a")
    write_keys(file, KeyRing(keys=[key.model_copy(update={"expires": datetime(2030, 1, 1)})]))
    with pytest.raises(KeyFileError, match="time zone"):
        read_keys(file)


def test_the_rate_is_per_minute_and_tells_what_is_left() -> None:
    key, _ = new_key("a", rate=3)
    usage = Usage()
    assert usage.take(key, 2, now=120.0)["RateLimit-Remaining"] == "1"
    with pytest.raises(ProblemError) as error:
        usage.take(key, 2, now=150.0)
    assert error.value.slug == "rate-limited"
    assert error.value.headers["Retry-After"] == "30"
    usage.take(key, 1, now=179.0)
    usage.take(key, 3, now=180.0)


def test_the_quota_is_per_day_and_shared_by_replicas() -> None:
    key, _ = new_key("a", quota=5)
    one, other = Usage(), Usage()
    one.take(key, 3, now=0.0)
    total = added({}, one.unsent())
    other.learn(total)
    one.learn(total)
    other.take(key, 2, now=0.0)
    with pytest.raises(ProblemError) as error:
        other.take(key, 1, now=0.0)
    assert error.value.slug == "quota-exhausted"
    assert error.value.headers["Retry-After"] == "86400"
    one.learn(added(total, other.unsent()))
    with pytest.raises(ProblemError):
        one.take(key, 1, now=86_399.0)
    one.take(key, 5, now=86_400.0)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3), st.integers(1, 9)), max_size=20))
def test_counts_add_up_within_a_window(taken: list[tuple[str, int, int]]) -> None:
    total: dict = {}
    for key, window, count in taken:
        total = added(total, {key: {"minute": (window, count)}})
    for key in {key for key, _, _ in taken}:
        last = max(window for name, window, _ in taken if name == key)
        in_order = 0
        latest = -1
        for name, window, count in taken:
            if name == key and window >= latest:
                in_order = count + (in_order if window == latest else 0)
                latest = window
        assert total[key]["minute"] == (last, in_order)


def test_the_endpoint_with_keys(file: Path, nano_folder: Path, tmp_path: Path) -> None:
    limited, token = new_key("a", rate=2)
    other, other_token = new_key("b")
    write_keys(file, KeyRing(keys=[limited, other]))
    one = service(tmp_path, Folders(v1=nano_folder), keys=str(file))
    mine, theirs = {"authorization": f"Bearer {token}"}, {"authorization": f"Bearer {other_token}"}
    with client(one) as asking:
        for path in ("/v1/model", "/v1/fleet"):
            refused = asking.get(path)
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"] == "Bearer"
        assert asking.post("/v1/select", json={"task": TASK}).status_code == 401
        assert asking.get("/healthz").status_code == 200
        assert "bearer" in asking.get("/openapi.json").json()["components"]["securitySchemes"]
        first = asking.post("/v1/select", json={"task": TASK}, headers={**mine, "host": "robots.example"})
        assert first.headers["ratelimit-remaining"] == "1"
        assert asking.post("/v1/select", json={"task": TASK}, headers=mine).status_code == 200
        third = asking.post("/v1/select", json={"task": TASK}, headers=mine)
        assert third.status_code == 429
        assert 1 <= int(third.headers["retry-after"]) <= 60
        fleet = {"robots": [{"name": "Crane"}]}
        assert asking.put("/v1/fleets/yard", json=fleet, headers=theirs).status_code == 201
        assert asking.get("/v1/fleets/yard", headers=theirs).status_code == 200
        assert asking.get("/v1/fleets/yard", headers=mine).status_code == 404  # another owner's
