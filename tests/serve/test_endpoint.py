"""Client, page and OpenAPI against the endpoint itself, and the commands of its document."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from ember_platform.client import (
    ApiError,
    AsyncEmberClient,
    EmberClient,
    InvalidRequest,
    NotFound,
    PlanDelta,
    ReasoningDelta,
)
from ember_platform.serving.schemas import SelectAnswer, StreamStart
from embervlm.fleet import Robot, default_fleet
from tests.serve.fakes import CHROMIUM, PAGE, texts

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).resolve().parents[2]
PICTURE = PAGE / "scene-flooded-pit.jpg"
TASK = "Measure the area near the glass insulator"
#: Seconds of the long schemathesis run; see docs/serving.md.
FUZZ_S = int(os.environ.get("EMBERVLM_FUZZ_SECONDS", "600"))


# ---------------------------------------------------------------- the client


def test_the_client_and_the_endpoint_agree(endpoint: str) -> None:
    with EmberClient(endpoint, timeout=120) as client:
        client.wait_ready()
        model = client.model()
        alone = client.select(TASK, image=PICTURE, top_k=2, attention=True)
        crew = [Robot("Mole", ("digs",)), Robot("Heron", ("flies",), ("loud",), ("outdoor",))]
        own = client.select(TASK, fleet=crew)
        named = client.register_fleet("crew", crew)
        by_name = client.select(TASK, fleet="crew")
        batch = client.select_many(
            [{"task": TASK, "image": PICTURE}, {"task": TASK, "fleet": "nobody"}, {"task": TASK}]
        )
        listed = [fleet.name for fleet in client.fleets().registered]
        client.delete_fleet("crew")
        with pytest.raises(NotFound):
            client.fleet("crew")
    assert model.serving.version == alone.model.version
    assert len(alone.robots) == 2
    assert alone.attention is not None
    assert [look.robot for look in alone.attention] == [ranked.robot for ranked in alone.robots]
    assert {ranked.robot for ranked in own.robots} == {"Mole", "Heron"}
    assert by_name.robots == own.robots
    assert by_name.fleet.digest == named.digest
    assert "crew" in listed
    assert isinstance(batch[0], SelectAnswer)
    assert isinstance(batch[1], InvalidRequest)
    assert batch[1].slug == "unknown-fleet"
    assert isinstance(batch[2], SelectAnswer)
    # In a batch and alone the same up to rounding.
    assert batch[0].robots[0].confidence == pytest.approx(alone.robots[0].confidence, abs=1e-3)


def test_what_is_streamed_is_what_is_answered(endpoint: str) -> None:
    with EmberClient(endpoint, timeout=120) as client:
        seen = list(client.stream(TASK, image=PICTURE))
    assert isinstance(seen[0], StreamStart)
    answer = seen[-1]
    assert isinstance(answer, SelectAnswer)
    steps: dict[int, str] = {}
    for event in seen[1:-1]:
        assert isinstance(event, ReasoningDelta | PlanDelta)
        if isinstance(event, ReasoningDelta):
            steps[event.step] = steps.get(event.step, "") + event.text
    assert "\n".join(steps.values()) == answer.reasoning


def test_faults_are_typed_by_the_endpoint_s_own_words(endpoint: str, tmp_path: Path) -> None:
    (tmp_path / "scene.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    with EmberClient(endpoint, timeout=60) as client:
        with pytest.raises(InvalidRequest) as error:
            client.select(TASK, image=tmp_path / "scene.svg")
        assert error.value.slug == "unsupported-picture"
        with pytest.raises(InvalidRequest) as error:
            client.select(" ")
        assert [fault.field for fault in error.value.errors] == ["task"]
        with pytest.raises(InvalidRequest) as error:
            client.select(TASK, fleet=[Robot(f"R{i}") for i in range(300)])
        assert error.value.status == 422


def test_many_at_once_under_asyncio(endpoint: str) -> None:
    async def ask() -> list[SelectAnswer | BaseException]:
        async with AsyncEmberClient(endpoint, timeout=120) as client:
            return await asyncio.gather(
                *(client.select(TASK, image=PICTURE) for _ in range(12)), return_exceptions=True
            )

    answers = asyncio.run(ask())
    assert not [answer for answer in answers if isinstance(answer, ApiError)]
    assert len({answer.robots[0].robot for answer in answers if isinstance(answer, SelectAnswer)}) == 1
    assert len(answers) == 12


# ---------------------------------------------------------------- the page


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)")
def test_the_page_and_the_endpoint_agree(endpoint: str, browser: Browser, tmp_path: Path) -> None:
    complaints: list[str] = []
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(120_000)
    page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(endpoint)
    expect(page.locator(".robot")).to_have_count(len(default_fleet()))
    assert "Answering: folder version dir-" in page.inner_text("#served")
    page.click("#ours button >> nth=0")
    page.wait_for_selector("#preview:not([hidden])")
    page.click("#ask")
    page.wait_for_selector("#status:has-text('Send ')")
    assert len(texts(page, "#ranking li")) == len(default_fleet())
    expect(page.locator("#heat")).to_have_attribute("width", re.compile(r"\d\d"))
    assert complaints == []
    # A picture to the browser and none to the endpoint.
    (tmp_path / "drawing.svg").write_text(
        "<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'><rect width='9' height='9'/></svg>"
    )
    page.set_input_files("#file", tmp_path / "drawing.svg")
    page.wait_for_selector("#preview:not([hidden])")
    page.click("#ask")
    page.wait_for_selector("#problem:has-text('Use a JPEG, PNG or WebP')")
    assert all("415" in text for text in complaints)
    page.close()


# ---------------------------------------------------------------- OpenAPI


def fuzz(endpoint: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable, "-m", "schemathesis.cli", "--config-file", str(Path(__file__).with_name("schemathesis.toml")),
        "--no-color", "run", f"{endpoint}/openapi.json", "--checks", "all", "--request-timeout", "60",
        "--generation-database", "none", "--continue-on-failure", "--suppress-health-check", "all", *options,
    ]  # fmt: skip
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=FUZZ_S + 900, check=False)


def test_openapi_holds_for_requests_made_from_it(endpoint: str, tmp_path: Path) -> None:
    done = fuzz(endpoint, tmp_path, "--max-examples", "6", "--seed", "7", "--no-shrink", "--max-time", "20")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert re.search(r"[1-9]\d* (generated|passed)", done.stdout), done.stdout[-2000:]


@pytest.mark.slow
@pytest.mark.timeout(FUZZ_S + 1200)
def test_openapi_holds_for_ten_minutes_of_them(endpoint: str, tmp_path: Path) -> None:
    done = fuzz(endpoint, tmp_path, "--max-examples", "100000", "--max-time", str(FUZZ_S))
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


# ---------------------------------------------------------------- the document


def curl_commands() -> list[str]:
    text = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8").replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.startswith("curl ")]


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder with what the document's commands name."""
    shutil.copy(PICTURE, tmp_path / "scene.jpg")
    return tmp_path


