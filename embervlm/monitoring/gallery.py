"""All figures of a run: what they are, and drawing them again from what was recorded.

report = draw_run("outputs")
report.missing()   # what was not drawn, and why
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from embervlm.monitoring import data as d
from embervlm.monitoring import stage_visualizations as v
from embervlm.monitoring.canvas import Canvas
from embervlm.monitoring.data import FigureData, FigureDataError, FigureStore
from embervlm.monitoring.entries import GALLERY, GROUPS, Entry
from embervlm.monitoring.findings import finding

VISUALIZERS: dict[str, type[Canvas]] = {
    "stage1": v.Stage1Visualizer,
    "stage2": v.Stage2Visualizer,
    "stage3": v.Stage3Visualizer,
    "stage4": v.Stage4Visualizer,
    "cross": v.CrossStageVisualizer,
}


@dataclass(frozen=True)
class Options:
    """How figures are drawn: resolution, colours, whether PDF and SVG and the per-step series are made.

    With `changed` a figure whose files are newer than its data stays as it is.
    """

    dpi: int = 300
    safe_colors: bool = False
    vector: bool = True
    series: bool = True
    changed: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of one figure or series.

    Attributes:
        home, name: which ("stage3", "robot_radar_chart").
        files: written, the PNG (or GIF) first; empty where it was not drawn.
        reason: why it was not drawn; "" where it was.
        finding: a sentence on what its data shows, "" for a series.
        source: where the data came from.
        key: under which a tracker keeps it.
        seconds: that drawing took.
    """

    home: str
    name: str
    files: tuple[Path, ...] = ()
    reason: str = ""
    finding: str = ""
    source: str = ""
    key: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class GalleryReport:
    """Outcome of every figure and series of a run, in the order of the gallery."""

    run: Path
    outcomes: tuple[Outcome, ...]

    def drawn(self) -> list[Outcome]:
        """What was drawn."""
        return [outcome for outcome in self.outcomes if not outcome.reason]

    def missing(self) -> dict[str, str]:
        """{home/name: why it was not drawn}."""
        return {f"{o.home}/{o.name}": o.reason for o in self.outcomes if o.reason}

    def files(self) -> list[Path]:
        """Every file written."""
        return [path for outcome in self.outcomes for path in outcome.files]

    def text(self) -> str:
        """The report in lines for a terminal."""
        lines = [f"{len(self.drawn())} of {len(self.outcomes)} figures and series drawn, {len(self.files())} files"]
        lines += [f"not drawn: {name}: {reason}" for name, reason in self.missing().items()]
        return "\n".join(lines)

    def write(self) -> Path:
        """Keep the report as `figures/figures.json`, paths relative to the run."""
        rows = [
            {
                "figure": f"{o.home}/{o.name}",
                "key": o.key,
                "group": GROUPS[o.home],
                "files": [path.relative_to(self.run).as_posix() for path in o.files],
                "not_drawn": o.reason or None,
                "finding": o.finding,
                "source": o.source,
                "series": o.name in SERIES,
            }
            for o in self.outcomes
        ]
        path = self.run / "figures" / "figures.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return path


def figure_folder(store: FigureStore, home: str) -> Path:
    """Where the figures of a stage, or those across stages, are written."""
    return store.home(home) if home == "cross" else store.home(home) / "visualizations"


def visualizer(run: str | Path, home: str, options: Options | None = None) -> Canvas:
    """The visualizer of a stage ("stage1" … "stage4") or "cross", writing into the run's folders."""
    options = options or Options()
    folder = figure_folder(FigureStore(run), home)
    return VISUALIZERS[home](folder, dpi=options.dpi, safe_colors=options.safe_colors, vector=options.vector)


