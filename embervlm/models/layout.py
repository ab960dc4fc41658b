"""Who sees whom: masks of robots, prefix and queries.

A sample is read in three passes. Robots first, each alone. Then the prefix (image and task), which sees no robot. Then
the queries: generated text, which sees everything before it and the selection tokens that do not see it; and selection
tokens, each of which sees its own robot, the prefix and, only where its kind says so, the generated text.

Shape legend: B batch, R distinct robots, N robots of a fleet, L tokens of a robot, C tokens of the prefix,
G query tokens so far, Q query tokens of this pass.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Kinds of query token. PAD is seen by nobody but itself.
PAD, GENERATED, SELECT, SELECT_REASONED = range(4)


def segment_mask(token_mask: Tensor, bidirectional: bool) -> Tensor:
    """Mask (R, 1, L, L) of independent segments from their token mask (R, L)."""
    length = token_mask.shape[1]
    mask = token_mask[:, None, None, :].bool().expand(-1, 1, length, length)
    if not bidirectional:
        mask = mask & torch.ones(length, length, dtype=torch.bool, device=token_mask.device).tril()
    return mask | torch.eye(length, dtype=torch.bool, device=token_mask.device)


def query_mask(kinds: Tensor, so_far: Tensor, own: Tensor, fleet_mask: Tensor, prefix_mask: Tensor) -> Tensor:
    """The mask (B, 1, Q, N·L + C + G) of query tokens.

    Args:
        kinds: (B, Q) kinds of this pass's tokens, the last Q of the G so far.
        so_far: (B, G) kinds of all query tokens.
        own: (B, Q) the robot a selection token stands for, -1 for other tokens.
        fleet_mask: (B, N, L) True on tokens of robots that exist.
        prefix_mask: (B, C) True on tokens of image and task.
    """
    samples, count = kinds.shape
    total, robots = so_far.shape[1], fleet_mask.shape[1]
    row = torch.arange(total - count, total, device=kinds.device)[:, None]
    column = torch.arange(total, device=kinds.device)
    q, k = kinds[:, :, None], so_far[:, None, :]
    written = (k == GENERATED) & (((q == GENERATED) & (row >= column)) | (q == SELECT_REASONED))
    # What was found of each robot is open to the reasoning, which the direct scores do not see: no circle.
    judged = (k == SELECT) & (q == GENERATED)
    queries = written | judged | (row == column)
    prefix = prefix_mask[:, None, :] & (q != PAD)
    sees_robot = (torch.arange(robots, device=kinds.device) == own[:, :, None]) | (q == GENERATED)
    fleet = (sees_robot[:, :, :, None] & fleet_mask[:, None, :, :]).reshape(samples, count, -1)
    return torch.cat([fleet, prefix, queries], dim=2)[:, None]


def mentioned(mention_index: Tensor, robots: int) -> Tensor:
    """Which robot every token mentions: (B, T) → (B, T, N) boolean, all False for ordinary tokens."""
    return torch.arange(robots, device=mention_index.device) == mention_index[:, :, None]


def spent_mentions(mention_index: Tensor, closes_step: Tensor, robots: int) -> Tensor:
    """The robots that the step under way has mentioned, each token's own mention included.

    Args:
        mention_index: (B, T) the robot that a token mentions, -1 otherwise.
        closes_step: (B, T) True on the tokens that end a step.
        robots: N.

    Returns:
        (B, T, N) boolean.
    """
    count = mentioned(mention_index, robots).long().cumsum(dim=1)
    # Counts only grow, so the latest count at a step's end is the largest one so far.
    before = (count * closes_step[:, :, None]).cummax(dim=1).values
    return count > before
