"""What the selection, plan and retrieval figures mean: pure numpy functions, one definition each.

Fleets differ in size from task to task, so most functions take one array per task, "ragged":
`can[i]` is a boolean array (N_i,) that is true for the robots that can do task i (the labels),
`sent[i]` the robots that the model would send (its team), `scores[i]` one number per robot, higher
is better. Robots stand in fleet order in all three, and no figure depends on that order.

Sources: sample IoU, Hamming, micro and macro F1 as in scikit-learn's multi-label metrics
(`jaccard_score(average="samples")` with empty/empty = 1, `hamming_loss`, `f1_score`); recall@k as in
the image-text retrieval literature (Karpathy & Fei-Fei, 2015); Kendall's tau-b through scipy;
percentile bootstrap after Efron & Tibshirani (1993), scipy's.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ragged = Sequence[NDArray[Any]]


class MetricError(ValueError):
    """Input that a metric cannot be computed from. The message says which and why."""


def check_ragged(first: Ragged, second: Ragged, names: str) -> None:
    """Both hold the same number of tasks (at least one), each task the same number of robots.

    Raises:
        MetricError: with the index of the first task that differs.
    """
    if len(first) != len(second):
        raise MetricError(f"{names}: {len(first)} tasks against {len(second)}")
    if not len(first):
        raise MetricError(f"{names}: no task at all; a figure over nothing does not exist")
    for i, (a, b) in enumerate(zip(first, second, strict=True)):
        if np.shape(a) != np.shape(b):
            raise MetricError(f"{names}: task {i} has {np.shape(a)} against {np.shape(b)} robots")


# ---------------------------------------------------------------- first choice and teams


def first_choice_hits(scores: Ragged, can: Ragged) -> NDArray[np.bool_]:
    """(tasks,) true where the robot with the highest score is one that can do the task.

    Robots that tie for the highest score count as hit only if all of them can, so that neither the
    order of the fleet nor a model that scores everybody alike gains from a tie.
    """
    check_ragged(scores, can, "first choice")
    hits = np.zeros(len(scores), dtype=bool)
    for i, (s, c) in enumerate(zip(scores, can, strict=True)):
        values = np.asarray(s, dtype=np.float64)
        if not np.isfinite(values).all():
            raise MetricError(f"first choice: task {i} has scores that are not finite: {values}")
        hits[i] = bool(np.asarray(c, dtype=bool)[values == values.max()].all())
    return hits


def first_choice(scores: Ragged, can: Ragged) -> float:
    """Share of tasks whose best-scored robot is in the labelled set."""
    return float(first_choice_hits(scores, can).mean())


def team_exact(sent: Ragged, can: Ragged) -> float:
    """Share of tasks whose team is exactly the labelled set."""
    check_ragged(sent, can, "team exact")
    return float(
        np.mean([bool((np.asarray(s, bool) == np.asarray(c, bool)).all()) for s, c in zip(sent, can, strict=True)])
    )


def team_iou(sent: Ragged, can: Ragged) -> float:
    """Mean over tasks of |sent ∩ can| / |sent ∪ can|; 1 where both are empty."""
    check_ragged(sent, can, "team IoU")
    values = []
    for s, c in zip(sent, can, strict=True):
        s, c = np.asarray(s, dtype=bool), np.asarray(c, dtype=bool)
        union = int((s | c).sum())
        values.append(1.0 if union == 0 else int((s & c).sum()) / union)
    return float(np.mean(values))


def team_hamming(sent: Ragged, can: Ragged) -> float:
    """Mean over tasks of the share of robots on which team and labels disagree (0 is best)."""
    check_ragged(sent, can, "team Hamming")
    return float(np.mean([(np.asarray(s, bool) != np.asarray(c, bool)).mean() for s, c in zip(sent, can, strict=True)]))


def _f1(true_positive: int, false_positive: int, false_negative: int) -> float:
    """F1 from counts; 1 where nothing is labelled and nothing is claimed."""
    denominator = 2 * true_positive + false_positive + false_negative
    return 1.0 if denominator == 0 else 2 * true_positive / denominator


def _pooled(sent: Ragged, can: Ragged) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    return (
        np.concatenate([np.asarray(s, dtype=bool) for s in sent]),
        np.concatenate([np.asarray(c, dtype=bool) for c in can]),
    )


def micro_f1(sent: Ragged, can: Ragged) -> float:
    """F1 of "can do it" over all (task, robot) pairs pooled."""
    check_ragged(sent, can, "micro F1")
    s, c = _pooled(sent, can)
    return _f1(int((s & c).sum()), int((s & ~c).sum()), int((~s & c).sum()))


def decision_macro_f1(sent: Ragged, can: Ragged) -> float:
    """Mean of the F1 of "can" and the F1 of "cannot" over all pairs: free of robots' names and roles."""
    check_ragged(sent, can, "decision macro F1")
    s, c = _pooled(sent, can)
    wrong_yes, wrong_no = int((s & ~c).sum()), int((~s & c).sum())
    return (_f1(int((s & c).sum()), wrong_yes, wrong_no) + _f1(int((~s & ~c).sum()), wrong_no, wrong_yes)) / 2


