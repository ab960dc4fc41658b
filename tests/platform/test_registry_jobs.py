"""`jobs/evaluate.py` and `jobs/promote.py` say what is wrong in one line, and promote from the shell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ember_platform import registry as r
from ember_platform.config import load_config
from jobs import evaluate, promote


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(f"output_dir: {tmp_path}/out\ndata: {{dir: {tmp_path}/data}}\n")
    return path


def test_evaluate_names_what_is_missing(config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main(["--config", str(config_file), "--stage", "3"]) == 1
    assert "stage3/final: not a saved model" in capsys.readouterr().err
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    assert evaluate.main(["--config", str(config_file), "--stage", "3", "--model", str(tmp_path / "m")]) == 1
    assert "run jobs/prepare_data.py" in capsys.readouterr().err
    assert evaluate.main(["--config", str(config_file), "--stage", "3", "no.such=1"]) == 1
    assert "no" in capsys.readouterr().err


def test_promote_from_the_shell(config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--config", str(config_file)]
    assert promote.main(arguments) == 2
    assert "no version has the alias challenger" in capsys.readouterr().err
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text(json.dumps({"a": 1}))
    config = load_config(config_file)
    r.register_stage(config, 4, tmp_path / "m", {"metrics": {"first_choice": 0.9, "ece": 0.2}}, {})
    r.register_final(config)
    assert promote.main(arguments) == 1
    assert "FAILED  ece: ece is 0.2000; at most 0.1 is asked" in capsys.readouterr().out
    assert promote.main([*arguments, "--version", "1", "registry.gate.at_most.ece=0.3"]) == 0
    assert "embervlm version 1 is the champion" in capsys.readouterr().out
    assert promote.main([*arguments, "--rollback"]) == 2
    assert "nothing to go back to" in capsys.readouterr().err
