"""What a stage left to be measured, and questions that several figures ask of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from embervlm.data.schema import Record
from embervlm.fleet import default_fleet
from embervlm.stages import Stage, get_stage
from embervlm.stages.base import chunks, to_device

if TYPE_CHECKING:
    from embervlm.data.processor import EmberVLMProcessor
    from embervlm.models.modeling import EmberVLM

Array = NDArray[Any]
Loaded = tuple["EmberVLM", "EmberVLMProcessor"]
BATCH = 64


@dataclass(frozen=True)
class Moment:
    """A model of the stage: after so many optimizer steps, in a `from_pretrained` folder."""

    step: int
    folder: Path


@dataclass
class StageRun:
    """What one stage left.

    Attributes:
        number: 1 to 4.
        moments: models in the order of their steps; the first is what the stage started from, the last its product.
        load: reads a model folder.
        validation, test: records of those splits.
        tables: what its evaluation on the test split found beside the metrics (`evaluate_stage`).
        metrics, baselines: the same evaluation's figures.
        history: column → a value per optimizer step.
        phase_ends: optimizer steps after which each phase but the last ended.
        emissions: rows of `emissions.json`: part, kwh, grams, accounting.
        teacher: the teacher's name, "" without one.
    """

    number: int
    moments: list[Moment]
    load: Callable[[Path], Loaded]
    validation: list[Record]
    test: list[Record]
    tables: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    baselines: Mapping[str, float] = field(default_factory=dict)
    history: Mapping[str, Array] = field(default_factory=dict)
    phase_ends: Sequence[int] = ()
    emissions: Sequence[Mapping[str, Any]] = ()
    teacher: str = ""

    @property
    def definition(self) -> Stage:
        """The stage itself."""
        return get_stage(self.number)

    @property
    def product(self) -> Moment:
        """The stage's product."""
        return self.moments[-1]

    def predicted(self, *wanted: str) -> dict[str, Mapping[str, Any]]:
        """Record id → row of what the evaluation was answered; none where its rows lack a wanted value."""
        rows = {str(row["id"]): row for row in self.tables.get("predictions", ())}
        return rows if all(name in row for row in rows.values() for name in wanted) else {}

    def models(self) -> Iterator[tuple[Moment, Loaded]]:
        """Every model, one at a time."""
        for moment in self.moments:
            yield moment, self.opened(moment)

    def opened(self, moment: Moment) -> Loaded:
        """A model in eval mode with its processor set."""
        model, processor = self.load(moment.folder)
        model.eval()
        model.processor = processor
        return model, processor

    def evaluations(self) -> tuple[Array, dict[str, Array]]:
        """Steps (E,) of the evaluations in the history and each validation metric's values there, NaN where absent."""
        return evaluations(self.history)


def evaluations(history: Mapping[str, Array]) -> tuple[Array, dict[str, Array]]:
    """As `StageRun.evaluations`, of a history alone."""
    columns = {name[4:]: np.asarray(v, float) for name, v in history.items() if name.startswith("val_")}
    if not columns:
        return np.zeros(0, int), {}
    rows = np.flatnonzero(np.isfinite(np.stack(list(columns.values()))).any(axis=0))
    return np.asarray(history["step"])[rows].astype(int), {n: v[rows] for n, v in columns.items()}


def evenly(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many of the items, evenly spaced, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, most).round().astype(int))]


def has_default_fleet(record: Record) -> bool:
    """Whether the record's fleet is that of the five default robots, in whatever order."""
    return {robot["name"] for robot in record.robots} == set(default_fleet().names)


@torch.inference_mode()
def token_probabilities(
    model: EmberVLM, requests: Sequence[Mapping[str, Any]], texts: Sequence[str]
) -> list[NDArray[np.float64]]:
    """The probability of each token of a text, its end included, given image, prompt and the tokens before it."""
    processor = model.processor
    found: list[NDArray[np.float64]] = []
    for rows in chunks(zip(requests, texts, strict=True), BATCH):
        batch: dict[str, Any] = processor.texts([request["prompt"] for request, _ in rows])
        batch |= processor.images([request.get("image") for request, _ in rows])
        batch |= processor.generated([processor.pieces([("words", t), ("special", "eos")]) for _, t in rows])
        batch = to_device(batch, model.device)
        hidden = model(**batch).text_hidden
        target = batch["labels"][:, 1:]
        chosen = target >= 0
        logits = model.language.logits(hidden[:, :-1][chosen]).float()
        values = logits.log_softmax(-1).gather(1, target[chosen][:, None])[:, 0].exp().double().cpu().numpy()
        ends = np.cumsum(chosen.sum(1).cpu().numpy())
        found.extend(np.split(values, ends[:-1]))
    return found


def padded(rows: Sequence[Array], most: int, least: int = 0) -> NDArray[np.float64]:
    """Rows of different lengths as (R, T) with NaN behind their ends, T from `least` to `most`."""
    width = min(most, max(least, *(len(row) for row in rows)))
    table = np.full((len(rows), width), np.nan)
    for i, row in enumerate(rows):
        table[i, : min(width, len(row))] = row[:width]
    return table
