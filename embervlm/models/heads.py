"""The small modules around vision and language: fusion, selection, mentions, reasoning.

Shape legend: B batch, P visual tokens, N robots, T text tokens, D decoder width, V vision width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

#: The cosine of a robot and a task that have nothing to do with each other, as sentence encoders find it.
_STRANGERS = 0.25


class FusionAdapter(nn.Module):
    """Visual tokens into the decoder's space: a two-layer MLP and learned places on the grid."""

    def __init__(self, vision_width: int, hidden: int, width: int, tokens: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(vision_width)
        self.up = nn.Linear(vision_width, hidden)
        self.down = nn.Linear(hidden, width)
        self.places = nn.Parameter(torch.zeros(tokens, width))

    def forward(self, features: Tensor) -> Tensor:
        """(B, P, V) → (B, P, D)."""
        return self.down(nn.functional.gelu(self.up(self.norm(features)))) + self.places


class AttentionPool(nn.Module):
    """One vector of a sequence, by a learned query."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.score = nn.Linear(width, 1)
        self.project = nn.Linear(width, out)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, T, D), mask (B, T) → (B, out), of length one."""
        tokens = self.norm(tokens)
        weights = self.score(tokens).squeeze(-1).float()
        if mask is not None:
            weights = weights.masked_fill(~mask.bool(), torch.finfo(weights.dtype).min)
        pooled = (weights.softmax(dim=-1).to(tokens.dtype)[:, :, None] * tokens).sum(dim=1)
        return nn.functional.normalize(self.project(pooled).float(), dim=-1)


@dataclass
class Words:
    """What robots' and tasks' words alone tell of a choice; entries that a model has not are None."""

    summaries: Tensor  # (B, N, D) robots
    asked: Tensor  # (B, D) tasks
    asks: Tensor | None = None  # (B, K) log-odds that a kind of requirement is asked for
    lacks: Tensor | None = None  # (B, N, K) log-odds that a robot lacks it


class SelectionHead(nn.Module):
    """A robot's score from its selection token: the log-odds that it can do the task.

    The token also tells the reasons: per kind of requirement, whether the task asks for it here and whether the robot
    lacks it. A robot is able when it lacks nothing, so the score starts from the log-odds of that conjunction; a free
    term carries what the kinds do not name, and, in a head made with `similar`, another how close robot and task are in
    meaning. Kinds that are read from the words alone (`KindReader`) count as those of the tokens do.
    """

    def __init__(self, width: int, kinds: int, similar: bool = False) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, width)
        self.score = nn.Linear(width, 1)
        self.needs = nn.Linear(width, kinds)
        self.lacks = nn.Linear(width, kinds)
        self.closeness = nn.Parameter(torch.zeros(())) if similar else None

    @torch.no_grad()
    def start_as_similarity(self, weight: float) -> None:
        """Begin with the similarity alone, which a pretrained text side knows; the other terms begin at a constant.

        Raises:
            ValueError: the head was made without it.
        """
        if self.closeness is None:
            raise ValueError("a selection head made without `similar` cannot start as a similarity")
        self.closeness.fill_(weight)
        for last in (self.score, self.needs, self.lacks):
            nn.init.zeros_(last.weight)
        nn.init.constant_(self.lacks.bias, -4.0)  # nearly nothing is lacking: so many kinds would add up
        # A likeness as strangers have it starts as improbable as most robots are unfit. A bias learns slowly; until it
        # has, the whole text side would be pushed to find every robot less alike to its task.
        able = nn.functional.logsigmoid(-self.lacks.bias).sum()
        odds = able - torch.log(-torch.expm1(able))
        nn.init.constant_(self.score.bias, -float(odds) - _STRANGERS * weight - 1.0)

    def forward(self, tokens: Tensor, words: Words) -> tuple[Tensor, Tensor]:
        """What the selection tokens found (B, N, D), and what the words alone tell, to scores and reasons.

        Returns:
            Scores (B, N) and reasons (B, N, 2, K), log-odds of needing and of lacking; float32.
        """
        inner = nn.functional.gelu(self.hidden(self.norm(tokens)))
        needs, lacks = self.needs(inner).float(), self.lacks(inner).float()
        able = nn.functional.logsigmoid(-lacks).sum(dim=-1)
        if words.asks is not None and words.lacks is not None:
            told, kinds = both(words.asks[:, None], words.lacks), lacks.shape[-1]
            able = able + nn.functional.logsigmoid(-told).sum(dim=-1)
            needs = needs + words.asks[:, None, :kinds]
            lacks = -both(-lacks, -told[..., :kinds])  # found by either
        able = able.clamp(-30.0, -1e-5)
        score = self.score(inner).squeeze(-1).float() + able - torch.log(-torch.expm1(able))
        if self.closeness is not None:
            score = score + self.closeness * similarity(words.summaries, words.asked)
        return score, torch.stack([needs, lacks], dim=2)


class StartingLinear(nn.Linear):
    """A linear map with a start of its own: weights around zero with deviation `std`, a constant `bias`.

    A type and not a method of the module around it, because transformers initialises what a folder lacks module by
    module and passes over those that hold no parameter themselves.
    """

    def __init__(self, inputs: int, outputs: int, std: float = 0.0, bias: float = 0.0) -> None:
        self.start_std, self.start_bias = std, bias
        super().__init__(inputs, outputs)

    def start(self) -> None:
        """Begin anew."""
        nn.init.normal_(self.weight, std=self.start_std)
        nn.init.constant_(self.bias, self.start_bias)


