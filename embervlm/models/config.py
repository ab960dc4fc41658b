"""The model's configuration and its presets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from transformers import AutoConfig, PretrainedConfig

from embervlm.models.sources import MINILM, located
from embervlm.world.lexicon.asks import NAMED
from embervlm.world.ontology import REQUIREMENTS

#: What a task in free words may ask for, by name (of the lexicon), in a fixed order.
NAMED_KINDS: tuple[str, ...] = NAMED

#: Special tokens that every tokenizer of an EmberVLM has. The first four are the product's interface; `<|step|>`
#: opens a reasoning step, `<|robot|>` is a mention of a robot whose referent the pointer chooses.
SPECIAL_TOKENS: tuple[str, ...] = (
    "<|reasoning_start|>",
    "<|reasoning_end|>",
    "<|robot_selection|>",
    "<|action_plan|>",
    "<|step|>",
    "<|robot|>",
)

#: Where a tokenizer of our own puts them: first of all.
OWN_TOKEN_IDS: dict[str, int] = {name: i for i, name in enumerate(("pad", "bos", "eos", *SPECIAL_TOKENS))}


def _qwen3(hidden: int, layers: int, heads: int, intermediate: int, vocabulary: int) -> dict[str, Any]:
    """A Qwen3-type decoder: RMSNorm, rotary positions, QK-norm, SwiGLU, tied embeddings."""
    return {
        "model_type": "qwen3",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": hidden // heads,
        "intermediate_size": intermediate,
        "vocab_size": vocabulary,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": True,
        "rope_theta": 10000.0,
    }


def is_encoder(config: PretrainedConfig) -> bool:
    """Whether a text side was made to read in both directions (BERT) and is run as a prefix language model here."""
    return config.model_type == "bert"


def position_table(config: PretrainedConfig) -> int | None:
    """Rows of a decoder's table of learned positions; None where positions are rotary."""
    rows = {"bert": "max_position_embeddings", "gpt2": "n_positions"}.get(config.model_type)
    return None if rows is None else int(getattr(config, rows))


PRESETS: dict[str, dict[str, Any]] = {
    "embervlm-nano": {
        "vision_name": "repvit_m0_9",
        "vision_args": {"embed_dim": [32, 64, 128, 192], "depth": [1, 1, 3, 1]},
        "image_size": 128,
        "text_config": _qwen3(192, 4, 3, 528, 3072),
        "fusion_hidden": 512,
        "projection_dim": 128,
    },
    # The text side a pretrained sentence encoder, its vocabulary cut to keep the product's size.
    "embervlm-37m": {
        "vision_name": "repvit_m1_5",
        "image_size": 224,
        "language": MINILM,
        "language_vocabulary": 24960,
        "fusion_hidden": 1024,
        "projection_dim": 256,
        "similarity": 10.0,
        "word_kinds": 64,
        "writer_width": 64,
    },
    # The same sizes with a decoder of our own, for those who have the text to train it from nothing.
    "embervlm-37m-scratch": {
        "vision_name": "repvit_m1_5",
        "image_size": 224,
        "text_config": _qwen3(384, 6, 6, 1536, 16384),
        "fusion_hidden": 1024,
        "projection_dim": 256,
    },
    "embervlm-48m": {
        "vision_name": "repvit_m1_5",
        "vision_weights": "timm",
        "image_size": 224,
        "language": "weiser/30M-0.4",
        "fusion_hidden": 1024,
        "projection_dim": 256,
        "prefix_attention": "causal",
    },
}


