"""The decoder: any causal language model of transformers, driven by explicit masks, positions and caches.

Shape legend: B batch, R robots of a batch, T query tokens, K key tokens, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, DynamicCache

from embervlm.models.config import EmberVLMConfig


class LanguageModel(nn.Module):
    """A thin door to a decoder: embeddings in, hidden states out, logits on request.

    The decoder sees only what the 4-D boolean mask lets it see, so one architecture serves robots as
    independent segments, a bidirectional prefix, causal text and selection tokens alike.
    """

    def __init__(self, config: EmberVLMConfig) -> None:
        super().__init__()
        self.decoder = AutoModelForCausalLM.from_config(config.decoder_config(), attn_implementation="sdpa")
        self.width: int = self.decoder.get_input_embeddings().embedding_dim

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding table (may exceed the tokenizer's length)."""
        return int(self.decoder.get_input_embeddings().num_embeddings)

    def load_pretrained(self, source: str) -> None:
        """Take the weights of a folder or hub name; an error where they cannot be had, never random ones."""
        self.decoder = AutoModelForCausalLM.from_pretrained(
            source, attn_implementation="sdpa", dtype=torch.float32, use_safetensors=True
        )

    def resize(self, vocabulary: int) -> None:
        """Grow the embedding table to hold at least `vocabulary` tokens."""
        if vocabulary > self.vocabulary:
            self.decoder.resize_token_embeddings(vocabulary)

    def embed(self, input_ids: Tensor) -> Tensor:
        """(B, T) → (B, T, D)."""
        return self.decoder.get_input_embeddings()(input_ids)

    def forward(
        self, embeddings: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache | None = None
    ) -> tuple[Tensor, DynamicCache]:
        """Run the decoder.

        Args:
            embeddings: (B, T, D).
            mask: (B, 1, T, K) boolean, True where a query may attend; K counts the cache's tokens first.
            positions: (B, T) rotary or learned positions.
            cache: keys and values of the tokens before; extended in place.

        Returns:
            The last hidden states (B, T, D), after the final norm, and the extended cache.
        """
        cache = DynamicCache() if cache is None else cache
        kwargs: dict[str, Any] = {"past_key_values": cache, "use_cache": True}
        output = self.decoder.get_decoder()(
            inputs_embeds=embeddings, attention_mask=mask, position_ids=positions, **kwargs
        )
        return output.last_hidden_state, cache

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, D) → (…, vocabulary)."""
        return self.decoder.get_output_embeddings()(hidden)


def gather_robots(cache: DynamicCache, robot_index: Tensor) -> DynamicCache:
    """Each sample's fleet as one cache, from the cache of all distinct robots of the batch.

    Args:
        cache: per layer keys and values (R, H, L, d) of R robots, L tokens each.
        robot_index: (B, N) rows of the cache; padding robots may point anywhere, the mask hides them.

    Returns:
        A new cache with (B, H, N·L, d) per layer. Gradients flow back to every robot once per use.
    """
    samples, robots = robot_index.shape
    gathered = DynamicCache()
    for layer, entry in enumerate(cache.layers):
        tensors = []
        for tensor in (entry.keys, entry.values):
            _, heads, length, width = tensor.shape
            rows = tensor.index_select(0, robot_index.reshape(-1)).view(samples, robots, heads, length, width)
            tensors.append(rows.transpose(1, 2).reshape(samples, heads, robots * length, width))
        gathered.update(tensors[0], tensors[1], layer)
    return gathered
