"""New versions: taken over, refused, sent back; canary and shadow."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from ember_platform.registry import folder_digest
from ember_platform.serving.comparison import draw, read_records
from ember_platform.serving.engine import UnfitError
from ember_platform.serving.service import Service
from tests.platform.serving.fakes import TASK, Folders, client, copy_of, service


@pytest.fixture
def source(nano_folder: Path) -> Folders:
    return Folders(v1=nano_folder, v2=nano_folder, v3=nano_folder)


def damaged(folder: Path, target: Path, change: Any) -> Path:
    copy_of(folder, target)
    weights = load_file(target / "model.safetensors")
    change(weights)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


def poll(one: Service, asking: TestClient) -> None:
    """One look at the registry, on the application's own event loop."""
    assert asking.portal is not None
    asking.portal.call(one.rollout.poll)


def version_of(asking: TestClient) -> tuple[str, str | None]:
    response = asking.post("/v1/select", json={"task": TASK})
    assert response.status_code == 200, response.text
    model = response.json()["model"]
    assert response.headers["x-model-version"] == model["version"]
    return model["version"], model["alias"]


def rejected(asking: TestClient) -> dict[str, str]:
    return asking.get("/v1/model").json()["rejected"]


def test_a_moved_alias_is_followed_and_moved_back(source: Folders, tmp_path: Path) -> None:
    one = service(tmp_path, source)
    with client(one) as asking:
        assert version_of(asking) == ("1", "champion")
        source.aliases["champion"] = "2"
        poll(one, asking)
        assert version_of(asking) == ("2", "champion")
        assert asking.get("/v1/model").json()["previous"]["version"] == "1"
        model = one.rollout.previous.model  # type: ignore[union-attr]
        source.aliases["champion"] = "1"
        poll(one, asking)
        assert version_of(asking) == ("1", "champion")
        assert one.rollout.champion.model is model  # type: ignore[union-attr]  # it was still loaded


def test_the_version_before_leaves_after_probation(source: Folders, tmp_path: Path) -> None:
    one = service(tmp_path, source, rollout={"probation_s": 0})
    with client(one) as asking:
        source.aliases["champion"] = "2"
        poll(one, asking)
        poll(one, asking)
        assert asking.get("/v1/model").json()["previous"] is None


def test_a_registry_that_is_away_changes_nothing(source: Folders, tmp_path: Path) -> None:
    one = service(tmp_path, source, rollout={"poll_s": 0.02})
    with client(one) as asking:
        source.away = True
        asking.portal.call(asyncio.sleep, 0.1)  # type: ignore[union-attr]
        assert version_of(asking) == ("1", "champion")
        source.away = False