class EmberVLMConfig(PretrainedConfig):
    """Sizes and switches of an `EmberVLM`.

    Args:
        vision_name: a timm architecture that offers `features_only`-style last feature maps (RepViT).
        vision_args: overrides of the architecture's sizes, passed to `timm.create_model`.
        vision_weights: None (random), "timm" (the hub's pretrained weights) or a safetensors file; read once by
            `EmberVLM.from_parts`, never by `from_pretrained`.
        image_size: side of the square input in pixels.
        language: the text side whose weights `EmberVLM.from_parts` loads: folder or hub name of a causal decoder or of
            a BERT, or `package:<installed package>/<folder>`; None for a decoder of `text_config` with random weights.
        language_vocabulary: tokens of a pretrained WordPiece vocabulary to keep, see `kept_tokens`; None keeps all.
        text_config: configuration of the decoder as transformers writes it. Filled from `language` when absent.
        fusion_hidden: width of the fusion adapter's hidden layer.
        projection_dim: width of the shared image-text embedding of stage 1.
        max_robot_tokens: tokens of one robot's description; image and task always start at this position, so that
            one robot's length never moves another's score.
        max_text_tokens: tokens of task plus generated text.
        prefix_attention: "bidirectional" (image and task, and each robot, see themselves in both directions) or
            "causal" (as pretrained decoders know it).
        score_temperature, score_bias: calibration of the selection scores, fitted on validation: of all modes together.
        calibration: mode (`embervlm.models.trust.MODES`) → its own temperature and bias, where they were fitted.
        none_calibration: "picture", "text" → temperature and bias of the log-odds that no robot suits, where they were
            fitted.
        team_threshold: confidence from which a robot belongs to the team.
        similarity: weight of the cosine of robot and task in the score of a new model; at 0 the score has no such term.
            Above 0 it starts as that alone, which is worth something where the text side is a pretrained sentence
            encoder.
        pair_reading: whether the task is read once more for every robot, with the robot's words in sight. A request
            then costs a task's tokens per robot; the words of both meet in every layer instead of in one token.
        word_kinds: kinds of requirement that are read from the words of robots and tasks alone: first `requirements`,
            then `NAMED_KINDS`, and others that have no name. 0: none are read so.
        writer_width: hidden width of the adapters that tokens being written pass through (`embervlm.models.writing`);
            0: what writes is what reads.
        requirements: kinds of requirement that the selection tokens give as reasons.
        token_ids: ids of "pad", "bos", "eos" and of `SPECIAL_TOKENS` in the tokenizer; set by the processor.
    """

    model_type = "embervlm"
    sub_configs: ClassVar = {"text_config": AutoConfig}

    def __init__(
        self,
        vision_name: str = "repvit_m1_5",
        vision_args: dict[str, Any] | None = None,
        vision_weights: str | None = None,
        image_size: int = 224,
        image_mean: tuple[float, float, float] = (0.485, 0.456, 0.406),
        image_std: tuple[float, float, float] = (0.229, 0.224, 0.225),
        language: str | None = None,
        language_vocabulary: int | None = None,
        text_config: dict[str, Any] | PretrainedConfig | None = None,
        fusion_hidden: int = 1024,
        projection_dim: int = 256,
        max_robot_tokens: int = 128,
        max_text_tokens: int = 384,
        prefix_attention: str = "bidirectional",
        score_temperature: float = 1.0,
        score_bias: float = 0.0,
        calibration: dict[str, Sequence[float]] | None = None,
        none_calibration: dict[str, Sequence[float]] | None = None,
        team_threshold: float = 0.5,
        similarity: float = 0.0,
        pair_reading: bool = False,
        word_kinds: int = 0,
        writer_width: int = 0,
        requirements: Sequence[str] = REQUIREMENTS,
        token_ids: dict[str, int] | None = None,
        **kwargs: Any,
    ) -> None:
        if prefix_attention not in ("bidirectional", "causal"):
            raise ValueError(f"prefix_attention: {prefix_attention!r} is not 'bidirectional' or 'causal'")
        if image_size % 32:
            raise ValueError(f"image_size: {image_size} is not a multiple of 32, the vision encoder's stride")
        self.vision_name = vision_name
        self.vision_args = dict(vision_args or {})
        self.vision_weights = vision_weights
        self.image_size = image_size
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)
        self.language = language
        self.language_vocabulary = language_vocabulary
        if isinstance(text_config, dict):
            values = dict(text_config)
            text_config = AutoConfig.for_model(values.pop("model_type"), **values)
        self.text_config = text_config if text_config is None else _as_decoder(text_config)
        self.fusion_hidden = fusion_hidden
        self.projection_dim = projection_dim
        self.max_robot_tokens = max_robot_tokens
        self.max_text_tokens = max_text_tokens
        self.prefix_attention = prefix_attention
        self.score_temperature = score_temperature
        self.score_bias = score_bias
        self.calibration = dict(calibration or {})
        self.none_calibration = dict(none_calibration or {})
        self.team_threshold = team_threshold
        self.similarity = similarity
        self.pair_reading = pair_reading
        least = len(requirements) + len(NAMED_KINDS)
        if word_kinds and word_kinds < least:
            raise ValueError(f"word_kinds: {word_kinds} is not enough for the {least} that have a name; 0 reads none")
        self.word_kinds = word_kinds
        if writer_width < 0:
            raise ValueError(f"writer_width: {writer_width} is below 0")
        self.writer_width = writer_width
        self.requirements = list(requirements)
        self.token_ids = dict(token_ids) if token_ids else OWN_TOKEN_IDS.copy()
        super().__init__(**kwargs)

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> EmberVLMConfig:
        """A named size, with fields overridden.

        Raises:
            ValueError: the preset or a field is not known; the message lists those that are.
        """
        if name not in PRESETS:
            raise ValueError(f"preset: {name!r} is not known; there are {', '.join(PRESETS)}")
        known = cls().to_dict()
        for key in overrides:
            if key not in known:
                raise ValueError(f"model.{key}: not a field of EmberVLMConfig")
        return cls(**{**PRESETS[name], **overrides})

    def decoder_config(self) -> PretrainedConfig:
        """The decoder's own configuration as a transformers object."""
        if self.text_config is not None:
            return self.text_config
        if self.language is None:
            raise ValueError("text_config: missing, and no 'language' to take it from")
        config = _as_decoder(AutoConfig.from_pretrained(located(self.language)))
        if self.language_vocabulary is not None:
            config.vocab_size = min(config.vocab_size, self.language_vocabulary)
        return config

    @property
    def image_tokens(self) -> int:
        """Visual tokens of a picture: one per cell of the last feature map (stride 32)."""
        return (self.image_size // 32) ** 2


def _as_decoder(config: PretrainedConfig) -> PretrainedConfig:
    """An encoder's configuration as that of a model which keeps keys and values."""
    if is_encoder(config):
        config.is_decoder = True
    return config
