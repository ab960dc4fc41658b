"""What the platform does for figures: which models are kept and measured, energy, pictures to the trackers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ember_platform import energy, figures, storage
from ember_platform.config import FiguresConfig, RunConfig, TrackingConfig
from ember_platform.mlflow_store import open_store
from ember_platform.tracking import Tracker
from embervlm.monitoring.data import FigureStore
from tests.monitoring import samples
from tests.s3 import BUCKET, local_s3


def stage_folder(run: Path, number: int, best: tuple[int, int]) -> dict[str, Any]:
    """A stage of two phases of 4 steps with snapshots, checkpoints and a product."""
    folder = run / f"stage{number}"
    for step in (1, 3, 4, 7):
        put(folder / "snapshots" / f"step-{step:06d}" / "config.json")
    for phase, step, digest in ((0, 4, "mine"), (1, 2, "mine"), (1, 3, "another")):
        put(folder / f"checkpoint-{phase}-{step:06d}" / "model" / "config.json")
        state = {"total_step": 4 * phase + step, "digest": digest}
        put(folder / f"checkpoint-{phase}-{step:06d}" / "state.json", json.dumps(state))
    put(folder / "final" / "config.json")
    rows = {"step": range(1, 9), "phase": [0] * 4 + [1] * 4, "phase_step": [1, 2, 3, 4] * 2}
    values = {**{k: list(v) for k, v in rows.items()}, "loss": [1.0] * 8, "val_a": [None] * 7 + [0.5]}
    pq.write_table(pa.table(values), folder / "history.parquet")
    return {"parent": str(run / "gone"), "digest": "mine", "best": {"phase": best[0], "step": best[1]}}


def put(path: Path, text: str = "{}") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_moments_are_parent_snapshots_checkpoints_and_product(tmp_path: Path) -> None:
    done = stage_folder(tmp_path, 4, (1, 4))
    put(tmp_path / "stage3" / "final" / "config.json")
    history = figures.history_of(tmp_path / "stage4")
    assert np.isnan(history["val_a"][:7]).all()
    assert figures.phase_ends(history) == [4]
    found = [(m.step, m.folder.relative_to(tmp_path).as_posix()) for m in figures.moments(tmp_path, 4, done, history)]
    assert found == [
        (0, "stage3/final"),
        (1, "stage4/snapshots/step-000001"),
        (4, "stage4/snapshots/step-000004"),
        (7, "stage4/snapshots/step-000007"),
        (8, "stage4/final"),
    ]


def test_nothing_is_measured_after_the_best(tmp_path: Path) -> None:
    done = stage_folder(tmp_path, 4, (1, 1))
    history = figures.history_of(tmp_path / "stage4")
    steps = [moment.step for moment in figures.moments(tmp_path, 4, done, history)]
    assert steps == [1, 3, 4, 5]


@pytest.mark.parametrize(
    ("steps", "count", "last", "due"),
    [(125, 3, True, {31, 62, 94}), (100, 1, False, {50, 100}), (1, 3, True, set()), (50, 0, False, set())],
)
def test_snapshots_lie_evenly_and_close_a_phase(steps: int, count: int, last: bool, due: set[int]) -> None:
    assert figures.snapshot_steps(steps, count, last) == due


def test_a_stage_that_is_not_done_is_named(tmp_path: Path) -> None:
    with pytest.raises(figures.FiguresError, match=r"stage3: no done\.json"):
        figures.stage_run(RunConfig(output_dir=str(tmp_path)), 3, "data", tmp_path)


class Meter:
    """codecarbon's tracker, without its seconds."""

    def __init__(self, **named: Any) -> None:
        assert named["country_iso_code"] == "DEU"

    def start(self) -> None:
        pass

    def stop(self) -> None:
        self.final_emissions_data = SimpleNamespace(
            energy_consumed=0.002,
            emissions=0.0007,
            duration=3.0,
            gpu_energy=0.0,
            codecarbon_version="3",
            country_iso_code="DEU",
        )


def test_energy_is_kept_per_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "codecarbon", SimpleNamespace(OfflineEmissionsTracker=Meter))
    config = RunConfig(figures=FiguresConfig(country="DEU"))
    with energy.metered(config, str(tmp_path), "training"):
        pass
    with pytest.raises(KeyError), energy.metered(config, str(tmp_path), "evaluation"):
        raise KeyError("x")
    rows = energy.read(str(tmp_path))
    assert [row["part"] for row in rows] == ["training", "evaluation"]
    assert rows[0]["grams"] == pytest.approx(0.7)
    assert rows[0]["accounting"].startswith("codecarbon 3 offline, DEU, ")


