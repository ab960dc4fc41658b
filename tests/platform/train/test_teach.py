"""A teacher speaks once: what it said is stored, found again, and refused where it cannot be."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from ember_platform.config import RunConfig
from ember_platform.data.manifest import Manifest
from ember_platform.data.rows import Rows
from ember_platform.train import plan
from ember_platform.train.plan import PlanError
from ember_platform.train.speakers import HubSpeaker, Speaker, load_speaker, tokenizer_digest, way_of
from ember_platform.train.teach import Lesson, Teacher, teach
from embervlm import EmberVLM, EmberVLMConfig, EmberVLMProcessor
from embervlm.data.schema import Record
from embervlm.stages import get_stage
from embervlm.stages.losses import transport_loss
from embervlm.world.dataset import build
from tests.models.fakes import tiny
from tests.platform.train import hub_models

TRAIN, SHARD = 12, 4


def save(model: EmberVLM, folder: Path) -> Path:
    model.save_pretrained(folder)
    model.processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student, a larger teacher with the same tokenizer, one with another tokenizer, and prepared data."""
    folder = tmp_path_factory.mktemp("house")
    student = tiny()
    save(student, folder / "student")
    wide = student.config.to_dict() | {"fusion_hidden": 2 * student.config.fusion_hidden}
    torch.manual_seed(3)
    teacher = EmberVLM.from_parts(EmberVLMConfig.from_dict(wide))
    teacher.processor = student.processor
    save(teacher, folder / "teacher")
    stranger = EmberVLMConfig.from_dict(student.config.to_dict())
    words = EmberVLMProcessor.build(stranger, ["quite other words, in which nothing of our world is said " * 3])
    other = EmberVLM.from_parts(stranger)
    other.processor = words
    save(other, folder / "other")
    settings(folder)
    return folder


def settings(folder: Path, **teacher: Any) -> RunConfig:
    counts = {"train": TRAIN, "validation": 4, "test": 4}
    return RunConfig.model_validate(
        {
            "output_dir": str(folder / "out"),
            "data": {"dir": str(folder / "data"), "image_size": 32, "shard_rows": SHARD, "counts": {"stage2": counts}},
            "cluster": {"num_workers": 1},
            "stages": {"2": {"epochs": 1, "batch_size": 4, "learning_rate": 1e-3}},
            "teacher": {"model": str(folder / "teacher"), "top_k": 5, **teacher},
        }
    )


@pytest.fixture
def data(house: Path, tmp_path: Path) -> Manifest:
    """Prepared data of its own for each test."""
    from ember_platform.data.ingest import prepare

    config = settings(house)
    here = config.model_copy(update={"data": config.data.model_copy(update={"dir": str(tmp_path / "data")})})
    return prepare(here, runner=lambda specs, make: map(make, specs), say=lambda line: None)


class Inline:
    """Teaches in this process; after `dies_after` shards it is gone, as a killed job is."""

    def __init__(self, dies_after: int | None = None) -> None:
        self.dies_after = dies_after
        self.taught = 0

    def __call__(self, lesson: Lesson, shards: int) -> Iterator[dict[str, Any]]:
        speaker = Teacher(lesson)
        answer = speaker.answer

        def counted(records: list[Record]) -> list[Record]:
            self.taught += 1
            return answer(records)

        speaker.answer = counted  # type: ignore[method-assign]
        for i in reversed(range(shards)):
            if self.taught == self.dies_after:
                raise KeyboardInterrupt
            yield speaker({"shard": i})


def records_of(folder: str, split: str = "train") -> list[Record]:
    return list(Rows(Manifest.load(folder).paths(2, split)))


