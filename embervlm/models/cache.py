"""Keys and values of the tokens before: growing, joined from pieces, or left apart where selection tokens look.

Shape legend: B batch, R distinct robots, N robots of a fleet, L tokens of a robot, C tokens of the prefix, H heads,
d width of a head, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer


@dataclass(frozen=True)
class Piece:
    """Keys and values of neighbouring tokens: (B, H, T, d); or a fleet's (R, H, L, d), and who has which.

    A fleet stays as it was read, each robot once, until tokens come that look at all of it. Its `index` (B, H, N) names
    rows of R·H: what is picked is a head of a robot, so that what is picked lies as it is needed.
    """

    keys: Tensor
    values: Tensor
    index: Tensor | None = None

    @property
    def length(self) -> int:
        """Tokens of a sample."""
        return int(self.keys.shape[-2]) * (1 if self.index is None else self.index.shape[2])

    def whole(self) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, T, d), T = N·L for a fleet. Gradients flow back to every robot once per use."""
        if self.index is None:
            return self.keys, self.values
        return _rows(self.keys, self.index), _rows(self.values, self.index)


def _rows(tensor: Tensor, index: Tensor) -> Tensor:
    """(R, H, L, d) → (B, H, N·L, d), in one copy."""
    length, width = tensor.shape[2:]
    rows = tensor.reshape(-1, length * width).index_select(0, index.view(-1))
    return rows.view(*index.shape[:2], -1, width)


