"""The suites against a model whose every answer is known, and what they say of material that cannot be used."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from embervlm.data.schema import Record, to_table
from embervlm.evaluation import MetricError, metrics, selection
from embervlm.evaluation.asking import Asker, as_arrays
from embervlm.evaluation.baselines import labels_of
from embervlm.evaluation.intervals import Sample
from embervlm.evaluation.selection import selection_figures
from embervlm.evaluation.suites import SUITES, Options, SuiteResult, run_suite
from embervlm.evaluation.suites.choosing import estimates
from embervlm.evaluation.suites.fleets import free_fleets
from embervlm.evaluation.suites.photos import elsewhere, read_photos
from embervlm.evaluation.suites.trusting import empty_fleets
from embervlm.world.labels import LABELS
from tests.evaluation import fakes


class Oracle(fakes.FakeModel):
    """Knows what it is told about each task; elsewhere it takes the first robot."""

    def __init__(self, records: list[Record]) -> None:
        super().__init__()
        self.able = {r.instruction: set(r.labels) for r in records}

    def _answer(self, request: dict[str, Any], reasoning: bool) -> dict[str, Any]:
        names = [robot["name"] for robot in request["fleet"]]
        able = self.able.get(request["task"], {names[0]})
        confidence = np.array([0.9 if name in able else 0.1 for name in names])
        order = np.argsort(-confidence, kind="stable")
        return {
            "robots": [{"robot": names[i], "confidence": float(confidence[i])} for i in order],
            "team": [name for name in names if name in able] or [names[0]],
            "plan": [],
            "reasoning": "",
            "scores": np.log(confidence / (1 - confidence)),
        }


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A run's data folder with test and training records of stage 3."""
    for split, count in (("test", 32), ("train", 16)):
        folder = tmp_path / "data" / "stage3" / split
        folder.mkdir(parents=True)
        pq.write_table(to_table(fakes.selection_records(count, split=split)), folder / "shard-00000.parquet")
    return tmp_path / "data"


def asked(model: fakes.FakeModel, suite: str, **options: Any) -> SuiteResult:
    result = run_suite(suite, Asker(model), Options(**options))
    json.dumps(result.to_dict())
    assert len({len(line) for line in result.table().splitlines()[1:2]}) == 1
    return result


def test_world_has_every_figure_with_interval_beside_its_baselines(data: Path) -> None:
    found = asked(fakes.FakeModel(), "world", data=data)
    assert found.samples == 32
    for name in ("first_choice", "team_exact", "counterfactual_both_right", "first_choice_unseen_robots"):
        assert found.metrics[name].value == found.metrics[name].low == found.metrics[name].high == 1.0, name
    assert found.metrics["infeasible_rate"].value == 0.0
    assert found.metrics["ece"].value == pytest.approx(0.1)
    assert found.metrics["counterfactual_both_right"].samples == 16, "pairs, not records"
    assert found.metrics["counterfactual_team_changes"].value == 1.0
    assert set(found.baselines) == {"text_only", "image_only", "shuffled_image", "majority", "tfidf"}
    blind = found.baselines["text_only"]
    assert blind["first_choice"].value == 0.25
    assert blind["counterfactual_both_right"].value == 0.0
    assert "ece" not in blind


def test_world_asks_emberworlds_records_where_a_run_read_others_too(data: Path) -> None:
    shard = data / "stage3" / "test" / "shard-00000.parquet"
    records = [dataclasses.replace(r, source="emberworld") for r in fakes.selection_records(8)]
    pq.write_table(to_table([*records, *fakes.selection_records(32)[8:]]), shard)
    assert asked(fakes.FakeModel(), "world", data=data, baselines=False).samples == 8


def test_limit_keeps_pairs_whole_and_no_baselines_means_one_question_a_record(data: Path) -> None:
    model = fakes.FakeModel()
    found = asked(model, "world", data=data, limit=10, baselines=False)
    assert found.samples == 10
    assert found.metrics["counterfactual_both_right"].samples == 5
    assert found.baselines == {}
    assert model.calls == [(10, False)], "nor is a model asked about empty fleets that has nothing to say of them"


def test_reasoning_puts_the_answer_without_it_among_the_baselines(data: Path) -> None:
    model = fakes.FakeModel()
    found = asked(model, "world", data=data, limit=8, reasoning=True)
    assert (8, True) in model.calls
    assert found.baselines["without_reasoning"]["first_choice"].value == 1.0