def draw_entry(run: str | Path, entry: Entry, options: Options | None = None) -> Outcome:
    """Draw one figure from what the run recorded.

    Where there is no data for it, or data that cannot be used, nothing is drawn, the outcome says why, and files that
    an earlier drawing left are removed: a figure never outlives its data.
    """
    start = time.perf_counter()
    store, home, name = FigureStore(run), entry.kind.home, entry.kind.name
    canvas = visualizer(run, home, options)
    kept = _up_to_date(store, entry, canvas) if options is not None and options.changed else ()
    try:
        data = store.read(entry.kind)
        if data is None:
            return _not_drawn(canvas, entry, store.reason(entry.kind))
        if not kept:
            getattr(canvas, entry.method)(data)
    except FigureDataError as error:
        return _not_drawn(canvas, entry, str(error))
    files = sorted(kept or canvas.written, key=lambda path: (path.parent != canvas.output_dir, path.suffix != ".png"))
    seconds = time.perf_counter() - start
    return Outcome(home, name, tuple(files), "", finding(data), data.source, entry.key, seconds)


def _places(canvas: Canvas, entry: Entry) -> list[Path]:
    """Every file that a figure may have."""
    places = (place.rpartition("/") for place in ("png", "gif", "png/png", "pdf/pdf", "svg/svg"))
    return [canvas.output_dir / folder / f"{entry.kind.name}.{ending}" for folder, _, ending in places]


def _up_to_date(store: FigureStore, entry: Entry, canvas: Canvas) -> list[Path]:
    """The figure's files where there are some and all are newer than its data; else none."""
    files = [path for path in _places(canvas, entry) if path.is_file()]
    return files if _fresh(files, store, entry.kind) else []


def _fresh(files: list[Path], store: FigureStore, kind: type[FigureData]) -> bool:
    """Whether there are files, and all are newer than the data that they are drawn from."""
    data = [path.stat().st_mtime_ns for path in store.folder(kind).glob("*")]
    return bool(files and data) and min(path.stat().st_mtime_ns for path in files) > max(data)


def _not_drawn(canvas: Canvas, entry: Entry, reason: str) -> Outcome:
    for path in _places(canvas, entry):
        path.unlink(missing_ok=True)
    return Outcome(entry.kind.home, entry.kind.name, reason=reason, key=entry.key)


# ---------------------------------------------------------------------- series


def _confusions(store: FigureStore, canvas: v.Stage3Visualizer) -> Iterator[FigureData]:
    data = store.read(d.ConfusionEvolution)
    for place in range(len(data.steps) if data else 0):
        assert data is not None
        canvas.plot_confusion_step(data, place)
        yield data


def _radars(store: FigureStore, canvas: v.Stage3Visualizer) -> Iterator[FigureData]:
    for data in store.series(d.RobotRadar):
        canvas.plot_per_robot_radar(data, data.step)
        yield data


def _calibrations(store: FigureStore, canvas: v.Stage3Visualizer) -> Iterator[FigureData]:
    for data in store.series(d.Calibration):
        canvas.plot_confidence_calibration(data.confidence, data.correct, data.step, source=data.source)
        yield data


def _curves(store: FigureStore, canvas: v.Stage3Visualizer) -> Iterator[FigureData]:
    data = store.read(d.TrainingCurves)
    for step in data.evaluations if data else ():
        assert data is not None
        canvas.plot_training_curves(data, int(step))
        yield data


def _qualities(store: FigureStore, canvas: v.Stage4Visualizer) -> Iterator[FigureData]:
    for data in store.series(d.ReasoningDashboard):
        canvas.plot_reasoning_quality_metrics(
            data.coherence, data.consistency, data.step_counts, data.step, source=data.source
        )
        yield data


def _attentions(store: FigureStore, canvas: v.Stage4Visualizer) -> Iterator[FigureData]:
    for data in store.series(d.AttentionMaps):
        canvas.plot_attention_maps(data)
        yield data


def _consistencies(store: FigureStore, canvas: v.Stage4Visualizer) -> Iterator[FigureData]:
    for data in store.series(d.ReasoningConsistency):
        canvas.plot_consistency_step(data)
        yield data


@dataclass(frozen=True)
class Series:
    """A folder of figures per step: its data's class, and what draws them all."""

    kind: type[FigureData]
    draw: Callable[..., Iterator[FigureData]]

    @property
    def home(self) -> str:
        """The stage."""
        return self.kind.home