def test_a_teacher_with_our_tokenizer_leaves_its_distribution(house: Path, data: Manifest) -> None:
    config = settings(house)
    lines: list[str] = []
    target = teach(config, data, str(house / "student"), runner=Inline(), say=lines.append)
    assert "text and top 5 log-probabilities" in lines[0]
    plain, taught = list(Rows(data.paths(2, "train"))), records_of(target)
    assert [r.id for r in taught] == [r.id for r in plain]
    assert records_of(target, "test") == list(Rows(data.paths(2, "test")))
    teacher = EmberVLM.from_pretrained(house / "teacher").eval()
    processor = EmberVLMProcessor.from_pretrained(house / "teacher")
    record = taught[0]
    batch = get_stage(2).collate(processor, [plain[0]], None)
    with torch.inference_mode():
        hidden = teacher(**batch).text_hidden[0, :-1]
        expected = teacher.language.logits(hidden).log_softmax(-1)
    assert len(record.teacher_token_ids or []) == len(batch["labels"][0]) - 1
    for place, (ids, logprobs) in enumerate(
        zip(record.teacher_token_ids or [], record.teacher_logprobs or [], strict=True)
    ):
        assert len(set(ids)) == 5
        np.testing.assert_allclose(logprobs, expected[place, ids], atol=1e-4)
        assert min(logprobs) >= float(expected[place].topk(5).values[-1]) - 1e-4
    assert {r.teacher_digest for r in taught} == {Manifest.load(target).generators["teacher"]}
    assert all(isinstance(r.teacher_text, str) for r in taught)
    # The student's batch takes it as it is.
    student = EmberVLMProcessor.from_pretrained(house / "student")
    assert get_stage(2).collate(student, taught, seed=1)["teacher_ids"].shape[-1] == 5


def test_a_second_call_finds_it_and_another_lesson_does_not(house: Path, data: Manifest) -> None:
    first = teach(settings(house), data, str(house / "student"), runner=Inline(), say=lambda line: None)
    lines: list[str] = []
    again = teach(settings(house), data, str(house / "student"), runner=Inline(0), say=lines.append)
    assert again == first
    assert lines == [f"teacher: {first} is complete"]
    other = teach(settings(house, top_k=2), data, str(house / "student"), runner=Inline(), say=lambda line: None)
    assert other != first
    assert Manifest.load(first).stage_digest(2) != data.stage_digest(2)


def test_another_tokenizer_leaves_text_only(house: Path, data: Manifest) -> None:
    assert tokenizer_digest(str(house / "other")) != tokenizer_digest(str(house / "student"))
    lines: list[str] = []
    config = settings(house, model=str(house / "other"))
    target = teach(config, data, str(house / "student"), runner=Inline(), say=lines.append)
    assert "text only: another tokenizer" in lines[0]
    taught = records_of(target)
    assert all(r.teacher_token_ids is None and r.teacher_logprobs is None for r in taught)
    assert all(isinstance(r.teacher_text, str) for r in taught)
    student = EmberVLMProcessor.from_pretrained(house / "student")
    batch = get_stage(2).collate(student, taught[:3], seed=1)
    assert "teacher_ids" not in batch
    assert batch["taught_rows"].tolist() == [0, 1, 2]


def speaker(house: Path, folder: Path, match: str = "auto") -> tuple[Speaker, str]:
    config = settings(house, model=str(folder), match=match)
    student = str(house / "student")
    way = way_of(config, str(folder), student)
    return load_speaker(config, way, student), way


def test_a_model_of_a_hub_sees_and_answers(house: Path, data: Manifest, tmp_path: Path) -> None:
    folder = hub_models.vision_language(tmp_path / "qwen-vl")
    lines: list[str] = []
    target = teach(settings(house, model=str(folder)), data, str(house / "student"), runner=Inline(), say=lines.append)
    assert "text only: another tokenizer" in lines[0]
    taught = records_of(target)
    assert len(taught) == TRAIN
    assert all(r.teacher_text is not None and r.teacher_logprobs is None for r in taught)
    assert {r.teacher_digest for r in taught} == {Manifest.load(target).generators["teacher"]}
    made, _ = speaker(house, folder)
    both = [taught[0], replace(taught[1], image=None), taught[2]]
    alone = [made.answer([r])[0].text for r in both]
    assert [a.text for a in made.answer(both)] == alone  # padding and neighbours say nothing
    blind = made.answer([replace(taught[0], image=taught[3].image)])[0].text
    assert blind != alone[0] or alone[0] == ""


