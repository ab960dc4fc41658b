"""Teachers as hubs publish them, made here: transformers models of other kinds at the smallest sizes, never trained."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VISION = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
TEXT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
TEXT |= {"intermediate_size": 48, "max_position_embeddings": 1024}
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer(special: tuple[str, ...], chat: str | None) -> PreTrainedTokenizerFast:
    """Byte-level BPE over a few words that have nothing to do with ours."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=list(special), initial_alphabet=alphabet)
    made.train_from_iterator(["what is this? it is red, and there are two of them; yes, no"] * 3, trainer)
    found = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    found.chat_template = chat
    return found


def vision_language(folder: Path) -> Path:
    """A Qwen2-VL: pictures and text."""
    words = tokenizer((*SPECIAL, *VISION), CHAT)
    start, end, image, video = (int(words.convert_tokens_to_ids(name)) for name in VISION)
    torch.manual_seed(5)
    rope = {"rope_type": "default", "type": "mrope", "mrope_section": [2, 3, 3]}
    vision = {"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "patch_size": 14, "mlp_ratio": 2}
    config = Qwen2VLConfig(
        text_config={**TEXT, "vocab_size": len(words), "rope_parameters": {**rope, "rope_theta": 10000.0}},
        vision_config=vision,
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )
    model = Qwen2VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = words.eos_token_id
    model.generation_config.pad_token_id = words.pad_token_id
    model.save_pretrained(folder)
    sizes = {"size": {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 4}}
    processor = Qwen2VLProcessor(
        Qwen2VLImageProcessor(**sizes), words, Qwen2VLVideoProcessor(**sizes), chat_template=CHAT
    )
    processor.save_pretrained(folder)
    return folder


def causal(folder: Path, words: PreTrainedTokenizerFast | None = None) -> Path:
    """A Qwen2: text only, without a chat template; with its own tokenizer or a given one."""
    words = words or tokenizer(SPECIAL, None)
    torch.manual_seed(6)
    model = Qwen2ForCausalLM(Qwen2Config(**TEXT, vocab_size=len(words), eos_token_id=words.eos_token_id))
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder
