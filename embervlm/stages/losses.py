"""The losses, each once.

Shape legend: B batch, N robots, T tokens, M labelled tokens, K entries of a teacher's distribution, V vocabulary,
D width, E shared embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from embervlm.models.layout import mentioned

if TYPE_CHECKING:
    # Processes that only make batches need no model.
    from embervlm.models.modeling import Context, EmberVLM


def info_nce(
    left: Tensor, right: Tensor, logit_scale: Tensor, left_all: Tensor, right_all: Tensor, rank_offset: int
) -> dict[str, Tensor]:
    """Symmetric InfoNCE (CLIP, arXiv:2103.00020) of local rows against the global batch.

    Args:
        left, right: (B, E) unit vectors of this worker's pairs.
        left_all, right_all: (B·workers, E) those of all workers, gathered with gradients.
        logit_scale: logarithm of the inverse temperature, bounded at ln 100 as in CLIP.
        rank_offset: row of this worker's first pair in the global batch.

    Returns:
        `loss`; apart for each direction the loss and the share of pairs found; and the mean cosine distance of pairs
        (`positive_distance`) and of all others (`negative_distance`).
    """
    scale = logit_scale.clamp(max=4.6052).exp()
    target = torch.arange(left.shape[0], device=left.device) + rank_offset
    forward, backward = scale * left @ right_all.T, scale * right @ left_all.T
    loss_forward, loss_backward = F.cross_entropy(forward, target), F.cross_entropy(backward, target)
    cosine = (forward / scale).detach()
    pairs = cosine.gather(1, target[:, None])
    others = max(1, cosine.numel() - pairs.numel())
    return {
        "loss": (loss_forward + loss_backward) / 2,
        "loss_i2t": loss_forward.detach(),
        "loss_t2i": loss_backward.detach(),
        "acc_i2t": (forward.argmax(1) == target).float().mean(),
        "acc_t2i": (backward.argmax(1) == target).float().mean(),
        "positive_distance": 1 - pairs.mean(),
        "negative_distance": 1 - (cosine.sum() - pairs.sum()) / others,
    }


class Gather(Protocol):
    """The exchange of rows between the parts of a step: every part's rows (n, …), one after the other, on all of them.

    `place` is a part's number, `parts` their count. Differentiable, and parts may have different n.
    """

    @property
    def place(self) -> int: ...

    @property
    def parts(self) -> int: ...

    def __call__(self, rows: Tensor) -> Tensor: ...


def rows_before(gather: Gather | None, rows: Tensor) -> int:
    """Where this part's rows begin in the gathered batch, whose parts may differ by one."""
    if gather is None:
        return 0
    owners = gather(torch.full((rows.shape[0],), gather.place, device=rows.device))
    return int((owners < gather.place).sum())


def language_loss(
    model: EmberVLM,
    hidden: Tensor,
    labels: Tensor,
    teacher_ids: Tensor | None = None,
    teacher_logprobs: Tensor | None = None,
    temperature: float = 2.0,
) -> tuple[Tensor, Tensor | None]:
    """Next-token cross-entropy, and the distance to a teacher's stored top-k where there is one.

    Args:
        hidden: (B, T, D).
        labels: (B, T) the token itself where it is to be predicted from the one before, -100 elsewhere.
        teacher_ids, teacher_logprobs: (B, T, K) at the labels' places; ids of -1 where no teacher spoke. Without ids
            the log-probabilities are of another vocabulary, largest first, -inf where no teacher spoke.
        temperature: of the distillation (Hinton et al., arXiv:1503.02531), over the renormalised top-k.

    Returns:
        Mean cross-entropy over labelled tokens; and KL(teacher ‖ student) · temperature², the transport distance
        without ids, or None.
    """
    target = labels[:, 1:]
    chosen = target >= 0
    if not bool(chosen.any()):
        return hidden.sum() * 0, None
    logits = model.language.logits(hidden[:, :-1][chosen]).float()  # (M, V)
    loss = F.cross_entropy(logits, target[chosen])
    if teacher_logprobs is None:
        return loss, None
    logprobs = teacher_logprobs[:, 1:][chosen]  # (M, K)
    if teacher_ids is None:
        return loss, transport_loss(logits, logprobs)
    ids = teacher_ids[:, 1:][chosen]
    spoken = ids[:, 0] >= 0
    if not bool(spoken.any()):
        return loss, None
    student = F.log_softmax(logits[spoken].gather(1, ids[spoken].clamp_min(0)) / temperature, dim=1)
    teacher = F.log_softmax(logprobs[spoken].masked_fill(ids[spoken] < 0, -1e4) / temperature, dim=1)
    return loss, F.kl_div(student, teacher, log_target=True, reduction="batchmean") * temperature**2