def test_a_model_that_reads_text_answers_what_has_no_picture(house: Path, data: Manifest, tmp_path: Path) -> None:
    folder = hub_models.causal(tmp_path / "qwen")
    config = settings(house, model=str(folder))
    with pytest.raises(PlanError, match="reads text only, and every record has a picture"):
        teach(config, data, str(house / "student"), runner=Inline(), say=lambda line: None)
    lesson = Lesson(config, data, str(tmp_path), "d" * 64, str(house / "student"), "text")
    plain = list(Rows(data.paths(2, "train")))[:3]
    taught = Teacher(lesson).answer([plain[0], replace(plain[1], image=None), plain[2]])
    assert [r.teacher_text is not None for r in taught] == [False, True, False]
    assert [r.teacher_digest for r in taught] == [None, "d" * 64, None]


@pytest.mark.parametrize("sees", [True, False])
def test_transport_stores_sorted_distributions_at_the_teacher_s_tokens(
    house: Path, data: Manifest, tmp_path: Path, sees: bool
) -> None:
    folder = (hub_models.vision_language if sees else hub_models.causal)(tmp_path / "teacher")
    made, way = speaker(house, folder, "transport")
    assert way == "transport"
    assert isinstance(made, HubSpeaker)
    records = list(Rows(data.paths(2, "train")))[:3]
    records = [
        replace(r, image=r.image if sees else None, response=a) for r, a in zip(records, "it is,two", strict=False)
    ]
    records[1] = replace(records[1], response="it is red, and there are two")
    answers = made.answer(records)
    for record, answer in zip(records, answers, strict=True):
        (alone,) = made.answer([record])
        assert answer.ids is None
        tokens = [*made.tokenizer(record.response)["input_ids"], made.tokenizer.eos_token_id]
        assert np.shape(answer.logprobs) == (len(tokens), 5)
        assert np.all(np.diff(answer.logprobs) <= 0)
        np.testing.assert_allclose(answer.logprobs, alone.logprobs, atol=1e-4)
    # What a model says after its own words is what it says when it reads them.
    (record, *_) = records
    prompts = made._prompts([record])
    tokens = [*made.tokenizer(record.response)["input_ids"], made.tokenizer.eos_token_id]
    inputs = {**prompts, "input_ids": torch.cat([prompts["input_ids"], torch.tensor([tokens])], 1)}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if "mm_token_type_ids" in inputs:
        more = torch.zeros(1, len(tokens), dtype=inputs["mm_token_type_ids"].dtype)
        inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], more], 1)
    with torch.no_grad():
        expected = made.model(**inputs).logits[0, -len(tokens) - 1 : -1].log_softmax(-1).topk(5).values
    np.testing.assert_allclose(answers[0].logprobs, expected, atol=1e-4)


def test_a_hub_model_with_our_vocabulary_is_matched_by_kl(house: Path, data: Manifest, tmp_path: Path) -> None:
    student = EmberVLMProcessor.from_pretrained(house / "student")
    folder = hub_models.causal(tmp_path / "ours", student.tokenizer)
    made, way = speaker(house, folder)
    assert way == "kl"
    records = [replace(r, image=None) for r in list(Rows(data.paths(2, "train")))[:3]]
    answers = made.answer(records)
    taught = [
        replace(r, teacher_text=a.text, teacher_token_ids=a.ids, teacher_logprobs=a.logprobs)
        for r, a in zip(records, answers, strict=True)
    ]
    batch = get_stage(2).collate(student, taught, seed=None)
    assert (batch["teacher_ids"][..., 0] >= 0).sum() == (batch["labels"] >= 0).sum()
    special = set(student.tokenizer.all_special_ids) - {student.ids["eos"]}
    assert not special & set(batch["teacher_ids"].unique().tolist())


