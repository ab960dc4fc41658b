"""What the documents say can be done can be done: links lead somewhere, commands and code run.

A command in a ```bash block is run where that costs seconds, and otherwise checked against what would run it: make's
targets, the argument parsers, the configuration. A kind of command that is not known here fails the test.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from embervlm.fleet import default_fleet

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```(\w+)( notest)?\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
#: Commands of other programs: `ray job` is what `cluster/local.py submit` calls, `env` is run by tests/cluster.
FOREIGN = {"ray job list", "eval $(python cluster/local.py env)"}


def blocks(language: str) -> list[tuple[str, str]]:
    """Every block of a language that is not marked `notest`, with the document it stands in."""
    return [
        (str(path.relative_to(ROOT)), match[3])
        for path in DOCUMENTS
        for match in BLOCK.finditer(path.read_text(encoding="utf-8"))
        if match[1] == language and not match[2]
    ]


def commands() -> list[str]:
    """Every distinct command of the documents' bash blocks."""
    lines = [line.strip() for _, text in blocks("bash") for line in text.replace("\\\n", " ").splitlines()]
    return sorted({line for line in lines if line and not line.startswith("#")})


@cache
def script(path: str) -> ModuleType:
    """A script of the repository as a module (importing one runs nothing; test_architecture holds that)."""
    spec = importlib.util.spec_from_file_location(Path(path).stem + "_documented", ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@cache
def usage(path: str) -> str:
    done = subprocess.run(
        [sys.executable, path, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def check_job(words: list[str]) -> None:
    """`python jobs/….py …` and the like: the script knows its flags, the configuration its file and its overrides."""
    from ember_platform.config import load_config
    from ember_platform.tuning.space import load_sweep

    path, *arguments = words
    assert (ROOT / path).is_file(), path
    for flag in (word for word in arguments if word.startswith("--")):
        assert re.search(rf"{re.escape(flag)}\b", usage(path)), f"{path} has no {flag}"
    overrides = [word for word in arguments if re.match(r"[a-z_]+(\.\w+)*=", word)]
    if "--space" in arguments:
        load_sweep(ROOT / arguments[arguments.index("--space") + 1], [], overrides)
    elif "--config" in arguments and not arguments[arguments.index("--config") + 1].startswith("outputs/"):
        load_config(str(ROOT / arguments[arguments.index("--config") + 1]), overrides)
    else:  # it needs none, or one that a sweep makes
        assert path.startswith(("tune/", "benchmarks/")) or "outputs/tune/" in " ".join(arguments)


def check_command(line: str) -> None:
    words = shlex.split(line)
    if " ".join(words) in FOREIGN:
        return
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert words[1] in targets
    elif words[0] == "embervlm":
        from embervlm.cli import parser

        parser().parse_args(words[1:])
    elif words[:2] == ["python", "cluster/local.py"]:
        script("cluster/local.py").parser().parse_args(words[2:])
        if "--" in words:
            check_command(shlex.join(words[words.index("--") + 1 :]))
    elif words[:3] == ["ray", "job", "submit"]:
        assert words[3:6] == ["--runtime-env", "cluster/runtime_env.yaml", "--"]
        check_command(shlex.join(words[6:]))
    elif words[:2] == ["python", "benchmarks/serve.py"]:
        script(words[1]).parser().parse_args(words[2:])
    elif words[0] == "python" and words[1].startswith(("jobs/", "tune/", "serve/", "benchmarks/")):
        check_job(words[1:])
    elif words[:4] == ["pip", "install", "-c", "constraints.txt"]:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        wanted = re.fullmatch(r"\.\[([\w,]+)\]", words[4])
        assert wanted, words[4]
        assert set(wanted[1].split(",")) <= set(project["optional-dependencies"])
    elif words[0] == "curl":
        assert "http://127.0.0.1:8000/" in line  # each is run against an endpoint by tests/serve/test_endpoint.py
    else:
        pytest.fail(f"no rule checks this command: {line}")


@pytest.fixture
def workplace(nano_folder: Path, material_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which what the documents name is there: a model, a picture, a fleet, tasks, photographs."""
    shutil.copytree(material_folder, tmp_path / ".material")
    shutil.copytree(nano_folder, tmp_path / "outputs" / "final")
    Image.new("RGB", (320, 240), "steelblue").save(tmp_path / "scene.jpg")
    (tmp_path / "fleet.yaml").write_text(dict(blocks("yaml"))["docs/datasets/ROBOT_SELECTION_DATA.md"])
    five = default_fleet()
    told = "\n".join(f"{robot.name}:\n  capabilities: {', '.join(robot.capabilities)}" for robot in five)
    instruction = f"Robots: {', '.join(five.names)}.\n{told}"
    items = [{"instruction": instruction, "input": f"Task: {i}", "output": name} for i, name in enumerate(five.names)]
    (tmp_path / "robot-selection-dataset").mkdir()
    (tmp_path / "robot-selection-dataset" / "tasks.json").write_text(json.dumps(items))
    measured = {"suite": "fleets", "data": "1 fleet", "samples": 1, "metrics": {}}
    (tmp_path / "outputs" / "measured" / "nano").mkdir(parents=True)
    (tmp_path / "outputs" / "measured" / "nano" / "fleets.json").write_text(json.dumps(measured))
    (tmp_path / "photographs").mkdir()
    shutil.copy(tmp_path / "scene.jpg", tmp_path / "photographs")
    (tmp_path / "photographs" / "labels.csv").write_text("file,environment\nscene.jpg,harbour\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_there_are_documents_and_commands() -> None:
    assert len(DOCUMENTS) > 10
    assert "make demo" in commands()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    targets = LINK.findall(path.read_text(encoding="utf-8"))
    local = [target.split("#")[0] for target in targets if not target.startswith("http")]
    assert [target for target in local if target and not (path.parent / target).exists()] == []


@pytest.mark.parametrize("line", commands(), ids=str)
def test_command_is_known_to_what_runs_it(line: str) -> None:
    check_command(line)


@pytest.mark.parametrize("line", [line for line in commands() if line.startswith("embervlm ")])
def test_cheap_command_runs(line: str, workplace: Path) -> None:
    from embervlm.cli import main

    assert main(shlex.split(line)[1:]) == 0


@pytest.mark.parametrize(("where", "code"), blocks("python"), ids=lambda value: value[:40] if "/" in value else "")
def test_python_example_runs(where: str, code: str, workplace: Path) -> None:
    exec(compile(code, where, "exec"), {})


@pytest.mark.parametrize(
    "folder", ["embervlm", "platform", "jobs", "tune", "serve", "cluster", "configs", "benchmarks", "docs", "tests"]
)
def test_readme_tells_what_each_folder_is(folder: str) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(rf"^\| `{folder}/", text, re.MULTILINE)