class KindReader(nn.Module):
    """What a text says of each kind of requirement: every kind looks for the words that tell of it.

    It begins with hardly anything asked for or lacking.
    """

    def __init__(self, width: int, kinds: int, inner: int = 192) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.hidden = StartingLinear(width, inner, std=0.05)
        self.weigh = StartingLinear(inner, kinds, std=0.05)
        self.tell = StartingLinear(inner, kinds, std=0.05, bias=-3.0)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """States of texts (R, L, D) with mask (R, L) → log-odds (R, K), float32."""
        inner = nn.functional.gelu(self.hidden(self.norm(hidden)))
        weights = self.weigh(inner).float().masked_fill(~mask.bool()[:, :, None], -1e4).softmax(dim=1)
        return (weights * self.tell(inner).float()).sum(dim=1)


def both(first: Tensor, second: Tensor) -> Tensor:
    """The log-odds that two independent things both hold, of their log-odds; stable at both ends."""
    first, second = torch.broadcast_tensors(first, second)
    neither = torch.logsumexp(torch.stack([torch.zeros_like(first), first, second]), dim=0)
    return first + second - neither


def similarity(summaries: Tensor, asked: Tensor) -> Tensor:
    """The cosine of every robot (B, N, D) and its sample's task (B, D): (B, N) float32."""
    return nn.functional.cosine_similarity(summaries.float(), asked.float()[:, None, :], dim=-1)


class RobotReference(nn.Module):
    """What a robot is in one vector, and which robot a mention means.

    The summary pools a robot's segment; it opens the robot's selection token and fills its mentions. A mention is
    decided by a pointer over the fleet, so that a name never has to be spelled and unseen names cannot be misspelled.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pool = nn.Linear(width, 1)
        self.select = nn.Linear(width, width)
        self.mention = nn.Linear(width, width)
        self.scores = nn.Linear(2, width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.judged_key = nn.Linear(width, width, bias=False)
        self.score_weight = nn.Parameter(torch.tensor(0.5))

    @torch.no_grad()
    def start_as_mean(self) -> None:
        """Begin with the mean of a segment's states, as a pretrained sentence encoder pools."""
        nn.init.zeros_(self.pool.weight)

    def summaries(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Robot segments (R, L, D) with mask (R, L) → (R, D)."""
        weights = self.pool(hidden).squeeze(-1).float().masked_fill(~mask.bool(), -1e4).softmax(dim=-1)
        return (weights.to(hidden.dtype)[:, :, None] * hidden).sum(dim=1)

    def note(self, scores: Tensor) -> Tensor:
        """What a mention tells of scores: (…, 2) log-odds of its robot and of the best one left → (…, D)."""
        return self.scores(torch.tanh(scores / 4))

    def pointer(
        self,
        hidden: Tensor,
        summaries: Tensor,
        selected: Tensor,
        scores: Tensor,
        robot_mask: Tensor,
        spent: Tensor,
    ) -> Tensor:
        """Logits (B, T, N) of the robot that a mention after each token means.

        Args:
            hidden: (B, T, D) states of the tokens before the mention.
            summaries: (B, N, D) of the sample's robots.
            selected: (B, N, D) states of the direct selection tokens: what was found of each robot.
            scores: (B, N) direct selection scores: what is chosen is also what is said.
            robot_mask: (B, N) True where a robot exists.
            spent: (B, T, N) True where the step has mentioned the robot already: no step names a robot twice.
        """
        queries, keys = self.query(hidden), self.key(summaries) + self.judged_key(selected)
        logits = (queries @ keys.transpose(1, 2)).float() / math.sqrt(keys.shape[-1])
        logits = logits + self.score_weight * scores[:, None, :]
        return logits.masked_fill(spent, -1e3).masked_fill(~robot_mask[:, None, :], -1e4)


class ReasoningModule(nn.Module):
    """What stage 4 adds: reasoning head, step validator, answer head.

    The reasoning head refines the states from which chains are written; the validator says for each step whether it
    holds for the scene and the task; the answer head corrects a robot's direct score by what the chain established.
    The first and the last start as the identity, so that a model without stage 4 is unchanged by them.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reasoning_norm = nn.LayerNorm(width)
        self.reasoning_up = nn.Linear(width, 2 * width)
        self.reasoning_down = StartingLinear(2 * width, width)
        self.validator = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1))
        self.answer_norm = nn.LayerNorm(width)
        self.answer_hidden = nn.Linear(width, width)
        self.answer_score = StartingLinear(width, 1)

    def refine(self, hidden: Tensor) -> Tensor:
        """States of generated tokens (B, T, D) → (B, T, D)."""
        inner = nn.functional.gelu(self.reasoning_up(self.reasoning_norm(hidden)))
        return hidden + self.reasoning_down(inner)

    def validate(self, hidden: Tensor) -> Tensor:
        """States at the ends of steps (…, D) → log-odds (…) that the step is right."""
        return self.validator(hidden).squeeze(-1).float()

    def answer(self, tokens: Tensor, direct: Tensor) -> Tensor:
        """Selection tokens after a chain (B, N, D) and direct scores (B, N) → scores (B, N)."""
        inner = nn.functional.gelu(self.answer_hidden(self.answer_norm(tokens)))
        return direct + self.answer_score(inner).squeeze(-1).float()

    @torch.no_grad()
    def weigh_answer(self, weight: float) -> None:
        """Let the answer head's correction count so many times from now on; at 0 an answer is the direct one."""
        for parameter in self.answer_score.parameters():
            parameter.mul_(weight)
