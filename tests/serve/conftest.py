"""The endpoint as it is, without Ray: the real routes and checks over a model with random weights, on a real socket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ember_platform.config import RunConfig
from ember_platform.serving.http import create_app
from ember_platform.serving.metrics import LocalMetrics
from ember_platform.serving.service import Service
from ember_platform.serving.shared import LocalState
from ember_platform.serving.sources import FolderSource
from tests.platform.client.fakes import running
from tests.serve.fakes import CHROMIUM, PAGE

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The system's Chromium, no window. No longer than a module: while it is up, this thread has an event loop."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=120_000)  # of a machine that does other things too

    with sync_playwright() as playwright:
        # Root, as in a container, can have no sandbox.
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def endpoint(nano_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its URL."""
    folder = tmp_path_factory.mktemp("endpoint")
    serving = {
        "model": str(nano_folder),
        "state_dir": str(folder / "state"),
        "replica": {"precision": "fp32", "max_new_tokens": 24, "threads": 1},
        "rollout": {"poll_s": 3600, "golden": {"samples": 2, "min_agreement": 0}},
    }
    config = RunConfig(output_dir=str(folder / "out"), data={"dir": str(folder / "data")}, serving=serving)
    source = FolderSource(str(nano_folder))
    service = Service(config, LocalState(config.serving.state_dir), LocalMetrics(), "test", source)
    with running(create_app(service, PAGE)) as url:
        yield url