def transport_loss(logits: Tensor, logprobs: Tensor) -> Tensor:
    """Distance of distributions over two vocabularies: that of their sorted probabilities, at equal places.

    The optimal transport of Boizard et al. (arXiv:2402.12030), whose cost is the same between any two tokens. Of the
    teacher only the top K are known: the rest of both is compared by its sum, which is never more than its distance.

    Args:
        logits: (M, V) of the student.
        logprobs: (M, K) of the teacher, largest first, -inf where it did not speak.

    Returns:
        Sum of absolute differences, mean over the places where the teacher spoke; 0 where there are none.
    """
    spoken = logprobs[:, 0].isfinite()
    if not bool(spoken.any()):
        return logits.sum() * 0
    width = min(logprobs.shape[1], logits.shape[1])
    teacher = logprobs[spoken, :width].exp()
    student = logits[spoken].softmax(-1).topk(width).values
    rest = (teacher.sum(-1) - student.sum(-1)).abs()
    return ((teacher - student).abs().sum(-1) + rest).mean()


def pointer_loss(
    model: EmberVLM,
    hidden: Tensor,
    text: Mapping[str, Tensor],
    context: Context,
    said: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of the robots that the text mentions.

    The robots of one list ("[A], [B] and [C]") may come in any order: right is each that the step has not named yet.

    Args:
        hidden: (B, T, D).
        text: `generated_ids`, `mention_index`, `mention_end` and `labels` (B, T) as the processor makes them; only
            labelled mentions count.
        said: (B, T) the mentions that the model was shown, where they differ from the text's.
    """
    index, end = text["mention_index"], text["mention_end"]
    robots = context.robot_mask.shape[1]
    same_list = (end[:, :, None] == end[:, None, :]) & (end >= 0)[:, :, None]  # (B, T, T)
    listed = (same_list.float() @ mentioned(index, robots).float()) > 0
    history = index if said is None else said
    spent = model.spent(text["generated_ids"], history, context)[:, :-1]
    right = listed[:, 1:] & ~spent
    chosen = (index[:, 1:] >= 0) & (text["labels"][:, 1:] >= 0) & right.any(-1)
    if not bool(chosen.any()):
        return hidden.sum() * 0
    logits = model.pointer(hidden[:, :-1], context, spent)
    log_probability = F.log_softmax(logits[chosen], dim=-1)
    return -torch.logsumexp(log_probability.masked_fill(~right[chosen], -1e4), dim=-1).mean()


def reason_loss(reasons: Tensor, labels: Tensor, robot_mask: Tensor) -> Tensor:
    """Cross-entropy of what the task asks for and what each robot lacks, summed over the kinds of requirement.

    Args:
        reasons: (B, N, 2, K) log-odds.
        labels: (B, N, 2, K), -1 where a record does not say.
        robot_mask: (B, N) True where a robot exists.
    """
    known = (labels >= 0) & robot_mask[:, :, None, None]
    if not bool(known.any()):
        return reasons.sum() * 0
    loss = F.binary_cross_entropy_with_logits(reasons, labels.clamp_min(0), reduction="none")
    return (loss * known).sum() / known.sum() * reasons.shape[3]


def words_loss(told: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of what the words of tasks ask for, or those of robots say is lacking, summed over the kinds.

    Args:
        told: (…, K or more) log-odds; kinds behind the labels' have no name.
        labels: (…, K), -1 where a record does not say.
    """
    told, known = told[..., : labels.shape[-1]], labels >= 0
    loss = F.binary_cross_entropy_with_logits(told, labels.clamp_min(0), reduction="none")
    return (loss * known).sum() / known.any(-1).sum().clamp_min(1)


def selection_losses(scores: Tensor, labels: Tensor, robot_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Ranking and team loss of robots' scores.

    Args:
        scores: (B, N) log-odds.
        labels: (B, N) 1 where the robot can do the task.
        robot_mask: (B, N) True where a robot exists.

    Returns:
        Ranking: -log of the probability, under a softmax over the fleet, of choosing any robot that can do it.
        Team: mean binary cross-entropy over robots.
    """
    scores = scores.masked_fill(~robot_mask, -1e4)
    log_probability = F.log_softmax(scores, dim=1)
    good = log_probability.masked_fill(labels < 0.5, -1e4)
    solvable = (labels > 0.5).any(dim=1)
    ranking = -torch.logsumexp(good, dim=1)
    ranking = (ranking * solvable).sum() / solvable.sum().clamp_min(1)
    team = F.binary_cross_entropy_with_logits(scores, labels, reduction="none")
    return ranking, (team * robot_mask).sum() / robot_mask.sum().clamp_min(1)