SERIES: dict[str, Series] = {
    "confusion_matrices": Series(d.ConfusionEvolution, _confusions),
    "radar_charts": Series(d.RobotRadar, _radars),
    "calibration_plots": Series(d.Calibration, _calibrations),
    "training_curves": Series(d.TrainingCurves, _curves),
    "reasoning_quality": Series(d.ReasoningDashboard, _qualities),
    "attention_maps": Series(d.AttentionMaps, _attentions),
    "consistency_plots": Series(d.ReasoningConsistency, _consistencies),
}


def draw_series(run: str | Path, name: str, options: Options | None = None) -> Outcome:
    """Draw one folder of figures per step; what an earlier drawing left in it is removed first."""
    start = time.perf_counter()
    series, store = SERIES[name], FigureStore(run)
    home, canvas = series.home, visualizer(run, series.home, options)
    old = sorted((canvas.output_dir / name).glob("step_*.png"))
    if options is not None and options.changed and _fresh(old, store, series.kind):
        source = store.series(series.kind)[-1].source
        return Outcome(home, name, tuple(old), "", "", source, f"{home}/{name}", time.perf_counter() - start)
    for path in old:
        path.unlink()
    source = reason = ""
    try:
        for data in series.draw(store, canvas):
            source = data.source
    except FigureDataError as error:
        reason = str(error)
    if not canvas.written and not reason:
        reason = "no step was recorded"
    seconds = time.perf_counter() - start
    return Outcome(home, name, tuple(canvas.written), reason, "", source, f"{home}/{name}", seconds)


# ------------------------------------------------------------------ everything


def _draw(run: str, job: Entry | str, options: Options) -> Outcome:
    return draw_series(run, job, options) if isinstance(job, str) else draw_entry(run, job, options)


def draw_run(run: str | Path, options: Options | None = None, workers: int = 1) -> GalleryReport:
    """Draw every figure and series of a run again and keep the report in `figures/figures.json`.

    Args:
        run: the run's folder.
        options: see `Options`.
        workers: processes that draw; 1 draws in this one.

    Raises:
        FigureDataError: the folder does not exist.
        ExceptionGroup: drawing itself failed somewhere; the rest was drawn and reported before.
    """
    run, options = Path(run), options or Options()
    if not run.is_dir():
        raise FigureDataError(f"{run}: no such folder; name the output folder of a run")
    jobs: list[Entry | str] = [*GALLERY, *(SERIES if options.series else ())]
    outcomes: list[Outcome] = []
    errors: list[Exception] = []
    calls: list[Callable[[], Outcome]]
    store = FigureStore(run)
    workers = min(workers, sum(bool(store.stems(entry.kind)) for entry in GALLERY))
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) if workers > 1 else None
    try:
        if pool is None:
            calls = [lambda job=job: _draw(str(run), job, options) for job in jobs]  # type: ignore[misc]
        else:
            # Series take longest: begun last, they would leave the other processes nothing to do beside them.
            order = sorted(jobs, key=lambda job: not isinstance(job, str))
            begun = {job: pool.submit(_draw, str(run), job, options) for job in order}
            calls = [begun[job].result for job in jobs]
        for job, call in zip(jobs, calls, strict=True):
            name = job if isinstance(job, str) else job.kind.name
            home = SERIES[job].home if isinstance(job, str) else job.kind.home
            try:
                outcomes.append(call())
            except Exception as error:  # noqa: BLE001 - raised below, after the other figures
                error.add_note(f"while drawing {home}/{name}")
                errors.append(error)
                outcomes.append(Outcome(home, name, reason=f"drawing failed: {type(error).__name__}: {error}"))
    finally:
        if pool is not None:
            pool.shutdown()
    report = GalleryReport(run, tuple(outcomes))
    report.write()
    if errors:
        raise ExceptionGroup(f"{len(errors)} figures failed", errors)
    return report