def test_the_document_shows_every_route() -> None:
    shown = " ".join(curl_commands())
    for route in ("/v1/select ", "/v1/select/batch", "/v1/fleet ", "/v1/fleets/", "/v1/model", "/readyz"):
        assert route in shown + " ", route


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_document_s_curl_commands_do_what_it_says(endpoint: str, desk: Path) -> None:
    said = {}
    for command in curl_commands():
        ours = command.replace("http://127.0.0.1:8000", endpoint)
        done = subprocess.run(
            ["bash", "-c", ours], cwd=desk, capture_output=True, text=True, timeout=120, check=False,
            env={"PATH": os.environ["PATH"], "EMBERVLM_KEY": "ember_none_needed"},
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        said[command] = done.stdout
    assert not [command for command, text in said.items() if "urn:embervlm:problem" in text]
    assert any("event: answer" in text for text in said.values())
    assert sum('"robots":[{"robot"' in text for text in said.values()) >= 3


def test_the_document_s_python_does_what_it_says(
    endpoint: str, desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    [code] = re.findall(r"^```python notest\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(desk)
    ours = code.replace("http://127.0.0.1:8000", endpoint).replace("timeout=20", "timeout=120")
    names: dict[str, object] = {}
    exec(compile(ours, "docs/serving.md", "exec"), names)
    assert "unknown-fleet" in capsys.readouterr().out
    assert isinstance(names["many"], list)
    assert all(isinstance(answer, SelectAnswer) for answer in names["many"])
