"""An encoder as text side: reads as it was pretrained to, writes from left to right, scores start as a cosine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch.nn.functional import cosine_similarity
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from embervlm import EmberVLM, EmberVLMConfig, EmberVLMProcessor, Robot
from embervlm.data.prompts import robot_text
from embervlm.fleet import default_fleet
from embervlm.models.config import SPECIAL_TOKENS
from embervlm.models.sources import located
from tests.models.fakes import TASK, tiny

WORDS = ("close", "valve", "under", "pier", "the", "drone", "flies", "##s", "robot", "water", "can", "legs")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence encoder's folder as hubs have it: a pooler, no output layer, a WordPiece tokenizer with a template."""
    folder = tmp_path_factory.mktemp("encoder")
    letters = [chr(i) for i in range(33, 127) if not chr(i).isupper()]
    names = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{x}" for x in letters)]
    names += [*WORDS, "é", "##語"]
    vocabulary = {name: i for i, name in enumerate(dict.fromkeys(names))}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    )
    special = {f"{name.lower()}_token": f"[{name}]" for name in ("PAD", "UNK", "CLS", "SEP", "MASK")}
    PreTrainedTokenizerFast(tokenizer_object=made, **special).save_pretrained(folder)
    torch.manual_seed(3)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    BertModel(BertConfig(vocab_size=len(vocabulary), **sizes)).save_pretrained(folder)
    return folder


def built(encoder: Path, **values: object) -> EmberVLM:
    config = EmberVLMConfig.preset(
        "embervlm-nano",
        language=str(encoder),
        text_config=None,
        image_size=64,
        similarity=10.0,
        max_robot_tokens=256,
        **values,
    )
    config.vision_args = {"embed_dim": [8, 16, 24, 32], "depth": [1, 1, 1, 1]}
    processor = EmberVLMProcessor.build(config)
    torch.manual_seed(0)
    model = EmberVLM.from_parts(config, len(processor.tokenizer)).eval()
    model.processor = processor
    return model


@torch.no_grad()
def plain_state(encoder: Path, text: str, start: int = 0) -> torch.Tensor:
    """A text in one vector as the sentence encoder itself gives it, from a position on: the mean of its states."""
    ids = PreTrainedTokenizerFast.from_pretrained(encoder)(text, return_tensors="pt")["input_ids"]
    places = start + torch.arange(ids.shape[1])[None]
    return BertModel.from_pretrained(encoder).eval()(ids, position_ids=places).last_hidden_state[0].mean(0)


@pytest.mark.parametrize("kept", [None, 153])
def test_scores_start_as_the_cosine_of_the_sentence_encoder(encoder: Path, kept: int | None) -> None:
    model = built(encoder, language_vocabulary=kept)
    task, fleet = "close the valve", [Robot("drone", ("flies",)), Robot("legs", ("water",)), Robot("robot", ("pier",))]
    scores = torch.tensor(model.score_many([{"task": task, "fleet": fleet}])[0])
    asked = plain_state(encoder, task, model.config.max_robot_tokens + model.config.image_tokens)
    cosines = torch.stack([cosine_similarity(plain_state(encoder, robot_text(r)), asked, dim=0) for r in fleet])
    assert cosines.max() - cosines.min() > 0.01
    torch.testing.assert_close(scores - scores.mean(), 10 * (cosines - cosines.mean()), atol=1e-3, rtol=1e-3)


def test_the_cut_vocabulary_keeps_letters_and_frequent_words(encoder: Path) -> None:
    whole, less = built(encoder), built(encoder, language_vocabulary=152)
    assert less.language.vocabulary < whole.language.vocabulary
    words = less.processor.tokenizer.get_vocab()
    assert set(SPECIAL_TOKENS) <= set(words)
    assert {"close", "a", "##a", "[SEP]"} <= set(words)
    assert not {"[unused0]", "##語", "legs"} & set(words)
    assert sorted(words.values()) == list(range(len(words)))
    ids = whole.processor.words("close"), less.processor.words("close")
    rows = [m.language.embed(torch.tensor(i)) for m, i in zip((whole, less), ids, strict=True)]
    assert torch.equal(*rows)
    with pytest.raises(ValueError, match="must stay"):
        built(encoder, language_vocabulary=20)


def test_what_is_written_reads_as_it_was_meant(encoder: Path) -> None:
    processor = built(encoder).processor
    ids, mentions = processor.pieces([("words", "seen: water. robot: "), ("mention", 0), ("words", ".")])
    assert "".join(processor.parts(ids, mentions, ["Iris"])).replace(" ", "") == "seen:water.robot:[Iris]."
    assert processor.plain(ids).startswith("seen: water. robot:")


