"""Stage 3: choices of the default fleet over training, layer by layer, what each part matters, calibration, chains."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from embervlm.data.schema import Record
from embervlm.evaluation.metrics import per_robot
from embervlm.monitoring import data as d
from embervlm.monitoring.measuring import chains as c
from embervlm.monitoring.measuring import selecting as s
from embervlm.monitoring.measuring.moments import Moment, StageRun, has_default_fleet
from embervlm.stages.base import to_device

if TYPE_CHECKING:
    from embervlm.models.modeling import EmberVLM

CHAINS = 48
CALIBRATED = 128
BUDGET_BATCHES, BUDGET_RECORDS = 6, 16
TRUTH = "the chosen robot where it is labelled, else the labelled one with the highest score"
_FLEET_FIGURES = (d.LayerAccuracy, d.RobotPerformance, d.ConfusionEvolution, d.RobotRadar, d.TaskRobot)


def measure(store: d.FigureStore, run: StageRun) -> float:
    """Write the data of stage 3's eight figures and of its training curves.

    Returns:
        Share of right first choices of the model that the stage started from, on validation.
    """
    before = float("nan")
    five = [r for r in run.validation if has_default_fleet(r)]
    tested = [r for r in run.test if has_default_fleet(r)]
    if not five or not tested:
        for kind in _FLEET_FIGURES:
            store.note(kind, "no validation or test record has the fleet of the five default robots")
        five = []
    some = run.validation[:CALIBRATED]
    for moment, (model, _) in run.models():
        first, product = moment is run.moments[0], moment is run.product
        firsts: dict[str, tuple[float, bool]] = {}
        if five:
            layers = s.layer_scores(model, five)
            found = s.chosen(model, five, layers[-1])
            over_training(store, moment, five, found, layers)
            if product:
                known = {name: row["scores"] for name, row in run.predicted("scores").items()}
                at_moment(store, moment, tested, s.choices(model, tested, known), "test")
            else:
                at_moment(store, moment, five, found, "validation")
            right = found.able[np.arange(len(five)), found.first]
            firsts |= zip([r.id for r in five], zip(found.confidence.max(axis=1), right, strict=True), strict=True)
        asked = run.validation if first else [] if product else some
        rest = [r for r in asked if r.id not in firsts]
        if rest:
            firsts |= zip([r.id for r in rest], zip(*s.first_choices(model, rest), strict=True), strict=True)
        if first:
            before = float(np.mean([firsts[r.id][1] for r in run.validation]))
        if not product:
            confidence, correct = (np.array(column) for column in zip(*(firsts[r.id] for r in some), strict=True))
            note = f"validation split, first choices of {len(some)} tasks, before calibration"
            store.write(d.Calibration(confidence, correct, moment.step, source=note))
        else:
            calibration(store, model, run)
            layer_budget(store, model, run)
            reasoning_quality(store, model, run)
    training_curves(store, run)
    return before


def over_training(
    store: d.FigureStore, moment: Moment, records: list[Record], found: s.Choices, layers: NDArray[np.float64]
) -> None:
    """One moment of what is shown over all of training: choices for the records, and scores (L, R, N) per layer."""
    note = f"validation split, {len(records)} tasks of the default fleet"
    step = np.array([moment.step])
    store.write(
        d.RobotPerformance(
            step,
            found.robots,
            (found.sent & found.able).sum(axis=0)[None],
            found.able.sum(axis=0)[None],
            metric="share of the tasks that it can do and is sent to",
            source=note,
        )
    )
    store.write(d.ConfusionEvolution(step, found.robots, found.confusion()[None], truth=TRUTH, source=note))
    right = ((layers > 0) == found.able).mean(axis=1).T
    store.write(
        d.LayerAccuracy(
            step,
            found.robots,
            np.arange(len(layers)),
            right[None],
            method="selection head read at each layer",
            source=f"{note}; share of right decisions whether the robot can do the task",
        )
    )


def at_moment(store: d.FigureStore, moment: Moment, records: list[Record], found: s.Choices, split: str) -> None:
    """One moment's radar, and its table of task types, of the choices that were made for the records."""
    note = f"{split} split, {len(records)} tasks of the default fleet"
    table = per_robot(list(found.sent), list(found.able), [found.robots] * len(records))
    rows = [table[name] for name in found.robots]
    sure = [found.confidence[found.sent[:, n], n] for n in range(len(found.robots))]
    precision, recall, f1 = (np.array([row.get(key, np.nan) for row in rows]) for key in ("precision", "recall", "f1"))
    store.write(
        d.RobotRadar(
            found.robots,
            precision,
            recall,
            f1,
            confidence=np.array([values.mean() if values.size else np.nan for values in sure]),
            support=found.able.sum(axis=0),
            step=moment.step,
            source=f"{note}; confidence: mean over the tasks that the robot is sent to",
        )
    )
    kinds = [str(r.tags.get("category", "")) for r in records]
    tasks = [t for t in d.TASK_TYPES if t in kinds] + sorted({k for k in kinds if k and k not in d.TASK_TYPES})
    if not tasks:
        return store.note(d.TaskRobot, "the records name no type of task")
    here = np.array([[kind == task for task in tasks] for kind in kinds])
    store.write(
        d.TaskRobot(
            found.robots,
            tuple(tasks),
            correct=np.einsum("rn,rc->nc", (found.sent == found.able).astype(int), here.astype(int)),
            total=np.tile(here.sum(axis=0), (len(found.robots), 1)),
            step=moment.step,
            source=f"{note}; share of right decisions whether the robot is sent",
        )
    )
    return None


