"""Stages in order: what is done is not done again, and a saved model survives whatever measures it."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ember_platform.config import RunConfig, load_config
from ember_platform.train import folders, pipeline
from ember_platform.train.checkpoint import Best, RunState
from ember_platform.train.plan import Start
from ember_platform.train.stage_run import StageResult, claim, last_checkpoint


class House:
    """A pipeline whose workers, model desk, tracker and registry are stand-ins that write down what they are asked."""

    def __init__(self, config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        self.config = config
        self.trained: list[tuple[int, str]] = []
        self.measured: list[int] = []
        self.registered: list[tuple[int, dict[str, str]]] = []
        self.lines: list[str] = []
        self.logged: dict[str, float] = {}
        self.broken = False
        self.figures: list[tuple[Any, ...]] = []
        self.no_figures = False
        self.shown: list[Any] = []
        self.data = "data-1"
        monkeypatch.setattr(pipeline, "run_stage", self.run_stage)
        monkeypatch.setattr(pipeline, "metered", lambda *named: nullcontext())
        monkeypatch.setattr(pipeline.Manifest, "load", lambda path: self.manifest())
        monkeypatch.setattr("ember_platform.registry.register_stage", self.register_stage)
        monkeypatch.setattr("ember_platform.registry.register_final", lambda config, stage, version: 1)
        promotion = SimpleNamespace(name="embervlm", checks=[], promoted=True)
        monkeypatch.setattr("ember_platform.registry.promote", lambda *args, **kwargs: promotion)

    def manifest(self) -> Any:
        digest = self.data
        return SimpleNamespace(dir="data", digest=digest, stage_digest=lambda n: f"{digest}/{n}", rows=lambda n, s: 8)

    def run_stage(self, config: RunConfig, stage: int, **order: Any) -> StageResult:
        self.trained.append((stage, order["parent"]))
        state = RunState(stage, order["digest"], 2, step=4, total_step=4, best=Best(0.5, 4, "c", {"first_choice": 0.5}))
        return StageResult(state, "best", ["main"], {"first_step": 1.0})

    def register_stage(self, config: RunConfig, stage: int, folder: Any, metrics: Any, lineage: Any, run: Any) -> int:
        self.registered.append((stage, lineage))
        return 10 + stage

    def call(self, method: str, *arguments: Any) -> Any:
        if method == "begin":
            self.write(arguments[0], "new")
            return arguments[0]
        if method == "finish":
            self.write(arguments[2], f"stage {arguments[0]} of {self.trained[-1][1]}")
            return {"answer_weight": 0.25} if arguments[0] == 4 else {}
        if method == "probe":
            return {"probe_facts": 0.9 if arguments[0].endswith("stage0/final") else 0.3}
        if method == "ask":
            return {"task": "t", "robots": [{"robot": "Drone", "confidence": 0.9}], "right": None}
        if method in ("measure_figures", "measure_across", "draw"):
            self.figures.append((method, *arguments))
            if self.no_figures and method == "measure_figures":
                raise RuntimeError("the pen is dry")
            return ["30 figures"]
        if self.broken:
            raise RuntimeError("the judge is ill")
        self.measured.append(arguments[0])
        content = {"stage": arguments[0], "split": "test", "samples": 8, "metrics": {"a": 1.0}, "baselines": {}}
        return content, "table"

    def write(self, folder: str, text: str) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(folder, "config.json").write_text(json.dumps(text))

    def run(self, stages: list[int]) -> pipeline.Outcome:
        made: Any = object.__new__(pipeline._Pipeline)
        silent = SimpleNamespace(
            start_stage=lambda *a: "run",
            log_dataset=lambda *a: None,
            log_metrics=lambda found, step: self.logged.update(found),
            log_measured=lambda content, step: self.logged.update(content["metrics"]),
            end_stage=print,
            log_figures=self.shown.append,
        )
        vars(made).update(
            config=self.config,
            manifest=self.manifest(),
            say=self.lines.append,
            observers=None,
            registers=True,
            data_dir="data",
            tracker=silent,
            tracking_run="parent",
            versions={},
            drawn_again=False,
            call=self.call,
            outcome=pipeline.Outcome(f"{self.config.output_dir}/final", []),
        )
        outcome: pipeline.Outcome = made.stages(stages, Start(None))
        return outcome


@pytest.fixture
def house(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    return House(load_config(root / "configs" / "laptop.yaml", [f"output_dir={tmp_path}"]), monkeypatch)


def test_each_stage_starts_from_the_one_before(house: House, tmp_path: Path) -> None:
    outcome = house.run([0, 1, 2, 3, 4])
    assert [stage for stage, _ in house.trained] == [0, 1, 2, 3, 4]
    assert [parent for _, parent in house.trained] == [
        f"{tmp_path}/begin",
        *(f"{tmp_path}/stage{n}/final" for n in (0, 1, 2, 3)),
    ]
    assert house.measured == [1, 2, 3, 4]
    warmed = folders.read_json(f"{tmp_path}/stage0/metrics.json") or {}
    assert warmed["split"] == "validation"
    assert warmed["metrics"]["probe_facts"] == 0.9
    assert warmed["baselines"] == {"untrained_probe_facts": 0.3}
    assert [stage for stage, _ in house.registered] == [1, 2, 3, 4]
    assert house.registered[1][1]["parent"] == "embervlm-stage1/11"
    assert Path(outcome.final, "config.json").read_text() == Path(tmp_path, "stage4/final/config.json").read_text()
    assert outcome.versions == {"embervlm@champion": "models:/embervlm/1"}
    text = "\n".join(pipeline.closing_lines(house.config, outcome))
    assert "stage 4, test split, 8 records" in text
    assert "0.90  Drone" in text


def test_what_was_fitted_is_told_and_kept_beside_the_metrics(house: House, tmp_path: Path) -> None:
    house.run([1, 2, 3, 4])
    assert "stage 4: fitted on validation records: answer_weight 0.2500" in house.lines
    assert house.logged["fitted_answer_weight"] == 0.25
    metrics = folders.read_json(f"{tmp_path}/stage4/metrics.json") or {}
    assert metrics["fitted"] == {"answer_weight": 0.25}
    assert "answer_weight" not in metrics["metrics"], "those are the test split's"
    assert "fitted" not in (folders.read_json(f"{tmp_path}/stage3/metrics.json") or {})
    done = folders.read_json(f"{tmp_path}/stage4/done.json") or {}
    assert done["fitted"] == {"answer_weight": 0.25}


def test_what_is_done_is_not_done_again(house: House) -> None:
    house.run([1, 2])
    house.run([1, 2, 3])
    assert [stage for stage, _ in house.trained] == [1, 2, 3]
    assert house.measured == [1, 2, 3]
    assert [stage for stage, _ in house.registered] == [1, 2, 3]


def test_other_settings_train_that_stage_and_those_after_it(house: House) -> None:
    house.run([1, 2, 3])
    stages = {**house.config.stages, "2": house.config.stage(2).model_copy(update={"epochs": 9})}
    house.config = house.config.model_copy(update={"stages": stages})
    house.run([1, 2, 3])
    # Stage 3's stand-in model depends on its parent's folder only, so here its parent's content is what it was.
    assert [stage for stage, _ in house.trained] == [1, 2, 3, 2]


def test_other_data_trains_anew(house: House) -> None:
    house.run([3])
    house.data = "data-2"
    house.run([3])
    assert [stage for stage, _ in house.trained] == [3, 3]


def test_a_failing_evaluation_loses_nothing_and_is_made_up_for(house: House, tmp_path: Path) -> None:
    house.broken = True
    outcome = house.run([3])
    assert outcome.problems == ["stage 3: trained and saved, but then RuntimeError: the judge is ill"]
    assert (tmp_path / "stage3" / "final" / "config.json").exists()
    assert (tmp_path / "final" / "config.json").exists()
    assert not (tmp_path / "stage3" / "metrics.json").exists()
    house.broken = False
    again = house.run([3])
    assert again.problems == []
    assert [stage for stage, _ in house.trained] == [3]
    assert house.measured == [3]


def test_figures_follow_each_stage_and_the_run(house: House) -> None:
    house.run([0, 1, 3])
    assert house.figures == [
        ("measure_figures", 1),
        ("draw", False),
        ("measure_figures", 3),
        ("draw", False),
        ("measure_across",),
        ("draw", True),
    ]
    assert len(house.shown) == 1
    house.run([0, 1, 3])
    assert len(house.figures) == 6, "what is drawn is not drawn again"


def test_figures_that_fail_lose_nothing_and_are_made_up_for(house: House) -> None:
    house.no_figures = True
    outcome = house.run([3])
    assert outcome.problems == ["stage 3: trained and saved, but then RuntimeError: the pen is dry"]
    assert outcome.versions == {"embervlm@champion": "models:/embervlm/1"}
    house.no_figures, house.figures = False, []
    assert house.run([3]).problems == []
    assert [method for method, *_ in house.figures] == ["measure_figures", "draw", "measure_across", "draw"]
    assert [stage for stage, _ in house.trained] == [3]


def test_figures_can_be_left_out(house: House) -> None:
    figures = house.config.figures.model_copy(update={"enabled": False})
    house.config = house.config.model_copy(update={"figures": figures})
    house.run([1, 3])
    assert house.figures == []


def test_a_folder_is_claimed_by_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "stage3"
    claim(str(folder), "aaaa1111bbbb", 2)
    (folder / "checkpoint-0-000002").mkdir()
    (folder / "checkpoint-0-000002" / "checkpoint.json").write_text("{}")
    (folder / "checkpoint-0-000004").mkdir()  # not complete
    assert claim(str(folder), "aaaa1111bbbb", 1) == 2  # the batch stays cut as the run began
    assert last_checkpoint(str(folder)) == f"{folder}/checkpoint-0-000002"
    assert claim(str(folder), "cccc", 1) == 1
    assert "moved to stage3.superseded-aaaa1111" in capsys.readouterr().out
    assert last_checkpoint(str(folder)) is None
    assert (tmp_path / "stage3.superseded-aaaa1111" / "checkpoint-0-000002").is_dir()


def test_a_folder_is_published_whole(tmp_path: Path) -> None:
    source, target = tmp_path / "source", str(tmp_path / "deep" / "target")
    source.mkdir()
    (source / "one").write_text("1")
    folders.publish(source, target)
    (source / "one").rename(source / "two")
    folders.publish(source, target)
    assert [p.name for p in Path(target).iterdir()] == ["two"]
    assert [p.name for p in Path(target).parent.iterdir()] == ["target"]
