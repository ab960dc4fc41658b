"""Writing text with a KV cache: captions, answers, reasoning chains and plans.

Shape legend: B batch, T tokens, N robots, D width.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from embervlm.models.attention import recorded_attention
from embervlm.models.layout import GENERATED, PAD, SELECT_REASONED, mentioned

if TYPE_CHECKING:
    from embervlm.models.modeling import Context, EmberVLM


@dataclass
class Generation:
    """What was written.

    `sequences` (B, T) holds the new tokens, padded after the end; `mentions` (B, T) the robot that each mention means,
    -1 elsewhere; `scores` the direct scores (B, N) and `reasoned_scores` those after the text, where asked for;
    `attention` what the reasoned selection tokens looked at, where asked for: per layer (B, H, N, K); `selected` the
    states of the direct selection tokens (B, N, D), where there is a fleet.
    """

    sequences: Tensor
    mentions: Tensor
    scores: Tensor | None = None
    reasoned_scores: Tensor | None = None
    attention: list[Tensor] | None = None
    selected: Tensor | None = None


class WritingMixin:
    """`generate` for `EmberVLM`: greedy or sampled, one decoder pass per token, every sample in its own place."""

    def generate(self: EmberVLM, *args: Any, **inputs: Any) -> Generation:  # type: ignore[misc]
        """Continue a batch of contexts; arguments and result as `write`."""
        steps = self.write(*args, **inputs)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return end.value

    @torch.no_grad()
    def write(  # type: ignore[misc]
        self: EmberVLM,
        input_ids: Tensor,
        attention_mask: Tensor,
        start_ids: Tensor,
        max_new_tokens: int = 64,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        select: bool = False,
        forced: Tensor | None = None,
        forced_mentions: Tensor | None = None,
        attention: bool = False,
        **inputs: Any,
    ) -> Generator[tuple[Tensor, Tensor], Tensor | None, Generation]:
        """Continue a batch of contexts, a token at a time.

        Yields the newest tokens (B,) and the robots that they mention (B,), so that a caller can show the text while it
        is written and do other work between two tokens. A mask (B,) sent back ends the texts where it is True.

        Args:
            input_ids, attention_mask, inputs: as `forward`, without generated text.
            start_ids: (B,) the token that opens the generated text (`<|reasoning_start|>` or the beginning token).
            max_new_tokens: tokens at most, the opening one not counted.
            do_sample, temperature, top_k, top_p: sampling; greedy otherwise.
            select: also read the robots' scores, before and after the text.
            forced, forced_mentions: (B, F) text to write first, given by the caller (-1 pads): the model goes on
                after it. Used to intervene on a chain.
            attention: keep the attention weights of the reasoned selection tokens.

        Returns:
            The tokens after the opening one, up to and with the end token.
        """
        with_fleet = inputs.get("robot_index") is not None
        output = self(input_ids=input_ids, attention_mask=attention_mask, select=with_fleet, **inputs)
        context: Context = output.context
        context.cache.reserve(max_new_tokens + 1 + context.robot_mask.shape[1])
        samples = input_ids.shape[0]
        device = input_ids.device
        warp = _warpers(temperature, top_k, top_p) if do_sample else None
        ids = self.config.token_ids
        token, mention = start_ids, torch.full((samples,), -1, device=device)
        alive = torch.ones(samples, dtype=torch.bool, device=device)
        tokens, mentions = [], []
        spent = torch.zeros_like(context.robot_mask)  # robots that the step under way has mentioned
        for step in range(max_new_tokens + 1):
            kinds = torch.where(alive, GENERATED, PAD)[:, None]
            hidden = self._append_text(context, token[:, None], mention[:, None], kinds, spent[:, None])
            alive = alive & (token != ids["eos"])
            if step == max_new_tokens or not bool(alive.any()):
                break
            last = self.reasoning.refine(hidden[:, 0]) if output.scores is not None else hidden[:, 0]
            token, mention = self._next_token(last, context, spent, warp, input_ids)
            if forced is not None and step < forced.shape[1]:
                given = forced[:, step] >= 0
                token = torch.where(given, forced[:, step], token)
                if forced_mentions is not None:
                    mention = torch.where(given, forced_mentions[:, step], mention)
            token = torch.where(alive, token, ids["pad"])
            mention = torch.where(alive & (token == ids["<|robot|>"]), mention, -1)
            spent = (spent & ~self.closes_step(token)[:, None]) | mentioned(mention[:, None], spent.shape[1])[:, 0]
            tokens.append(token)
            mentions.append(mention)
            unwanted = yield token, mention
            if unwanted is not None:
                alive = alive & ~unwanted.to(device)
        empty = torch.zeros(samples, 0, dtype=torch.long, device=device)
        generation = Generation(
            sequences=torch.stack(tokens, 1) if tokens else empty,
            mentions=torch.stack(mentions, 1) if mentions else empty,
            scores=output.scores,
            selected=context.selected,
        )
        if select and output.scores is not None:
            if not attention:
                generation.reasoned_scores = self._reasoned_scores(context, output.scores)
            else:
                with recorded_attention() as generation.attention:
                    generation.reasoned_scores = self._reasoned_scores(context, output.scores)
        return generation

    def _append_text(  # type: ignore[misc]
        self: EmberVLM, context: Context, token: Tensor, mention: Tensor, kinds: Tensor, spent: Tensor
    ) -> Tensor:
        embeddings = self.text_embeddings(token, mention, context, spent)
        hidden = self.query(context, embeddings, kinds, context.next_position[:, None], torch.full_like(token, -1))
        context.next_position = context.next_position + (kinds[:, 0] != PAD)
        return hidden

    def _next_token(  # type: ignore[misc]
        self: EmberVLM,
        hidden: Tensor,
        context: Context,
        spent: Tensor,
        warp: LogitsProcessorList | None,
        input_ids: Tensor,
    ) -> tuple[Tensor, Tensor]:
        logits = self.language.logits(hidden).float()
        nobody = (spent | ~context.robot_mask).all(dim=1)  # no robot is left that the step has not named
        logits[nobody, self.config.token_ids["<|robot|>"]] = -torch.inf
        if warp is not None:
            warped = warp(input_ids, logits)  # type: ignore[arg-type]
            token = torch.multinomial(warped.softmax(-1), 1)[:, 0]
        else:
            token = logits.argmax(-1)
        if context.scores is None:
            return token, torch.full_like(token, -1)
        return token, self.pointer(hidden[:, None], context, spent[:, None])[:, 0].argmax(-1)

    def _reasoned_scores(self: EmberVLM, context: Context, direct: Tensor) -> Tensor:  # type: ignore[misc]
        hidden = self.query(context, *self.selection_tokens(context, SELECT_REASONED))
        return self.reasoning.answer(hidden, direct).masked_fill(~context.robot_mask, -1e4)


def _warpers(temperature: float, top_k: int, top_p: float) -> LogitsProcessorList:
    """What shapes the distribution that tokens are sampled from."""
    warp = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        warp.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        warp.append(TopPLogitsWarper(top_p))
    return warp
