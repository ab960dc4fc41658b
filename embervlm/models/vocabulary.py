"""A pretrained WordPiece vocabulary cut to the tokens that English tasks need.

A word whose token went is still written, by shorter pieces: all single letters of it, digits and signs stay.
"""

from __future__ import annotations

import functools
import json
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from embervlm.models.config import EmberVLMConfig
from embervlm.models.sources import located


def kept_tokens(config: EmberVLMConfig) -> list[int] | None:
    """Ids of the pretrained tokens that `config.language_vocabulary` keeps, ascending; None where all stay.

    Special tokens and single characters first, then the other ASCII tokens in the order of their ids, which in a
    WordPiece vocabulary is that of their frequency, then what is left. So unused places and other scripts go first.

    Raises:
        ValueError: the text side has no WordPiece vocabulary, or the number leaves out what must stay.
    """
    if config.language is None or config.language_vocabulary is None:
        return None
    return list(_kept(config.language, config.language_vocabulary))


@functools.lru_cache(maxsize=4)
def _kept(source: str, count: int) -> tuple[int, ...]:
    tokenizer: Any = AutoTokenizer.from_pretrained(located(source))
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    if model["type"] != "WordPiece":
        raise ValueError(f"language_vocabulary: {source!r} has a {model['type']} vocabulary; only WordPiece is cut")
    prefix, special = model["continuing_subword_prefix"], set(tokenizer.all_special_tokens)
    ids: dict[str, int] = model["vocab"]
    if count >= len(ids):
        return tuple(range(len(ids)))
    needed = {i for token, i in ids.items() if token in special or _basic(token.removeprefix(prefix) or token)}
    if count < len(needed):
        raise ValueError(f"language_vocabulary: {count} is less than the {len(needed)} tokens that must stay")
    foreign = {i for token, i in ids.items() if not token.isascii() or token.startswith("[unused")}
    ranked = [*needed, *sorted(set(ids.values()) - foreign - needed), *sorted(foreign - needed)]
    return tuple(sorted(ranked[:count]))


def _basic(token: str) -> bool:
    """A single letter, digit or sign that words are spelled with where nothing longer is left; no foreign letters."""
    return len(token) == 1 and (token < "\u0100" or not token.isalpha())


def cut(tokenizer: PreTrainedTokenizerBase, kept: list[int]) -> PreTrainedTokenizerBase:
    """A WordPiece tokenizer with some of its tokens, numbered anew in the same order."""
    backend: Any = tokenizer
    state: dict[str, Any] = json.loads(backend.backend_tokenizer.to_str())
    place = {old: new for new, old in enumerate(kept)}
    vocabulary = state["model"]["vocab"]
    state["model"]["vocab"] = {token: place[i] for token, i in vocabulary.items() if i in place}
    for added in state["added_tokens"]:
        added["id"] = place[added["id"]]
    for frame in state["post_processor"]["special_tokens"].values():
        frame["ids"] = [place[i] for i in frame["ids"]]
    names = ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)), **{name: getattr(tokenizer, name) for name in names}
    )
