"""The decoder: a language model of transformers, driven by explicit masks, positions and caches.

Causal models come as they are. An encoder (BERT) becomes a prefix language model: the masks let it read a segment in
both directions, as it knows, and write from left to right, which its weights then learn.

Shape legend: B batch, R robots of a batch, T query tokens, K key tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM

from embervlm.models.attention import register
from embervlm.models.cache import FleetView, PrefixCache
from embervlm.models.config import EmberVLMConfig, is_encoder, position_table
from embervlm.models.fused import fuse
from embervlm.models.sources import located
from embervlm.models.writing import WritingAdapters


class LanguageModel(nn.Module):
    """A thin door to a decoder: embeddings in, hidden states out, logits on request.

    The decoder sees only what the 4-D boolean mask lets it see, so one architecture serves robots as
    independent segments, a bidirectional prefix, causal text and selection tokens alike.
    """

    def __init__(self, config: EmberVLMConfig) -> None:
        super().__init__()
        self._take(AutoModelForCausalLM.from_config(config.decoder_config(), attn_implementation=register()))
        self.width: int = self.decoder.get_input_embeddings().embedding_dim
        self.narrow: torch.dtype | None = None
        self.table = position_table(config.decoder_config())

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding table (may exceed the tokenizer's length)."""
        return int(self.decoder.get_input_embeddings().num_embeddings)

    def load_pretrained(self, source: str, kept: Sequence[int] | None = None) -> None:
        """Take the weights of a folder, hub name or package; an error where they cannot be had, never random ones.

        Args:
            source: see `EmberVLMConfig.language`.
            kept: the rows of an encoder's embedding table that stay; all when None.
        """
        options = {"dtype": torch.float32, "use_safetensors": True}
        if not is_encoder(self.decoder.config):
            decoder = AutoModelForCausalLM.from_pretrained(located(source), attn_implementation=register(), **options)
            return self._take(decoder)
        encoder = AutoModel.from_pretrained(located(source), **options)
        weights, rows = encoder.state_dict(), encoder.get_input_embeddings().weight
        if kept is not None:
            name = next(name for name, weight in weights.items() if weight.data_ptr() == rows.data_ptr())
            weights[name] = rows[torch.tensor(kept)]
        body = self.decoder.get_decoder()
        # What an encoder has beside its layers (a pooler) is not read here; what is read must all be there.
        body.load_state_dict({name: weight for name, weight in weights.items() if name in body.state_dict()})

    def _take(self, decoder: Any) -> None:
        """Hold a decoder, its layers' norms fused; the last norm stays as it is, for heads read it in fp32."""
        self.decoder = decoder
        layers = getattr(decoder.get_decoder(), "layers", None)
        if layers is not None:
            fuse(layers)

    @property
    def attention_width(self) -> int:
        """Width of a token's queries, all heads together."""
        config = self.decoder.config
        heads = int(config.num_attention_heads)
        return heads * int(getattr(config, "head_dim", None) or config.hidden_size // heads)

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder's layers, first to last.

        Raises:
            ValueError: its kind of model keeps them where nobody looked.
        """
        body = self.decoder.get_decoder()
        for path in ("layers", "h", "encoder.layer"):
            found: Any = body
            for name in path.split("."):
                found = getattr(found, name, None)
            if isinstance(found, nn.ModuleList):
                return found
        raise ValueError(f"{type(body).__name__} has no list of layers")

    def pretrained_parameters(self) -> list[nn.Parameter]:
        """What `load_pretrained` fills. Of an encoder that is all but its output head, by which words are written.

        A sentence encoder comes without one, and its states alone say what a text means, not how it goes on: BERT's
        transform before the embeddings starts new, and learns at the rate of new parts.
        """
        read = self.decoder.get_decoder() if is_encoder(self.decoder.config) else self.decoder
        return list(read.parameters())

    def resize(self, vocabulary: int) -> None:
        """Grow the embedding table to hold at least `vocabulary` tokens; new ones lie as far apart as words do.

        They are drawn with the mean and deviation of the table's own rows. transformers would put them all on the mean,
        and where the table is frozen they would stay there: no text that needs to tell them apart could be written.
        """
        before = self.vocabulary
        if vocabulary <= before:
            return
        self.decoder.resize_token_embeddings(vocabulary, mean_resizing=False)
        read, write = self.decoder.get_input_embeddings().weight, self.decoder.get_output_embeddings().weight
        with torch.no_grad():
            for table in [read] if read is write else [read, write]:
                deviation, mean = torch.std_mean(table[:before], dim=0)
                table[before:] = mean + deviation * torch.randn_like(table[before:])

    def compute_in(self, dtype: torch.dtype) -> None:
        """Hold and run the decoder in another precision, for answering only; what goes in and out stays float32."""
        self.decoder.to(dtype)
        self.narrow = None if dtype == torch.float32 else dtype

    def embed(self, input_ids: Tensor) -> Tensor:
        """(B, T) → (B, T, D)."""
        embeddings = self.decoder.get_input_embeddings()(input_ids)
        return embeddings if self.narrow is None else embeddings.float()

    def forward(
        self,
        embeddings: Tensor,
        mask: Tensor | FleetView,
        positions: Tensor,
        cache: PrefixCache | None = None,
        writer: WritingAdapters | None = None,
    ) -> tuple[Tensor, PrefixCache]:
        """Run the decoder.

        Args:
            embeddings: (B, T, D).
            mask: (B, 1, T, K) boolean, True where a query may attend; K counts the cache's tokens first;
                for a pass of selection tokens alone their view of that cache.
            positions: (B, T) rotary or learned positions; behind a learned table's end its last one stands.
            cache: keys and values of the tokens before; extended in place.
            writer: the adapters that all these tokens pass through, where they are being written.

        Returns:
            The last hidden states (B, T, D), after the final norm, and the extended cache.
        """
        cache = PrefixCache() if cache is None else cache
        if self.table is not None:
            positions = positions.clamp(max=self.table - 1)
        options: dict[str, Any] = {"view": mask} if isinstance(mask, FleetView) else {}
        cache.keep_apart(bool(options))
        if writer is not None:
            options["writer"] = writer
        output = self.decoder.get_decoder()(
            inputs_embeds=embeddings if self.narrow is None else embeddings.to(self.narrow),
            attention_mask=mask.hidden if isinstance(mask, FleetView) else mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            **options,
        )
        hidden = output.last_hidden_state
        return hidden if self.narrow is None else hidden.float(), cache

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, D) → (…, vocabulary)."""
        output = self.decoder.cls if is_encoder(self.decoder.config) else self.decoder.get_output_embeddings()
        return output(hidden if self.narrow is None else hidden.to(self.narrow))
