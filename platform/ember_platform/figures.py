"""The figures of a run: which models each stage left, measuring on them, drawing, reports.

Nothing here runs in a training worker. The workers keep their history and, `figures.snapshots` times a phase, the
weights; the rest happens after a stage in the process that also evaluates it.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ember_platform import energy, storage
from ember_platform.config import RunConfig
from ember_platform.data.manifest import Manifest
from ember_platform.train import folders, setup

if TYPE_CHECKING:
    import numpy as np

    from embervlm.monitoring.measuring import Moment, StageRun

SNAPSHOTS, TABLES, GAIN = "snapshots", "tables.json", "gain.json"
#: Models of a stage that are measured at most.
MOMENTS = 5
#: Stages that have figures of their own.
STAGES = (1, 2, 3, 4)
#: What drawing leaves in a run, as it is copied where the run is kept elsewhere.
_DRAWN = ("visualizations/", "figure_data/", "figures/", "report.")


class FiguresError(RuntimeError):
    """Figures that could not be measured or drawn. The message says which and why."""


def snapshot_steps(steps: int, count: int, last: bool) -> set[int]:
    """Optimizer steps of a phase after which the weights are kept: evenly spaced; its end where others follow it."""
    inner = {round(steps * i / (count + 1)) for i in range(1, count + 1)}
    return (inner - {0, steps}) | (set() if last or not count else {steps})


def snapshot_folder(stage_dir: str, step: int) -> str:
    """Where the weights after an optimizer step (counted over all phases) are kept."""
    return storage.join(stage_dir, SNAPSHOTS, f"step-{step:06d}")


# --------------------------------------------------------------------- measuring


def measure(config: RunConfig, number: int, data_dir: str, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Measure what a finished stage's figures are drawn from; its snapshots are then removed.

    Returns:
        What the stage gained (`embervlm.monitoring.measuring.measure_stage`).

    Raises:
        FiguresError: the stage left no model.
    """
    from embervlm.monitoring.data import FigureStore
    from embervlm.monitoring.measuring import measure_stage

    with local_run(config) as run:
        gained = measure_stage(FigureStore(run), stage_run(config, number, data_dir, run))
        folders.write_json(str(run / f"stage{number}" / GAIN), gained)
    for path in storage.list_files(storage.join(folders.stage_dir(config.output_dir, number), SNAPSHOTS)):
        storage.delete(path)
    say(f"stage {number}: measured for its figures")
    return gained


def measure_rest(config: RunConfig, data_dir: str) -> None:
    """Measure what crosses the stages that are done."""
    from embervlm.monitoring.data import FigureStore
    from embervlm.monitoring.measuring import measure_across

    with local_run(config) as run:
        done = [n for n in STAGES if folders.read_json(str(run / f"stage{n}" / folders.DONE)) is not None]
        if done:
            loader = Loader(config)
            runs = [stage_run(config, n, data_dir, run, loader) for n in done]
            gains = {n: folders.read_json(str(run / f"stage{n}" / GAIN)) for n in done}
            measure_across(FigureStore(run), runs, {n: g for n, g in gains.items() if g}, machine())


def stage_run(
    config: RunConfig, number: int, data_dir: str, run: Path, loader: Callable[[Path], tuple[Any, Any]] | None = None
) -> StageRun:
    """What a finished stage left in a run's folder, and its validation and test records.

    Args:
        config, number, data_dir: of the run, the stage and its data.
        run: the run's folder, a local one.
        loader: reads a model folder; a `Loader` of its own where None.

    Raises:
        FiguresError: the stage is not done.
    """
    from embervlm.monitoring.measuring import StageRun

    folder = run / f"stage{number}"
    done = folders.read_json(str(folder / folders.DONE))
    if done is None:
        raise FiguresError(f"{folder}: no {folders.DONE}; train the stage first")
    manifest, history = Manifest.load(data_dir), history_of(folder)
    found = folders.read_json(str(folder / folders.METRICS)) or {}
    settings = config.stage(number)
    return StageRun(
        number=number,
        moments=moments(run, number, done, history),
        load=loader or Loader(config),
        validation=setup.split_records(manifest, number, "validation", settings.eval_samples, config.seed),
        test=setup.split_records(manifest, number, "test", config.evaluation.samples, config.seed),
        tables=_tables(config, number, folder),
        metrics=found.get("metrics", {}),
        baselines=found.get("baselines", {}),
        history=history,
        phase_ends=phase_ends(history),
        emissions=energy.read(str(folder)),
        teacher=Path(config.teacher.model).name if number == 2 and config.teacher.model else "",
    )


class Loader:
    """Reads model folders. Models with one tokenizer share a processor, which remembers the texts that it has read."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self._processors: dict[bytes, Any] = {}

    def __call__(self, folder: Path) -> tuple[Any, Any]:
        """The model, on the configured device, and its processor."""
        from embervlm import EmberVLM, EmberVLMProcessor

        key = b"".join((folder / name).read_bytes() for name in ("tokenizer.json", "processor_config.json"))
        if key not in self._processors:
            self._processors[key] = EmberVLMProcessor.from_pretrained(folder)
        model: Any = EmberVLM.from_pretrained(folder)
        return model.to(setup.device_of(self.config)), self._processors[key]


def _tables(config: RunConfig, number: int, folder: Path) -> dict[str, Any]:
    """The evaluation's tables as the pipeline kept them, else of an evaluation made now."""
    kept = folders.read_json(str(folder / TABLES))
    if kept is None:
        from ember_platform.measure import measure_stage

        quick = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"baselines": False})})
        kept = measure_stage(quick, number, folder / folders.FINAL)["tables"]
        folders.write_json(str(folder / TABLES), kept)
    return kept


