"""What is fitted on validation records before a model is saved.

Calibration by mode, "none of these", familiarity, and how far the chain may correct an answer.

Shape legend: N robots, D decoder width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embervlm.data.schema import Record
from embervlm.evaluation.asking import request
from embervlm.evaluation.baselines import labels_of
from embervlm.evaluation.calibration import binary_nll, choice_nll, fit_calibration
from embervlm.models.trust import KINDS, Familiarity, Read, none_log_odds

if TYPE_CHECKING:
    from embervlm.models.modeling import EmberVLM

#: Training records that familiarity is measured against.
TRAINING = 256
#: Records without a picture from which on they stand for all text-only input; with fewer, pictures are withheld.
_ENOUGH = 32
#: Records whose picture is withheld for a calibration of chains without one: each costs a chain.
_CHAINS = 64
#: What the answer head's correction may count, and the standard errors by which validation must be better with it.
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
SURE = 2.0
#: Gains below this are the fit's own tolerance.
_LEAST = 1e-4

#: Per record the scores or labels (N,) of its robots.
Rows = list[np.ndarray]


@dataclass(frozen=True)
class Scored:
    """Scores of records with who can do it, both (N,) per record."""

    scores: Rows
    labels: Rows


@dataclass(frozen=True)
class Corrected:
    """Direct scores of records, what the answer head adds to them after the model's own chain, and who can do it."""

    direct: Rows
    added: Rows
    labels: Rows

    def at(self, weight: float) -> Scored:
        """The scores with so much of the correction."""
        return Scored([d + weight * a for d, a in zip(self.direct, self.added, strict=True)], self.labels)


def calibrate(model: EmberVLM, found: Mapping[str, Scored]) -> None:
    """Set the calibration of every mode that was measured, of all together, and of "none of these".

    A robot's confidence is to be the chance that it is right: Platt scaling by maximum likelihood over all robots, with
    a weight on the first choices, whose confidence is what a dispatcher acts on. "None of these" is Platt scaling of
    the log-odds that nobody is able if robots were independent, over fleets of which half have nobody. It is fitted on
    direct scores alone: a chain names the able robots, so scores after it would change with the company.
    """
    config = model.config
    config.score_temperature, config.score_bias = _fit(*_joined(found.values()))
    config.calibration = {mode: list(_fit(one.scores, one.labels)) for mode, one in found.items()}
    config.none_calibration = {}
    for kind in (kind for kind in KINDS if kind in found):
        one = found[kind]
        odds, empty = none_examples([model.log_odds(row, kind) for row in one.scores], one.labels)
        if odds:
            config.none_calibration[kind] = list(fit_calibration([np.array(odds)], [np.array(empty)]))


def _joined(parts: Any) -> tuple[Rows, Rows]:
    parts = list(parts)
    return [row for one in parts for row in one.scores], [row for one in parts for row in one.labels]


def _fit(scores: Rows, labels: Rows) -> tuple[float, float]:
    return fit_calibration(scores, labels, [1 + 4.0 * (s == s.max()) for s in scores])


def none_examples(log_odds: Rows, labels: Rows, seed: int = 0) -> tuple[list[float], list[bool]]:
    """Log-odds that nobody is able, for two fleets of every record that has both kinds of robot; and whether it is so.

    One fleet is the record's robots that cannot do it, the other is the same with one of them replaced by a robot that
    can: equally large, and as often the one as the other. A robot's direct score does not depend on its company, so
    none has to be asked for.
    """
    rng = np.random.default_rng(seed)
    odds: list[float] = []
    empty: list[bool] = []
    for row, label in zip(log_odds, labels, strict=True):
        able, unable = row[label > 0.5], row[label <= 0.5]
        if len(able) and len(unable):
            some = np.append(rng.permutation(unable)[1:], rng.choice(able))
            odds += [none_log_odds(unable), none_log_odds(some)]
            empty += [True, False]
    return odds, empty


