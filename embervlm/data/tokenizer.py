"""The tokenizer: the pretrained text side's own, or one trained on our corpus."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from embervlm.models.config import SPECIAL_TOKENS, EmberVLMConfig
from embervlm.models.sources import located
from embervlm.models.vocabulary import cut, kept_tokens

_OWN = ("<|pad|>", "<|bos|>", "<|eos|>")


def train_tokenizer(corpus: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE over lower-cased text; the same corpus gives the same tokenizer.

    Args:
        corpus: texts of every kind the model will read.
        vocabulary: tokens at most, special ones included.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        # Digits last: before, every digit would get a space of its own.
        [pre_tokenizers.ByteLevel(add_prefix_space=True), pre_tokenizers.Digits(individual_digits=True)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=[*_OWN, *SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=_OWN[0],
        bos_token=_OWN[1],
        eos_token=_OWN[2],
        extra_special_tokens=list(SPECIAL_TOKENS),
        clean_up_tokenization_spaces=False,
    )


def load_tokenizer(config: EmberVLMConfig, corpus: Iterable[str] | None) -> PreTrainedTokenizerBase:
    """The tokenizer for a configuration: of `config.language` where that is set, else trained on `corpus`.

    Sets `config.token_ids`.

    Raises:
        ValueError: there is neither a pretrained text side nor a corpus, or the tokenizer lacks a token.
    """
    if config.language:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(located(config.language))
        kept = kept_tokens(config)
        if kept is not None:
            tokenizer = cut(tokenizer, kept)
        tokenizer.add_special_tokens({"extra_special_tokens": list(SPECIAL_TOKENS)})
        if tokenizer.eos_token_id is None and tokenizer.sep_token_id is not None:
            # An encoder's sentences stand between these two.
            tokenizer.bos_token, tokenizer.eos_token = tokenizer.cls_token, tokenizer.sep_token
        if tokenizer.eos_token_id is None:
            raise ValueError(f"language: the tokenizer of {config.language!r} has no end-of-sequence token")
    elif corpus is None:
        raise ValueError("language: not set, so a corpus is needed to train a tokenizer")
    else:
        vocabulary = config.decoder_config().vocab_size
        tokenizer = train_tokenizer(corpus, vocabulary)
    config.token_ids = token_ids(tokenizer)
    return tokenizer


def token_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Ids of the tokens that the model handles by name."""
    eos = int(tokenizer.eos_token_id)
    ids = {
        "pad": int(tokenizer.pad_token_id) if tokenizer.pad_token_id is not None else eos,
        "bos": int(tokenizer.bos_token_id) if tokenizer.bos_token_id is not None else eos,
        "eos": eos,
    }
    special: Any = tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))
    return ids | {name: int(i) for name, i in zip(SPECIAL_TOKENS, special, strict=True)}