def test_new_tokens_lie_as_far_apart_as_words_do(encoder: Path) -> None:
    """They may be frozen: tokens that are one in the table can never be told apart, read or written."""
    model = built(encoder)
    table = model.language.decoder.get_input_embeddings().weight.detach()
    new = torch.tensor([model.config.token_ids[name] for name in SPECIAL_TOKENS])
    assert int(new.min()) >= 100, "rows that the encoder did not have"
    apart, words = torch.pdist(table[new]), torch.pdist(table[: int(new.min())])
    assert words.mean() / 2 < apart.min()
    assert apart.max() < words.mean() * 2


def test_a_pretrained_encoder_survives_saving(encoder: Path, tmp_path: Path) -> None:
    model = built(encoder, language_vocabulary=152)
    model.save_pretrained(tmp_path)
    model.processor.save_pretrained(tmp_path)
    again = EmberVLM.from_pretrained(tmp_path)
    expected, found = (m.select_robots(None, TASK, reasoning=True, max_new_tokens=6) for m in (model, again))
    assert found["robots"] == expected["robots"]
    assert found["reasoning"] == expected["reasoning"]
    assert json.loads((tmp_path / "config.json").read_text())["text_config"]["model_type"] == "bert"
    weight = again.language.decoder.get_output_embeddings().weight
    assert weight is again.language.decoder.get_input_embeddings().weight, "words are written by what reads them"


def test_every_weight_of_the_text_side_learns() -> None:
    model = tiny("bert")
    inputs = model.processor.texts([TASK]) | model.processor.robots([default_fleet()])
    written = model.processor.generated([model.processor.pieces([("words", TASK), ("mention", 1)])])
    output = model(**inputs, **written, select=True, select_reasoned=True)
    loss = (
        output.scores.sum()
        + output.reasoned_scores.sum()
        + model.language.logits(output.text_hidden).logsumexp(-1).sum()
    )
    loss.backward()
    found = {name: p.grad for name, p in model.language.named_parameters()}
    assert [name for name, grad in found.items() if grad is None] == []
    assert all(bool(torch.isfinite(grad).all()) for grad in found.values() if grad is not None)


def test_a_new_model_scores_by_words_alone(encoder: Path) -> None:
    model = built(encoder, word_kinds=64)
    inputs = model.processor.texts([TASK]) | model.processor.robots([default_fleet()])
    with torch.no_grad():
        output = model(**inputs, select=True)
        blind, _ = model.selection(torch.zeros_like(output.context.selected), output.context.words)
    torch.testing.assert_close(blind, output.scores)
    assert float(output.scores.max() - output.scores.min()) > 0


def test_a_pretrained_text_side_is_known_as_such(encoder: Path) -> None:
    model = built(encoder)
    known = {id(p) for p in model.pretrained_parameters()}
    new = [name for name, p in model.language.named_parameters() if id(p) not in known]
    assert len(known) == len(list(model.language.parameters())) - len(new)
    assert all(name.startswith("decoder.cls.predictions.") for name in new), "what writes is new, what reads is not"
    assert any("transform.dense" in name for name in new)
    assert tiny("bert").pretrained_parameters() == [], "of the same kind, and new"


def test_reading_is_free_and_writing_is_causal() -> None:
    model = tiny("bert")
    processor, text = model.processor, model.processor.words(TASK)
    inputs = processor.texts([TASK])

    @torch.no_grad()
    def states(ids: list[int]) -> torch.Tensor:
        mask = torch.ones(1, len(ids), dtype=torch.bool)
        return model(**inputs, generated_ids=torch.tensor([ids]), generated_mask=mask).text_hidden

    changed = [*text[:-1], text[0]]
    torch.testing.assert_close(states(changed)[:, :-1], states(text)[:, :-1])
    first = model._segments(torch.tensor([text]), torch.ones(1, len(text), dtype=torch.bool))[0][:, 0]
    other = model._segments(torch.tensor([changed]), torch.ones(1, len(text), dtype=torch.bool))[0][:, 0]
    assert not torch.allclose(first, other), "the first token of what is read sees the last one"


def test_a_text_longer_than_the_table_of_positions_is_still_read() -> None:
    model = tiny("bert")
    robots = [Robot(f"r{i}", ("digs",)) for i in range(2)]
    written = model.processor.generated([([5] * 383, [-1] * 383)])
    inputs = model.processor.texts(["go on " * 300]) | model.processor.robots([robots])
    with torch.no_grad():
        output = model(**inputs, **written, select=True, select_reasoned=True)
    assert bool(torch.isfinite(output.reasoned_scores).all())


def test_a_package_that_is_not_there_is_named() -> None:
    assert located("some/hub-name") == "some/hub-name"
    with pytest.raises(OSError, match="no_such_package"):
        located("package:no_such_package/model")
    with pytest.raises(OSError, match="no folder"):
        located("package:embervlm/no_such_folder")