def history_of(folder: str | Path) -> dict[str, np.ndarray]:
    """Columns of a stage's history as arrays; a value that a step does not have is NaN. The folder may be on S3."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(pa.BufferReader(storage.read_bytes(storage.join(str(folder), folders.HISTORY))))
    return {name: table[name].to_pandas().to_numpy(dtype=float) for name in table.column_names}


def phase_ends(history: dict[str, np.ndarray]) -> list[int]:
    """Optimizer steps after which each phase but the last ended."""
    phases = history["phase"]
    return [int(history["step"][phases == p].max()) for p in sorted(set(phases))[:-1]]


def moments(run: Path, number: int, done: dict[str, Any], history: dict[str, np.ndarray]) -> list[Moment]:
    """The stage's models in order: what it started from, snapshots and kept checkpoints, its product."""
    from embervlm.monitoring.measuring import Moment
    from embervlm.monitoring.measuring.moments import evenly

    folder = run / f"stage{number}"
    best = (history["phase"] == done["best"]["phase"]) & (history["phase_step"] == done["best"]["step"])
    last = int(history["step"][best].max())
    found: dict[int, Path] = {}
    for path in folder.glob("checkpoint-*/state.json"):
        state = folders.read_json(str(path)) or {}
        if (path.parent / "model" / "config.json").is_file() and state.get("digest") == done["digest"]:
            found[int(state["total_step"])] = path.parent / "model"
    for path in (folder / SNAPSHOTS).glob("step-*/config.json"):
        found[int(path.parent.name.removeprefix("step-"))] = path.parent
    between = sorted(step for step in found if 0 < step < last)
    kept = {step for step in phase_ends(history) if step in between}
    kept |= set(evenly(between, MOMENTS - 2))
    start = _parent(run, number, done)
    first = [Moment(0, start)] if start is not None else []
    return [*first, *(Moment(step, found[step]) for step in sorted(kept)), Moment(last, folder / folders.FINAL)]


def _parent(run: Path, number: int, done: dict[str, Any]) -> Path | None:
    """The model that a stage started from, where it is still there."""
    before = [run / f"stage{number - 1}" / folders.FINAL, run / "begin"]
    given = [Path(done["parent"])] if storage.is_local(done["parent"]) else []
    return next((path for path in (*given, *before) if (path / "config.json").is_file()), None)


def machine() -> str:
    """This machine in a few words, for the axis of a latency."""
    cores = len(os.sched_getaffinity(0))
    return f"{platform.machine()}, {cores} core{'s' if cores > 1 else ''}, PyTorch on the CPU"


# ----------------------------------------------------------------------- drawing


def draw(config: RunConfig, report: bool) -> list[str]:
    """Draw the figures whose data is new and, where asked for, write the reports; lines that say what was done.

    The command line draws in processes of its own, so that no matplotlib stays in this one.

    Raises:
        FiguresError: drawing failed; with the end of what it said.
    """
    with local_run(config) as run:
        workers = max(1, len(os.sched_getaffinity(0)))
        command = [sys.executable, "-m", "embervlm.cli", "figures", "--run", str(run), "--changed"]
        command += ["--workers", str(workers), *(["--report"] if report else [])]
        command += ["--safe-colors"] if config.figures.safe_colors else []
        # What Ray put on this process's path must be on that one's, too.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
        ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if ended.returncode:
            raise FiguresError(f"drawing failed: {ended.stderr.strip()[-2000:]}")
        return ended.stdout.strip().splitlines()


@contextlib.contextmanager
def local_run(config: RunConfig, read: bool = True) -> Iterator[Path]:
    """The run's folder as a local one: itself, or a copy whose new figures and data are put back afterwards.

    Without `read` such a copy begins empty, for who only writes.
    """
    if storage.is_local(config.output_dir):
        yield Path(storage.resolve(config.output_dir)[1])
        return
    root = config.output_dir.rstrip("/")
    with tempfile.TemporaryDirectory(prefix="embervlm-run-") as temporary:
        for place in storage.list_files(root) if read else ():
            name = place.removeprefix(f"{root}/")
            if _needed(name):
                Path(temporary, name).parent.mkdir(parents=True, exist_ok=True)
                Path(temporary, name).write_bytes(storage.read_bytes(place))
        before = {p: p.stat().st_mtime_ns for p in Path(temporary).rglob("*") if p.is_file()}
        yield Path(temporary)
        for path in Path(temporary).rglob("*"):
            name = path.relative_to(temporary).as_posix()
            wanted = any(part in name for part in _DRAWN) or path.name in (GAIN, TABLES)
            if path.is_file() and wanted and path.stat().st_mtime_ns != before.get(path):
                storage.write_bytes(storage.join(root, name), path.read_bytes())


def _needed(name: str) -> bool:
    """Whether a file of a run is read when figures are measured or drawn."""
    top, _, rest = name.partition("/")
    if top in ("begin", "figures"):
        return True
    return top in {f"stage{n}" for n in range(5)} and "/engine/" not in rest


def drawn(config: RunConfig) -> Iterator[tuple[str, str, str]]:
    """Tracker group, key and path of the PNG of every figure that was drawn, as `figures/figures.json` says."""
    path = storage.join(config.output_dir, "figures", "figures.json")
    if not storage.exists(path):
        return
    for row in json.loads(storage.read_bytes(path)):
        image = next((name for name in row["files"] if name.endswith(".png")), None)
        if image is not None and not row["series"]:
            yield row["group"], row["key"], storage.join(config.output_dir, image)
