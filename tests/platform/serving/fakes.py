"""A service without Ray: random weights, a registry of folders, metrics that can be read."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from fastapi.testclient import TestClient
from PIL import Image

from ember_platform.config import RunConfig
from ember_platform.registry import RegistryError
from ember_platform.serving.engine import Facts
from ember_platform.serving.http import create_app
from ember_platform.serving.metrics import LocalMetrics
from ember_platform.serving.service import Service
from ember_platform.serving.shared import LocalState
from ember_platform.serving.sources import Found

TASK = "inspect the pier below the waterline"


class Folders:
    """A registry of model folders: versions by number, two aliases."""

    def __init__(self, **versions: Path) -> None:
        self.versions = {name.removeprefix("v"): path for name, path in versions.items()}
        self.aliases: dict[str, str] = {"champion": next(iter(self.versions))}
        self.metrics: dict[str, dict[str, float]] = {}
        self.digests: dict[str, str] = {}
        self.replaced: dict[str, str] = {}
        self.away = False

    def _found(self, number: str, alias: str | None) -> Found:
        if self.away:
            raise RegistryError("the registry is away")
        facts = Facts(
            "embervlm",
            number,
            alias,
            f"models:/embervlm/{number}",
            self.digests.get(number),
            metrics=self.metrics.get(number, {}),
        )
        return Found(facts, lambda: self.versions[number], self.replaced.get(number))

    def champion(self) -> Found:
        return self._found(self.aliases["champion"], "champion")

    def challenger(self) -> Found | None:
        number = self.aliases.get("challenger")
        return None if number is None else self._found(number, "challenger")

    def version(self, number: str) -> Found:
        return self._found(number, None)


def config(folder: Path, **serving: Any) -> RunConfig:
    values: dict[str, Any] = {
        "state_dir": str(folder / "state"),
        "replica": {"precision": "fp32", "max_new_tokens": 12, "threads": 1, **serving.pop("replica", {})},
        "rollout": {
            "poll_s": 3600,
            "golden": {"samples": 2, "min_agreement": 0, **serving.pop("golden", {})},
            **serving.pop("rollout", {}),
        },
        **serving,
    }
    return RunConfig(output_dir=str(folder / "out"), data={"dir": str(folder / "data")}, serving=values)


def service(folder: Path, source: Folders, **serving: Any) -> Service:
    return Service(config(folder, **serving), LocalState(str(folder / "state")), LocalMetrics(), "test", source)


@contextmanager
def client(one: Service, page: Path | None = None) -> Iterator[TestClient]:
    with TestClient(create_app(one, page), base_url="http://127.0.0.1:8000") as asking:
        yield asking


def picture(kind: str = "PNG", size: tuple[int, int] = (80, 60), seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def base64_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


def copy_of(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target)
    return target
