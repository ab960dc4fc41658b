"""EmberVLM: vision, language and the fleet as a set, as one transformers model.

Shape legend: B batch, R distinct robots of a batch, N robots of a fleet, L tokens of a robot, P visual tokens,
T text tokens, D decoder width, S pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from embervlm.models.attention import recording
from embervlm.models.cache import FleetView, PrefixCache, gathered, join
from embervlm.models.config import EmberVLMConfig
from embervlm.models.generation import WritingMixin
from embervlm.models.heads import (
    AttentionPool,
    FusionAdapter,
    KindReader,
    ReasoningModule,
    RobotReference,
    SelectionHead,
    StartingLinear,
    Words,
)
from embervlm.models.language import LanguageModel
from embervlm.models.layout import GENERATED, PAD, SELECT, SELECT_REASONED, query_mask, segment_mask, spent_mentions
from embervlm.models.selecting import SelectionMixin
from embervlm.models.trust import FILE, HUB_ARGUMENTS, Familiarity
from embervlm.models.vision import VisionEncoder
from embervlm.models.vocabulary import kept_tokens
from embervlm.models.writing import WritingAdapters


@dataclass
class FleetState:
    """Robots that have been read once: their keys and values, and one vector each.

    Independent of any picture or task, so that a fleet's state is kept across requests.
    """

    cache: PrefixCache  # (R, H, L, d) per layer
    summaries: Tensor  # (R, D)
    token_mask: Tensor  # (R, L) boolean
    lacks: Tensor | None = None  # (R, K) log-odds that a robot's words tell of a lack, where the model reads kinds

    @classmethod
    def gathered(cls, parts: Sequence[tuple[FleetState, Tensor]]) -> FleetState:
        """The given rows (long) of several states as one, in the order given."""
        length = max(state.token_mask.shape[1] for state, _ in parts)
        masks = [state.token_mask[rows] for state, rows in parts]
        lacks = [state.lacks[rows] for state, rows in parts if state.lacks is not None]
        return cls(
            gathered([(state.cache, rows) for state, rows in parts]),
            torch.cat([state.summaries[rows] for state, rows in parts]),
            torch.cat([nn.functional.pad(mask, (0, length - mask.shape[1])) for mask in masks]),
            torch.cat(lacks) if lacks else None,
        )


@dataclass
class Context:
    """A sequence under way: what the next query tokens may look back on."""

    cache: PrefixCache
    fleet_mask: Tensor  # (B, N, L)
    robot_index: Tensor  # (B, N) rows of the fleet's state, -1 for none
    words: Words  # robots and task, each pooled to one vector, and the kinds of requirement that their words tell of
    pairs: Tensor  # (B, N, D) the task as read beside each robot, pooled alike; zeros where pairs are not read
    prefix_mask: Tensor  # (B, C)
    next_position: Tensor  # (B,)
    kinds: Tensor  # (B, G) kinds of the query tokens so far
    scores: Tensor | None = None  # (B, N) direct scores, once they were asked for
    selected: Tensor | None = None  # (B, N, D) states of the direct selection tokens

    @property
    def robot_mask(self) -> Tensor:
        """True where a robot is (B, N)."""
        return self.robot_index >= 0

    @property
    def summaries(self) -> Tensor:
        """One vector per robot (B, N, D)."""
        return self.words.summaries


@dataclass
class EmberVLMOutput(ModelOutput):
    """What one pass gives; entries that were not asked for are None."""

    text_hidden: Tensor | None = None  # (B, T, D) of the generated tokens
    visual_tokens: Tensor | None = None  # (B, P, D), before the decoder
    scores: Tensor | None = None  # (B, N) log-odds, -1e4 where no robot is
    reasons: Tensor | None = None  # (B, N, 2, K) log-odds that a requirement is asked for, that the robot lacks it
    reasoned_scores: Tensor | None = None  # (B, N)
    context: Context | None = None


class EmberVLM(SelectionMixin, WritingMixin, PreTrainedModel):
    """A small vision-language model that chooses robots from a fleet.

    `forward` takes a batch as `EmberVLMProcessor` makes it. For use, see `select_robots` and `generate`.
    """

    config_class = EmberVLMConfig
    base_model_prefix = "embervlm"
    main_input_name = "input_ids"
    _supports_sdpa = True

    def __init__(self, config: EmberVLMConfig) -> None:
        super().__init__(config)
        self.vision = VisionEncoder(config)
        self.language = LanguageModel(config)
        width = self.language.width
        self.fusion = FusionAdapter(self.vision.width, config.fusion_hidden, width, config.image_tokens)
        self.image_pool = AttentionPool(width, config.projection_dim)
        self.text_pool = AttentionPool(width, config.projection_dim)
        self.logit_scale = nn.Parameter(torch.tensor(2.66))  # ln(1/0.07), as CLIP starts (arXiv:2103.00020)
        self.reference = RobotReference(width)
        self.selection = SelectionHead(width, len(config.requirements), similar=config.similarity > 0)
        kinds = config.word_kinds
        self.lacking = KindReader(width, kinds) if kinds else None
        self.asking = KindReader(width, kinds) if kinds else None
        self.reasoning = ReasoningModule(width)
        self.writer = None
        if config.writer_width:
            layers, queries = len(self.language.layers), self.language.attention_width
            self.writer = WritingAdapters(queries, layers, config.writer_width)
        self.post_init()
        # The decoder sits inside a plain module, where transformers does not look for tied weights.
        tied = getattr(self.language.decoder, "all_tied_weights_keys", None) or {}
        prefix = "language.decoder."
        self.all_tied_weights_keys |= {prefix + k: prefix + v for k, v in tied.items()}

    @classmethod
    def from_parts(cls, config: EmberVLMConfig, vocabulary: int | None = None) -> EmberVLM:
        """A new model, with the pretrained parts that the configuration names.

        Args:
            config: `language` and `vision_weights` are loaded where given.
            vocabulary: tokens of the tokenizer; the embedding table grows to hold them.

        Raises:
            OSError: a named part cannot be found (never replaced by random weights).
        """
        if config.language and config.text_config is None:
            config.text_config = config.decoder_config()
        model = cls(config)
        if config.language:
            model.language.load_pretrained(config.language, kept_tokens(config))
        if config.vision_weights:
            model.vision.load_weights(config.vision_weights, config)
        if config.similarity:
            model.reference.start_as_mean()
            model.selection.start_as_similarity(config.similarity)
        if vocabulary is not None:
            model.language.resize(vocabulary)
            model.config.text_config.vocab_size = model.language.vocabulary
        return model

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As transformers has it, with the statistics that `familiarity` is measured by where the folder has them."""
        found = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = found[0] if isinstance(found, tuple) else found
        if pretrained_model_name_or_path is not None:
            where = {key: kwargs[key] for key in HUB_ARGUMENTS & kwargs.keys()}
            model.familiarity = Familiarity.load(pretrained_model_name_or_path, **where)
        return found

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        """As transformers has it, with the statistics that `familiarity` is measured by where the model has them."""
        saved = super().save_pretrained(save_directory, *args, **kwargs)
        if self.familiarity is not None:
            self.familiarity.save(save_directory)
        else:
            Path(save_directory, FILE).unlink(missing_ok=True)  # of the weights that were there before
        return saved

    def pretrained_parameters(self) -> list[nn.Parameter]:
        """The parameters of the parts that started from pretrained weights, as the configuration names them."""
        words = self.language.pretrained_parameters() if self.config.language else []
        return words + (list(self.vision.parameters()) if self.config.vision_weights else [])

    def writing_parts(self) -> list[nn.Module]:
        """What learns to write beside the text side itself: the adapters, in a model that has any."""
        return [] if self.writer is None else [self.writer]

    def freeze_lowest(self, layers: int) -> None:
        """Keep a pretrained text side's embeddings and so many lowest layers as they are; nothing where layers is 0.

        Raises:
            ValueError: the text side was not pretrained, or has not so many layers.
        """
        if layers and not self.config.language:
            raise ValueError("pretrained_frozen: the text side is new, and would be frozen at random weights")
        if layers > len(self.language.layers):
            raise ValueError(f"pretrained_frozen: {layers} of {len(self.language.layers)} layers")
        lowest: list[nn.Module] = list(self.language.layers[:layers])
        for part in [self.language.decoder.get_input_embeddings(), *lowest] if layers else []:
            part.requires_grad_(False)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # timm initialises the vision encoder and the decoder initialises itself; the heads are ours.
        if isinstance(module, StartingLinear):
            module.start()
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, FusionAdapter):
            nn.init.normal_(module.places, std=0.02)
        elif isinstance(module, RobotReference):
            module.score_weight.fill_(0.5)
        elif isinstance(module, SelectionHead):
            if module.closeness is not None:
                module.closeness.zero_()
        elif isinstance(module, EmberVLM):
            module.logit_scale.fill_(2.66)

    # ------------------------------------------------------------------ parts

    def visual_features(self, pixel_values: Tensor) -> Tensor:
        """Pictures (B, 3, S, S) → the encoder's features (B, P, V), which may be cached."""
        return self.vision(pixel_values)

    def read_robots(self, input_ids: Tensor, attention_mask: Tensor) -> FleetState:
        """Robots' descriptions (R, L) → their state. Each robot sees only itself, from position 0."""
        hidden, cache = self._segments(input_ids, attention_mask)
        lacks = None if self.lacking is None else self.lacking(hidden, attention_mask)
        return FleetState(cache, self.reference.summaries(hidden, attention_mask), attention_mask.bool(), lacks)

    def _segments(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, PrefixCache]:
        mask = segment_mask(attention_mask, self.config.prefix_attention == "bidirectional")
        positions = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        return self.language(self.language.embed(input_ids), mask, positions)

    def answer_in(self, dtype: torch.dtype, packed: bool = False) -> EmberVLM:
        """Compute vision and decoder in bf16 (or float32 again), heads and scores in float32. For answering only.

        The weights of the decoder are converted in place; such a model is not to be trained or saved.

        Args:
            packed: also lay the encoder's weights out for this processor, where it has the kernels (`packing`). The
                first answer then takes longer and all others less: for processes that answer for long.
        """
        self.vision.compute_dtype, self.vision.packed = dtype, packed
        self.language.compute_in(dtype)
        if self.writer is not None:
            self.writer.to(dtype)
        self.__dict__.pop("_fleet_cache", None)
        return self

    def embed_images(self, features: Tensor) -> Tensor:
        """Features (B, P, V) → unit vectors (B, projection_dim) in the shared space."""
        return self.image_pool(self.fusion(features))

    def embed_texts(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Texts (B, T) → unit vectors (B, projection_dim) in the shared space."""
        hidden, _ = self._segments(input_ids, attention_mask)
        return self.text_pool(hidden, attention_mask)

    def read_prefix(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        image_features: Tensor | None = None,
        image_mask: Tensor | None = None,
        fleet: FleetState | None = None,
        robot_index: Tensor | None = None,
    ) -> tuple[Context, Tensor | None]:
        """Read image and task, which see no robot, and put the fleet before them.

        Args:
            input_ids, attention_mask: (B, C) the task, right-padded.
            image_features: (B, P, V) or None; image_mask: (B,) False where a sample has no picture.
            fleet: robots that were read; robot_index: (B, N) rows of them, -1 where a sample has fewer.

        Returns:
            The context for queries, and the visual tokens (B, P, D) where there are pictures.
        """
        samples, device = input_ids.shape[0], input_ids.device
        start, count = self.config.max_robot_tokens, self.config.image_tokens
        embeddings, mask = self.language.embed(input_ids), attention_mask.bool()
        positions = (start + count + torch.arange(input_ids.shape[1], device=device)).expand(samples, -1)
        visual = None
        if image_features is not None:
            visual = self.fusion(image_features)
            embeddings = torch.cat([visual.to(embeddings.dtype), embeddings], dim=1)
            seen = torch.ones(samples, count, dtype=torch.bool, device=device)
            mask = torch.cat([seen if image_mask is None else seen & image_mask[:, None], mask], dim=1)
            positions = torch.cat([(start + torch.arange(count, device=device)).expand(samples, -1), positions], dim=1)
        bidirectional = self.config.prefix_attention == "bidirectional"
        hidden, cache = self.language(embeddings, segment_mask(mask, bidirectional), positions)
        if fleet is None or robot_index is None:
            robot_index = torch.zeros(samples, 0, dtype=torch.long, device=device)
            fleet_mask = torch.zeros(samples, 0, 0, dtype=torch.bool, device=device)
            summaries = torch.zeros(samples, 0, self.language.width, device=device)
            lacks = None
        else:
            rows = robot_index.clamp_min(0)
            fleet_mask = fleet.token_mask[rows] & (robot_index >= 0)[:, :, None]
            summaries = fleet.summaries[rows]
            lacks = None if fleet.lacks is None else fleet.lacks[rows]
        task = hidden[:, -input_ids.shape[1] :]
        context = Context(
            cache=join(fleet.cache if fleet else None, robot_index.clamp_min(0), cache),
            fleet_mask=fleet_mask,
            robot_index=robot_index,
            words=Words(
                summaries=summaries,
                asked=self.reference.summaries(task, attention_mask),
                asks=None if self.asking is None else self.asking(task, attention_mask),
                lacks=lacks,
            ),
            pairs=self._read_pairs(input_ids, attention_mask, fleet, robot_index),
            prefix_mask=mask,
            next_position=start + count + attention_mask.sum(dim=1),
            kinds=torch.zeros(samples, 0, dtype=torch.long, device=device),
        )
        return context, visual

    def _read_pairs(
        self, input_ids: Tensor, attention_mask: Tensor, fleet: FleetState | None, robot_index: Tensor
    ) -> Tensor:
        """Tasks (B, C), each read again behind every robot of its fleet (B, N), pooled: (B, N, D).

        A pair sees its own robot and the task, so neither order nor company of the robots matters.
        """
        there, length = robot_index >= 0, input_ids.shape[1]
        pairs = torch.zeros(*robot_index.shape, self.language.width, device=input_ids.device)
        if fleet is None or not self.config.pair_reading:
            return pairs
        sample, robot = there.nonzero(as_tuple=True)[0], robot_index[there]
        mask = attention_mask[sample]
        seen = segment_mask(mask, self.config.prefix_attention == "bidirectional")
        robots = fleet.token_mask[robot][:, None, None, :].expand(-1, -1, length, -1)
        start = self.config.max_robot_tokens + self.config.image_tokens
        positions = start + torch.arange(length, device=input_ids.device).expand_as(mask)
        hidden, _ = self.language(
            self.language.embed(input_ids[sample]), torch.cat([robots, seen], dim=3), positions, fleet.cache.rows(robot)
        )
        return pairs.masked_scatter(there[:, :, None], self.reference.summaries(hidden, mask).to(pairs.dtype))

    def query(
        self,
        context: Context,
        embeddings: Tensor,
        kinds: Tensor,
        positions: Tensor,
        own: Tensor,
        *,
        writing: bool = True,
    ) -> Tensor:
        """Append query tokens to a context (in place) and return their hidden states (B, Q, D).

        `own` (B, Q) is the robot a selection token stands for, -1 for other tokens. `writing` is for text and for the
        selection tokens that see it; the direct ones read.
        """
        context.kinds = torch.cat([context.kinds, kinds], dim=1)
        mask = query_mask(kinds, context.kinds, own, context.fleet_mask, context.prefix_mask)
        writer = self.writer if writing else None
        hidden, context.cache = self.language(embeddings, mask, positions, context.cache, writer)
        return hidden

    def _select(self, context: Context) -> Tensor:
        """Append the direct selection tokens to a context that has no query token yet: their states (B, N, D)."""
        tokens = self.selection_tokens(context, SELECT)
        samples, robots = context.robot_index.shape
        # One sample shares no robot, and its fleet is copied in a moment.
        if samples == 1 or robots == 0 or recording():
            return self.query(context, *tokens, writing=False)
        embeddings, context.kinds, positions, _ = tokens
        view = FleetView(context.cache, context.robot_index, context.fleet_mask, context.prefix_mask)
        hidden, context.cache = self.language(embeddings, view, positions, context.cache)
        return hidden

    def closes_step(self, input_ids: Tensor) -> Tensor:
        """True on the tokens that end a reasoning step or an entry of the plan; any shape."""
        ids = self.config.token_ids
        ends = [ids[name] for name in ("<|step|>", "<|reasoning_end|>", "<|action_plan|>")]
        return torch.isin(input_ids, torch.tensor(ends, device=input_ids.device))

    def spent(self, input_ids: Tensor, mention_index: Tensor, context: Context) -> Tensor:
        """The robots (B, T, N) that each token's step has named, its own mention (B, T) included."""
        return spent_mentions(mention_index, self.closes_step(input_ids), context.robot_mask.shape[1])

    def pointer(self, hidden: Tensor, context: Context, spent: Tensor) -> Tensor:
        """Logits (B, T, N) of the robot that a mention after each of the states (B, T, D) means.

        The direct scores count, and no gradient flows into them: what is said follows what is chosen. `spent`
        (B, T, N) are the robots that the step has named.

        Raises:
            ValueError: the context's robots have not been scored.
        """
        if context.scores is None or context.selected is None:
            raise ValueError("pointer: the robots have no scores yet; ask for them with select=True")
        scores = context.scores.detach()
        return self.reference.pointer(hidden, context.summaries, context.selected, scores, context.robot_mask, spent)

    def text_embeddings(
        self, input_ids: Tensor, mention_index: Tensor | None, context: Context, spent: Tensor | None = None
    ) -> Tensor:
        """Tokens (B, T) → embeddings (B, T, D); a mention also carries the robot that it means.

        Args:
            input_ids: (B, T).
            mention_index: (B, T) the robot's place in the sample's fleet, -1 where the token is no mention.
            context: with the robots, and with their direct scores where they were read.
            spent: (B, T, N) the robots that the step has named up to and with each token. A mention then also carries
                its robot's score and the best score that the step has left unnamed: whether a list goes on.
        """
        embeddings = self.language.embed(input_ids)
        if mention_index is None or context.summaries.shape[1] == 0:
            return embeddings
        place = mention_index.clamp_min(0)
        index = place[:, :, None].expand(-1, -1, context.summaries.shape[2])
        meant = self.reference.mention(context.summaries).gather(1, index)
        if context.scores is not None and spent is not None:
            scores = context.scores.detach()
            left = scores[:, None, :].masked_fill(spent, -1e4).amax(dim=-1)
            meant = meant + self.reference.note(torch.stack([scores.gather(1, place), left], dim=-1))
        return embeddings + meant * (mention_index >= 0)[:, :, None]

    def selection_embeddings(self, context: Context) -> Tensor:
        """One `<|robot_selection|>` token per robot, opened by what the robot is, to the task too: (B, N, D)."""
        token = self.language.embed(
            torch.tensor(self.config.token_ids["<|robot_selection|>"], device=context.summaries.device)
        )
        return token + self.reference.select(context.summaries + context.pairs)

    # ---------------------------------------------------------------- forward

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        pixel_values: Tensor | None = None,
        image_features: Tensor | None = None,
        image_mask: Tensor | None = None,
        robot_input_ids: Tensor | None = None,
        robot_attention_mask: Tensor | None = None,
        robot_index: Tensor | None = None,
        fleet: FleetState | None = None,
        generated_ids: Tensor | None = None,
        generated_mask: Tensor | None = None,
        mention_index: Tensor | None = None,
        select: bool = False,
        select_reasoned: bool = False,
        **_: Any,
    ) -> EmberVLMOutput:
        """One pass over a batch.

        Args:
            input_ids, attention_mask: (B, C) the task or question, right-padded.
            pixel_values: (B, 3, S, S) bytes; or `image_features` (B, P, V) computed before.
            image_mask: (B,) False where a sample has no picture; its visual tokens are then hidden.
            robot_input_ids, robot_attention_mask: (R, L) distinct robots; or `fleet`, read before.
            robot_index: (B, N) rows of the robots, -1 for none.
            generated_ids, generated_mask: (B, T) text that was or is to be written, right-padded.
            mention_index: (B, T) robot that a mention token means, -1 otherwise.
            select: read the direct scores. select_reasoned: also those that see the generated text, where there is one.
        """
        if fleet is None and robot_input_ids is not None and robot_attention_mask is not None:
            fleet = self.read_robots(robot_input_ids, robot_attention_mask)
        if image_features is None and pixel_values is not None:
            image_features = self.visual_features(pixel_values)
        context, visual = self.read_prefix(input_ids, attention_mask, image_features, image_mask, fleet, robot_index)
        output = EmberVLMOutput(visual_tokens=visual, context=context)
        if select:
            # Before the text, which may look at what is found here.
            selected = self._select(context) + context.pairs
            scores, output.reasons = self.selection(selected, context.words)
            output.scores = scores.masked_fill(~context.robot_mask, -1e4)
            context.scores, context.selected = output.scores, selected
        if generated_ids is None or generated_mask is None:
            return output
        length = generated_ids.shape[1]
        tokens = self._text_tokens(context, generated_ids, generated_mask, mention_index)
        if select_reasoned:
            last = self.selection_tokens(context, SELECT_REASONED)
            tokens = tuple(torch.cat(pair, dim=1) for pair in zip(tokens, last, strict=True))
        hidden = self.query(context, *tokens)
        output.text_hidden = hidden[:, :length]
        if select_reasoned:
            direct = output.scores if output.scores is not None else torch.zeros_like(hidden[:, length:, 0])
            answer = self.reasoning.answer(hidden[:, length:], direct)
            output.reasoned_scores = answer.masked_fill(~context.robot_mask, -1e4)
        return output

    def _text_tokens(
        self, context: Context, generated_ids: Tensor, generated_mask: Tensor, mention_index: Tensor | None
    ) -> tuple[Tensor, ...]:
        """A whole text (B, T) as `query` takes it; the context's next position moves behind it."""
        spent = None if mention_index is None else self.spent(generated_ids, mention_index, context)
        start = context.next_position
        context.next_position = start + generated_mask.sum(dim=1)
        return (
            self.text_embeddings(generated_ids, mention_index, context, spent),
            torch.where(generated_mask.bool(), GENERATED, PAD),
            start[:, None] + torch.arange(generated_ids.shape[1], device=generated_ids.device),
            torch.full_like(generated_ids, -1),
        )

    def selection_tokens(self, context: Context, kind: int) -> tuple[Tensor, ...]:
        """One selection token per robot, all at the next position, as `query` takes them."""
        samples, robots = context.robot_mask.shape
        return (
            self.selection_embeddings(context),
            torch.where(context.robot_mask, kind, PAD),
            context.next_position[:, None].expand(-1, robots),
            torch.arange(robots, device=context.robot_mask.device).expand(samples, -1),
        )
