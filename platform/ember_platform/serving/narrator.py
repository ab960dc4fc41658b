"""Tokens of a reasoning as they come, to pieces of text for whoever watches."""

from __future__ import annotations

from functools import reduce
from typing import Literal

from ember_platform.serving.schemas import StreamDelta
from embervlm.data.processor import EmberVLMProcessor
from embervlm.data.prompts import joined, without_brackets

Event = tuple[Literal["reasoning", "plan"], StreamDelta]
#: What a byte-level tokenizer gives for a character of which some bytes are still to come.
_INCOMPLETE = "\ufffd"


class Narrator:
    """Follows one text. The pieces of a step, put together, are the step as the answer has it, up to outer blanks."""

    def __init__(self, processor: EmberVLMProcessor, names: list[str]) -> None:
        self._processor = processor
        self._names = names
        self._section: Literal["reasoning", "plan"] = "reasoning"
        self._step = 0
        self._ids: list[int] = []
        self._mentions: list[int] = []
        self._said = ""
        self._special = {
            self._processor.ids[name]: name for name in ("<|step|>", "<|reasoning_end|>", "<|action_plan|>")
        }

    def feed(self, token: int, mention: int) -> list[Event]:
        """What the newest token adds, if anything can be said yet."""
        special = self._special.get(token)
        if special is None:
            self._ids.append(token)
            self._mentions.append(mention)
            return self._news(final=False)
        news = self._news(final=True)
        if self._said.strip():
            self._step += 1
        self._ids, self._mentions, self._said = [], [], ""
        if special == "<|action_plan|>":
            self._section, self._step = "plan", 0
        return news

    def end(self) -> list[Event]:
        """What was held back, where the text ended without an end token."""
        return self._news(final=True)

    def _news(self, final: bool) -> list[Event]:
        if not self._ids:
            return []
        parts = self._processor.parts(self._ids, self._mentions, self._names)
        text = without_brackets(reduce(joined, (part for part in parts if part != "eos"), ""))
        if not final:
            text = text.rstrip(_INCOMPLETE).rstrip()
        if not text.startswith(self._said) or text == self._said:
            return []  # a decoder that took something back: the answer at the end has the whole text
        new, self._said = text[len(self._said) :], text
        return [(self._section, StreamDelta(step=self._step, text=new))]