def test_what_vocabularies_do_not_allow_is_refused(house: Path, tmp_path: Path) -> None:
    student = str(house / "student")
    for folder in (str(house / "other"), str(hub_models.causal(tmp_path / "qwen"))):
        assert way_of(settings(house, model=folder), folder, student) == "text"
        assert way_of(settings(house, model=folder, match="transport"), folder, student) == "transport"
        with pytest.raises(PlanError, match=r"teacher\.match: kl compares token by token"):
            way_of(settings(house, model=folder, match="kl"), folder, student)
    assert way_of(settings(house), str(house / "teacher"), student) == "kl"
    assert way_of(settings(house, match="text"), str(house / "teacher"), student) == "text"
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(PlanError, match="is a 'vit', which neither reads pictures"):
        plan.check_teacher(str(tmp_path))


def test_transport_is_the_distance_of_sorted_probabilities() -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 30, requires_grad=True)
    same = logits.detach()[:, torch.randperm(30)].log_softmax(-1).topk(30).values  # other names, same certainty
    assert float(transport_loss(logits.detach(), same)) == pytest.approx(0, abs=1e-6)
    other = (3 * torch.randn(4, 50)).log_softmax(-1).sort(descending=True).values
    wide = torch.cat([logits.softmax(-1).sort(descending=True).values, torch.zeros(4, 20)], 1)
    expected = (wide - other.exp()).abs().sum(-1)
    few = [float(transport_loss(logits, other[:, :width])) for width in (1, 5, 30)]
    assert few == sorted(few)
    assert few[-1] == pytest.approx(float(expected.mean()), rel=1e-4)
    other[2:] = -torch.inf  # nobody spoke there
    assert float(transport_loss(logits, other[:, :30])) == pytest.approx(float(expected[:2].mean()), rel=1e-4)
    transport_loss(logits, other[:, :5]).backward()
    assert logits.grad is not None
    assert logits.grad[2:].abs().sum() == 0
    assert logits.grad[:2].abs().sum() > 0


def test_a_student_learns_another_vocabulary_s_certainty() -> None:
    """Transport lowers its own loss, also where teacher and student cut an answer differently."""
    model = tiny()
    stage = get_stage(2)
    module = stage.module(model)
    stage.prepare(model, "main")
    module.weights = {"sft": 0.0, "distillation": 1.0}
    known = list(build("train", "instruction", 4, 0, 64))
    sure = [float(np.log(p)) for p in (0.6, 0.2, 0.1)]
    said = [replace(r, teacher_text="?", teacher_logprobs=[sure] * (i + 1)) for i, r in enumerate(known)]
    batch = stage.collate(model.processor, said, None)
    assert "teacher_ids" not in batch
    assert "taught_rows" not in batch
    places = batch["teacher_logprobs"][..., 0].isfinite().sum(1).tolist()
    assert places == [min(i + 1, int((labels >= 0).sum())) for i, labels in enumerate(batch["labels"])]
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        found = module(batch, 0.0)
        found["loss"].backward()
        optimizer.step()
        losses.append(float(found["distill_loss"]))
    assert losses[-1] < 0.8 * losses[0]


def test_a_killed_run_goes_on(house: Path, data: Manifest) -> None:
    shards = TRAIN // SHARD
    killed = Inline(dies_after=2)
    with pytest.raises(KeyboardInterrupt):
        teach(settings(house), data, str(house / "student"), runner=killed, say=lambda line: None)
    (folder,) = Path(data.dir).glob("taught-*")
    assert not (folder / "manifest.json").exists(), "half a lesson is none"
    rest = Inline()
    target = teach(settings(house), data, str(house / "student"), runner=rest, say=lambda line: None)
    assert (killed.taught, rest.taught) == (2, shards - 2)
    assert len(records_of(target)) == TRAIN