def per_robot(sent: Ragged, can: Ragged, names: Sequence[Sequence[str]]) -> dict[str, dict[str, float]]:
    """One-vs-rest precision, recall, F1 and support of every robot name, over the tasks whose fleet has it.

    `names[i]` are the fleet's names in order. Precision is absent where the robot was never sent, recall
    where it is never labelled; F1 is 0 where it is labelled and never sent, or the other way round.
    """
    check_ragged(sent, can, "per robot")
    counts: dict[str, NDArray[np.int64]] = {}
    for s, c, row in zip(sent, can, names, strict=True):
        for sends, able, name in zip(np.asarray(s, bool), np.asarray(c, bool), row, strict=True):
            counts.setdefault(name, np.zeros(3, dtype=np.int64))[:] += (sends & able, sends & ~able, ~sends & able)
    table: dict[str, dict[str, float]] = {}
    for name in sorted(counts):
        hit, extra, missed = (int(v) for v in counts[name])
        row_out = {"f1": _f1(hit, extra, missed), "support": float(hit + missed)}
        if hit + extra:
            row_out["precision"] = hit / (hit + extra)
        if hit + missed:
            row_out["recall"] = hit / (hit + missed)
        table[name] = row_out
    return table


def macro_f1(sent: Ragged, can: Ragged, names: Sequence[Sequence[str]]) -> float:
    """Unweighted mean F1 over the robot names that are labelled at least once.

    Raises:
        MetricError: no robot is labelled in any task.
    """
    values = [row["f1"] for row in per_robot(sent, can, names).values() if row["support"] > 0]
    if not values:
        raise MetricError("macro F1: no robot is labelled in any task")
    return float(np.mean(values))


def infeasible_rate(sent: Ragged, can: Ragged) -> float | None:
    """Share of the robots sent that cannot do the task; None where nobody is sent at all."""
    check_ragged(sent, can, "infeasible rate")
    s, c = _pooled(sent, can)
    return float((s & ~c).sum() / s.sum()) if s.any() else None


def pairs_right(hits: Sequence[bool] | NDArray[np.bool_], pairs: Sequence[Hashable | None]) -> list[bool]:
    """For every complete counterfactual pair, whether all its members are right; `pairs[i]` is a pair's id or None."""
    members: dict[Hashable, list[bool]] = {}
    for hit, pair in zip(hits, pairs, strict=True):
        if pair is not None:
            members.setdefault(pair, []).append(bool(hit))
    return [all(m) for m in members.values() if len(m) >= 2]


def both_right(hits: Sequence[bool] | NDArray[np.bool_], pairs: Sequence[Hashable | None]) -> tuple[float, int] | None:
    """Share of counterfactual pairs with every member right, and how many pairs there are.

    A pair of which only one member is present does not count; None where no complete pair is there.
    """
    complete = pairs_right(hits, pairs)
    return (float(np.mean(complete)), len(complete)) if complete else None


# ---------------------------------------------------------------- plans


def auroc(scores: NDArray[Any], truth: NDArray[Any]) -> float:
    """The chance that a positive has the higher score than a negative, ties counting half; NaN without either."""
    if truth.all() or not truth.any():
        return float("nan")
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(truth, scores))


