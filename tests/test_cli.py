"""The `embervlm` command: what it prints, and how it refuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from embervlm.cli import main


def fails(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line on stderr of a command that must refuse its input."""
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_help_loads_no_heavy_library() -> None:
    code = (
        "import sys\nfrom embervlm.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=30)


def test_info_counts_every_parameter_once(capsys: pytest.CaptureFixture[str]) -> None:
    from embervlm import EmberVLM, EmberVLMConfig

    assert main(["info", "--preset", "embervlm-nano", "--json"]) == 0
    table = json.loads(capsys.readouterr().out)["parameters"]
    parts = {name: counts for name, counts in table.items() if name != "total"}
    for column, total in table["total"].items():
        assert total == sum(counts[column] for counts in parts.values()), column
        assert 0 < total <= table["total"]["total"], column
    assert table["total"]["total"] == EmberVLM(EmberVLMConfig.preset("embervlm-nano")).num_parameters()
    assert table["vision"]["stage 3"] == 0


def test_info_prints_a_table_of_a_saved_model(nano_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--model", str(nano_folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:2] == ["part", "total"]
    assert len({len(line) for line in lines[1:]}) == 1


def test_select_answers_as_json(nano_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "photo.jpg"
    Image.new("RGB", (640, 400), "steelblue").save(picture)
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text(
        "robots:\n  - {name: Crawler, capabilities: [climbs pipes]}\n  - {name: Boat}\n  - {name: Crane}\n"
    )
    argv = ["select", "--model", str(nano_folder), "--task", "Inspect the hull", "--top-k", "2", "--json"]
    assert main([*argv, "--image", str(picture), "--fleet", str(fleet)]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert set(answer) == {"robots", "team", "none_of_these", "familiarity", "plan", "reasoning"}
    assert answer["none_of_these"] is answer["familiarity"] is None, "nothing was fitted for them"
    assert len(answer["robots"]) == 2
    assert {row["robot"] for row in answer["robots"]} <= {"Crawler", "Boat", "Crane"}


def test_select_prints_robots_best_first(nano_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["select", "--model", str(nano_folder), "--task", "Inspect the hull"]) == 0
    shares = [float(line.split("%")[0].split()[-1]) for line in capsys.readouterr().out.splitlines()]
    assert len(shares) == 5
    assert shares == sorted(shares, reverse=True)


def test_select_says_how_far_to_trust_it_where_that_was_fitted(
    fitted_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["select", "--model", str(fitted_folder), "--task", "Inspect the hull"]) == 0
    *robots, none, familiarity = capsys.readouterr().out.splitlines()
    assert len(robots) == 5
    assert re.fullmatch(r"none of these +\d+\.\d%", none)
    assert re.match(r"familiarity: \d+\.\d% of the validation inputs", familiarity)


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["info", "--preset", "embervlm-1t"], "embervlm-1t"),
        (["info", "--model", "no/such/folder"], "no/such/folder"),
        (["select", "--model", "no/such/folder", "--task", "x"], "no/such/folder"),
        (["select", "--model", ".", "--task", "  "], "--task"),
        (["select", "--model", ".", "--task", "x", "--top-k", "0"], "--top-k"),
        (["select", "--model", ".", "--task", "x", "--fleet", "none.yaml"], "none.yaml"),
        (["world", "--count", "0"], "--count"),
        (["world", "--kind", "poem"], "poem"),
        (["world", "--split", "dev"], "dev"),
    ],
)
def test_wrong_input_is_one_line_that_names_it(argv: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert named in fails(capsys, *argv)


def test_wrong_picture_is_named(nano_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8 no picture")
    for picture in (broken, tmp_path / "missing.jpg"):
        error = fails(capsys, "select", "--model", str(nano_folder), "--task", "look", "--image", str(picture))
        assert picture.name in error


def test_world_draws_a_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = tmp_path / "new" / "sheet.png"
    argv = ["world", "--count", "3", "--seed", "5", "--size", "64", "--out", str(sheet)]
    assert main([*argv, "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert len(first["records"]) == 3
    assert first["records"][0]["labels"]
    pixels = sheet.read_bytes()
    assert min(Image.open(sheet).size) >= 64
    assert main(argv) == 0
    assert first["records"][2]["instruction"] in capsys.readouterr().out
    assert sheet.read_bytes() == pixels


def test_evaluate_writes_a_suite_and_prints_its_table(
    nano_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "fleets.json"
    ask = ["evaluate", "--model", str(nano_folder), "--suite", "fleets", "--limit", "6", "--no-baselines"]
    assert main([*ask, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("fleets: ")
    content = json.loads(out.read_text())
    assert content["model"] == str(nano_folder)
    assert content["samples"] == len(content["tables"]["predictions"]) <= 6
    assert set(content["metrics"]["first_choice"]) == {"value", "low", "high", "samples"}
    assert main([*ask, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"] == content["metrics"], "the same seed gives the same figures"


def test_evaluate_refuses_before_it_reads_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(tmp_path)
    assert "there are world" in fails(capsys, "evaluate", "--model", model, "--suite", "moon")
    assert "labels.csv" in fails(capsys, "evaluate", "--model", model, "--suite", "photos")
    assert "give --data" in fails(capsys, "evaluate", "--model", model, "--suite", "public-tasks")
    missing = str(tmp_path / "none.json")
    assert "none.json" in fails(capsys, "evaluate", "--model", model, "--suite", "public-tasks", "--data", missing)
    assert "config.json" in fails(capsys, "evaluate", "--model", model, "--suite", "fleets")
    assert "--limit" in fails(capsys, "evaluate", "--model", model, "--suite", "fleets", "--limit", "0")
