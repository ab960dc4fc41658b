"""Sizes, saving and loading, answers, generation, and what bad input says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

from embervlm import EmberVLM, EmberVLMConfig, EmberVLMProcessor, Fleet, Robot
from embervlm.data.images import ImageError, open_image
from embervlm.fleet import FleetError
from embervlm.models.heads import Words
from embervlm.stages import get_stage
from tests.models.fakes import TASK, tiny


@pytest.fixture(scope="module", params=["qwen3", "bert"])
def model(request: pytest.FixtureRequest) -> EmberVLM:
    return tiny(request.param)


def test_the_product_from_nothing_has_37m_parameters_and_trains_23m_in_stage_3() -> None:
    model = EmberVLM(EmberVLMConfig.preset("embervlm-37m-scratch"))
    total = sum(p.numel() for p in model.parameters())
    assert total == pytest.approx(37e6, rel=0.01)
    get_stage(3).prepare(model, "main")
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == pytest.approx(23e6, rel=0.02)
    vision = sum(p.numel() for p in model.vision.parameters())
    assert vision == pytest.approx(14e6, rel=0.05)


def test_pretrained_words_keep_the_products_sizes() -> None:
    config = EmberVLMConfig.preset("embervlm-37m")
    processor = EmberVLMProcessor.build(config)
    model = EmberVLM.from_parts(config, len(processor.tokenizer))
    get_stage(3).prepare(model, "main")
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(37.9e6, rel=0.01), "0.6M of them write"
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == pytest.approx(24e6, rel=0.02)
    text = "fly to the third floor — 10 m³, no stairs"
    assert processor.tokenizer.unk_token_id not in processor.words(text)
    assert processor.tokenizer.decode(processor.words(text)) == text
    tasks = ["scan the sea floor around the wreck", "look at the roof from above"]
    best = [answer["robots"][0]["robot"] for answer in _asked(model, processor, tasks)]
    assert best == ["Underwater Robot", "Drone"], "untrained, by the meaning of the words"


@pytest.mark.parametrize(
    ("preset", "there"), [("embervlm-nano", False), ("embervlm-37m-scratch", False), ("minilm", True)]
)
def test_only_models_with_a_similarity_have_its_weight(preset: str, there: bool) -> None:
    model = tiny("bert") if there else EmberVLM(EmberVLMConfig.preset(preset))
    assert ("selection.closeness" in model.state_dict()) == there
    assert ("selection.closeness" in dict(model.named_parameters())) == there
    assert any(name.startswith(("asking.", "lacking.")) for name in model.state_dict()) == there
    if not there:
        with pytest.raises(ValueError, match="similar"):
            model.selection.start_as_similarity(10.0)


def test_the_similarity_moves_scores_only_where_the_model_has_its_weight() -> None:
    plain, close = tiny(), tiny("bert")
    tokens, robots, asked = torch.randn(2, 3, 32), torch.randn(2, 3, 32), torch.randn(2, 32)
    with torch.no_grad():
        unmoved = [plain.selection(tokens, Words(r, asked))[0] for r in (robots, -robots)]
        moved = [close.selection(tokens, Words(r, asked))[0] for r in (robots, -robots)]
    assert torch.equal(*unmoved)
    cosine = torch.nn.functional.cosine_similarity(robots, asked[:, None], dim=-1)
    torch.testing.assert_close(moved[0] - moved[1], 2 * 2.0 * cosine)


def _asked(model: EmberVLM, processor: EmberVLMProcessor, tasks: list[str]) -> list[dict]:
    model.processor = processor
    return model.select_many([{"task": task} for task in tasks])


def test_a_new_model_reasons_as_the_identity_and_reads_quietly(tmp_path: Path) -> None:
    model = tiny("bert")
    hidden = torch.randn(2, 3, model.language.width)
    assert torch.equal(model.reasoning.refine(hidden), hidden)
    assert torch.equal(model.reasoning.answer(hidden, torch.ones(2, 3)), torch.ones(2, 3))
    assert model.asking is not None
    assert torch.equal(model.asking.tell.bias, torch.full((64,), -3.0))
    torch.nn.init.ones_(model.reasoning.answer_score.weight)
    torch.nn.init.ones_(model.asking.tell.bias)
    model.save_pretrained(tmp_path)
    again = EmberVLM.from_pretrained(tmp_path)
    assert again.asking is not None
    assert torch.equal(again.asking.tell.bias, torch.ones(64))
    assert torch.equal(again.reasoning.answer_score.weight, model.reasoning.answer_score.weight)


def test_nano_is_small() -> None:
    model = EmberVLM(EmberVLMConfig.preset("embervlm-nano"))
    assert 3e6 < sum(p.numel() for p in model.parameters()) < 6e6


def test_a_saved_model_answers_the_same(model: EmberVLM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    model.processor.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.bin"))
    assert list(tmp_path.glob("*.safetensors"))
    image = np.zeros((64, 64, 3), np.uint8)
    loaded = EmberVLM.from_pretrained(tmp_path)
    expected = model.select_robots(image, TASK)
    assert [r["robot"] for r in loaded.select_robots(image, TASK)["robots"]] == [r["robot"] for r in expected["robots"]]
    assert isinstance(AutoModel.from_pretrained(tmp_path), EmberVLM)
    assert isinstance(AutoProcessor.from_pretrained(tmp_path), EmberVLMProcessor)


def test_the_answer_has_the_documented_form(model: EmberVLM) -> None:
    answer = model.select_robots(None, TASK, top_k=3)
    assert len(answer["robots"]) == 3
    confidences = [robot["confidence"] for robot in answer["robots"]]
    assert confidences == sorted(confidences, reverse=True)
    assert answer["team"]
    assert answer["plan"] == []
    assert answer["reasoning"] == ""
    reasoned = model.select_robots(None, TASK, reasoning=True, max_new_tokens=12)
    assert isinstance(reasoned["reasoning"], str)
    assert isinstance(reasoned["plan"], list)


def test_generation_with_a_cache_equals_a_full_pass(model: EmberVLM) -> None:
    """Greedy tokens of `generate` are the argmax of one pass over the whole text."""
    processor = model.processor
    inputs = processor.texts([TASK, "look"]) | processor.robots([Fleet.of(None)] * 2)
    start = torch.full((2,), model.config.token_ids["<|reasoning_start|>"])
    written = model.generate(**inputs, start_ids=start, max_new_tokens=8)
    ids = torch.cat([start[:, None], written.sequences], dim=1)
    mentions = torch.cat([torch.full((2, 1), -1), written.mentions], dim=1)
    alive = (ids == model.config.token_ids["eos"]).cumsum(1) - (ids == model.config.token_ids["eos"]).long() == 0
    with torch.no_grad():
        output = model(**inputs, generated_ids=ids, generated_mask=alive, mention_index=mentions, select=True)
        logits = model.language.logits(model.reasoning.refine(output.text_hidden))
    expected = logits[:, :-1].argmax(-1)
    assert torch.equal(expected[alive[:, 1:]], ids[:, 1:][alive[:, 1:]])


def test_a_frozen_encoder_keeps_its_batch_statistics(model: EmberVLM) -> None:
    fresh = tiny()
    get_stage(1).prepare(fresh, "main")
    before = {k: v.clone() for k, v in fresh.vision.state_dict().items()}
    fresh.train()
    fresh.visual_features(torch.randint(0, 255, (4, 3, 64, 64), dtype=torch.uint8))
    assert all(torch.equal(v, before[k]) for k, v in fresh.vision.state_dict().items())


def test_the_fused_encoder_agrees_with_the_plain_one() -> None:
    model = tiny()
    pixels = torch.randint(0, 255, (2, 3, 64, 64), dtype=torch.uint8)
    model.vision.freeze()
    fused = model.visual_features(pixels)
    plain = model.vision.backbone.eval().forward_features(
        (pixels / 255 - model.vision.image_mean) / model.vision.image_std
    )
    assert torch.allclose(fused, plain.flatten(2).transpose(1, 2), atol=1e-3)


def test_a_held_copy_answers_while_the_weights_are_spread_over_workers() -> None:
    """ZeRO-3 leaves parameters empty between their uses, and every gathering counts as a change."""
    model = tiny()
    model.vision.freeze()
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    model.vision.hold_copy()
    before = model.visual_features(pixels)
    with torch.no_grad():
        for parameter in model.vision.parameters():
            parameter.add_(1.0)
            parameter.data = torch.empty(0)
    model.train()
    assert torch.equal(model.visual_features(pixels), before)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        ({"task": "  "}, ValueError, "task: empty"),
        ({"task": TASK, "fleet": []}, FleetError, "fleet: empty"),
        ({"task": TASK, "fleet": [{"capabilities": ["x"]}]}, FleetError, r"robots\[0\].name"),
        ({"task": TASK, "fleet": [{"name": "A", "capabilities": "x"}]}, FleetError, r"robots\[0\].capabilities"),
        ({"task": TASK, "fleet": [Robot("A"), Robot("A")]}, FleetError, "two robots"),
        ({"task": TASK, "fleet": [Robot("A", ("word " * 500,))]}, FleetError, "'A'.*tokens"),
        ({"task": TASK, "image": "no/such.jpg"}, ImageError, "no/such.jpg"),
        ({"task": TASK, "image": b"not a picture"}, ImageError, "image 0"),
        ({"task": TASK, "image": np.zeros((3,))}, ImageError, "shape"),
        ({"task": TASK, "top_k": 0}, ValueError, "top_k"),
    ],
)
def test_bad_input_says_what_and_where(model: EmberVLM, call: dict, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        model.select_robots(**call)


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA", "I;16", "1"])
def test_pictures_of_any_mode_and_size(model: EmberVLM, mode: str) -> None:
    image = Image.new(mode, (333, 41))
    assert open_image(image).mode == "RGB"
    assert model.select_robots(image, TASK)["robots"]


def test_a_camera_photograph_is_turned_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 20), "red")
    exif = image.getexif()
    exif[0x0112] = 6  # held sideways
    image.save(tmp_path / "photo.jpg", exif=exif)
    assert open_image(tmp_path / "photo.jpg").size == (20, 40)


def test_an_unknown_preset_and_field_are_named() -> None:
    with pytest.raises(ValueError, match="embervlm-nano"):
        EmberVLMConfig.preset("embervlm-xl")
    with pytest.raises(ValueError, match=r"model\.widht"):
        EmberVLMConfig.preset("embervlm-nano", widht=3)