def test_a_meter_that_is_not_there_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    with energy.metered(RunConfig(), str(tmp_path), "training"):
        pass
    assert energy.read(str(tmp_path)) == []
    assert "cannot be measured" in caplog.text


def drawn_run(folder: Path) -> list[tuple[str, str, str]]:
    rows = []
    for home, group, name in (("stage1", "stage1_align", "a"), ("cross", "cross_stage_analysis", "b")):
        place = folder / home / f"{name}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), "red").save(place)
        files = [place.relative_to(folder).as_posix()]
        common = {"group": group, "key": f"{home}/{name}", "files": files, "not_drawn": None}
        rows += [{**common, "series": False}, {**common, "key": f"{home}/series", "series": True}]
    rows.append({"group": "stage1_align", "key": "stage1/no", "files": [], "not_drawn": "no data", "series": False})
    put(folder / "figures" / "figures.json", json.dumps(rows))
    return list(figures.drawn(RunConfig(output_dir=str(folder))))


def test_figures_go_to_mlflow_and_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = drawn_run(tmp_path)
    assert [(group, key) for group, key, _ in found] == [
        ("stage1_align", "stage1/a"),
        ("cross_stage_analysis", "cross/b"),
    ]
    started: list[dict[str, Any]] = []
    logged: list[dict[str, Any]] = []
    fake = SimpleNamespace(
        init=lambda **named: started.append(named) or SimpleNamespace(log=logged.append, finish=lambda **k: None),
        Settings=lambda **named: None,
        Image=Path,
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    config = RunConfig(output_dir=str(tmp_path), tracking=TrackingConfig(wandb_project="p", wandb_mode="offline"))
    tracker = Tracker(config)
    run = tracker.start_pipeline()
    tracker.log_figures(found)
    assert "everything" in tracker.finish()
    client = open_store(config)
    assert [x.path for x in client.list_artifacts(run, "figures/stage1")] == ["figures/stage1/a.png"]
    assert [named["group"] for named in started] == ["stage1_align", "cross_stage_analysis"]
    assert [list(row) for row in logged] == [["stage1/a"], ["cross/b"]]
    assert logged[1]["cross/b"] == tmp_path / "cross" / "b.png"


def test_a_run_without_figures_has_none_to_show(tmp_path: Path) -> None:
    assert list(figures.drawn(RunConfig(output_dir=str(tmp_path)))) == []


def test_figures_of_a_run_on_s3(tmp_path: Path) -> None:
    """What was measured lies on S3; the drawn files are put there, and nothing else of the run is touched."""
    store = FigureStore(tmp_path)
    for make in (samples.retrieval, samples.benchmarks):
        store.write(make())
    with local_s3() as server:
        client, run = server.client(), f"s3://{BUCKET}/runs/one"
        for path in [p for p in tmp_path.rglob("*") if p.is_file()]:
            client.upload_file(str(path), BUCKET, f"runs/one/{path.relative_to(tmp_path).as_posix()}")
        client.put_object(Bucket=BUCKET, Key="runs/one/stage1/checkpoint-0-000001/engine/large", Body=b"not read")
        config = RunConfig(output_dir=run, tracking=TrackingConfig(mlflow_uri=f"sqlite:///{tmp_path / 'm.db'}"))
        said = figures.draw(config, report=False)
        assert said[0].startswith("2 of ")
        names = {row["Key"] for row in client.list_objects_v2(Bucket=BUCKET, Prefix="runs/one/")["Contents"]}
        for name in ("figures/benchmark_progression_heatmap", "stage1/visualizations/retrieval_accuracy_heatmap"):
            assert f"runs/one/{name}.png" in names
            folder, _, stem = name.rpartition("/")
            assert {f"runs/one/{folder}/{kind}/{stem}.{kind}" for kind in ("pdf", "svg")} <= names
        assert "runs/one/figures/figures.json" in names
        assert ("GET", "/runs/one/stage1/checkpoint-0-000001/engine/large") not in [
            (method, path.removeprefix(f"/{BUCKET}")) for method, path, _ in server.seen
        ]
        keys = {key: place for _, key, place in figures.drawn(config)}
        assert keys["stage1/retrieval_heatmap"] == f"{run}/stage1/visualizations/retrieval_accuracy_heatmap.png"
        assert storage.read_bytes(keys["cross/benchmark_heatmap"]).startswith(b"\x89PNG")
