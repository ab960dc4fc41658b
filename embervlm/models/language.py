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
from transformers.cache_utils import Cache, DynamicLayer

from embervlm.models.attention import register
from embervlm.models.config import EmberVLMConfig, is_encoder, position_table
from embervlm.models.sources import located


class _Layer(DynamicLayer):
    """Keys and values that start from pieces (robots, prefix) which are joined only once, with the first new tokens.

    All are held in one precision: under autocast a decoder may hand over wider keys than values, and every step
    would convert the whole cache again. With `room` for tokens to come, they are written in place behind the others:
    appending by concatenation would copy a cache of hundreds of tokens for every token that is written.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[tuple[Tensor, Tensor]] = []
        self.room = 0
        self._buffers: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        key_states = key_states.to(value_states.dtype)
        if self._buffers is not None:
            return self._write(key_states, value_states)
        if self.pieces:
            pieces = [*self.pieces, (key_states, value_states)]
            self.keys = torch.cat([k.to(key_states.dtype) for k, _ in pieces], dim=-2)
            self.values = torch.cat([v.to(value_states.dtype) for _, v in pieces], dim=-2)
            self.pieces = []
            self.is_initialized = True
        elif not self.is_initialized:
            self.keys, self.values, self.is_initialized = key_states, value_states, True
        else:
            super().update(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        if self.room and not self.keys.requires_grad:
            self._buffers = (_with_room(self.keys, self.room), _with_room(self.values, self.room))
        return self.keys, self.values

    def _write(self, key_states: Tensor, value_states: Tensor) -> tuple[Tensor, Tensor]:
        assert self._buffers is not None
        assert self.keys is not None
        start, count = self.keys.shape[-2], key_states.shape[-2]
        if start + count > self._buffers[0].shape[-2]:
            more = max(count, self.room)
            keys, values = (_with_room(b[..., :start, :], more) for b in self._buffers)
            self._buffers = (keys, values)
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[..., start : start + count, :] = new
        self.keys, self.values = (buffer[..., : start + count, :] for buffer in self._buffers)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        if self.pieces:
            return sum(k.shape[-2] for k, _ in self.pieces)
        return super().get_seq_length()


def _with_room(tensor: Tensor, room: int) -> Tensor:
    """A copy of (B, H, T, d) with unused space for more tokens: (B, H, T + room, d)."""
    samples, heads, length, width = tensor.shape
    buffer = tensor.new_empty(samples, heads, length + room, width)
    buffer[..., :length, :] = tensor
    return buffer


class PrefixCache(Cache):
    """A growing cache of keys and values (B, H, tokens, d) per layer, which may start from pieces."""

    layers: list[_Layer]  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=_Layer)

    def start_from(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Put a piece before everything that is still to come."""
        while len(self.layers) <= layer:
            self.layers.append(_Layer())
        self.layers[layer].pieces.append((keys, values))

    def rows(self, index: Tensor) -> PrefixCache:
        """A cache of the given rows (long), to go on from."""
        chosen = PrefixCache()
        for i, layer in enumerate(self.layers):
            assert layer.keys is not None
            assert layer.values is not None
            chosen.start_from(i, layer.keys.index_select(0, index), layer.values.index_select(0, index))
        return chosen

    def reserve(self, tokens: int) -> None:
        """Make room for so many tokens to come, at the next pass; only where no gradient is taken."""
        for layer in self.layers:
            layer.room = tokens


class FusedRMSNorm(nn.RMSNorm):
    """A decoder layer's RMSNorm (arXiv:1910.07467) in one operation, in the precision of the products that follow.

    transformers writes it as six operations and hands fp32 on, which autocast then converts once for every product.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(…, width) → (…, width); bf16 or fp16 where autocast is on, else of the input's precision."""
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        return super().forward(x.to(self.weight.dtype)).to(dtype)


