"""The comparison of champion and challenger from recorded answers."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ember_platform.serving.comparison_report import (
    ComparisonError,
    Records,
    as_markdown,
    compare,
    read_records,
    report,
)
from ember_platform.serving.schemas import ComparisonRecord, RankedRobot, RecordedAnswer

ROOT = Path(__file__).resolve().parents[3]


def side(version: str, *ranked: tuple[str, float], team: list[str] | None = None, **more: Any) -> RecordedAnswer:
    robots = [RankedRobot(robot=robot, confidence=confidence) for robot, confidence in ranked]
    team = [robots[0].robot] if team is None and robots else team or []
    return RecordedAnswer(version=version, robots=robots, team=team, **({"model_ms": 20.0} | more))


def record(champion: RecordedAnswer | None, challenger: RecordedAnswer | None, **more: Any) -> ComparisonRecord:
    kind = "shadow" if champion and challenger else "canary"
    fields = {
        "kind": kind, "time": "2026-11-22T04:00:00+00:00", "request_id": "r", "task_chars": 9, "has_image": True,
        "fleet_digest": "d", "reasoning": False,
    }  # fmt: skip
    return ComparisonRecord(**(fields | more), champion=champion, challenger=challenger)


def test_pairs_by_hand() -> None:
    records = [
        record(side("1", ("A", 0.9), ("B", 0.2)), side("2", ("A", 0.8), ("B", 0.4), model_ms=30.0)),
        record(side("1", ("A", 0.9), ("B", 0.2)), side("2", ("B", 0.6), ("A", 0.5), model_ms=10.0), has_image=False),
        record(side("1", ("A", 0.9)), side("2", error="FloatingPointError")),
    ]
    [entry] = compare(records)
    assert (entry["kind"], entry["champion"], entry["challenger"]) == ("shadow", "1", "2")
    both = entry["both"]
    assert both["pairs"] == 2
    assert both["first_choice_agreement"] == 0.5
    assert both["first_choice_agreement_low"] < 0.5 < both["first_choice_agreement_high"]
    assert both["team_agreement"] == 0.5
    assert both["confidence_gap_mean"] == pytest.approx((0.1 + 0.2 + 0.4 + 0.4) / 4)
    assert both["model_ms_ratio_p50"] == pytest.approx(1.0)
    assert (entry["challenger_side"]["requests"], entry["challenger_side"]["errors"]) == (3, 1)
    assert entry["champion_side"]["first_confidence_mean"] == pytest.approx(0.9)
    assert entry["champion_side"]["first_confidence_histogram"] == [0] * 9 + [3]
    assert entry["slices"]["with picture"]["first_choice_agreement"] == 1
    assert entry["slices"]["without picture"]["first_choice_agreement"] == 0
    assert "with reasoning" not in entry["slices"]


def test_canary_sides_are_not_paired() -> None:
    records = [
        *(record(side("1", ("A", 0.9)), None) for _ in range(3)),
        record(None, side("2", ("B", 0.3), team=["A", "B"], model_ms=40.0)),
    ]
    [entry] = compare(records)
    assert (entry["kind"], entry["champion"], entry["challenger"]) == ("canary", "1", "2")
    assert entry["champion_side"]["requests"] == 3
    assert entry["challenger_side"]["model_ms_p95"] == 40.0
    assert entry["challenger_side"]["team_size_mean"] == 2
    assert "both" not in entry


def test_versions_are_kept_apart_and_the_most_seen_comes_first() -> None:
    few = [record(side("1", ("A", 1.0)), side("3", ("A", 1.0)))]
    many = [record(side("1", ("A", 1.0)), side("2", ("A", 1.0)))] * 4
    assert [entry["challenger"] for entry in compare(few + many)] == ["2", "3"]


@given(
    st.lists(
        st.tuples(st.permutations(["A", "B", "C"]), st.permutations(["A", "B", "C"]), st.floats(0.1, 90)),
        min_size=1,
        max_size=20,
    )
)
def test_shares_lie_within_their_intervals(pairs: list[tuple[list[str], list[str], float]]) -> None:
    records = [
        record(
            side("1", *((robot, 0.9 - 0.3 * i) for i, robot in enumerate(one))),
            side("2", *((robot, 0.9 - 0.3 * i) for i, robot in enumerate(two)), model_ms=took),
        )
        for one, two, took in pairs
    ]
    [entry] = compare(records)
    both = entry["both"]
    for name in ("first_choice_agreement", "team_agreement"):
        assert 0 <= both[f"{name}_low"] <= both[name] <= both[f"{name}_high"] <= 1
    assert both["first_choice_agreement"] == sum(one[0] == two[0] for one, two, _ in pairs) / len(pairs)
    assert 0 <= both["confidence_gap_mean"] <= 0.6 + 1e-9
    assert as_markdown(report(Records(records))).count("\n|") >= 10


@pytest.fixture(scope="module")
def job() -> ModuleType:
    spec = importlib.util.spec_from_file_location("canary_report_job", ROOT / "jobs" / "canary_report.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_damaged_lines_are_counted_and_the_job_reports(
    tmp_path: Path, job: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "records" / "replica-1"
    folder.mkdir(parents=True)
    whole = record(side("1", ("A", 0.9)), side("2", ("A", 0.8))).model_dump_json()
    old = record(side("0", ("A", 0.9)), side("1", ("A", 0.8)), time="2026-01-01T00:00:00+00:00").model_dump_json()
    (folder / "a.jsonl").write_text(f"{whole}\n{old}\n\n{whole[:40]}")
    (folder / "notes.txt").write_text("no record")
    found = read_records([tmp_path])
    assert (len(found.records), [where for where, _ in found.faults], found.files) == (2, ["a.jsonl:4"], 1)
    out = tmp_path / "report.json"
    config = ["--config", str(ROOT / "configs" / "laptop.yaml")]
    arguments = [*config, "--records", str(tmp_path), "--since", "2026-06-01", "--out", str(out)]
    assert job.main(arguments) == 0
    assert "champion 1, challenger 2" in capsys.readouterr().out
    content = json.loads(out.read_text())
    assert content["records"] == 1
    assert content["comparisons"][0]["both"]["first_choice_agreement"] == 1.0


def test_nothing_to_compare_is_said(tmp_path: Path, job: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ComparisonError, match="no such file"):
        read_records([tmp_path / "absent"])
    config = ["--config", str(ROOT / "configs" / "laptop.yaml")]
    assert job.main([*config, "--records", str(tmp_path)]) == 1
    assert "shadow_percent" in capsys.readouterr().err
