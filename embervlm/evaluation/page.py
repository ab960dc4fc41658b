"""The page of results: what suites measured, as Markdown, from the files that `embervlm evaluate --out` wrote.

A folder has a folder for each model; in it are a JSON file for each suite and, if wanted, `about.md`, which says in
words how the model was made. Nothing else comes into the page, so a number that was not measured cannot stand there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from embervlm.evaluation.intervals import Estimate
from embervlm.evaluation.metrics import MetricError
from embervlm.evaluation.report import read_json
from embervlm.evaluation.suites.result import SuiteResult

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
_FAMILIARITY = re.compile(r"familiarity_(\d+)_(\d+)")


@dataclass(frozen=True)
class Measured:
    """One suite's file.

    `name` is the file's: a model may have a suite more than once. `how` says in words with what it was asked.
    """

    name: str
    result: SuiteResult
    how: str


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
        content = read_json(path, "JSON")
        try:
            result = SuiteResult.from_dict(content)
        except MetricError as error:
            raise MetricError(f"{path}: {error}") from error
        how = [result.data]
        if content.get("reasoning"):
            how.append("after the chain")
        if "seed" in content:
            how.append(f"seed {content['seed']}")
        found.append(Measured(path.stem, result, ", ".join(how)))
    return found


def _overview(models: Mapping[str, list[Measured]]) -> str:
    rows = [["model", "suite", "what", "measured", "best of what it is compared with"]]
    for name, measured in models.items():
        for one in measured:
            figure = _FIRST.get(one.result.suite, "first_choice")
            if figure not in one.result.metrics:
                continue
            beside = {label: v[figure].value for label, v in one.result.baselines.items() if figure in v}
            best = max(beside, key=lambda label: beside[label], default=None)
            rows.append(
                [
                    f"[{name}](#{_anchor(name)})",
                    one.name,
                    _words(figure),
                    _with_interval(figure, one.result.metrics[figure]),
                    "" if best is None else f"{_label(best)} {_number(figure, beside[best])}",
                ]
            )
    return _markdown(rows)


def _section(one: Measured) -> str:
    result = one.result
    beside = {name: values for name, values in result.baselines.items() if values.keys() & result.metrics.keys()}
    rows = [["", "the model", *map(_label, beside)]]
    for figure, estimate in result.metrics.items():
        cells = (values.get(figure) for values in beside.values())
        shown = ("" if cell is None else _number(figure, cell.value) for cell in cells)
        rows.append([_words(figure), _with_interval(figure, estimate), *shown])
    return "\n\n".join([f"### {one.name}", " ".join([f"{one.how}.", *result.notes]), _markdown(rows)])


def _words(figure: str) -> str:
    if figure in _WORDS:
        return _WORDS[figure]
    known = [name for name in _WORDS if figure.startswith(f"{name}_")]
    if not known:
        return figure.replace("_", " ")
    name = max(known, key=len)
    part = figure[len(name) + 1 :]
    if bounds := _FAMILIARITY.fullmatch(part):
        return f"{_WORDS[name]}: familiarity {bounds[1]} to {bounds[2]}%"
    return f"{_WORDS[name]}: {part.replace('_', ' ')}"


def _label(baseline: str) -> str:
    return {"tfidf": "TF-IDF + logistic regression", "shuffled_image": "another picture"}.get(
        baseline, baseline.replace("_", " ")
    )


def _number(figure: str, value: float) -> str:
    return f"{value:.3f}" if figure.startswith(_PLAIN) else f"{100 * value:.1f}%"


def _with_interval(figure: str, estimate: Estimate) -> str:
    value = f"**{_number(figure, estimate.value)}**"
    if estimate.low is None or estimate.high is None:
        return value
    low, high = (_number(figure, end).removesuffix("%") for end in (estimate.low, estimate.high))
    return f"{value} ({low} to {high})"


def _markdown(rows: list[list[str]]) -> str:
    head, *body = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


def _anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return "".join(c for c in heading.lower().replace(" ", "-") if c.isalnum() or c in "-_")
