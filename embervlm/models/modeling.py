"""EmberVLM: vision, language and the fleet as a set, as one transformers model.

Shape legend: B batch, R distinct robots of a batch, N robots of a fleet, L tokens of a robot, P visual tokens,
T text tokens, D decoder width, S pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.utils import ModelOutput

from embervlm.models.config import EmberVLMConfig
from embervlm.models.generation import WritingMixin
from embervlm.models.heads import AttentionPool, FusionAdapter, ReasoningModule, RobotReference, SelectionHead
from embervlm.models.language import LanguageModel, gather_robots
from embervlm.models.layout import CONTEXT, IMAGE, PAD, SELECT, SELECT_REASONED, segment_mask, sequence_mask
from embervlm.models.selecting import SelectionMixin
from embervlm.models.vision import VisionEncoder


@dataclass
class FleetState:
    """Robots that have been read once: their keys and values, and one vector each.

    Independent of any picture or task, so that a fleet's state is kept across requests.
    """

    cache: DynamicCache  # (R, H, L, d) per layer
    summaries: Tensor  # (R, D)
    token_mask: Tensor  # (R, L) boolean


@dataclass
class Context:
    """A sequence under way: what the next tokens may look back on."""

    cache: DynamicCache
    codes: Tensor  # (B, tokens so far) segment codes
    fleet_mask: Tensor  # (B, N, L)
    robot_mask: Tensor  # (B, N)
    summaries: Tensor  # (B, N, D)
    next_position: Tensor = field(default_factory=lambda: torch.empty(0))  # (B,)


@dataclass
class EmberVLMOutput(ModelOutput):
    """What one pass gives; entries that were not asked for are None."""

    text_hidden: Tensor | None = None  # (B, T, D)
    visual_tokens: Tensor | None = None  # (B, P, D), before the decoder
    scores: Tensor | None = None  # (B, N) log-odds, -1e4 where no robot is
    reasoned_scores: Tensor | None = None  # (B, N)
    context: Context | None = None


class EmberVLM(SelectionMixin, WritingMixin, PreTrainedModel):
    """A small vision-language model that chooses robots from a fleet.

    `forward` takes a batch as `EmberVLMProcessor` makes it. For use, see `select_robots` and `generate`.
    """

    config_class = EmberVLMConfig
    base_model_prefix = "embervlm"
    main_input_name = "input_ids"
    _no_split_modules = ()
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
        self.selection = SelectionHead(width)
        self.reasoning = ReasoningModule(width)
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
            model.language.load_pretrained(config.language)
        if config.vision_weights:
            model.vision.load_weights(config.vision_weights, config)
        if vocabulary is not None:
            model.language.resize(vocabulary)
            model.config.text_config.vocab_size = model.language.vocabulary
        return model

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # timm initialises the vision encoder and the decoder initialises itself; the heads are ours.
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, FusionAdapter):
            nn.init.normal_(module.places, std=0.02)
        elif isinstance(module, ReasoningModule):
            module.start_as_identity()
        elif isinstance(module, RobotReference):
            module.score_weight.fill_(0.5)
        elif isinstance(module, EmberVLM):
            module.logit_scale.fill_(2.66)

    # ------------------------------------------------------------------ parts

    def visual_features(self, pixel_values: Tensor) -> Tensor:
        """Pictures (B, 3, S, S) → the encoder's features (B, P, V), which may be cached."""
        return self.vision(pixel_values)

    def read_robots(self, input_ids: Tensor, attention_mask: Tensor) -> FleetState:
        """Robots' descriptions (R, L) → their state. Each robot sees only itself, from position 0."""
        hidden, cache = self._segments(input_ids, attention_mask)
        return FleetState(cache, self.reference.summaries(hidden, attention_mask), attention_mask.bool())

    def _segments(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, DynamicCache]:
        mask = segment_mask(attention_mask, self.config.prefix_attention == "bidirectional")
        positions = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        return self.language(self.language.embed(input_ids), mask, positions)

    def embed_images(self, features: Tensor) -> Tensor:
        """Features (B, P, V) → unit vectors (B, projection_dim) in the shared space."""
        return self.image_pool(self.fusion(features))

    def embed_texts(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Texts (B, T) → unit vectors (B, projection_dim) in the shared space."""
        hidden, _ = self._segments(input_ids, attention_mask)
        return self.text_pool(hidden, attention_mask)

    def begin(self, samples: int, fleet: FleetState | None = None, robot_index: Tensor | None = None) -> Context:
        """A context that holds the fleets and nothing else yet.

        Args:
            samples: B.
            fleet: the robots that were read; None for sequences without robots.
            robot_index: (B, N) rows of `fleet`, -1 where a sample has fewer robots.
        """
        if fleet is None or robot_index is None:
            empty = torch.zeros(samples, 0, dtype=torch.bool, device=self.device)
            return Context(
                DynamicCache(), empty.long(), empty[:, :, None], empty, torch.zeros(samples, 0, self.language.width)
            )
        robot_mask = robot_index >= 0
        rows = robot_index.clamp_min(0)
        return Context(
            cache=gather_robots(fleet.cache, rows),
            codes=torch.zeros(samples, 0, dtype=torch.long, device=robot_index.device),
            fleet_mask=fleet.token_mask[rows] & robot_mask[:, :, None],
            robot_mask=robot_mask,
            summaries=fleet.summaries[rows],
        )

    def extend(
        self, context: Context, embeddings: Tensor, codes: Tensor, positions: Tensor, query_robot: Tensor | None = None
    ) -> Tensor:
        """Append tokens to a context (in place) and return their hidden states (B, Q, D)."""
        if query_robot is None:
            query_robot = torch.full_like(codes, -1)
        context.codes = torch.cat([context.codes, codes], dim=1)
        bidirectional = self.config.prefix_attention == "bidirectional"
        mask = sequence_mask(codes, context.codes, query_robot, context.fleet_mask, bidirectional)
        hidden, context.cache = self.language(embeddings, mask, positions, context.cache)
        return hidden

    def text_embeddings(self, input_ids: Tensor, mention_index: Tensor | None, context: Context) -> Tensor:
        """Tokens (B, T) → embeddings (B, T, D); a mention also carries the robot that it means.

        `mention_index` (B, T) is the robot's place in the sample's fleet, -1 where the token is no mention.
        """
        embeddings = self.language.embed(input_ids)
        if mention_index is None or context.summaries.shape[1] == 0:
            return embeddings
        index = mention_index.clamp_min(0)[:, :, None].expand(-1, -1, context.summaries.shape[2])
        meant = self.reference.mention(context.summaries).gather(1, index)
        return embeddings + meant * (mention_index >= 0)[:, :, None]

    def selection_embeddings(self, context: Context) -> Tensor:
        """One `<|robot_selection|>` token per robot, opened by what the robot is: (B, N, D)."""
        token = self.language.embed(
            torch.tensor(self.config.token_ids["<|robot_selection|>"], device=context.summaries.device)
        )
        return token + self.reference.select(context.summaries)

    # ---------------------------------------------------------------- forward

    def forward(
        self,
        input_ids: Tensor,
        segments: Tensor,
        pixel_values: Tensor | None = None,
        image_features: Tensor | None = None,
        image_mask: Tensor | None = None,
        robot_input_ids: Tensor | None = None,
        robot_attention_mask: Tensor | None = None,
        robot_index: Tensor | None = None,
        fleet: FleetState | None = None,
        mention_index: Tensor | None = None,
        select: bool = False,
        select_reasoned: bool = False,
        **_: Any,
    ) -> EmberVLMOutput:
        """One pass over a batch.

        Args:
            input_ids: (B, T) context and generated tokens, right-padded.
            segments: (B, T) codes of `embervlm.models.layout` (CONTEXT, GENERATED, PAD).
            pixel_values: (B, 3, S, S); or `image_features` (B, P, V) computed before.
            image_mask: (B,) False where a sample has no picture; its visual tokens are then hidden.
            robot_input_ids, robot_attention_mask: (R, L) distinct robots; or `fleet`, read before.
            robot_index: (B, N) rows of the robots, -1 for none.
            mention_index: (B, T) robot that a mention token means, -1 otherwise.
            select: read the direct scores. select_reasoned: also those that see the generated text.
        """
        samples = input_ids.shape[0]
        if fleet is None and robot_input_ids is not None:
            assert robot_attention_mask is not None
            fleet = self.read_robots(robot_input_ids, robot_attention_mask)
        context = self.begin(samples, fleet, robot_index)
        if image_features is None and pixel_values is not None:
            image_features = self.visual_features(pixel_values)
        parts, codes, positions, visual = self._prefix(image_features, image_mask, input_ids, samples)
        parts.append(self.text_embeddings(input_ids, mention_index, context))
        codes.append(segments)
        start = self.config.max_robot_tokens + self.config.image_tokens
        length = input_ids.shape[1]
        positions.append(start + torch.arange(length, device=input_ids.device).expand(samples, -1))
        kinds = [SELECT] * select + [SELECT_REASONED] * select_reasoned
        robots = context.robot_mask.shape[1]
        query_robot = [torch.full((samples, sum(p.shape[1] for p in parts)), -1, device=input_ids.device)]
        for kind in kinds:
            upto = (segments == CONTEXT) if kind == SELECT else (segments != PAD)
            parts.append(self.selection_embeddings(context))
            codes.append(torch.where(context.robot_mask, kind, PAD))
            positions.append((start + upto.sum(dim=1))[:, None].expand(-1, robots))
            query_robot.append(torch.arange(robots, device=input_ids.device).expand(samples, -1))
        hidden = self.extend(
            context, torch.cat(parts, 1), torch.cat(codes, 1), torch.cat(positions, 1), torch.cat(query_robot, 1)
        )
        before = sum(p.shape[1] for p in parts[: -1 - len(kinds)])
        output = EmberVLMOutput(text_hidden=hidden[:, before : before + length], visual_tokens=visual, context=context)
        context.next_position = start + (segments != PAD).sum(dim=1)
        tokens = hidden[:, before + length :].split(robots, dim=1) if kinds else ()
        for kind, selected in zip(kinds, tokens, strict=True):
            if kind == SELECT:
                output.scores = self.selection(selected).masked_fill(~context.robot_mask, -1e4)
            else:
                direct = output.scores if output.scores is not None else torch.zeros_like(selected[:, :, 0])
                reasoned = self.reasoning.answer(selected, direct)
                output.reasoned_scores = reasoned.masked_fill(~context.robot_mask, -1e4)
        return output

    def _prefix(
        self, features: Tensor | None, image_mask: Tensor | None, input_ids: Tensor, samples: int
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], Tensor | None]:
        """The visual tokens as the opening of a sequence: embeddings, codes, positions."""
        if features is None:
            return [], [], [], None
        visual = self.fusion(features)
        count = visual.shape[1]
        codes = torch.full((samples, count), IMAGE, device=input_ids.device)
        if image_mask is not None:
            codes = codes * image_mask[:, None]
        place = self.config.max_robot_tokens + torch.arange(count, device=input_ids.device)
        return [visual], [codes], [place.expand(samples, -1)], visual
