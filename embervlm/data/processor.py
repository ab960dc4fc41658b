"""Everything between records or requests and tensors; saved beside the model.

Shape legend: B batch, R distinct robots of a batch, N robots of a fleet, L tokens of a robot, C tokens of a task,
T tokens of generated text, S pixels.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, ProcessorMixin

from embervlm.data.images import EncodedImage, open_image, to_square
from embervlm.data.prompts import Piece, robot_text
from embervlm.data.tokenizer import load_tokenizer, token_ids
from embervlm.fleet import Fleet, FleetError
from embervlm.models.config import EmberVLMConfig

Batch = dict[str, Any]

#: Robots and phrases of chains come again and again; longer texts seldom do, and would fill the memory.
_REMEMBERED_LENGTH, _REMEMBERED_TEXTS = 400, 1 << 15


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]


@functools.lru_cache(maxsize=_REMEMBERED_TEXTS)
def _remembered(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    return tuple(_encode(tokenizer, text))


class EmberVLMProcessor(ProcessorMixin):
    """Tokenizer and picture settings of a model.

    Args:
        tokenizer: has the special tokens of `embervlm.models.config.SPECIAL_TOKENS`.
        image_size: side of the model's input in pixels.
        max_robot_tokens, max_text_tokens: limits; a robot beyond its limit is an error, a text is cut.
    """

    attributes = ("tokenizer",)
    tokenizer_class = "AutoTokenizer"

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        image_size: int = 224,
        max_robot_tokens: int = 128,
        max_text_tokens: int = 384,
        **kwargs: Any,
    ) -> None:
        self.image_size = image_size
        self.max_robot_tokens = max_robot_tokens
        self.max_text_tokens = max_text_tokens
        super().__init__(tokenizer, **kwargs)
        self.ids = token_ids(tokenizer)
        self._names = {v: k for k, v in self.ids.items()}
        self._before, self._behind = self._frame()
        self._joiners = {*self.words(","), *self.words("and")}

    @classmethod
    def build(cls, config: EmberVLMConfig, corpus: Iterable[str] | None = None) -> EmberVLMProcessor:
        """The processor for a configuration, whose `token_ids` it sets; `corpus` trains a tokenizer where needed."""
        return cls(load_tokenizer(config, corpus), config.image_size, config.max_robot_tokens, config.max_text_tokens)

    # --------------------------------------------------------------- encoding

    def words(self, text: str) -> list[int]:
        """Plain text to ids. What looks like a special token is plain text here."""
        if len(text) > _REMEMBERED_LENGTH:
            return _encode(self.tokenizer, text)
        return list(_remembered(self.tokenizer, text))

    def _frame(self) -> tuple[list[int], list[int]]:
        """What the tokenizer's template puts before and behind a text (BERT: [CLS] and [SEP]; ours nothing)."""
        framed, plain = self.tokenizer("a")["input_ids"], self.words("a")
        start = next(i for i in range(len(framed)) if framed[i : i + len(plain)] == plain)
        return framed[:start], framed[start + len(plain) :]

    def segment(self, text: str, limit: int | None = None) -> list[int]:
        """A text that stands alone (a robot, a task) as the pretrained text side knows texts; cut to `limit` ids."""
        ids = self.words(text)
        if limit is not None:
            ids = ids[: limit - len(self._before) - len(self._behind)]
        return [*self._before, *ids, *self._behind]

    def pieces(self, pieces: Sequence[Piece]) -> tuple[list[int], list[int]]:
        """Generated text to ids and mentions (the robot's place in the fleet, -1 for ordinary tokens)."""
        ids: list[int] = []
        mentions: list[int] = []
        for kind, value in pieces:
            if kind == "words":
                new = self.words(str(value))
            elif kind == "special":
                new = [self.ids[str(value)]]
            else:
                new = [self.ids["<|robot|>"]]
            ids.extend(new)
            mentions.extend([int(value) if kind == "mention" else -1] * len(new))
        return ids, mentions

    def images(self, images: Sequence[Any]) -> Batch:
        """Pictures (or None) to `pixel_values` (B, 3, S, S) bytes and `image_mask` (B,); empty where none has one.

        Where they are `EncodedImage`, all of them, `image_features` (B, P, V) bfloat16 take the pixels' place.
        """
        encoded = [image for image in images if isinstance(image, EncodedImage)]
        if encoded:
            return _encoded(images, encoded[0].bits.shape)
        if all(image is None for image in images):
            return {}
        pixels = np.zeros((len(images), 3, self.image_size, self.image_size), dtype=np.uint8)
        for i, image in enumerate(images):
            if image is not None:
                pixels[i] = to_square(open_image(image, f"image {i}"), self.image_size)
        return {
            "pixel_values": torch.from_numpy(pixels),
            "image_mask": torch.tensor([image is not None for image in images]),
        }

    def robots(self, fleets: Sequence[Fleet]) -> Batch:
        """Fleets to their distinct robots, `robot_input_ids` (R, L), and `robot_index` (B, N), -1 for none.

        Raises:
            FleetError: a robot's description is longer than the model reads.
        """
        rows: dict[str, int] = {}
        index = torch.full((len(fleets), max(len(f) for f in fleets)), -1, dtype=torch.long)
        for i, fleet in enumerate(fleets):
            for j, robot in enumerate(fleet):
                index[i, j] = rows.setdefault(robot_text(robot), len(rows))
        texts = [self.segment(text) for text in rows]
        for text, ids in zip(rows, texts, strict=True):
            if len(ids) > self.max_robot_tokens:
                name = text.split(".")[0]
                raise FleetError(
                    f"robot {name!r}: its description has {len(ids)} tokens, the model reads {self.max_robot_tokens}; "
                    "shorten its lists"
                )
        input_ids, mask = self._pad(texts)
        return {"robot_input_ids": input_ids, "robot_attention_mask": mask, "robot_index": index}

    def texts(self, contexts: Sequence[str]) -> Batch:
        """Tasks, questions or prompts to `input_ids` and `attention_mask` (B, C)."""
        ids, mask = self._pad([self.segment(text, self.max_text_tokens) for text in contexts])
        return {"input_ids": ids, "attention_mask": mask}

    def generated(self, written: Sequence[tuple[list[int], list[int]]], start: str = "bos") -> Batch:
        """Text that is to be written, as ids and mentions (see `pieces`); `start` names the token that opens it.

        Returns:
            `generated_ids`, `generated_mask`, `mention_index` (B, T); `mention_end` (B, T), the place of the last
            mention of the same list ("[A], [B] and [C]"), -1 elsewhere; and `labels` (B, T): the token itself where
            it is to be predicted from the one before, -100 elsewhere.
        """
        room = self.max_text_tokens - 1
        rows = [[self.ids[start], *ids[:room]] for ids, _ in written]
        ids, mask = self._pad(rows)
        return {
            "generated_ids": ids,
            "generated_mask": mask,
            "mention_index": self._pad([[-1, *mentions[:room]] for _, mentions in written], -1)[0],
            "mention_end": self._pad([self._list_ends([-1, *m[:room]], [-1, *i[:room]]) for i, m in written], -1)[0],
            "labels": self._pad([[-100, *row[1:]] for row in rows], -100)[0],
        }

    def _list_ends(self, mentions: Sequence[int], ids: Sequence[int]) -> list[int]:
        """For every mention the place of the last one of its list; -1 for other tokens."""
        ends = [-1] * len(mentions)
        last = -1  # the mention that a list goes on to, seen from the end
        for place in range(len(mentions) - 1, -1, -1):
            if mentions[place] >= 0:
                last = last if last >= 0 else place
                ends[place] = last
            elif ids[place] not in self._joiners:
                last = -1
        return ends

    def segments(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Texts that stand alone (captions to embed): ids and mask (B, T)."""
        return self._pad([self.segment(t, self.max_text_tokens) or [self.ids["eos"]] for t in texts])

    def _pad(self, rows: Sequence[list[int]], value: int | None = None) -> tuple[Tensor, Tensor]:
        value = self.ids["pad"] if value is None else value
        length = max(1, max(len(r) for r in rows))
        padded = np.full((len(rows), length), value, dtype=np.int64)
        for i, row in enumerate(rows):
            padded[i, : len(row)] = row
        lengths = torch.tensor([len(r) for r in rows])
        return torch.from_numpy(padded), torch.arange(length)[None, :] < lengths[:, None]

    # --------------------------------------------------------------- decoding

    def parts(self, ids: Sequence[int], mentions: Sequence[int], names: Sequence[str]) -> list[str]:
        """Generated ids as alternating words and special tokens' names, mentions written as `[Name]`."""
        parts: list[str] = []
        words: list[int] = []

        def flush() -> None:
            if words:
                # WordPiece forgets what stood against a word, and its decoder mends only some of it.
                parts.append(re.sub(r" (?=[:;])", "", self.tokenizer.decode(words)))
                words.clear()

        for token, mention in zip(ids, mentions, strict=True):
            name = self._names.get(token)
            if name is None:
                words.append(token)
                continue
            flush()
            if name == "<|robot|>":
                parts.append(f"[{names[mention]}]" if 0 <= mention < len(names) else "[?]")
            else:
                parts.append(name)
            if name == "eos":
                break
        flush()
        return parts

    def plain(self, ids: Sequence[int]) -> str:
        """Generated ids as words, up to the end token; special tokens are dropped."""
        return "".join(p for p in self.parts(ids, [-1] * len(ids), []) if p not in self.ids).strip()


def _encoded(images: Sequence[EncodedImage | None], shape: tuple[int, ...]) -> Batch:
    bits = np.zeros((len(images), *shape), dtype=np.uint16)
    for i, image in enumerate(images):
        if image is not None:
            bits[i] = image.bits
    return {
        "image_features": torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16),
        "image_mask": torch.tensor([image is not None for image in images]),
    }
