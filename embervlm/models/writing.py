"""Adapters for writing: what a text side that was pretrained to read learns in order to write.

Adapters (Houlsby et al. 2019, arXiv:1902.00751) that only the tokens being written pass through. Reading stays with the
weights that know words nobody trained on, which may then move as slowly as that needs; writing learns at the rate of
new parts.
"""

from __future__ import annotations

from torch import Tensor, nn

from embervlm.models.heads import StartingLinear


class Bottleneck(nn.Module):
    """What a narrow hidden layer says of a state, (…, D) → (…, D).

    Nothing at the start: a new model writes as it reads.
    """

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, inner)
        self.up = StartingLinear(inner, width)

    def forward(self, values: Tensor) -> Tensor:
        """Down to the narrow layer and up again."""
        correction: Tensor = self.up(nn.functional.gelu(self.down(values)))
        return correction


class WritingAdapters(nn.Module):
    """Two bottlenecks a layer: where a token being written looks, and what it takes from there.

    Both act within attention, so that they need nothing of a layer's kind: the first changes the queries before they
    are compared with the keys, the second adds to what attention found a function of the query.
    """

    def __init__(self, width: int, layers: int, inner: int) -> None:
        super().__init__()
        self.look = nn.ModuleList(Bottleneck(width, inner) for _ in range(layers))
        self.take = nn.ModuleList(Bottleneck(width, inner) for _ in range(layers))

    def queries(self, layer: int, query: Tensor) -> Tensor:
        """Queries (B, H, Q, d) of a layer → those that are compared with the keys."""
        return query + _apart(self.look[layer](_together(query)), query.shape[1])

    def found(self, layer: int, query: Tensor, values: Tensor) -> Tensor:
        """What attention found (B, H, Q, d), and the token's own part of it by its query (B, H, Q, d)."""
        return values + _apart(self.take[layer](_together(query)), query.shape[1])


def _together(heads: Tensor) -> Tensor:
    """(B, H, Q, d) → (B, Q, H·d)."""
    return heads.transpose(1, 2).flatten(2)


def _apart(joined: Tensor, heads: int) -> Tensor:
    """(B, Q, H·d) → (B, H, Q, d)."""
    return joined.unflatten(2, (heads, -1)).transpose(1, 2)
