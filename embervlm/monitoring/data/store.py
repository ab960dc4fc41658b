"""Where a run keeps what its figures are drawn from.

    <run>/stage3/figure_data/confusion_evolution/step-000785.npz, .json
    <run>/figures/figure_data/ablation_tornado/final.npz, .json

Every evaluation may write a part of its own; writing a step again replaces it, so a run that was resumed leaves no
part twice.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from embervlm.monitoring.data.base import FigureData, FigureDataError

D = TypeVar("D", bound=FigureData)

_STEP = re.compile(r"step-(\d+)$")
_FINAL = "final"
_NOTE = "not_measured.txt"


class FigureStore:
    """The figure data of one run folder. Reading changes nothing; writing makes the folders it needs."""

    def __init__(self, run: str | Path) -> None:
        self.run = Path(run)

    def folder(self, kind: type[FigureData]) -> Path:
        """Where the parts of a figure's data are."""
        return self.home(kind.home) / "figure_data" / kind.name

    def home(self, home: str) -> Path:
        """The folder of a stage, or `figures` for what crosses stages."""
        return self.run / ("figures" if home == "cross" else home)

    def write(self, data: FigureData) -> Path:
        """Keep the data under the step that it was recorded at; returns the path of its JSON."""
        step = data.last_step()
        return data.save(self.folder(type(data)) / (_FINAL if step is None else f"step-{step:06d}"))

    def note(self, kind: type[FigureData], reason: str) -> None:
        """Keep why a figure's data could not be measured."""
        folder = self.folder(kind)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _NOTE).write_text(f"{reason}\n", encoding="utf-8")

    def reason(self, kind: type[FigureData]) -> str:
        """Why a figure has no data: what was noted, else that nothing was recorded."""
        path = self.folder(kind) / _NOTE
        if path.is_file():
            return path.read_text(encoding="utf-8").strip()
        return f"nothing was recorded in {self.folder(kind).relative_to(self.run).as_posix()}/"

    def clear(self, home: str, keep: Sequence[type[FigureData]] = ()) -> None:
        """Forget what was measured for a stage, or across them, but for some figures."""
        kept = {kind.name for kind in keep}
        for folder in (self.home(home) / "figure_data").glob("*/"):
            if folder.name not in kept:
                shutil.rmtree(folder)

    def stems(self, kind: type[FigureData]) -> list[Path]:
        """Every part without ending, in the order of their steps."""
        found: list[tuple[int, Path]] = []
        for path in self.folder(kind).glob("*.json"):
            stem = path.with_suffix("")
            match = _STEP.fullmatch(stem.name)
            if match or stem.name == _FINAL:
                found.append((int(match[1]) if match else -1, stem))
        return [stem for _, stem in sorted(found)]

    def series(self, kind: type[D]) -> list[D]:
        """Every part, in the order of their steps."""
        return [kind.load(stem) for stem in self.stems(kind)]

    def read(self, kind: type[D]) -> D | None:
        """The data of a figure: all parts joined where it grows during a run, else the last; None where there is none.

        Raises:
            FigureDataError: a part is damaged, of another version, or does not belong to the others.
        """
        stems = self.stems(kind)
        if not stems:
            return None
        if not kind.along:
            return kind.load(stems[-1])
        try:
            return kind.join(self.series(kind))
        except FigureDataError as error:
            raise FigureDataError(f"{self.folder(kind)}: {error}") from error
