"""Models of the whole architecture at the smallest sizes."""

from __future__ import annotations

import torch
from torch import nn

from embervlm import EmberVLM, EmberVLMConfig, EmberVLMProcessor
from embervlm.data.prompts import robot_text
from embervlm.fleet import default_fleet
from embervlm.models.heads import StartingLinear

TASK = "close the valve under the pier"


def start(part: nn.Module) -> None:
    """Put layers that have a start of their own back to it."""
    for module in part.modules():
        if isinstance(module, StartingLinear):
            module.start()


def tiny(model_type: str = "qwen3", pair_reading: bool = False) -> EmberVLM:
    """A model of the whole architecture at the smallest sizes, with its processor."""
    text = {
        "qwen3": {
            "model_type": "qwen3",
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "intermediate_size": 48,
            "vocab_size": 400,
            "tie_word_embeddings": True,
        },
        "llama": {
            "model_type": "llama",
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "intermediate_size": 48,
            "vocab_size": 400,
        },
        "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 512, "vocab_size": 400},
        "bert": {
            "model_type": "bert",
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 48,
            "vocab_size": 400,
        },
    }[model_type]
    torch.manual_seed(0)
    config = EmberVLMConfig(
        vision_name="repvit_m0_9",
        vision_args={"embed_dim": [8, 16, 24, 32], "depth": [1, 1, 1, 1]},
        image_size=64,
        text_config=text,
        fusion_hidden=32,
        projection_dim=16,
        max_robot_tokens=256,
        similarity=2.0 if model_type == "bert" else 0.0,
        word_kinds=64 if model_type == "bert" else 0,
        writer_width=8 if model_type == "bert" else 0,
        pair_reading=pair_reading,
    )
    corpus = [robot_text(robot) for robot in default_fleet()] * 3 + [TASK] * 3
    processor = EmberVLMProcessor.build(config, corpus)
    model = EmberVLM(config).eval()
    model.processor = processor
    # Untrained heads of small weights would hide differences below the tolerance.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and not name.startswith("vision."):
                parameter.mul_(3)
        for bottleneck in [] if model.writer is None else [*model.writer.look, *model.writer.take]:
            bottleneck.up.weight.normal_(std=0.3)  # it starts at zero
        if model.selection.closeness is not None:
            model.selection.closeness.fill_(config.similarity)
    return model