def align_subtasks(predicted: Sequence[str], gold: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs (predicted index, gold index) that maximise the words shared; each index at most once.

    Similarity is the Jaccard index of lower-case words; pairs that share no word are left out.
    """
    if not predicted or not gold:
        return []
    from scipy.optimize import linear_sum_assignment  # slow to import, and only plans need it

    bags = [[set(text.lower().split()) for text in texts] for texts in (predicted, gold)]
    similarity = np.array([[len(p & g) / max(1, len(p | g)) for g in bags[1]] for p in bags[0]])
    rows, columns = linear_sum_assignment(-similarity)
    return [(int(r), int(c)) for r, c in zip(rows, columns, strict=True) if similarity[r, c] > 0]


def kendall_tau(predicted: Sequence[float], gold: Sequence[float]) -> float | None:
    """Kendall's tau-b of two orders of the same subtasks; None below two or where one order is constant."""
    if len(predicted) != len(gold):
        raise MetricError(f"Kendall's tau: {len(predicted)} places against {len(gold)}")
    if len(predicted) < 2 or len(set(predicted)) < 2 or len(set(gold)) < 2:
        return None
    from scipy.stats import kendalltau

    return float(kendalltau(np.asarray(predicted), np.asarray(gold)).statistic)


def plan_scores(
    predicted: Sequence[Sequence[dict[str, Any]]], gold: Sequence[Sequence[dict[str, Any]]]
) -> dict[str, float]:
    """Plans against reference plans (lists of `{"order", "subtask", "robot"}`), over tasks that have one.

    `plan_assignment_accuracy`: share of reference subtasks that the plan has and gives to the reference robot
    (a missing subtask is wrong). `plan_order_tau`: mean Kendall tau-b of the order of the subtasks that
    both have, over plans where it is defined. `plan_length_exact`: share with the right number of subtasks.
    """
    right, total, lengths, taus = 0, 0, [], []
    for ours, reference in zip(predicted, gold, strict=True):
        if not reference:
            continue
        pairs = align_subtasks([str(s["subtask"]) for s in ours], [str(s["subtask"]) for s in reference])
        right += sum(ours[p]["robot"] == reference[g]["robot"] for p, g in pairs)
        total += len(reference)
        lengths.append(len(ours) == len(reference))
        tau = kendall_tau([ours[p]["order"] for p, _ in pairs], [reference[g]["order"] for _, g in pairs])
        if tau is not None:
            taus.append(tau)
    if not total:
        return {}
    found = {"plan_assignment_accuracy": right / total, "plan_length_exact": float(np.mean(lengths))}
    if taus:
        found["plan_order_tau"] = float(np.mean(taus))
    return found


# ---------------------------------------------------------------- retrieval


def _ranks(similarity: NDArray[Any]) -> NDArray[np.int64]:
    """(B,) rank (0 best) of the diagonal in each row; a tie counts against it."""
    own = np.diagonal(similarity)[:, None]
    return ((similarity >= own).sum(axis=1) - 1).astype(np.int64)


def recall_at(similarity: NDArray[Any], ks: Iterable[int] = (1, 5)) -> dict[str, float]:
    """Recall@k both ways for a (B, B) similarity, images in rows and their own captions on the diagonal."""
    matrix = np.asarray(similarity, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise MetricError(f"recall@k: expected a square similarity (images, captions), found {matrix.shape}")
    found = {}
    for name, ranks in (("i2t", _ranks(matrix)), ("t2i", _ranks(matrix.T))):
        for k in ks:
            found[f"{name}_recall_at_{k}"] = float((ranks < k).mean())
    return found


def recall_one_of(similarity: NDArray[Any], group: int = 64, seed: int = 0, rounds: int = 8) -> dict[str, float]:
    """Recall@1 among `group` candidates: the mean over random groups, both ways.

    The pairs are shuffled and cut into groups, `rounds` times; what does not fill a group is left out
    of that round. Comparable across test sets of different sizes (chance is 1/group).

    Raises:
        MetricError: fewer pairs than a group.
    """
    matrix = np.asarray(similarity, dtype=np.float64)
    if len(matrix) < group:
        raise MetricError(f"retrieval of 1 in {group}: only {len(matrix)} pairs")
    rng = np.random.default_rng(seed)
    hits: dict[str, list[float]] = {"i2t": [], "t2i": []}
    for _ in range(rounds):
        order = rng.permutation(len(matrix))
        for start in range(0, len(order) - group + 1, group):
            chosen = order[start : start + group]
            part = matrix[np.ix_(chosen, chosen)]
            hits["i2t"].append(float((_ranks(part) < 1).mean()))
            hits["t2i"].append(float((_ranks(part.T) < 1).mean()))
    return {f"{name}_recall_1_of_{group}": float(np.mean(values)) for name, values in hits.items()}


# ---------------------------------------------------------------- uncertainty


def bootstrap_interval(
    values: Sequence[float] | NDArray[Any],
    statistic: Callable[[NDArray[Any]], Any] | None = None,
    level: float = 0.95,
    rounds: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a statistic over samples.

    `statistic` takes an array (rounds, n) of resampled values and gives (rounds,) numbers; the mean
    where it is None. Members of a counterfactual pair are not independent: resample pairs for those.

    Raises:
        MetricError: no values.
    """
    sample = np.asarray(values, dtype=np.float64)
    if not sample.size:
        raise MetricError("bootstrap: no values")
    if len(sample) == 1:  # there is nothing to draw from
        only = float(np.asarray(sample if statistic is None else statistic(sample[None]))[0])
        return only, only
    from scipy.stats import DegenerateDataWarning, bootstrap  # slow to import

    def drawn(values: NDArray[Any], axis: int = -1) -> NDArray[Any]:
        return np.asarray(values.mean(axis=axis) if statistic is None else statistic(values))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)  # a statistic may say NaN where a draw has none
        found = bootstrap(
            (sample,),
            drawn,
            vectorized=True,
            n_resamples=rounds,
            confidence_level=level,
            method="percentile",
            batch=max(1, min(rounds, 2_000_000 // len(sample))),
            rng=np.random.default_rng(seed),
        ).confidence_interval
    return float(found.low), float(found.high)
