"""Champion and challenger on live requests, from the recorded answers of shadow and canary.

Shadow records pair both sides on the same request, so agreement and ratios are paired. Canary records have one side
each, so only distributions can be set side by side. Agreement is not correctness: which side was right is known to
nobody here; that is what the gate's held-out figures are for.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from ember_platform.serving.schemas import ComparisonRecord, RecordedAnswer

Figures = dict[str, float | int | list[int] | None]
#: Edges of the histogram of first choices' confidence.
BINS = np.linspace(0, 1, 11)


class ComparisonError(ValueError):
    """Records that cannot be compared; the message says what was looked for and where."""


@dataclass
class Records:
    """What was read: the records, and lines that are none (file:line → why)."""

    records: list[ComparisonRecord] = field(default_factory=list)
    faults: list[tuple[str, str]] = field(default_factory=list)
    files: int = 0


def read_records(places: Iterable[Path], since: str | None = None) -> Records:
    """The records of files and folders (their `*.jsonl`, at any depth). A line cut off by a crash is a fault, no end.

    Args:
        since: only records from this ISO 8601 time on.

    Raises:
        ComparisonError: a place that is not there.
    """
    found = Records()
    for path in _files(places):
        found.files += 1
        with path.open(encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    record = ComparisonRecord.model_validate_json(line)
                except ValidationError as error:
                    found.faults.append((f"{path.name}:{number}", str(error.errors()[0]["msg"])))
                    continue
                if since is None or record.time >= since:
                    found.records.append(record)
    return found


def _files(places: Iterable[Path]) -> Iterator[Path]:
    for place in places:
        if place.is_dir():
            yield from sorted(place.rglob("*.jsonl"))
        elif place.is_file():
            yield place
        else:
            raise ComparisonError(f"{place}: no such file or folder of records")


# ---------------------------------------------------------------- figures


def compare(records: Sequence[ComparisonRecord]) -> list[dict[str, Any]]:
    """One entry per kind and pair of versions, those with most records first.

    A canary's record names one side, so its sides are paired with the other version that was seen most. Entries hold
    "kind", "champion", "challenger" (versions), "champion_side", "challenger_side" (figures of each) and, for
    shadow, "both" (paired figures) and "slices" (paired figures with and without picture and reasoning).
    """
    entries = []
    for versions, pairs in _shadow_pairs(records).items():
        entries.append(
            {
                "kind": "shadow",
                **_sides(versions, [r.champion for r in pairs], [r.challenger for r in pairs]),
                "both": paired(pairs),
                "slices": {name: paired(part) for name, part in _slices(pairs).items()},
            }
        )
    canary = [r for r in records if r.kind == "canary"]
    champions = _by_version([r.champion for r in canary])
    challengers = _by_version([r.challenger for r in canary])
    usual = max(champions, key=lambda version: len(champions[version]), default=None)
    for version, answers in challengers.items():
        other = champions[usual] if usual is not None else []
        entries.append({"kind": "canary", **_sides((usual or "none", version), other, answers)})
    return sorted(entries, key=lambda e: -(e["champion_side"]["requests"] + e["challenger_side"]["requests"]))


def _shadow_pairs(records: Sequence[ComparisonRecord]) -> dict[tuple[str, str], list[ComparisonRecord]]:
    pairs: dict[tuple[str, str], list[ComparisonRecord]] = defaultdict(list)
    for record in records:
        if record.kind == "shadow" and record.champion and record.challenger:
            pairs[record.champion.version, record.challenger.version].append(record)
    return dict(pairs)


def _by_version(answers: Iterable[RecordedAnswer | None]) -> dict[str, list[RecordedAnswer | None]]:
    found: dict[str, list[RecordedAnswer | None]] = defaultdict(list)
    for answer in answers:
        if answer is not None:
            found[answer.version].append(answer)
    return dict(found)


def _sides(
    versions: tuple[str, str], champion: Sequence[RecordedAnswer | None], challenger: Sequence[RecordedAnswer | None]
) -> dict[str, Any]:
    return {
        "champion": versions[0],
        "challenger": versions[1],
        "champion_side": one_side(champion),
        "challenger_side": one_side(challenger),
    }


def _slices(pairs: Sequence[ComparisonRecord]) -> dict[str, list[ComparisonRecord]]:
    parts: dict[str, list[ComparisonRecord]] = {}
    for name, value in (("with picture", True), ("without picture", False)):
        parts[name] = [r for r in pairs if r.has_image is value]
    for name, value in (("with reasoning", True), ("without reasoning", False)):
        parts[name] = [r for r in pairs if r.reasoning is value]
    return {name: part for name, part in parts.items() if part}


def one_side(answers: Sequence[RecordedAnswer | None]) -> Figures:
    """Figures of one version's answers: requests, errors, model_ms, confidence in the first choice, size of teams."""
    all_of = [a for a in answers if a is not None]
    good = [a for a in all_of if a.error is None and a.robots]
    first = [a.robots[0].confidence for a in good]
    figures: Figures = {"requests": len(all_of), "errors": len(all_of) - len(good)}
    figures["error_share"] = figures["errors"] / len(all_of) if all_of else None  # type: ignore[operator]
    figures |= _quantiles("model_ms", [a.model_ms for a in good], (50, 95, 99))
    figures |= _quantiles("first_confidence", first, (10, 50, 90))
    figures["first_confidence_mean"] = float(np.mean(first)) if first else None
    figures["team_size_mean"] = float(np.mean([len(a.team) for a in good])) if good else None
    figures["first_confidence_histogram"] = np.histogram(first, BINS)[0].tolist()
    return figures