def test_counterfactual_asks_whole_pairs_only(data: Path) -> None:
    shard = data / "stage3" / "test" / "shard-00000.parquet"
    records = fakes.selection_records(9)
    records.append(dataclasses.replace(records[0], id="alone", tags={}))
    pq.write_table(to_table(records), shard)
    assert asked(fakes.FakeModel(), "counterfactual", data=data).samples == 8
    pq.write_table(to_table([dataclasses.replace(r, tags={}) for r in records]), shard)
    with pytest.raises(MetricError, match="no pair of twins among 10"):
        run_suite("counterfactual", Asker(fakes.FakeModel()), Options(data=data))


def test_world_without_data_makes_records_and_says_what_is_missing() -> None:
    from embervlm.world.dataset import build

    every = list(build("test", "selection", 24, 0, images=False))
    found = asked(Oracle(every), "world", limit=12, image_size=32)
    assert found.samples == 12
    assert "no words-only baseline" in found.notes[0]
    assert "tfidf" not in found.baselines


def test_estimates_are_the_figures_of_the_stage_evaluation() -> None:
    records = fakes.selection_records(24)
    rng = np.random.default_rng(0)
    raw = []
    for answer in fakes.FakeModel().select_many([{"image": r.image, "fleet": r.robots} for r in records]):
        for robot in answer["robots"]:
            robot["confidence"] = float(rng.random())
        answer["team"] = [r["robot"] for r in answer["robots"] if r["confidence"] > 0.5]
        raw.append({key: value for key, value in answer.items() if key != "scores"})
    answers = as_arrays(records, raw)
    stage = selection_figures(answers, records)
    suite = estimates(answers, records, 0)
    assert {name: found.value for name, found in suite.items()} == pytest.approx({name: stage[name] for name in suite})
    for found in suite.values():
        assert found.low is not None
        assert found.high is not None
        assert found.low <= found.value <= found.high


class Frank(fakes.FakeModel):
    """Says that nobody suits where it sees nobody who does, and that it does not know the scenes that it gets wrong."""

    def _answer(self, request: dict[str, Any], reasoning: bool) -> dict[str, Any]:
        answer = super()._answer(request, reasoning)
        seen = fakes.SCENES[request["image"][:1]] if request["image"] else ""
        there = seen in [robot["name"] for robot in request["fleet"]]
        wrong = request["image"] is not None and request["image"][1] % 4 == 3
        if wrong and there:  # it prefers another robot
            names = [robot["name"] for robot in request["fleet"]]
            answer["scores"] = np.array([0.0 if name == seen else 1.0 + i for i, name in enumerate(names)])
        return {**answer, "none_of_these": 0.1 if there else 0.8, "familiarity": 0.05 if wrong else 0.6}


def test_world_tells_whether_an_answer_says_how_far_it_can_be_trusted(data: Path) -> None:
    found = asked(Frank(), "world", data=data)
    assert found.metrics["none_auroc"].value == 1.0
    assert found.metrics["none_accuracy"].value == 1.0
    assert found.metrics["none_ece"].value == pytest.approx(0.15)
    assert found.metrics["none_auroc"].samples == 32, "a fleet without and one with, together"
    assert found.baselines["unsure_first_choice"]["none_auroc"].value > 0.5
    assert found.metrics["familiarity"].value == pytest.approx(0.75 * 0.6 + 0.25 * 0.05)
    assert found.metrics["familiarity_error_auroc"].value == 1.0
    assert found.metrics["first_choice_familiarity_0_5"].value == 0.0
    assert found.metrics["first_choice_familiarity_50_100"].value == 1.0
    assert "first_choice_familiarity_5_25" not in found.metrics, "no record is there"
    stage = selection.evaluate_selection(Asker(Frank()), fakes.selection_records(32), None, False, 0)[0]
    both = stage.keys() & found.metrics.keys()
    assert {"ece_uncalibrated", "familiarity_error_auroc", "team_iou_familiarity_0_5"} <= both
    assert stage == pytest.approx(stage | {name: found.metrics[name].value for name in both})
    assert found.metrics["ece_uncalibrated"].value >= 0
    blunt = asked(fakes.FakeModel(), "world", data=data)
    assert not [name for name in blunt.metrics if name.startswith("none") or "familiarity" in name], "absent, not zero"


def test_foreign_records_are_less_familiar_and_more_often_wrong() -> None:
    class AtHome(Oracle):
        def _answer(self, request: dict[str, Any], reasoning: bool) -> dict[str, Any]:
            known = request["task"] in self.able
            return {**super()._answer(request, reasoning), "familiarity": 0.9 if known else 0.02}

    from embervlm.world.dataset import build

    model = AtHome(list(build("test", "selection", 24, 0, images=False)))
    found = asked(model, "fleets", limit=24, image_size=32, baselines=False)
    assert found.metrics["familiarity"].value == pytest.approx(0.02)
    assert found.metrics["familiarity_with_emberworld"].value == pytest.approx(0.46)
    assert found.metrics["familiarity_error_auroc"].value == 0.5, "no difference among themselves"
    assert found.metrics["familiarity_error_auroc_with_emberworld"].value > 0.6


