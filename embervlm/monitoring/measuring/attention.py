"""Attention of a whole answer, from picture and task over the reasoning to the selection tokens, as rollout.

Attention rollout (Abnar & Zuidema, 2020, arXiv:2005.00928): the layers' weights, averaged over heads and mixed half and
half with the identity for the residual path, multiplied from the first layer to the last.

Shape legend: B samples, L layers, C tokens of the prefix (V visual ones first), N robots, T tokens of the chain,
M = 1 + C + N + T + N: the fleet's descriptions as one, the prefix, direct selection tokens, chain, selection tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from embervlm.data.prompts import chain_pieces, plan_pieces
from embervlm.data.schema import STEPS
from embervlm.models.attention import recorded_attention
from embervlm.models.trust import mode_of
from embervlm.monitoring.measuring.chains import Chain
from embervlm.stages.base import to_device
from embervlm.stages.selection import selection_inputs

if TYPE_CHECKING:
    from embervlm.models.modeling import EmberVLM


def forced_batch(model: EmberVLM, chains: Sequence[Chain], steps: Sequence[Sequence[str]]) -> dict[str, Any]:
    """A batch of the chains' tasks with given steps and the chains' own plans as the text that was written."""
    records = [chain.record for chain in chains]
    batch, tasks, fleets = selection_inputs(model.processor, records, None, 0.0, 0.0)
    texts = [
        model.processor.pieces(chain_pieces(own, fleet.names) + plan_pieces(chain.answer["plan"], fleet.names))
        for chain, own, fleet in zip(chains, steps, fleets, strict=True)
    ]
    batch |= model.processor.texts(tasks) | model.processor.generated(texts, start="<|reasoning_start|>")
    return to_device(batch, model.device)


@dataclass(frozen=True)
class Rollout:
    """Rollout of one sample: `weights` (M, M), row m says of which inputs token m is made; and where things are.

    `step` (T,) is the reasoning step of a token of the chain, 4 for the plan, -1 for padding. `visual` is V.
    """

    weights: Tensor
    visual: int
    prefix: int
    robots: int
    step: Tensor

    def columns(self) -> dict[str, slice]:
        """Places of the groups among the M tokens."""
        first = 1 + self.prefix
        chain = first + self.robots
        last = chain + len(self.step)
        return {
            "fleet": slice(0, 1),
            "visual": slice(1, 1 + self.visual),
            "task": slice(1 + self.visual, first),
            "judged": slice(first, chain),
            "chain": slice(chain, last),
            "selection": slice(last, last + self.robots),
        }


@torch.inference_mode()
def rollouts(model: EmberVLM, chains: Sequence[Chain]) -> list[Rollout]:
    """The rollout of every chain's answer; all need a picture."""
    batch = forced_batch(model, chains, [chain.steps for chain in chains])
    with recorded_attention() as recorded:
        output = model(**batch, select=True, select_reasoned=True)
    kept = [weights.mean(dim=1) for weights in recorded]  # over heads: (B, Q, K)
    layers = len(kept) // 4  # robots, prefix, direct selection, chain with selection
    prefix, judged, text = (kept[i * layers : (i + 1) * layers] for i in (1, 2, 3))
    robots, length = batch["robot_index"].shape[1], prefix[0].shape[1]
    fleet = text[0].shape[2] - length - robots - text[0].shape[1]
    total = 1 + length + robots + text[0].shape[1]
    rolled = torch.eye(total, device=model.device).expand(len(chains), total, total)
    for before, direct, after in zip(prefix, judged, text, strict=True):
        weights = torch.zeros(len(chains), total, total, device=model.device)
        weights[:, 0, 0] = 1
        weights[:, 1 : 1 + length, 1 : 1 + length] = before
        for rows, part in ((slice(1 + length, 1 + length + robots), direct), (slice(1 + length + robots, None), after)):
            weights[:, rows, 0] = part[:, :, :fleet].sum(-1)
            weights[:, rows, 1 : 1 + part.shape[2] - fleet] = part[:, :, fleet:]
        rolled = (weights + torch.eye(total, device=model.device)) / 2 @ rolled
    steps = _steps(model, batch)
    assert output.context is not None
    visual = model.config.image_tokens if output.visual_tokens is not None else 0
    return [Rollout(rolled[i].cpu(), visual, length, robots, steps[i]) for i in range(len(chains))]


def _steps(model: EmberVLM, batch: dict[str, Any]) -> Tensor:
    """(B, T) which step every token of the text belongs to: 0 to 3, 4 the plan, -1 padding."""
    ids, mask = batch["generated_ids"], batch["generated_mask"].bool()
    closed = model.closes_step(ids).long().cumsum(dim=1) - model.closes_step(ids).long()
    plan = (ids == model.config.token_ids["<|action_plan|>"]).long().cumsum(dim=1) > 0
    steps = torch.where(plan, len(STEPS), closed.clamp_max(len(STEPS) - 1))
    return torch.where(mask, steps, -1).cpu()


@torch.inference_mode()
def confidences(model: EmberVLM, chains: Sequence[Chain], *given: Sequence[Sequence[str]]) -> list[list[Any]]:
    """Every robot's confidence (N,) after given steps and the chain's own plan, in its fleet's order.

    Args:
        chains: whose picture, task and fleet it is; pictures and robots are read once for all that is given.
        given: one or more times the steps of every chain.

    Returns:
        For each of `given` an array per chain.
    """
    found: list[list[Any]] = []
    read: dict[str, Any] = {}
    for steps in given:
        batch = forced_batch(model, chains, steps)
        read = read or _read(model, batch)
        scores = model(**{**batch, **read}, select=True, select_reasoned=True).reasoned_scores.float().cpu().numpy()
        modes = [mode_of(c.record.image is not None, reasoned=True) for c in chains]
        rows = zip(scores, chains, modes, strict=True)
        found.append([model.confidences(row[: len(c.record.robots)], mode) for row, c, mode in rows])
    return found


def _read(model: EmberVLM, batch: dict[str, Any]) -> dict[str, Any]:
    """What a model makes of a batch's robots and pictures, whatever is written after them."""
    read: dict[str, Any] = {"fleet": model.read_robots(batch["robot_input_ids"], batch["robot_attention_mask"])}
    if "pixel_values" in batch:
        read["image_features"] = model.visual_features(batch["pixel_values"])
    return read