def paired(records: Sequence[ComparisonRecord]) -> Figures:
    """Figures of pairs in which both sides answered: agreement (with 95 % intervals), confidence, ratio of times."""
    good = [
        (r.champion, r.challenger)
        for r in records
        if r.champion and r.challenger and not (r.champion.error or r.challenger.error)
        if r.champion.robots and r.challenger.robots
    ]
    if not good:
        return {"pairs": 0}
    same = sum(a.robots[0].robot == b.robots[0].robot for a, b in good)
    teams = sum(set(a.team) == set(b.team) for a, b in good)
    overlap = [len(set(a.team) & set(b.team)) / max(1, len(set(a.team) | set(b.team))) for a, b in good]
    gaps = [gap for a, b in good for gap in _gaps(a, b)]
    ratios = [b.model_ms / a.model_ms for a, b in good if a.model_ms > 0]
    figures: Figures = {"pairs": len(good), "first_choice_agreement": same / len(good)}
    figures |= _interval("first_choice_agreement", same, len(good))
    figures["team_agreement"] = teams / len(good)
    figures |= _interval("team_agreement", teams, len(good))
    figures["team_overlap_mean"] = float(np.mean(overlap))
    figures["confidence_gap_mean"] = float(np.mean(gaps)) if gaps else None
    figures |= _quantiles("confidence_gap", gaps, (95,))
    figures |= _quantiles("model_ms_ratio", ratios, (25, 50, 75))
    return figures


def _gaps(a: RecordedAnswer, b: RecordedAnswer) -> list[float]:
    """How far apart the two are on each robot that both list."""
    other = {r.robot: r.confidence for r in b.robots}
    return [abs(r.confidence - other[r.robot]) for r in a.robots if r.robot in other]


def _quantiles(name: str, values: Sequence[float], percents: Sequence[int]) -> Figures:
    if not values:
        return {f"{name}_p{percent}": None for percent in percents}
    found = np.percentile(np.asarray(values, dtype=float), percents)
    return {f"{name}_p{percent}": float(value) for percent, value in zip(percents, found, strict=True)}


def _interval(name: str, hits: int, total: int) -> Figures:
    """Wilson's 95 % interval of a share."""
    from scipy.stats import binomtest

    low, high = binomtest(hits, total).proportion_ci(0.95, method="wilson")
    return {f"{name}_low": float(low), f"{name}_high": float(high)}


# ---------------------------------------------------------------- the report


def report(found: Records) -> dict[str, Any]:
    """Everything as JSON: "records", "files", "faults" (counted by reason), "from", "to", "comparisons"."""
    times = [r.time for r in found.records]
    return {
        "records": len(found.records),
        "files": found.files,
        "faults": dict(Counter(why for _, why in found.faults)),
        "from": min(times, default=None),
        "to": max(times, default=None),
        "comparisons": compare(found.records),
    }


def as_markdown(content: dict[str, Any]) -> str:
    """The report for a person."""
    lines = ["# Champion and challenger on live requests", ""]
    lines.append(f"{content['records']} records of {content['files']} files, {content['from']} to {content['to']}.")
    if content["faults"]:
        lines.append(f"{sum(content['faults'].values())} lines are no records and were left out.")
    lines += ["Agreement says how often both sides say the same, not which of them is right.", ""]
    for entry in content["comparisons"]:
        lines += _entry(entry)
    return "\n".join(lines)


_SIDE_ROWS = (
    ("requests", "requests", 0),
    ("errors", "errors", 0),
    ("model_ms_p50", "model time p50 (ms)", 1),
    ("model_ms_p95", "model time p95 (ms)", 1),
    ("model_ms_p99", "model time p99 (ms)", 1),
    ("first_confidence_mean", "confidence in the first choice, mean", 3),
    ("first_confidence_p10", "confidence in the first choice, p10", 3),
    ("team_size_mean", "robots in a team, mean", 2),
)


def _entry(entry: dict[str, Any]) -> list[str]:
    lines = [f"## {entry['kind'].capitalize()}: champion {entry['champion']}, challenger {entry['challenger']}", ""]
    lines += ["| | champion | challenger |", "|---|---|---|"]
    for key, title, digits in _SIDE_ROWS:
        sides = (entry["champion_side"][key], entry["challenger_side"][key])
        lines.append(f"| {title} | {' | '.join(_number(value, digits) for value in sides)} |")
    lines.append("")
    if "both" not in entry:
        return [*lines, "Different requests went to the two sides, so nothing is paired.", ""]
    lines += ["| same request | pairs | first choice agrees | team agrees | confidence gap, mean | time ratio p50 |"]
    lines += ["|---|---|---|---|---|---|"]
    lines += [_pair_row(name, part) for name, part in {"all": entry["both"], **entry["slices"]}.items()]
    return [*lines, ""]


def _pair_row(name: str, part: Figures) -> str:
    if not part["pairs"]:
        return f"| {name} | 0 | | | | |"
    cells = [
        f"{part[key]:.1%} ({part[f'{key}_low']:.1%} to {part[f'{key}_high']:.1%})"
        for key in ("first_choice_agreement", "team_agreement")
    ]
    middle, low, high = (_number(part[f"model_ms_ratio_p{percent}"], 2) for percent in (50, 25, 75))
    cells += [_number(part["confidence_gap_mean"], 3), f"{middle} ({low} to {high})"]
    return f"| {name} | {part['pairs']} | {' | '.join(cells)} |"


def _number(value: Any, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def as_json(content: dict[str, Any]) -> str:
    """The report for a program."""
    return json.dumps(content, indent=2, sort_keys=True) + "\n"
