"""The robot-selection endpoint for Ray Serve: `serve.app:app`.

    serve run serve.app:app config=configs/laptop.yaml
    serve deploy serve/config.yaml

`make serve` starts it on the loopback address (`serve/local.py`). What it is made of: `ember_platform.serving`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray.serve import Application

from ember_platform.serving.deployment import build

PAGE = Path(__file__).resolve().parent / "page"


def app(args: dict[str, Any]) -> Application:
    """Build the application.

    Args:
        args: `config` (a run configuration) and `overrides` (dotted, as serving.replica.cpus=2).
    """
    return build(args, PAGE)
