"""The page of results has what the files have, and refuses files that no suite wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from embervlm.cli import main
from embervlm.evaluation import MetricError, write_json
from embervlm.evaluation.asking import Asker
from embervlm.evaluation.page import results_page
from embervlm.evaluation.suites import Options, run_suite
from tests.evaluation.test_suites import Oracle


def estimate(value: float, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "samples": 8}


def content(**changes: Any) -> dict[str, Any]:
    found = {
        "suite": "world",
        "data": "8 test records of outputs/data",
        "samples": 8,
        "seed": 3,
        "metrics": {
            "first_choice": estimate(0.875, 0.5, 1.0),
            "first_choice_unseen_robots": estimate(0.75),
            "first_choice_familiarity_0_5": estimate(0.5),
            "ece": estimate(0.02, 0.01, 0.03),
        },
        "baselines": {
            "tfidf": {"first_choice": estimate(0.453, 0.4, 0.5)},
            "text_only": {"first_choice": estimate(0.6)},
            "elsewhere": {"other": estimate(0.1)},
        },
        "notes": ["Nothing was cut."],
    }
    return found | changes


def written(folder: Path, name: str, what: Any) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(what))
    return path


def test_figures_stand_with_their_interval_beside_the_same_of_their_baselines(tmp_path: Path) -> None:
    written(tmp_path, "Ember nano/world.json", content())
    (tmp_path / "Ember nano" / "about.md").write_text("Made by the demo.\n")
    written(tmp_path, "b/photos.json", content(suite="photos", metrics={"environment": estimate(0.25)}, baselines={}))
    page = results_page(tmp_path)
    assert page.index("## Ember nano\n\nMade by the demo.\n\n### world") < page.index("## b\n")
    assert "8 test records of outputs/data, seed 3. Nothing was cut." in page
    assert "|  | the model | TF-IDF + logistic regression | text only |" in page
    assert "| first choice can do the task | **87.5%** (50.0 to 100.0) | 45.3% | 60.0% |" in page
    assert "| first choice can do the task: unseen robots | **75.0%** |  |  |" in page
    assert "| first choice can do the task: familiarity 0 to 5% | **50.0%** |  |  |" in page
    assert "| calibration error of first choices | **0.020** (0.010 to 0.030) |  |  |" in page
    overview = "| [Ember nano](#ember-nano) | world | first choice can do the task | **87.5%** (50.0 to 100.0) |"
    assert f"{overview} text only 60.0% |" in page
    assert "| [b](#b) | photos | place named right | **25.0%** |  |" in page


def test_every_figure_of_a_real_suite_has_its_row(tmp_path: Path) -> None:
    result = run_suite("fleets", Asker(Oracle([])), Options(limit=12))
    write_json(tmp_path / "fake" / "fleets.json", {"seed": 0, "reasoning": False, **result.to_dict()})
    section = results_page(tmp_path).split("### fleets")[1]
    rows = [line for line in section.splitlines() if line.startswith("|")][2:]
    assert len(rows) == len(set(rows)) == len(result.metrics)
    assert len({line.count("|") for line in rows}) == 1


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ({"stage": 3, "metrics": {}}, "no suite"),
        (["world"], "no suite"),
        (content(metrics={"first_choice": estimate(float("nan"))}), "first_choice"),
        (content(metrics={"first_choice": 0.9}), "first_choice"),
        (content(baselines={"tfidf": {"ece": estimate(True)}}), "ece"),
    ],
)
def test_a_file_that_no_suite_wrote_is_refused_by_name(tmp_path: Path, what: Any, message: str) -> None:
    written(tmp_path, "m/world.json", what)
    with pytest.raises(MetricError, match=rf"world\.json.*{message}"):
        results_page(tmp_path)


def test_what_is_missing_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m").mkdir()
    with pytest.raises(MetricError, match="no model's folder"):
        results_page(tmp_path)
    (tmp_path / "m" / "world.json").write_text("{")
    out = tmp_path / "page.md"
    assert main(["results", "--measured", str(tmp_path), "--out", str(out)]) == 2
    assert "world.json: cannot be read" in capsys.readouterr().err
    assert not out.exists()
    written(tmp_path, "m/world.json", content())
    assert main(["results", "--measured", str(tmp_path), "--out", str(out)]) == 0
    assert out.read_text() == results_page(tmp_path)
