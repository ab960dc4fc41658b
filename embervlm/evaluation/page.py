"""The page of results: what suites measured, as Markdown, from the files that `embervlm evaluate --out` wrote.

A folder has a folder for each model; in it are a JSON file for each suite and, if wanted, `about.md`, which says in
words how the model was made. Nothing else comes into the page, so a number that was not measured cannot stand there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embervlm.evaluation.metrics import MetricError

#: The file beside a model's measurements that tells how the model was made.
ABOUT = "about.md"
#: What a suite's first figure is called in the overview: suite → figure.
_FIRST = {"photos": "environment", "counterfactual": "counterfactual_both_right"}
#: Figures in words. A longer name is a part of the records: `first_choice_unseen_robots`.
_WORDS = {
    "first_choice": "first choice can do the task",
    "team_exact": "team is exactly right",
    "team_iou": "team overlap (intersection over union)",
    "infeasible_rate": "robots sent that cannot do it",
    "ece": "calibration error of first choices",
    "ece_uncalibrated": "calibration error before calibration",
    "counterfactual_both_right": "twins: both first choices right",
    "counterfactual_both_exact": "twins: both teams exactly right",
    "counterfactual_team_changes": "twins: the team changes with the scene",
    "environment": "place named right",
    "environment_named": "a place is named at all",
    "none_auroc": "none of these: area under the ROC curve",
    "none_accuracy": "none of these: accuracy",
    "none_ece": "none of these: calibration error",
    "familiarity": "familiarity, mean",
    "familiarity_with_emberworld": "familiarity, mean, as many of EmberWorld's records among them",
    "familiarity_error_auroc": "familiarity tells wrong answers (area under the ROC curve)",
    "familiarity_error_auroc_with_emberworld": "the same, as many of EmberWorld's records among them",
}
#: Figures that are no shares, so are not told in percent.
_PLAIN = ("team_iou", "ece", "none_ece", "none_auroc", "familiarity")
#: Parts by familiarity, whose names are numbers.
_FAMILIARITY = "familiarity_"


@dataclass(frozen=True)
class Measured:
    """One suite's file: `content` is what `embervlm evaluate` wrote."""

    path: Path
    content: dict[str, Any]

    @property
    def suite(self) -> str:
        """The suite's name; a model may have it more than once, in files of different names."""
        return str(self.content["suite"])


def results_page(folder: Path) -> str:
    """The page of all models in a folder, in the order of their names.

    Raises:
        MetricError: no such folder, nothing measured in it, or a file that no suite wrote; the message names it.
    """
    if not folder.is_dir():
        raise MetricError(f"{folder}: no such folder; it has a folder for each model with what its suites measured")
    models = {place.name: _read(place) for place in sorted(folder.iterdir()) if place.is_dir()}
    if not any(models.values()):
        raise MetricError(f"{folder}: no model's folder with a JSON file; `embervlm evaluate --out` writes one")
    parts = [
        "# Results",
        "Written by `embervlm results` from what `embervlm evaluate` recorded. Each figure has its 95% bootstrap "
        "interval and stands beside the same figure of what the model is compared with; what was not measured is "
        "absent.",
        _overview(models),
    ]
    for name, measured in models.items():
        parts.append(f"## {name}")
        about = folder / name / ABOUT
        if about.is_file():
            parts.append(about.read_text(encoding="utf-8").strip())
        parts += [_section(one) for one in measured]
    return "\n\n".join(parts) + "\n"


def _read(place: Path) -> list[Measured]:
    found = []
    for path in sorted(place.glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise MetricError(f"{path}: cannot be read as JSON: {error}") from error
        if not isinstance(content, dict) or not {"suite", "data", "samples", "metrics"} <= content.keys():
            raise MetricError(f"{path}: not what `embervlm evaluate --out` writes: it has no suite, data or metrics")
        for group in (content["metrics"], *content.get("baselines", {}).values()):
            for figure, estimate in group.items():
                if not _finite(estimate):
                    raise MetricError(f"{path}: {figure} is {estimate!r}, not a finite value with its interval")
        found.append(Measured(path, content))
    return found


def _finite(estimate: Any) -> bool:
    if not isinstance(estimate, dict) or not {"value", "low", "high"} <= estimate.keys():
        return False
    numbers = [estimate["value"], *(estimate[end] for end in ("low", "high") if estimate[end] is not None)]
    return all(isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n) for n in numbers)


def _overview(models: Mapping[str, list[Measured]]) -> str:
    rows = [["model", "suite", "what", "measured", "best of what it is compared with"]]
    for name, measured in models.items():
        for one in measured:
            figure = _FIRST.get(one.suite, "first_choice")
            if figure not in one.content["metrics"]:
                continue
            beside = {
                label: values[figure]["value"]
                for label, values in one.content.get("baselines", {}).items()
                if figure in values
            }
            best = max(beside, key=lambda label: beside[label]) if beside else None
            rows.append(
                [
                    f"[{name}](#{_anchor(name)})",
                    one.path.stem,
                    _words(figure),
                    _with_interval(figure, one.content["metrics"][figure]),
                    "" if best is None else f"{_label(best)} {_number(figure, beside[best])}",
                ]
            )
    return _markdown(rows)


def _section(one: Measured) -> str:
    content = one.content
    metrics, baselines = content["metrics"], content.get("baselines", {})
    beside = [label for label, values in baselines.items() if values.keys() & metrics.keys()]
    rows = [["", "the model", *map(_label, beside)]]
    for figure, estimate in metrics.items():
        cells = [baselines[label].get(figure) for label in beside]
        rows.append(
            [
                _words(figure),
                _with_interval(figure, estimate),
                *("" if cell is None else _number(figure, cell["value"]) for cell in cells),
            ]
        )
    how = "after the chain" if content.get("reasoning") else None
    seed = None if content.get("seed") is None else f"seed {content['seed']}"
    facts = ", ".join(filter(None, (str(content["data"]), how, seed)))
    notes = " ".join(content.get("notes", []))
    return "\n\n".join(filter(None, (f"### {one.path.stem}", f"{facts}. {notes}".strip(), _markdown(rows))))


def _words(figure: str) -> str:
    if figure in _WORDS:
        return _WORDS[figure]
    known = [name for name in _WORDS if figure.startswith(f"{name}_")]
    if not known:
        return figure.replace("_", " ")
    name = max(known, key=len)
    part = figure[len(name) + 1 :]
    if part.startswith(_FAMILIARITY):
        low, high = part.removeprefix(_FAMILIARITY).split("_")
        return f"{_WORDS[name]}: familiarity {low} to {high}%"
    return f"{_WORDS[name]}: {part.replace('_', ' ')}"


def _label(baseline: str) -> str:
    return {"tfidf": "TF-IDF + logistic regression", "shuffled_image": "another picture"}.get(
        baseline, baseline.replace("_", " ")
    )


def _number(figure: str, value: float) -> str:
    return f"{value:.3f}" if figure.startswith(_PLAIN) else f"{100 * value:.1f}%"


def _with_interval(figure: str, estimate: Mapping[str, Any]) -> str:
    value = f"**{_number(figure, estimate['value'])}**"
    if estimate["low"] is None or estimate["high"] is None:
        return value
    low, high = (_number(figure, estimate[end]).removesuffix("%") for end in ("low", "high"))
    return f"{value} ({low} to {high})"


def _markdown(rows: list[list[str]]) -> str:
    head, *body = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


def _anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return "".join(c for c in heading.lower().replace(" ", "-") if c.isalnum() or c in "-_")
