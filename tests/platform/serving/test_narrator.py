"""What is told while a text is written is what the answer says at its end."""

from __future__ import annotations

from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from ember_platform.serving.narrator import Narrator
from embervlm import EmberVLMConfig, EmberVLMProcessor
from embervlm.data.prompts import Piece, parse_generated, without_brackets

NAMES = ["Heron", "Robot with Wheels", "R2.5"]
WORDS = ["the pier", "needs: water.", ".", ", and", "a 12 m drop", "Überflutung", "階段", " ", "!?", "\u00a0x"]


@cache
def processor() -> EmberVLMProcessor:
    return EmberVLMProcessor.build(EmberVLMConfig.preset("embervlm-nano"), ["the pier needs water and a drop of 12 m"])


PIECES = st.one_of(
    st.sampled_from(WORDS).map(lambda words: ("words", words)),
    st.integers(0, len(NAMES) - 1).map(lambda place: ("mention", place)),
    st.just(("special", "<|step|>")),
)


@settings(max_examples=80, deadline=None)
@given(steps=st.lists(PIECES, max_size=12), plan=st.lists(PIECES, max_size=6), ended=st.booleans())
def test_what_is_told_is_what_is_answered(steps: list[Piece], plan: list[Piece], ended: bool) -> None:
    opening: list[Piece] = [("special", "<|reasoning_end|>"), ("special", "<|action_plan|>")]
    ids, mentions = processor().pieces([*steps, *(opening if plan else []), *plan])
    if ended:
        ids, mentions = [*ids, processor().ids["eos"]], [*mentions, -1]
    narrator = Narrator(processor(), NAMES)
    told: dict[tuple[str, int], str] = {}
    events = [event for token, mention in zip(ids, mentions, strict=True) for event in narrator.feed(token, mention)]
    for section, delta in [*events, *narrator.end()]:
        assert delta.text
        told[section, delta.step] = told.get((section, delta.step), "") + delta.text
    answered, _ = parse_generated(processor().parts(ids, mentions, NAMES))
    assert [told[key] for key in sorted(told) if key[0] == "reasoning"] == [without_brackets(s) for s in answered]