def calibration(store: d.FigureStore, model: EmberVLM, run: StageRun) -> None:
    """The product's first choices on the test split, as its evaluation found them."""
    rows = run.tables.get("predictions", ())
    if rows:
        confidence = np.array([row["confidence"] for row in rows], float)
        correct = np.array([row["correct"] for row in rows], bool)
    else:
        confidence, correct = s.first_choices(model, run.test)
    note = f"test split, first choices of {len(confidence)} tasks, calibrated on validation"
    store.write(d.Calibration(confidence, correct, run.product.step, source=note))


def layer_budget(store: d.FigureStore, model: EmberVLM, run: StageRun) -> None:
    """Sum of |gradient × weight| of each part, on mini-batches with the stage's own loss."""
    decoder = model.language.decoder.get_decoder()
    layers = getattr(decoder, "layers", None)
    if layers is None or not all(hasattr(layer, "self_attn") and hasattr(layer, "mlp") for layer in layers):
        return store.note(d.LayerBudget, f"{type(decoder).__name__} has no layers of attention and feed-forward parts")
    parts = [("attention", f"layer {i}", layer.self_attn) for i, layer in enumerate(layers)]
    parts += [("ffn", f"layer {i}", layer.mlp) for i, layer in enumerate(layers)]
    parts += [("adapter", "up", model.fusion.up), ("adapter", "down", model.fusion.down)]
    model.requires_grad_(False)
    for _, _, part in parts:
        part.requires_grad_(True)
    module = run.definition.module(model)
    module.eval()
    importance = []
    for m in range(min(BUDGET_BATCHES, max(1, len(run.validation) // BUDGET_RECORDS))):
        records = run.validation[m * BUDGET_RECORDS : (m + 1) * BUDGET_RECORDS]
        model.zero_grad(set_to_none=True)
        module(to_device(run.definition.collate(model.processor, records, m), model.device))["loss"].backward()
        importance.append(
            [
                sum(float((p.grad * p.detach()).abs().sum()) for p in part.parameters() if p.grad is not None)
                for _, _, part in parts
            ]
        )
    model.zero_grad(set_to_none=True)
    store.write(
        d.LayerBudget(
            parts=tuple(name for _, name, _ in parts),
            kinds=tuple(kind for kind, _, _ in parts),
            importance=np.array(importance),
            method="Σ |gradient × weight|",
            step=run.product.step,
            source=f"{len(importance)} batches of {BUDGET_RECORDS} validation records with the stage's loss",
        )
    )
    return None


def reasoning_quality(store: d.FigureStore, model: EmberVLM, run: StageRun) -> None:
    """Chains that stage 3's product writes."""
    asked = [r for r in run.test if r.reasoning][:CHAINS]
    if not asked:
        return store.note(d.ReasoningQuality, "no test record has a reference chain")
    found = c.written(model, asked)
    table = c.facts(found)
    if not table:
        return store.note(d.ReasoningQuality, "no fact could be read from the reference chains")
    store.write(
        d.ReasoningQuality(
            step_counts=np.array([len(chain.steps) for chain in found]),
            coherence=np.array([chain.coherence for chain in found]),
            correct=np.array([chain.correct for chain in found]),
            keywords=tuple(table),
            keyword_correct=np.array([right for right, _ in table.values()]),
            keyword_total=np.array([total for _, total in table.values()]),
            coherence_means=c.COHERENCE,
            step=run.product.step,
            source=f"test split, {len(found)} chains written by the product; {c.COHERENCE_MEANS}",
        )
    )
    return None


def training_curves(store: d.FigureStore, run: StageRun) -> None:
    """Every loss term at every step, every validation metric at every evaluation."""
    when, metrics = run.evaluations()
    losses = [name for name in run.history if name == "loss" or name.endswith("_loss")]
    if not len(when) or not losses:
        return store.note(d.TrainingCurves, "the history has no losses or no evaluations")
    store.write(
        d.TrainingCurves(
            steps=np.asarray(run.history["step"]).astype(int),
            losses=tuple(losses),
            values=np.stack([np.asarray(run.history[name], float) for name in losses], axis=1),
            evaluations=when,
            metrics=tuple(metrics),
            scores=np.stack(list(metrics.values()), axis=1),
            source="history of the run: training batches, and the validation split",
        )
    )
    return None