class _Layer(DynamicLayer):
    """Keys and values that start from pieces (robots, prefix) which are joined only once, with the first new tokens.

    All are held in one precision: under autocast a decoder may hand over wider keys than values, and every step
    would convert the whole cache again. With `room` for tokens to come, they are written in place behind the others:
    appending by concatenation would copy a cache of hundreds of tokens for every token that is written. While `apart`,
    new tokens become a further piece and are handed back alone, for a `FleetView` to attend.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[Piece] = []
        self.apart = False
        self.room = 0
        self._buffers: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        key_states = key_states.to(value_states.dtype)
        if self._buffers is not None:
            return self._write(key_states, value_states)
        if self.pieces:
            self.pieces.append(Piece(key_states, value_states))
            if self.apart:
                return key_states, value_states
            keys, values = zip(*(piece.whole() for piece in self.pieces), strict=True)
            self.keys = torch.cat([k.to(key_states.dtype) for k in keys], dim=-2)
            self.values = torch.cat([v.to(value_states.dtype) for v in values], dim=-2)
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
            return sum(piece.length for piece in self.pieces)
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

    def start_from(self, layer: int, piece: Piece) -> None:
        """Put a piece before everything that is still to come."""
        while len(self.layers) <= layer:
            self.layers.append(_Layer())
        self.layers[layer].pieces.append(piece)

    def pieces(self) -> list[Piece]:
        """Each layer's tokens as one piece; for a cache that has read its tokens in one pass."""
        found = []
        for layer in self.layers:
            assert layer.keys is not None
            assert layer.values is not None
            found.append(Piece(layer.keys, layer.values))
        return found

    def rows(self, index: Tensor) -> PrefixCache:
        """A cache of the given rows (long), to go on from."""
        chosen = PrefixCache()
        for i, own in enumerate(self.pieces()):
            chosen.start_from(i, Piece(own.keys.index_select(0, index), own.values.index_select(0, index)))
        return chosen

    def reserve(self, tokens: int) -> None:
        """Make room for so many tokens to come, at the next pass; only where no gradient is taken."""
        for layer in self.layers:
            layer.room = tokens

    def keep_apart(self, apart: bool) -> None:
        """Whether the tokens to come stay a piece of their own, unjoined."""
        for layer in self.layers:
            layer.apart = apart


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
        A new cache of N·L + C tokens, which copies nothing until tokens come that are joined to it.
    """
    joined = PrefixCache()
    fleet = robots.pieces() if robots is not None and robot_index.shape[1] else []
    if fleet:
        heads = fleet[0].keys.shape[1]
        index = robot_index[:, None, :] * heads + torch.arange(heads, device=robot_index.device)[:, None]
    for layer, own in enumerate(fleet):
        joined.start_from(layer, Piece(own.keys, own.values, index))
    for layer, own in enumerate(prefix.pieces()):
        joined.start_from(layer, own)
    return joined


class FleetView:
    """How one selection token per robot looks back: on its own robot, the prefix and itself, and on nothing else.

    Joined keys would hold each robot once per sample that names it, and a mask would hide all but one of them from
    each token. Here the tokens are brought to the robots instead: those of one robot, from all samples, meet its keys
    in one product. Parts of a softmax over own robot, prefix and self are computed apart and normalised together.

    Args:
        cache: from `join`, no token read since.
        robot_index: (B, N) rows of the robots, -1 for none.
        fleet_mask: (B, N, L) True on tokens of robots that exist. prefix_mask: (B, C).
    """

    def __init__(self, cache: PrefixCache, robot_index: Tensor, fleet_mask: Tensor, prefix_mask: Tensor) -> None:
        self._pieces = [tuple(layer.pieces) for layer in cache.layers]
        there = robot_index >= 0
        rows = self._pieces[0][0].keys.shape[0]
        # Token t of B·N is number `turn[t]` of its robot's; M is the most that any robot has.
        named = nn.functional.one_hot(robot_index.clamp_min(0).view(-1), rows) * there.view(-1, 1)
        turn = (named.cumsum(dim=0) * named).sum(dim=1) - 1
        most = max(int(named.sum(dim=0).max()), 1)
        self._rows = rows
        self._place = (robot_index.view(-1) * most + turn).clamp_min(0)  # (B·N,) of R·M; padding robots: anywhere
        self._token = torch.zeros(rows * most, dtype=torch.long, device=robot_index.device)  # (R·M,) of B·N, or any
        chosen = there.view(-1)
        self._token[self._place[chosen]] = chosen.nonzero()[:, 0]
        seen = torch.cat([fleet_mask, (prefix_mask[:, None] & there[:, :, None])], dim=2)
        self.hidden = nn.functional.pad(~seen, (0, 1))[:, None]  # (B, 1, N, L + C + 1): itself is always seen

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(B, H, N, d) each, the query scaled → (B, H, N, d)."""
        robots, prefix = (_repeated(piece, query.shape[1] // piece.keys.shape[1]) for piece in self._pieces[layer])
        own = self._by_sample(self._by_robot(query) @ robots.keys.transpose(2, 3), len(query))
        itself = (query * key).sum(dim=-1, keepdim=True)
        scores = torch.cat([own, query @ prefix.keys.transpose(2, 3), itself], dim=-1)
        weights = scores.masked_fill_(self.hidden, -1e4).softmax(dim=-1).to(value.dtype)
        own, before, itself = weights.split([robots.keys.shape[2], prefix.keys.shape[2], 1], dim=-1)
        found = self._by_sample(self._by_robot(own) @ robots.values, len(query))
        return found + before @ prefix.values + itself * value

    def _by_robot(self, tokens: Tensor) -> Tensor:
        """(B, H, N, x) → (R, H, M, x)."""
        samples, heads, robots, width = tokens.shape
        rows = tokens.transpose(1, 2).reshape(samples * robots, heads * width).index_select(0, self._token)
        return rows.view(self._rows, -1, heads, width).transpose(1, 2)

    def _by_sample(self, tokens: Tensor, samples: int) -> Tensor:
        """(R, H, M, x) → (B, H, N, x)."""
        _, heads, _, width = tokens.shape
        rows = tokens.transpose(1, 2).reshape(-1, heads * width).index_select(0, self._place)
        return rows.view(samples, -1, heads, width).transpose(1, 2)


def _repeated(piece: Piece, groups: int) -> Piece:
    """Keys and values once per head of the queries, where several share one."""
    if groups == 1:
        return piece
    return Piece(piece.keys.repeat_interleave(groups, dim=1), piece.values.repeat_interleave(groups, dim=1))