def finish_direct(model: EmberVLM, records: Sequence[Record], training: Sequence[Record]) -> dict[str, Scored]:
    """Direct scores of validation records by kind of input; sets what familiarity is measured by on the way."""
    scored: dict[str, Scored] = {}
    read: dict[str, list[Read]] = {}
    for kind, some in kinds_of(records).items():
        scores, read[kind] = model.read_many(requests(some, kind))
        scored[kind] = Scored(scores, labels(some))
    seen = {kind: model.read_many(requests(some, kind))[1] for kind, some in kinds_of(training).items()}
    model.familiarity = Familiarity.fit(seen, read) if seen else None
    return scored


def finish_reasoned(model: EmberVLM, records: Sequence[Record]) -> tuple[dict[str, Scored], dict[str, float]]:
    """Settle what the answer head's correction counts in the model, by validation records and the model's own chains.

    Returns:
        Scores after the chain by mode, as the model now gives them, and the figures of `choose_weight`. Of records
        whose picture is withheld there are few: each costs a chain.
    """
    found = {}
    for kind, some in kinds_of(records).items():
        withheld = kind == "text" and any(record.image is not None for record in some)
        part = some[:: -(-len(some) // _CHAINS)] if withheld else some
        answers = model.select_many(requests(part, kind), reasoning=True)
        direct = [a["direct_scores"] for a in answers]
        added = [a["scores"] - a["direct_scores"] for a in answers]
        found[f"{kind}_reasoned"] = Corrected(direct, added, labels(part))
    figures = choose_weight(found)
    model.reasoning.weigh_answer(figures["answer_weight"])
    return {mode: one.at(figures["answer_weight"]) for mode, one in found.items()}, figures


def choose_weight(found: Mapping[str, Corrected]) -> dict[str, float]:
    """How far a correction is trusted: the weight with the least validation loss, if that beats none beyond doubt.

    The loss is the one that scores are trained by, ranking and team, after a calibration of each mode for each weight:
    a correction that only moves or stretches all scores gains nothing that calibration would not. It counts where its
    loss is smaller by more than `SURE` standard errors of the difference over records, and else not at all: few records
    find some weight a little better by chance.

    Returns:
        `answer_weight`; `answer_loss_<percent>`, the mean loss at each of `WEIGHTS`; `answer_loss_error`, the standard
        error of the difference between the least and the one without a correction.
    """
    losses = np.array([[loss for one in found.values() for loss in _losses(one.at(w))] for w in WEIGHTS])
    mean = losses.mean(axis=1)
    best = int(mean.argmin())
    gain = losses[0] - losses[best]
    error = float(gain.std(ddof=1) / np.sqrt(len(gain))) if len(gain) > 1 else float(abs(gain[0]))
    return {
        "answer_weight": WEIGHTS[best] if gain.mean() > SURE * error + _LEAST else 0.0,
        **{f"answer_loss_{round(100 * w)}": float(value) for w, value in zip(WEIGHTS, mean, strict=True)},
        "answer_loss_error": error,
    }


def _losses(scored: Scored) -> list[float]:
    """Of each record, with the calibration that fits all of them: ranking, where somebody is able, and team."""
    temperature, bias = _fit(scored.scores, scored.labels)
    rows = [(row / temperature + bias, label) for row, label in zip(scored.scores, scored.labels, strict=True)]
    return [(choice_nll([row], [y]) if y.any() else 0.0) + binary_nll(row, y) for row, y in rows]


def kinds_of(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Records to ask with a picture, and those to ask without: the ones that have none where they are enough, else all.

    A kind without a record is absent.
    """
    seen = [record for record in records if record.image is not None]
    unseen = [record for record in records if record.image is None]
    text = unseen if len(unseen) >= min(_ENOUGH, len(records)) else list(records)
    return {kind: some for kind, some in (("picture", seen), ("text", text)) if some}


def requests(records: Sequence[Record], kind: str) -> list[dict[str, Any]]:
    """The records as the model is asked them, without their picture where `kind` is "text"."""
    withheld = {"image": None} if kind == "text" else {}
    return [request(record, **withheld) for record in records]


def labels(records: Sequence[Record]) -> Rows:
    """Who can do it, (N,) of 0 and 1 per record."""
    return [labels_of(record).astype(float) for record in records]