def test_who_is_not_there_is_refused(house: Path, data: Manifest, tmp_path: Path) -> None:
    nobody = settings(house, model=str(tmp_path / "nobody"))
    with pytest.raises(PlanError, match=r"teacher\.model: .*nobody is no model folder"):
        teach(nobody, data, str(house / "student"), runner=Inline())
    with pytest.raises(PlanError, match=r"--student: .*no EmberVLM folder.*train stage 1 first"):
        teach(settings(house), data, str(tmp_path / "none"), runner=Inline())
    with pytest.raises(PlanError, match=r"teacher\.model"):
        plan.check_teacher(str(tmp_path))


@pytest.fixture
def job(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("job_teach", root / "jobs" / "teach.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_job_says_in_one_line_what_is_missing(
    job: ModuleType, root: Path, house: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ["--config", str(root / "configs" / "laptop.yaml")]
    assert job.main([*config, f"output_dir={tmp_path}"]) == 2
    assert "no teacher is named" in capsys.readouterr().err
    assert job.main([*config, "--teacher", str(house / "teacher"), f"data.dir={tmp_path}"]) == 2
    assert "no such manifest" in capsys.readouterr().err


def test_teachers_words_are_learned_where_its_tokens_mean_nothing() -> None:
    """Sequence-level: the loss is that of the teacher's answers, and the student comes to give them."""
    model = tiny()
    stage = get_stage(2)
    module = stage.module(model)
    stage.prepare(model, "main")
    known = list(build("train", "instruction", 4, 0, 64))
    said = [replace(r, teacher_text="a blue whale") for r in known]
    silent = [replace(r, teacher_text="") for r in known]
    batch = stage.collate(model.processor, said, None)
    with torch.no_grad():
        losses = module(batch, 0.0)
        alone = module(stage.collate(model.processor, known, None), 0.0)
        theirs = module(stage.collate(model.processor, [replace(r, response="a blue whale") for r in known], None), 0.0)
        fallen_back = module(stage.collate(model.processor, silent, None), 0.0)
    assert "distill_loss" not in alone
    torch.testing.assert_close(losses["sft_loss"], alone["loss"])
    torch.testing.assert_close(losses["distill_loss"], theirs["loss"])
    torch.testing.assert_close(losses["loss"], 0.7 * alone["loss"] + 0.3 * theirs["loss"])
    torch.testing.assert_close(fallen_back["distill_loss"], alone["loss"])

    module.weights = {"sft": 0.0, "distillation": 1.0}
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=3e-3)
    for _ in range(25):
        optimizer.zero_grad()
        module(batch, 0.0)["loss"].backward()
        optimizer.step()
    requests = [{"image": r.image, "prompt": r.instruction} for r in known]
    assert model.generate_texts(requests, max_new_tokens=12) == ["a blue whale"] * 4


def test_only_some_records_may_have_a_teacher() -> None:
    model = tiny()
    stage = get_stage(2)
    known = list(build("train", "instruction", 4, 0, 64))
    some = [known[0], replace(known[1], teacher_text="yes"), known[2], replace(known[3], teacher_text="no", image=None)]
    batch = stage.collate(model.processor, some, seed=5)
    assert batch["taught_rows"].tolist() == [1, 3]
    assert batch["taught_labels"].shape[0] == 2
    assert float(stage.module(model)(batch, 0.0)["distill_loss"]) > 0
    assert json.dumps(sorted(k for k in batch if k.startswith("teacher"))) == "[]"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ray_data_teaches_and_stage_2_learns_from_it(ray_cluster: Any, house: Path, data: Manifest) -> None:
    """The whole way: a Ray Data job teaches, a stage of two steps trains on what it left."""
    from ember_platform.train.checkpoint import read_history
    from ember_platform.train.stage_run import run_stage

    config = settings(house)
    target = teach(config, data, str(house / "student"))
    assert len(records_of(target)) == TRAIN
    run_stage(config, 2, digest="taught", parent=str(house / "student"), data_dir=target)
    rows = read_history(Path(config.output_dir) / "stage2" / "history.parquet")
    assert all(np.isfinite(row["distill_loss"]) for row in rows)
    shutil.rmtree(config.output_dir)