@pytest.mark.parametrize("fault", ["digest", "missing", "nan", "torn", "unfit", "no tokenizer"])
def test_an_unfit_version_never_answers(fault: str, nano_folder: Path, source: Folders, tmp_path: Path) -> None:
    target = tmp_path / "bad"
    if fault == "digest":
        copy_of(nano_folder, target)
        source.digests["2"] = folder_digest(target)
        (target / "config.json").write_text((target / "config.json").read_text() + " ")
    elif fault == "missing":
        damaged(nano_folder, target, lambda weights: weights.pop("selection.score.weight"))
    elif fault == "nan":
        damaged(nano_folder, target, lambda weights: weights["selection.score.weight"].fill_(torch.nan))
    elif fault == "torn":
        copy_of(nano_folder, target)
        content = (target / "model.safetensors").read_bytes()
        (target / "model.safetensors").write_bytes(content[: len(content) // 2])
    elif fault == "no tokenizer":
        copy_of(nano_folder, target)
        (target / "tokenizer.json").write_text("{}")
    else:
        copy_of(nano_folder, target)
        source.metrics["2"] = {"first_choice": 5.0}  # a claim that random weights cannot keep
    source.versions["2"] = target
    one = service(tmp_path, source)
    with client(one) as asking:
        source.aliases["champion"] = "2"
        poll(one, asking)
        assert version_of(asking) == ("1", "champion")
        assert set(rejected(asking)) == {"2"}
        assert str(tmp_path) not in rejected(asking)["2"]
        poll(one, asking)  # not tried again, until the alias has been elsewhere
        assert one.metrics.get("ember_switches", outcome="refused") == 1  # type: ignore[attr-defined]


def test_a_start_with_an_unfit_champion_takes_the_one_it_replaced(
    nano_folder: Path, source: Folders, tmp_path: Path
) -> None:
    source.versions["2"] = damaged(
        nano_folder, tmp_path / "bad", lambda w: w["selection.score.weight"].fill_(torch.inf)
    )
    source.aliases["champion"], source.replaced = "2", {"2": "1"}
    with client(service(tmp_path, source)) as asking:
        assert version_of(asking) == ("1", None)
    source.replaced = {}
    one = service(tmp_path / "other", source)
    with pytest.raises(UnfitError, match="2: weights of"):
        asyncio.run(one.start())


def failing(one: Service, version: str) -> None:
    """Make a loaded version fail on every request."""

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("broken on purpose")

    for engine in (one.rollout.champion, one.rollout.challenger):
        if engine is not None and engine.version == version:
            engine.select = fail  # type: ignore[method-assign]


def test_a_version_that_fails_is_sent_back_and_nobody_notices(source: Folders, tmp_path: Path) -> None:
    one = service(tmp_path, source, rollout={"min_requests": 3})
    with client(one) as asking:
        source.aliases["champion"] = "2"
        poll(one, asking)
        failing(one, "2")
        assert [version_of(asking)[0] for _ in range(4)] == ["1"] * 4
        assert "failed on 3 of 3" in rejected(asking)["2"]
        assert version_of(asking) == ("1", None)
        assert one.metrics.get("ember_switches", outcome="rolled_back") == 1  # type: ignore[attr-defined]
        poll(one, asking)
        assert version_of(asking)[0] == "1"


def test_what_every_version_fails_on_is_nobody_s_fault(source: Folders, tmp_path: Path) -> None:
    one = service(tmp_path, source, rollout={"min_requests": 1, "max_error_rate": 0})
    with client(one) as asking:
        failing(one, "1")
        source.aliases["champion"] = "2"
        poll(one, asking)
        failing(one, "2")
        response = asking.post("/v1/select", json={"task": TASK})
        assert response.status_code == 500
        assert "purpose" not in response.text
        assert rejected(asking) == {}


def test_a_verdict_is_shared_and_ends_when_the_alias_has_been_elsewhere(source: Folders, tmp_path: Path) -> None:
    one = service(tmp_path, source)
    with client(one) as asking:
        source.aliases["champion"] = "2"
        source.metrics["2"] = {"first_choice": 5.0}
        poll(one, asking)
        asking.portal.call(one._sync)  # type: ignore[union-attr]
        snapshot = asyncio.run(one._shared.sync("other", {}, {}, {"2": 0.0}))
        assert set(snapshot.rejected) == {"2"}
        source.aliases["champion"] = "1"
        poll(one, asking)
        asking.portal.call(one._sync)  # type: ignore[union-attr]
        assert rejected(asking) == {}
        source.metrics = {}
        source.aliases["champion"] = "2"
        poll(one, asking)
        assert version_of(asking)[0] == "2"


def test_another_replica_s_verdict_is_heeded(source: Folders, tmp_path: Path) -> None:
    from ember_platform.serving.shared import Verdict

    one = service(tmp_path, source)
    with client(one) as asking:
        source.aliases["champion"] = "2"
        poll(one, asking)
        asyncio.run(one._shared.sync("other", {}, {"2": Verdict(why="it failed there", at=9e9)}, {"2": 9e9}))
        asking.portal.call(one._sync)  # type: ignore[union-attr]
        assert version_of(asking)[0] == "1"
        assert rejected(asking) == {"2": "it failed there"}


# ---------------------------------------------------------------- challenger


@pytest.fixture
def rivals(source: Folders, tmp_path: Path) -> Iterator[tuple[Service, TestClient]]:
    source.aliases["challenger"] = "2"
    one = service(tmp_path, source, rollout={"canary_percent": 30, "shadow_percent": 40, "min_requests": 3})
    with client(one) as asking:
        poll(one, asking)
        yield one, asking


def ask_as(asking: TestClient, kind: str, number: int) -> str:
    """Ask with the n-th request id whose draw is `kind`; gives the version that answered."""
    ids = (i for i in map(str, range(10_000)) if draw(i, 30, 40) == kind)
    request_id = [next(ids) for _ in range(number + 1)][-1]
    response = asking.post("/v1/select", json={"task": TASK}, headers={"x-request-id": request_id})
    assert response.status_code == 200
    return response.json()["model"]["version"]


def settle(one: Service, asking: TestClient) -> None:
    """Wait for shadow answers and records under way."""

    async def quiet() -> None:
        while len(one._tasks) > 2:
            await asyncio.sleep(0.01)

    asking.portal.call(quiet)  # type: ignore[union-attr]


def test_canary_answers_and_shadow_does_not(rivals: tuple[Service, TestClient], tmp_path: Path) -> None:
    one, asking = rivals
    assert [ask_as(asking, kind, 0) for kind in ("canary", "shadow", "control")] == ["2", "1", "1"]
    settle(one, asking)
    found = {
        (r.kind, r.champion is not None, r.challenger is not None): r for r in read_records(str(tmp_path / "state"))
    }
    assert set(found) == {("canary", False, True), ("canary", True, False), ("shadow", True, True)}
    shadow = found["shadow", True, True]
    assert shadow.champion is not None
    assert shadow.challenger is not None
    assert (shadow.champion.version, shadow.challenger.version) == ("1", "2")
    assert shadow.champion.team == shadow.challenger.team  # the same weights
    assert shadow.task_chars == len(TASK)
    assert TASK not in one.recorder.path.read_text()


def test_a_failing_challenger_is_noticed_by_nobody_but_the_record(
    rivals: tuple[Service, TestClient], tmp_path: Path
) -> None:
    one, asking = rivals
    failing(one, "2")
    assert [ask_as(asking, "canary", i) for i in range(2)] == ["1", "1"]
    assert ask_as(asking, "shadow", 0) == "1"
    settle(one, asking)
    assert asking.get("/v1/model").json()["challenger"] is None
    errors = [r.challenger.error for r in read_records(str(tmp_path / "state")) if r.challenger]
    assert errors == ["RuntimeError"]


def test_a_promoted_challenger_is_not_loaded_again(rivals: tuple[Service, TestClient], source: Folders) -> None:
    one, asking = rivals
    model = one.rollout.challenger.model  # type: ignore[union-attr]
    source.aliases = {"champion": "2"}
    poll(one, asking)
    assert version_of(asking) == ("2", "champion")
    assert one.rollout.champion.model is model  # type: ignore[union-attr]
    assert one.rollout.challenger is None


def test_percentages_change_while_it_runs(rivals: tuple[Service, TestClient]) -> None:
    one, asking = rivals
    one.reconfigure(one.rollout.config.model_copy(update={"canary_percent": 0.0, "shadow_percent": 0.0}))
    assert ask_as(asking, "canary", 0) == "1"
    poll(one, asking)
    assert asking.get("/v1/model").json()["challenger"] is None


@given(st.text(max_size=20), st.floats(0, 50), st.floats(0, 50))
def test_a_draw_is_a_function_of_the_request(request_id: str, canary: float, shadow: float) -> None:
    assert draw(request_id, canary, shadow) == draw(request_id, canary, shadow)
    assert draw(request_id, 0, 0) is None
    assert draw(request_id, 100, 0) == "canary"
    if draw(request_id, canary, shadow) == "canary":
        assert draw(request_id, 50, 0) == "canary"
