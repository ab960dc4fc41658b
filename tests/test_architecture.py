"""The house's own rules: which way imports point, and that importing does nothing else."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
#: The platform's libraries, which the model library must do without.
PLATFORM_ONLY = ("ray", "deepspeed", "mlflow", "wandb", "ember_platform")
#: Rooms from the top down: each may import those after it, none before it.
TOP_FOLDERS = ("jobs", "tune", "serve", "benchmarks")


def sources(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> dict[str, int]:
    """The top-level packages that a file imports anywhere in it, with the line of the first."""
    found: dict[str, int] = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        else:
            continue
        for name in names:
            found.setdefault(name.split(".")[0], node.lineno)
    return found


def offences(folder: Path, forbidden: tuple[str, ...]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sources(folder)
        for name, line in imported(path).items()
        if name in forbidden
    ]


LIBRARY = [module_name(path, ROOT) for path in sources(ROOT / "embervlm")]
PLATFORM = [module_name(path, ROOT / "platform") for path in sources(ROOT / "platform")]


def test_there_is_something_to_check() -> None:
    assert "embervlm" in LIBRARY
    assert "ember_platform" in PLATFORM


def test_model_library_does_without_the_platform() -> None:
    assert offences(ROOT / "embervlm", (*PLATFORM_ONLY, *TOP_FOLDERS, "cluster")) == []


def test_platform_does_not_import_what_is_submitted() -> None:
    assert offences(ROOT / "platform", (*TOP_FOLDERS, "cluster")) == []


def test_jobs_do_not_import_each_other_s_rooms() -> None:
    for folder in TOP_FOLDERS:
        others = tuple(name for name in TOP_FOLDERS if name != folder)
        assert offences(ROOT / folder, others) == []


def declared(*extras: str) -> set[str]:
    """Distributions that pyproject.toml asks for, by normalised name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    return {normalised(re.split(r"[\[<>=! ;]", line)[0]) for line in wanted}


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize(
    ("folder", "extras"),
    [
        ("embervlm", ("figures",)),
        ("platform", ("platform",)),
        ("jobs", ("platform",)),
        ("cluster", ("platform",)),
        ("benchmarks", ("platform",)),
        ("tests", ("platform", "figures", "dev")),
    ],
)
def test_what_is_imported_is_declared(folder: str, extras: tuple[str, ...]) -> None:
    homes = metadata.packages_distributions()
    local = {
        "embervlm",
        "ember_platform",
        "tests",
        "jobs",
        "benchmarks",
        "cluster",
        *(path.stem for path in sources(ROOT / folder)),
    }
    missing = {
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sources(ROOT / folder)
        for name, line in imported(path).items()
        if name not in sys.stdlib_module_names | local
        and not {normalised(home) for home in homes.get(name, [])} & declared(*extras)
        and normalised(name) not in declared("material")  # not installed by default; its packages are named as modules
    }
    assert missing == set()


def test_every_declared_distribution_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+_-]+", line) for line in lines)
    assert declared("platform", "figures", "dev", "material") <= {normalised(line.split("==")[0]) for line in lines}


def test_platform_stays_a_source_root() -> None:
    assert not (ROOT / "platform" / "__init__.py").exists(), "would shadow the standard library's platform"
    for folder in TOP_FOLDERS:
        assert not (ROOT / folder / "__init__.py").exists(), f"{folder}/ is imported from the root, never installed"


IMPORT_ALL = """
import importlib, os, sys, threading

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(f"{{name}} is blocked by this test")

sys.meta_path.insert(0, Blocked())
threads = threading.active_count()
for name in {modules!r}:
    importlib.import_module(name)
print(threading.active_count() - threads)
print([n for n in {blocked!r} if n in sys.modules])
"""


def import_all(modules: list[str], blocked: tuple[str, ...], home: Path) -> list[str]:
    """Import in a process of its own, in an empty folder with an empty home; returns what it printed."""
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "platform"))),
        "PYTHONDONTWRITEBYTECODE": "1",
        "MPLCONFIGDIR": str(home.parent / "libraries"),  # matplotlib's own font cache is not ours to forbid
    }
    code = IMPORT_ALL.format(modules=modules, blocked=blocked)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=home, env=env, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def files_below(folder: Path) -> list[str]:
    """Files that an import left there, without the caches that libraries keep in the home folder."""
    found = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    return [name for name in found if not name.startswith((".cache/", ".config/"))]


def test_library_imports_without_ray_and_leaves_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    threads, present = import_all(LIBRARY, PLATFORM_ONLY, home)[-2:]
    assert threads == "0", "importing embervlm started threads"
    assert present == "[]"
    assert files_below(home) == []


def test_platform_imports_leave_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    import_all(PLATFORM, (), home)
    assert files_below(home) == []


@pytest.mark.parametrize("folder", ["jobs", "tune", "benchmarks"])
def test_importing_a_job_does_not_run_it(folder: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    import_all([module_name(path, ROOT) for path in sources(ROOT / folder)], (), home)
    assert files_below(home) == []


@pytest.mark.parametrize(
    "folder", ["embervlm", "platform", "jobs", "tune", "cluster", "configs", "docs", "tests", "benchmarks"]
)
def test_nothing_names_a_place_of_one_machine(folder: str) -> None:
    """Committed text works anywhere: no absolute path of a home or a workplace."""
    marks = ("/" + "home/", "/" + "work/", "/" + "Users/")
    bad = [
        f"{path.relative_to(ROOT)}: {mark}"
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix in {".py", ".md", ".yaml", ".yml", ".json", ".toml", ".sh"}
        for mark in marks
        if mark in path.read_text(encoding="utf-8", errors="replace")
    ]
    assert bad == []
