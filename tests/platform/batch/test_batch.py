"""Many records: cut into parts, each answered once, bad ones set aside with a reason, gone on with after a crash."""

from __future__ import annotations

import base64
import importlib.util
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ember_platform.batch.answering import Answerer, Note, Options
from ember_platform.batch.parts import BatchError, Part, find_parts, read_part
from ember_platform.batch.run import Summary, load_engine, select_all
from ember_platform.config import RunConfig
from ember_platform.serving.engine import Engine
from ember_platform.serving.sources import source_of
from embervlm import EmberVLM
from embervlm.data.schema import to_table
from embervlm.world.dataset import build

ROOT = Path(__file__).resolve().parents[3]
ROBOTS = [{"name": "Crane", "capabilities": ["lifts steel"]}, {"name": "Boat", "environments": ["harbour"]}]


@pytest.fixture(scope="module")
def config(nano_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    serving = {"model": str(nano_folder), "replica": {"precision": "fp32"}, "limits": {"task_chars": 200}}
    return RunConfig(output_dir=str(tmp_path_factory.mktemp("batch")), serving=serving)


@pytest.fixture(scope="module")
def engine(config: RunConfig) -> Engine:
    found: Engine = load_engine(config, source_of(config).champion().facts.version)
    return found


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("picture") / "scene.png"
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path.read_bytes()


def jsonl(path: Path, *rows: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


class Here:
    """A runner without a cluster; `dies_after` parts it ends as a killed job does."""

    def __init__(self, engine: Engine, config: RunConfig, output: Path, dies_after: int | None = None) -> None:
        self.answerer = Answerer(engine, config.serving.limits, Options(batch_size=4), str(output))
        self.dies_after = dies_after
        self.keys: list[str] = []

    def __call__(self, wanted: list[tuple[Part, str]]) -> Iterator[Note]:
        for part, key in wanted:
            if self.dies_after is not None and len(self.keys) >= self.dies_after:
                raise KeyboardInterrupt
            self.keys.append(key)
            yield self.answerer.answer(part, key)


def run(config: RunConfig, engine: Engine, places: Iterable[Path], output: Path, **options: Any) -> Summary:
    runner = Here(engine, config, output, options.pop("dies_after", None))
    asked = Options(batch_size=4)
    return select_all(config, [str(p) for p in places], str(output), asked, 3, 1, runner, say=lambda line: None)


def answers(output: Path) -> dict[str, dict[str, Any]]:
    rows = [row for path in sorted((output / "answers").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    assert len({row["id"] for row in rows}) == len(rows), "no record is answered twice"
    return {row["id"]: row for row in rows}


def faults(output: Path) -> dict[str, tuple[str, str]]:
    found = [row for path in (output / "quarantine").glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    return {row["id"]: (row["field"], row["reason"]) for row in found}


def test_answers_are_the_model_s_own(config: RunConfig, engine: Engine, tmp_path: Path, nano_folder: Path) -> None:
    records = list(build("test", "selection", 7, 3, 64))
    pq.write_table(to_table(records), tmp_path / "shard.parquet", row_group_size=2)
    summary = run(config, engine, [tmp_path / "shard.parquet"], tmp_path / "out")
    assert (summary.parts, summary.rows, summary.answered, summary.bad_share) == (3, 7, 7, 0)
    found = answers(tmp_path / "out")
    asked = [{"image": r.image, "task": r.instruction, "fleet": r.robots} for r in records]
    for record, own in zip(records, EmberVLM.from_pretrained(nano_folder).eval().select_many(asked), strict=True):
        row = found[record.id]
        assert row["robot"] == own["robots"][0]["robot"]
        assert [r["robot"] for r in row["robots"]] == [r["robot"] for r in own["robots"]]
        assert row["confidence"] == pytest.approx(own["robots"][0]["confidence"], abs=1e-4)
        assert row["team"] == own["team"]
        assert row["none_of_these"] is row["familiarity"] is None, "the model has nothing fitted for them"
        assert row["version"].startswith("dir-")


def test_answers_say_how_far_they_can_be_trusted(config: RunConfig, fitted_folder: Path, tmp_path: Path) -> None:
    serving = config.serving.model_copy(update={"model": str(fitted_folder)})
    fitted = config.model_copy(update={"serving": serving})
    engine = load_engine(fitted, source_of(fitted).champion().facts.version)
    run(fitted, engine, [jsonl(tmp_path / "rows.jsonl", {"id": "a", "task": "inspect"})], tmp_path / "out")
    (own,) = EmberVLM.from_pretrained(fitted_folder).eval().select_many([{"task": "inspect"}])
    row = answers(tmp_path / "out")["a"]
    assert row["none_of_these"] == pytest.approx(own["none_of_these"], abs=1e-4)
    assert row["familiarity"] == own["familiarity"]
    request = tmp_path / "out" / "request.json"
    request.write_text(json.dumps({k: v for k, v in json.loads(request.read_text()).items() if k != "columns"}))
    with pytest.raises(BatchError, match="other columns"):  # as an output folder of before has it
        run(fitted, engine, [tmp_path / "rows.jsonl"], tmp_path / "out")


def test_bad_records_are_set_aside_with_their_reason(
    config: RunConfig, engine: Engine, tmp_path: Path, picture: bytes
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "scene.png").write_bytes(picture)
    coded = base64.b64encode(picture).decode()
    path = jsonl(
        tmp_path / "in" / "rows.jsonl",
        {"id": "good", "task": "inspect", "image": coded, "fleet": ROBOTS},
        {"id": "file", "task": "inspect", "image_path": "scene.png", "fleet": json.dumps({"robots": ROBOTS})},
        {"id": "bare", "instruction": "inspect"},
        "{broken",
        "[1, 2]",
        {"id": "blank", "task": "  "},
        {"id": "absent", "task": "inspect", "image_path": "nowhere.png"},
        {"id": "cut", "task": "inspect", "image": base64.b64encode(picture[: len(picture) // 2]).decode()},
        {"id": "text", "task": "inspect", "image": base64.b64encode(b"no picture").decode()},
        {"id": "odd", "task": "inspect", "image": "!!"},
        {"id": "long", "task": "x" * 201},
        {"id": "twins", "task": "inspect", "fleet": [ROBOTS[0], ROBOTS[0]]},
        {"id": "nobody", "task": "inspect", "fleet": "port-crew"},
        {"id": "number", "task": 7},
    )
    summary = run(config, engine, [path], tmp_path / "out")
    assert set(answers(tmp_path / "out")) == {"good", "file", "bare"}
    found = faults(tmp_path / "out")
    assert {key: field for key, (field, _) in found.items()} == {
        "rows.jsonl:3": "", "rows.jsonl:4": "", "blank": "task", "absent": "image", "cut": "image", "text": "image",
        "odd": "image", "long": "task", "twins": "fleet", "nobody": "fleet", "number": "task",
    }  # fmt: skip
    assert "not JSON" in found["rows.jsonl:3"][1]
    assert "nowhere.png" in found["absent"][1]
    assert (summary.rows, summary.answered, sum(summary.quarantined.values())) == (14, 3, 11)
    assert {r["robot"] for r in answers(tmp_path / "out")["file"]["robots"]} == {"Crane", "Boat"}


def test_a_killed_run_goes_on_where_it_was(config: RunConfig, engine: Engine, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", *({"id": str(i), "task": f"inspect hall {i}"} for i in range(10)))
    output = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(config, engine, [path], output, dies_after=2)
    written = {file.name: file.stat().st_mtime_ns for file in (output / "answers").iterdir()}
    # One part had its answers written and its note not: it is answered again, in the same place.
    (next(iter(sorted((output / ".notes").iterdir())))).unlink()
    summary = run(config, engine, [path], output)
    assert (summary.parts, summary.parts_now, summary.answered) == (4, 3, 10)
    assert set(answers(output)) == {str(i) for i in range(10)}
    kept = [name for name, at in written.items() if (output / "answers" / name).stat().st_mtime_ns == at]
    assert len(kept) == 1
    again = run(config, engine, [path], output)
    assert (again.parts_now, again.answered, again.answered_now) == (0, 10, 0)


def test_changed_input_is_answered_anew_and_old_answers_go(config: RunConfig, engine: Engine, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "in" / "rows.jsonl", *({"id": str(i), "task": "inspect"} for i in range(3)))
    run(config, engine, [tmp_path / "in"], tmp_path / "out")
    jsonl(path, {"id": "new", "task": "lift the crate"})
    jsonl(tmp_path / "in" / "more.jsonl", {"id": "more", "task": "lift the crate"}, {"id": "bad"})
    summary = run(config, engine, [tmp_path / "in"], tmp_path / "out")
    assert set(answers(tmp_path / "out")) == {"new", "more"}
    assert summary.answered == 2


def test_an_output_folder_holds_the_answers_of_one_request(config: RunConfig, engine: Engine, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", {"task": "inspect"})
    run(config, engine, [path], tmp_path / "out")
    other = Options(top_k=1)
    with pytest.raises(BatchError, match="other options"):
        select_all(config, [str(path)], str(tmp_path / "out"), other, runner=lambda wanted: [])
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.txt").write_text("not to be lost")
    with pytest.raises(BatchError, match="not this job's"):
        select_all(config, [str(path)], str(tmp_path / "used"), other, runner=lambda wanted: [])
    assert (tmp_path / "used" / "thesis.txt").exists()


def test_one_record_that_the_model_fails_on_takes_no_other_with_it(
    config: RunConfig, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    select = engine.select

    def fails_on_poison(requests: Any) -> Any:
        if any(request.task == "poison" for request in requests):
            raise FloatingPointError("a score is not finite")
        return select(requests)

    monkeypatch.setattr(engine, "select", fails_on_poison)
    path = jsonl(tmp_path / "rows.jsonl", *({"id": t, "task": t} for t in ("one", "poison", "two")))
    run(config, engine, [path], tmp_path / "out")
    assert set(answers(tmp_path / "out")) == {"one", "two"}
    assert faults(tmp_path / "out") == {"poison": ("model", "FloatingPointError: a score is not finite")}


@settings(max_examples=30, deadline=None)
@given(
    lines=st.lists(st.integers(0, 60), min_size=1, max_size=25),
    rows=st.integers(1, 7),
    ending=st.booleans(),
    groups=st.integers(1, 9),
)
def test_parts_hold_every_record_once(
    tmp_path_factory: pytest.TempPathFactory, lines: list[int], rows: int, ending: bool, groups: int
) -> None:
    folder = tmp_path_factory.mktemp("parts")
    tasks = [f"{i} {'ä' * length}" for i, length in enumerate(lines)]
    text = "\n".join(json.dumps({"task": task}, ensure_ascii=False) for task in tasks) + ("\n" if ending else "")
    (folder / "a.jsonl").write_text(text, encoding="utf-8")
    pq.write_table(pa.table({"task": tasks, "other": tasks}), folder / "b.parquet", row_group_size=groups)
    parts = find_parts([str(folder)], rows)
    found = {
        name: [q for part in parts if part.path.endswith(name) for q in read_part(part)] for name in (".jsonl", "t")
    }
    for questions in found.values():
        assert [q.task for q in questions] == tasks
        assert [q.row for q in questions] == list(range(len(tasks)))
    assert all(len(read_part(part)) <= rows for part in parts)
    assert len({part.key("request") for part in parts}) == len(parts)


def test_input_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(BatchError, match=r"no \.parquet or \.jsonl file"):
        find_parts([str(tmp_path / "absent")], 8)
    pq.write_table(pa.table({"question": ["why"]}), tmp_path / "a.parquet")
    with pytest.raises(BatchError, match="neither a column task nor instruction; it has question"):
        find_parts([str(tmp_path)], 8)
    (tmp_path / "a.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(BatchError, match="not a parquet file"):
        find_parts([str(tmp_path)], 8)
    (tmp_path / "a.parquet").unlink()
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(BatchError, match="no records"):
        find_parts([str(tmp_path)], 8)
    path = jsonl(tmp_path / "rows.jsonl", {"task": "inspect"})
    [part] = find_parts([str(path)], 8)
    jsonl(path, {"task": "something else altogether"})
    with pytest.raises(BatchError, match="changed while"):
        read_part(part)


@pytest.fixture(scope="module")
def job() -> ModuleType:
    spec = importlib.util.spec_from_file_location("batch_select_job", ROOT / "jobs" / "batch_select.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_job_says_what_is_wrong(
    job: ModuleType, tmp_path: Path, nano_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["--config", str(ROOT / "configs" / "laptop.yaml"), "--output", str(tmp_path / "out")]
    model = f"serving.model={nano_folder}"
    assert job.main([*base, "--input", str(tmp_path), "--workers", "0", model]) == 2
    assert "--workers: 0" in capsys.readouterr().err
    assert job.main([*base, "--input", str(tmp_path), model]) == 2
    assert "no .parquet or .jsonl" in capsys.readouterr().err
    assert job.main([*base, "--input", str(tmp_path), f"serving.model={tmp_path}"]) == 2
    assert "not a saved model" in capsys.readouterr().err


@pytest.mark.usefixtures("ray_cluster")
def test_on_a_cluster(job: ModuleType, tmp_path: Path, nano_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"id": str(i), "task": f"inspect hall {i}"} for i in range(9)]
    path = jsonl(tmp_path / "rows.jsonl", *rows, {"id": "bad"})
    arguments = [
        "--config", str(ROOT / "configs" / "laptop.yaml"), "--input", str(path), "--output", str(tmp_path / "out"),
        "--part_rows", "3", "--workers", "2", f"serving.model={nano_folder}", "data.max_bad_share=0.05",
    ]  # fmt: skip
    assert job.main(arguments) == 1, "a tenth of the records is bad"
    said = capsys.readouterr()
    assert "9 of 10 records answered" in said.out
    assert "task: missing" in said.out
    assert "more than data.max_bad_share" in said.err
    assert set(answers(tmp_path / "out")) == {str(i) for i in range(9)}
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["parts"] == 4
    assert job.main([*arguments[:-1], "data.max_bad_share=0.5"]) == 0
    assert "0 now" in capsys.readouterr().out
