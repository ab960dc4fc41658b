"""Robot selections of a model as arrays in the order of one fleet, also as its inner layers would make them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from embervlm.data.schema import Record
from embervlm.evaluation.asking import Asker, request
from embervlm.evaluation.baselines import team_of
from embervlm.fleet import default_fleet
from embervlm.models.trust import mode_of
from embervlm.monitoring.measuring.moments import BATCH
from embervlm.stages.base import chunks, to_device
from embervlm.stages.selection import selection_inputs

if TYPE_CHECKING:
    from embervlm.models.modeling import EmberVLM


@dataclass(frozen=True)
class Choices:
    """Answers to tasks of one fleet of N robots, in its order.

    Attributes:
        robots: (N,) names.
        able: (R, N) labels.
        scores: (R, N) log-odds. confidence: (R, N) 0 to 1.
        sent: (R, N) the team.
    """

    robots: tuple[str, ...]
    able: NDArray[np.bool_]
    scores: NDArray[np.float64]
    confidence: NDArray[np.float64]
    sent: NDArray[np.bool_]

    @property
    def first(self) -> NDArray[np.int64]:
        """(R,) the robot with the highest score."""
        return self.scores.argmax(axis=1)

    @property
    def due(self) -> NDArray[np.int64]:
        """(R,) the robot that should be first: the chosen one where it is labelled, else the best-scored labelled."""
        return np.where(self.able, self.scores, -np.inf).argmax(axis=1)

    def confusion(self) -> NDArray[np.int64]:
        """(N, N) tasks: row the robot that is due, column the one chosen; tasks that nobody can do are left out."""
        counts = np.zeros((len(self.robots),) * 2, np.int64)
        some = self.able.any(axis=1)
        np.add.at(counts, (self.due[some], self.first[some]), 1)
        return counts


def choices(model: EmberVLM, records: Sequence[Record], known: Mapping[str, Any] | None = None) -> Choices:
    """Direct choices of a model for records of the default fleet, in that fleet's order.

    Args:
        model: is asked.
        records: all of the default fleet.
        known: record id → scores (N,) in the record's own order, as far as they are known; the others are asked for.
    """
    scores = dict(known or {})
    asked = [r for r in records if r.id not in scores]
    scores |= zip([r.id for r in asked], model.score_many([request(r) for r in asked], BATCH), strict=True)
    order = [[[robot["name"] for robot in r.robots].index(name) for name in default_fleet().names] for r in records]
    return chosen(model, records, np.stack([np.asarray(scores[r.id])[o] for r, o in zip(records, order, strict=True)]))


def chosen(model: EmberVLM, records: Sequence[Record], scores: NDArray[Any]) -> Choices:
    """What scores (R, N), in the default fleet's order, come to with the model's calibration."""
    names = default_fleet().names
    able = np.array([[name in record.labels for name in names] for record in records])
    modes = [mode_of(record.image is not None, reasoned=False) for record in records]
    rows = [model.confidences(row, mode) for row, mode in zip(scores, modes, strict=True)]
    confidence = np.stack(rows).astype(float)
    sent = np.stack([team_of(row, model.config.team_threshold) for row in confidence])
    return Choices(tuple(names), able, scores.astype(float), confidence, sent)


def first_choices(model: EmberVLM, records: Sequence[Record]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Confidence (R,) of each record's first choice, and whether it is right (R,); any fleets."""
    firsts = [answer["robots"][0] for answer in Asker(model).select([request(r) for r in records])]
    confidence = np.array([first["confidence"] for first in firsts], float)
    return confidence, np.array([first["robot"] in r.labels for first, r in zip(firsts, records, strict=True)], bool)


@contextmanager
def _states(model: EmberVLM) -> Iterator[list[Tensor]]:
    """The decoder's states before its first layer and after each, of the last pass; filled while the model runs."""
    layers = model.language.layers
    states: list[Tensor] = [torch.empty(0)] * (len(layers) + 1)

    def keep(place: int, output: Any) -> None:
        states[place] = (output[0] if isinstance(output, tuple) else output).detach()

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        keep(0, args[0] if args else kwargs["hidden_states"])

    hooks = [layers[0].register_forward_pre_hook(before, with_kwargs=True)]
    for i, layer in enumerate(layers):
        hooks.append(layer.register_forward_hook(lambda m, a, output, i=i: keep(i + 1, output)))
    try:
        yield states
    finally:
        for hook in hooks:
            hook.remove()


@torch.inference_mode()
def layer_scores(model: EmberVLM, records: Sequence[Record]) -> NDArray[np.float64]:
    """Scores (L, R, N) that the selection head gives when it reads a layer; 0 is the input of the first.

    Every layer's states pass the decoder's last norm first, as the last layer's do. Robots are in the default order.
    """
    decoder = model.language.decoder.get_decoder()
    norm = getattr(decoder, "norm", None) or getattr(decoder, "ln_f", None) or nn.Identity()
    names, found = default_fleet().names, []
    for rows in chunks(records, BATCH):
        batch, tasks, fleets = selection_inputs(model.processor, rows, None, 0.0, 0.0)
        batch |= model.processor.texts(tasks)
        with _states(model) as states:
            context = model(**to_device(batch, model.device), select=True).context
        order = torch.tensor([[fleet.names.index(name) for name in names] for fleet in fleets], device=model.device)
        judged = [norm(state) + context.pairs for state in states]
        scores = [model.selection(s, context.words)[0].gather(1, order) for s in judged]
        found.append(torch.stack(scores).float().cpu().numpy())
    return np.concatenate(found, axis=1).astype(float)
