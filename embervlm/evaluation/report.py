"""`metrics.json`, and the same figures as a table to read."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embervlm.evaluation.metrics import MetricError


def metrics_content(
    stage: int,
    split: str,
    samples: int,
    metrics: Mapping[str, float],
    baselines: Mapping[str, float],
    config_digest: str,
    data_digest: str,
) -> dict[str, Any]:
    """What one stage's `metrics.json` holds.

    Raises:
        MetricError: a figure that is no finite number (one that was not measured must be absent).
    """
    for group in (metrics, baselines):
        for name, value in group.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise MetricError(f"stage {stage}: {name} is {value!r}; leave out what was not measured")
    return {
        "stage": stage,
        "split": split,
        "samples": samples,
        "metrics": {name: float(value) for name, value in metrics.items()},
        "baselines": {name: float(value) for name, value in baselines.items()},
        "config_digest": config_digest,
        "data_digest": data_digest,
    }


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write figures at once or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Write a file (UTF-8) at once or not at all, its folder too."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def read_json(path: str | Path, kind: str) -> Any:
    """The content of a JSON file.

    Raises:
        MetricError: the file is missing or no JSON; the message names it and `kind`, what it should be.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MetricError(f"{path}: cannot be read as {kind}: {error}") from error


def read_metrics(path: str | Path) -> dict[str, Any]:
    """A `metrics.json` again.

    Raises:
        MetricError: the file is missing or is not one.
    """
    content = read_json(path, "metrics.json")
    if not isinstance(content, dict) or not isinstance(content.get("metrics"), dict):
        raise MetricError(f"{path}: not a metrics.json, it has no 'metrics'")
    return content


def format_table(metrics: Mapping[str, float], baselines: Mapping[str, float] | None = None) -> str:
    """Figures in lines, each with the baselines that measured the same: plain text for a terminal.

    A baseline's name is `<baseline>_<figure>`. Baselines of figures that the model does not have are listed below.
    """
    rest = dict(baselines or {})
    rows: list[tuple[str, str, str]] = []
    for name, value in metrics.items():
        same = {key: rest.pop(key) for key in list(rest) if key.endswith(f"_{name}")}
        beside = ", ".join(f"{key[: -len(name) - 1].replace('_', ' ')} {_number(v)}" for key, v in same.items())
        rows.append((name.replace("_", " "), _number(value), beside))
    rows += [(name.replace("_", " "), _number(value), "baseline") for name, value in rest.items()]
    if not rows:
        return "(nothing was measured)"
    width = [max(len(row[i]) for row in rows) for i in range(2)]
    return "\n".join(f"{a:<{width[0]}}  {v:>{width[1]}}  {w}".rstrip() for a, v, w in rows)


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.0f}"