def fuse_norms(layers: nn.Module) -> None:
    """Replace every RMSNorm of transformers below `layers`; the weights keep their names and values."""
    for parent in layers.modules():
        for name, child in parent.named_children():
            epsilon = getattr(child, "variance_epsilon", None)
            if epsilon is not None and type(child).__name__.endswith("RMSNorm"):
                weight = child.weight
                assert isinstance(weight, nn.Parameter)
                fused = FusedRMSNorm(weight.shape[-1], eps=epsilon)
                fused.weight = weight
                setattr(parent, name, fused)


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
        if is_encoder(decoder.config):
            # Words are predicted from the states themselves, by the embeddings: the transform before BERT's own output
            # layer is not among a sentence encoder's weights.
            decoder.cls.predictions.transform = nn.Identity()
        layers = getattr(decoder.get_decoder(), "layers", None)
        if layers is not None:
            fuse_norms(layers)

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

    def resize(self, vocabulary: int) -> None:
        """Grow the embedding table to hold at least `vocabulary` tokens."""
        if vocabulary > self.vocabulary:
            self.decoder.resize_token_embeddings(vocabulary)

    def compute_in(self, dtype: torch.dtype) -> None:
        """Hold and run the decoder in another precision, for answering only; what goes in and out stays float32."""
        self.decoder.to(dtype)
        self.narrow = None if dtype == torch.float32 else dtype

    def embed(self, input_ids: Tensor) -> Tensor:
        """(B, T) → (B, T, D)."""
        embeddings = self.decoder.get_input_embeddings()(input_ids)
        return embeddings if self.narrow is None else embeddings.float()

    def forward(
        self, embeddings: Tensor, mask: Tensor, positions: Tensor, cache: PrefixCache | None = None
    ) -> tuple[Tensor, PrefixCache]:
        """Run the decoder.

        Args:
            embeddings: (B, T, D).
            mask: (B, 1, T, K) boolean, True where a query may attend; K counts the cache's tokens first.
            positions: (B, T) rotary or learned positions; behind a learned table's end its last one stands.
            cache: keys and values of the tokens before; extended in place.

        Returns:
            The last hidden states (B, T, D), after the final norm, and the extended cache.
        """
        cache = PrefixCache() if cache is None else cache
        if self.table is not None:
            positions = positions.clamp(max=self.table - 1)
        output = self.decoder.get_decoder()(
            inputs_embeds=embeddings if self.narrow is None else embeddings.to(self.narrow),
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
        hidden = output.last_hidden_state
        return hidden if self.narrow is None else hidden.float(), cache

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, D) → (…, vocabulary)."""
        return self.decoder.get_output_embeddings()(hidden if self.narrow is None else hidden.to(self.narrow))


def gathered(parts: Sequence[tuple[PrefixCache, Tensor]]) -> PrefixCache:
    """Rows of several caches as one: the given rows (long) of each, the shorter ones padded at the end with zeros."""
    length = max(cache.layers[0].keys.shape[-2] for cache, _ in parts)  # type: ignore[union-attr]
    whole = PrefixCache()
    for i in range(len(parts[0][0].layers)):
        layer = _Layer()
        for name in ("keys", "values"):
            rows = [getattr(cache.layers[i], name).index_select(0, index) for cache, index in parts]
            rows = [nn.functional.pad(r, (0, 0, 0, length - r.shape[-2])) for r in rows]
            setattr(layer, name, torch.cat(rows))
        layer.is_initialized = True
        whole.layers.append(layer)
    return whole


def join(robots: PrefixCache | None, robot_index: Tensor, prefix: PrefixCache) -> PrefixCache:
    """What queries look back on: each sample's fleet, then its prefix.

    Args:
        robots: per layer keys and values (R, H, L, d) of R robots, L tokens each; None without robots.
        robot_index: (B, N) rows of `robots`; padding robots may point anywhere, the mask hides them.
        prefix: per layer (B, H, C, d).

    Returns:
        A new cache of N·L + C tokens. Gradients flow back to every robot once per use.
    """
    joined = PrefixCache()
    count = robot_index.shape[1]
    for layer, own in enumerate(prefix.layers):
        assert own.keys is not None
        assert own.values is not None
        if robots is not None and count:
            entry = robots.layers[layer]
            assert entry.keys is not None
            assert entry.values is not None
            joined.start_from(layer, _rows(entry.keys, robot_index), _rows(entry.values, robot_index))
        joined.start_from(layer, own.keys, own.values)
    return joined


def _rows(tensor: Tensor, index: Tensor) -> Tensor:
    """(R, H, L, d) → (B, H, N·L, d)."""
    _, heads, length, width = tensor.shape
    samples, robots = index.shape
    rows = tensor.index_select(0, index.reshape(-1)).view(samples, robots, heads, length, width)
    return rows.transpose(1, 2).reshape(samples, heads, robots * length, width)