def test_fleets_with_nobody_are_as_large_as_those_with_somebody() -> None:
    records = fakes.selection_records(6)
    everybody = dataclasses.replace(records[0], labels=list(fakes.NAMES))
    made = empty_fleets([*records, everybody], 0)
    assert len(made) == 12
    for nobody, somebody in zip(made[::2], made[1::2], strict=True):
        assert nobody.labels == []
        assert len(nobody.robots) == len(somebody.robots) == 3
        names = [[robot["name"] for robot in one.robots] for one in (nobody, somebody)]
        assert somebody.labels[0] in names[1]
        assert somebody.labels[0] not in names[0]
        assert len(set(names[0]) & set(names[1])) == 2


def test_auroc_counts_ties_half_and_needs_both() -> None:
    assert metrics.auroc(np.array([1.0, 1.0, 0.0]), np.array([True, False, False])) == 0.75
    assert np.isnan(metrics.auroc(np.array([1.0]), np.array([True])))


def test_intervals_draw_units_and_tell_when_there_are_none() -> None:
    values = np.repeat([0.0, 1.0] * 20, 2)
    together = Sample([i // 2 for i in range(80)]).mean(values)
    apart = Sample([None] * 80).mean(values)
    assert together.samples == 40
    assert together.value == apart.value == 0.5
    assert together.high - together.low > 1.2 * (apart.high - apart.low)  # type: ignore[operator]
    only = Sample([None]).mean([1.0])
    assert (only.low, only.high) == (None, None)
    undefined = Sample([None] * 4).of(lambda drawn: float("nan") if 0 in drawn else 1.0)
    assert undefined.low is None
    with pytest.raises(MetricError, match="nothing"):
        Sample([None] * 2).mean([1, 1], [0, 0])


def item(task: str, output: str) -> dict[str, str]:
    told = "\n".join(f"{name}:\n  capabilities: {can}" for name, can in (("Drone", "fly"), ("Humanoid", "grasp")))
    return {"instruction": f"Robots: Drone, Humanoid.\n{told}", "input": f"Task: {task}", "output": output}


def test_public_tasks_are_zero_shot_and_count_what_is_left_out(tmp_path: Path) -> None:
    names = ["Drone", "Humanoid"]
    items = [item(f"do thing {i} from {'above' if i % 2 == 0 else 'a desk'}", names[i % 2]) for i in range(12)]
    place = tmp_path / "tasks.json"
    place.write_text(json.dumps([*items, item("swim", "Fish")]))
    from embervlm.evaluation.suites.public_tasks import read_tasks

    records, faults = read_tasks(place)
    assert len(records) == 12
    assert len(faults) == 1
    found = asked(Oracle(records), "public-tasks", data=place)
    assert found.metrics["team_exact"].value == 1.0
    assert set(found.baselines) == {"majority", "tfidf", "longest_description", "word_overlap", "chance"}
    assert found.baselines["chance"]["first_choice"].value == 0.5
    assert found.baselines["tfidf"]["first_choice"].value > 0.9, "the words decide here"
    assert "Fish" in found.notes[0]
    assert "counterfactual_both_right" not in found.metrics
    with pytest.raises(MetricError, match="--data"):
        run_suite("public-tasks", Asker(Oracle([])), Options())


def test_fleets_are_free_of_cues_and_have_twins() -> None:
    made = free_fleets("test", 160, 0)
    assert made == free_fleets("test", 200, 0)[:160]
    assert not [r for r in made if r.tags["fleet"].startswith("default")]
    found = asked(Oracle(made), "fleets", limit=160)
    assert found.metrics["first_choice"].value == 1.0
    assert found.metrics["first_choice_near_twins"].samples > 20
    sizes = {len(r.robots) for r in made}
    assert min(sizes) <= 3
    assert max(sizes) >= 24
    chance = found.baselines["chance"]["first_choice"].value
    assert 0.1 < chance < 0.5
    for cue in ("longest_description", "word_overlap"):
        assert found.baselines[cue]["first_choice"].value < chance + 0.15, cue
    with pytest.raises(MetricError, match="leave it out"):
        run_suite("fleets", Asker(Oracle([])), Options(data=Path()))


def test_descriptions_are_cut_to_what_the_model_reads(nano_folder: Path) -> None:
    from embervlm import EmberVLM
    from embervlm.fleet import Fleet

    model = EmberVLM.from_pretrained(nano_folder).eval()
    robot = {**fakes.robot("Long", "climbs"), "limitations": ["cannot swim " * 60, "is slow " * 60]}
    records = [dataclasses.replace(r, robots=[*r.robots, robot]) for r in fakes.selection_records(2)]
    found, cut = Asker(model).shortened([*records, *fakes.selection_records(1)])
    assert cut == 2
    assert found[2].robots == fakes.selection_records(1)[0].robots
    model.processor.robots([Fleet.of(found[0].robots)])
    kept = found[0].robots[-1]
    assert kept["capabilities"] == ["climbs"]
    assert kept["limitations"][0].startswith("cannot swim")
    assert found[0].labels == records[0].labels
    tokens = len(model.processor.words(kept["limitations"][0]))
    assert tokens > model.processor.max_robot_tokens / 2, "no more is cut than has to be"


def photo_folder(folder: Path, rows: list[tuple[str, str]]) -> Path:
    for i, (name, _) in enumerate(rows):
        Image.new("RGB", (40, 30), (i, 100, 100)).save(folder / name)
    lines = ["file,environment", *(f"{name},{place}" for name, place in rows)]
    (folder / LABELS).write_text("\n".join(lines) + "\n")
    return folder


def test_photos_reads_the_place_from_the_chain(tmp_path: Path) -> None:
    class Seer(fakes.FakeModel):
        def _answer(self, request: dict[str, Any], reasoning: bool) -> dict[str, Any]:
            image = request["image"]
            place = "harbour" if image is None else ("warehouse", "roof")[image.getpixel((0, 0))[0] % 2]
            steps = ["inspect the thing.", f"place: {place}, calm, day. more.", "needs.", "send."] if reasoning else []
            return {"robots": [], "team": [], "plan": [], "reasoning": "", "steps": steps}

    folder = photo_folder(tmp_path, [("a.png", "warehouse"), ("b.png", "roof"), ("c.png", "warehouse")])
    found = asked(Seer(), "photos", data=folder)
    assert found.metrics["environment"].value == 1.0
    assert found.baselines["majority"]["environment"].value == pytest.approx(2 / 3)
    assert found.baselines["text_only"]["environment"].value == 0.0
    assert found.baselines["shuffled_image"]["environment"].value == 0.0, "each is of another place"


def test_a_photograph_is_never_shuffled_to_one_of_the_same_place(tmp_path: Path) -> None:
    places = ["warehouse"] * 6 + ["roof"] * 6 + ["harbour"]
    folder = photo_folder(tmp_path, [(f"{i:02d}.png", place) for i, place in enumerate(places)])
    shown = read_photos(folder)
    assert all(shown[j].environment != shown[i].environment for i, j in enumerate(elsewhere(shown, 0)))
    assert all(j != i for i, j in enumerate(elsewhere(shown[:6], 0))), "one place only: another picture of it"


def test_photos_say_what_material_is_missing(tmp_path: Path) -> None:
    for folder, complaint in ((None, "no --data"), (tmp_path / "no", "no such folder"), (tmp_path, LABELS)):
        with pytest.raises(MetricError, match=complaint):
            read_photos(folder)
    (tmp_path / LABELS).write_text("file,environment\n")
    with pytest.raises(MetricError, match="no rows"):
        read_photos(tmp_path)
    (tmp_path / LABELS).write_text("name\nx\n")
    with pytest.raises(MetricError, match="columns file and environment"):
        read_photos(tmp_path)
    (tmp_path / LABELS).write_text("file,environment\nx.png,roof\n")
    with pytest.raises(MetricError, match=r"labels.csv:2: .*x.png: no such picture"):
        read_photos(tmp_path)
    photo_folder(tmp_path, [("x.png", "moon")])
    with pytest.raises(MetricError, match="environment 'moon' is not one of warehouse"):
        read_photos(tmp_path)


def test_an_unknown_suite_and_a_bad_limit_are_refused(data: Path) -> None:
    with pytest.raises(MetricError, match=", ".join(SUITES)):
        run_suite("else", Asker(fakes.FakeModel()))
    with pytest.raises(MetricError, match="--limit"):
        run_suite("world", Asker(fakes.FakeModel()), Options(data=data, limit=0))
    with pytest.raises(OSError, match="no shards"):
        run_suite("world", Asker(fakes.FakeModel()), Options(data=data / "none"))


def test_cue_baselines_know_no_threshold() -> None:
    from embervlm.evaluation.cues import longest_description

    records = fakes.selection_records(8)
    answers = longest_description(records)
    assert all(sent.sum() == 1 for sent in answers.sent)
    assert metrics.team_iou(answers.sent, [labels_of(r) for r in records]) <= 1
