"""Who sees whom: segments, masks and positions of a sequence.

A sample is laid out as robots | image | context | generated | selection. Robots come from a cache in which
every robot saw only itself; image and context see no robot; generated text sees everything before it; a selection
token sees its own robot, the image and the context, and only where its kind says so the generated text.

Shape legend: B batch, N robots of a fleet, L tokens of a robot, T tokens after the robots.
"""

from __future__ import annotations

import torch
from torch import Tensor

PAD, IMAGE, CONTEXT, GENERATED, SELECT, SELECT_REASONED = range(6)


def segment_mask(token_mask: Tensor, bidirectional: bool) -> Tensor:
    """Mask (R, 1, L, L) of independent segments from their token mask (R, L)."""
    length = token_mask.shape[1]
    mask = token_mask[:, None, None, :].bool().expand(-1, 1, length, length)
    if not bidirectional:
        mask = mask & torch.ones(length, length, dtype=torch.bool, device=token_mask.device).tril()
    return mask | torch.eye(length, dtype=torch.bool, device=token_mask.device)


def sequence_mask(
    queries: Tensor,
    keys: Tensor,
    query_robot: Tensor,
    fleet_mask: Tensor,
    bidirectional: bool,
) -> Tensor:
    """The mask (B, 1, Q, N·L + T) of the tokens after the robots.

    Args:
        queries: (B, Q) segment codes of the query tokens, the last Q of the T key tokens.
        keys: (B, T) segment codes of all tokens after the robots.
        query_robot: (B, Q) the robot a selection token stands for, -1 for other tokens.
        fleet_mask: (B, N, L) True on tokens of robots that exist.
        bidirectional: whether image and context see themselves both ways or causally.
    """
    samples, count = queries.shape
    total = keys.shape[1]
    robots = fleet_mask.shape[1]
    row = torch.arange(total - count, total, device=keys.device)
    before = row[:, None] >= torch.arange(total, device=keys.device)  # (Q, T): causal, itself included
    q, k = queries[:, :, None], keys[:, None, :]
    prefix_key = (k == IMAGE) | (k == CONTEXT)
    prefix_query = (q == IMAGE) | (q == CONTEXT)
    seen = prefix_key & (q != PAD)
    if not bidirectional:
        seen = seen & (before | ~prefix_query)
    seen = seen | ((q == GENERATED) & (k == GENERATED) & before)
    seen = seen | ((q == SELECT_REASONED) & (k == GENERATED))
    itself = row[:, None] == torch.arange(total, device=keys.device)
    seen = seen | itself
    own = torch.arange(robots, device=keys.device) == query_robot[:, :, None]  # (B, Q, N)
    sees_robot = own | (q == GENERATED)
    fleet = sees_robot[:, :, :, None] & fleet_mask[:, None, :, :]
    return torch.cat([fleet.reshape(samples, count, -1), seen], dim=2)[:, None]
