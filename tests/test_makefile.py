"""The Makefile on a machine that is not ready, and its own list of what it offers."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def bare(folder: Path) -> Path:
    """A checkout in which nothing has been made."""
    for name in ("Makefile", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def test_help_lists_every_target() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert phony is not None
    listed = re.findall(r"^  make (\S+) ", make(ROOT, "help").stdout, re.MULTILINE)
    assert sorted(listed) == sorted(phony[1].split())


def test_a_missing_python_is_named(tmp_path: Path) -> None:
    done = make(bare(tmp_path), "demo", "PYTHON=no-such-python")
    assert done.returncode == 2
    assert "no-such-python not found" in done.stderr
    assert "Python 3.11" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_another_python_is_refused(tmp_path: Path) -> None:
    old = tmp_path / "python-old"
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo "Python 3.9.1"\nexit 1\n')
    old.chmod(0o755)
    done = make(bare(tmp_path), "env", f"PYTHON={old}")
    assert done.returncode == 2
    assert "is Python 3.9.1" in done.stderr


def test_undoing_where_nothing_was_made_is_no_error(tmp_path: Path) -> None:
    assert make(bare(tmp_path), "down").returncode == 0
    assert make(tmp_path, "clean").returncode == 0
