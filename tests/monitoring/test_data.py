"""Figure data: what is refused and how it is said, and that what is stored comes back."""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from embervlm.monitoring import data as d
from tests.monitoring.samples import SAMPLES, confusion, flow, performance

KINDS = list(SAMPLES)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_saved_data_comes_back_whole(kind: type[d.FigureData], tmp_path: Path) -> None:
    data = SAMPLES[kind]()
    data.save(tmp_path / "here" / "it")
    again = kind.load(tmp_path / "here" / "it")
    assert again.equals(data)
    assert sorted(p.name for p in (tmp_path / "here").iterdir()) == ["it.json", "it.npz"]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_field_is_documented_with_its_shape(kind: type[d.FigureData]) -> None:
    doc = inspect.getdoc(kind) or ""
    for entry in fields(kind):
        if entry.name != "source":
            assert re.search(rf"^ *(\w+, )*{entry.name}(, \w+)*: ", doc, re.MULTILINE), entry.name


def test_names_are_one_file_each() -> None:
    places = [(kind.home, kind.name) for kind in KINDS]
    assert len(set(places)) == len(places)
    assert {kind.home for kind in KINDS} == {"stage1", "stage2", "stage3", "stage4", "cross"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"correct": np.zeros((5, 4))}, r"stage3/robot_performance_lines: correct: N is 4 here and 5 in robots"),
        ({"correct": np.zeros(5)}, r"correct: expected 2 dimensions \(S, N\), found shape \(5,\)"),
        ({"correct": np.full((5, 5), 0.5)}, "expected int values"),
        ({"correct": np.full((5, 5), 1000)}, "more right answers than tasks"),
        ({"total": np.full((5, 5), -1)}, "smallest value allowed is 0"),
        ({"steps": [100, 200, 200, 300, 400]}, "must rise strictly"),
        ({"steps": ["a"] * 5}, "expected numbers"),
        ({"steps": []}, "dimension S is empty"),
        ({"robots": ("a", "b", "c", "d", "a")}, "two of them are called 'a'"),
        ({"robots": ("a", "b", "c", "d", " ")}, r"robots\[4\]: expected a text"),
        ({"robots": "abcde"}, "expected a list, found str"),
        ({"metric": 3}, "metric: expected a text"),
        ({"total": [[1, 2], [1]]}, "rows of different lengths"),
    ],
)
def test_wrong_data_is_refused_by_name(change: dict[str, object], message: str) -> None:
    with pytest.raises(d.FigureDataError, match=message):
        replace(performance(), **change)


def test_missing_is_nan_only_where_declared() -> None:
    values = np.full((5, 49), 0.5)
    values[0, 0] = np.nan
    with pytest.raises(d.FigureDataError, match="similarity: 1 of 245 values are not finite"):
        d.SimilarityEvolution(steps=[1, 2, 3, 4, 5], similarity=values)
    values = np.full((5, 16), 2.0)
    values[0, 0] = np.nan
    assert np.isnan(d.PerplexityByPosition(steps=[1, 2, 3, 4, 5], perplexity=values).perplexity[0, 0])
    values[0, 0] = np.inf
    with pytest.raises(d.FigureDataError, match="not finite"):
        d.PerplexityByPosition(steps=[1, 2, 3, 4, 5], perplexity=values)


def test_places_choices_and_citations_are_checked() -> None:
    with pytest.raises(d.FigureDataError, match="category: places must be 0 to 3, found 0 to 4"):
        replace(SAMPLES[d.InstructionComplexity](), category=[4] + [0] * 15)
    with pytest.raises(d.FigureDataError, match="'mlp' is not one of attention, ffn, adapter"):
        replace(SAMPLES[d.LayerBudget](), kinds=["mlp"] * 10)
    with pytest.raises(d.FigureDataError, match="'SmolVLM-256M' needs a citation"):
        replace(SAMPLES[d.EfficiencyPareto](), origins=("a", "b", "", "c", "d"))
    links = flow()
    with pytest.raises(d.FigureDataError, match="does not lead to a later column"):
        replace(links, start=links.end, end=links.start)


def test_arrays_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        performance().correct[0, 0] = 1


def test_damaged_foreign_and_newer_files_are_named(tmp_path: Path) -> None:
    stem = tmp_path / "it"
    performance().save(stem)
    with pytest.raises(d.FigureDataError, match=r"holds embervlm/stage3/robot_performance_lines version 1"):
        d.ConfusionEvolution.load(stem)
    header = json.loads((tmp_path / "it.json").read_text())
    (tmp_path / "it.json").write_text(json.dumps(header | {"version": 9}))
    with pytest.raises(d.FigureDataError, match="version 9, this code reads"):
        d.RobotPerformance.load(stem)
    (tmp_path / "it.json").write_text(json.dumps(header | {"values": {}}))
    with pytest.raises(d.FigureDataError, match="fields differ from the schema: metric, robots, source"):
        d.RobotPerformance.load(stem)
    performance().save(stem)
    (tmp_path / "it.npz").write_bytes((tmp_path / "it.npz").read_bytes()[:200])
    with pytest.raises(d.FigureDataError, match=r"it\.npz: cannot be read"):
        d.RobotPerformance.load(stem)
    (tmp_path / "it.json").unlink()
    with pytest.raises(d.FigureDataError, match=r"it\.json: cannot be read"):
        d.RobotPerformance.load(stem)


def parts_of(data: d.ConfusionEvolution) -> list[d.ConfusionEvolution]:
    return [replace(data, steps=data.steps[i : i + 1], counts=data.counts[i : i + 1]) for i in range(len(data.steps))]


def test_store_joins_what_evaluations_wrote_in_any_order(tmp_path: Path) -> None:
    store, whole = d.FigureStore(tmp_path), confusion()
    for part in reversed(parts_of(whole)):
        store.write(part)
    store.write(parts_of(whole)[0])  # written again after a resume
    joined = store.read(d.ConfusionEvolution)
    assert joined is not None
    assert joined.equals(whole)
    assert (tmp_path / "stage3/figure_data/confusion_evolution/step-000100.npz").is_file()
    assert [part.last_step() for part in store.series(d.ConfusionEvolution)] == [100, 200, 300, 400, 500]


def test_store_takes_the_last_of_what_does_not_grow(tmp_path: Path) -> None:
    store = d.FigureStore(tmp_path)
    assert store.read(d.Calibration) is None
    for step in (900, 1000, 20):
        store.write(d.Calibration(confidence=[0.5], correct=[step == 1000], step=step))
    last = store.read(d.Calibration)
    assert last is not None
    assert last.step == 1000
    store.write(SAMPLES[d.Ablation]())
    assert (tmp_path / "figures/figure_data/ablation_tornado/final.npz").is_file()


def test_parts_of_different_runs_do_not_join(tmp_path: Path) -> None:
    first, second = parts_of(confusion())[:2]
    with pytest.raises(d.FigureDataError, match="robots: differs between parts of one run"):
        d.ConfusionEvolution.join([first, replace(second, robots=("a", "b", "c", "d", "e"))])
    with pytest.raises(d.FigureDataError, match="0 parts cannot be joined"):
        d.ConfusionEvolution.join([])
