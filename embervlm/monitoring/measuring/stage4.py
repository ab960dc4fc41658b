"""Stage 4: the two phases, what each reasoning step matters, with and without chain, attention, consistency."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from embervlm.data.images import open_image, to_square
from embervlm.evaluation.asking import request
from embervlm.evaluation.calibration import expected_calibration_error
from embervlm.evaluation.metrics import bootstrap_interval
from embervlm.fleet import default_fleet
from embervlm.monitoring import data as d
from embervlm.monitoring.measuring import chains as c
from embervlm.monitoring.measuring.attention import Rollout, confidences, rollouts
from embervlm.monitoring.measuring.moments import BATCH, Array, Moment, StageRun, has_default_fleet
from embervlm.monitoring.statistics import ece_interval
from embervlm.stages.base import chunks

if TYPE_CHECKING:
    from embervlm.models.modeling import EmberVLM

#: Validation records whose chains are followed over training, and test records that compare the two phases.
CHAINS = 32
PHASE_TASKS = 64
FLOWS = 24
TIMED = 5
METHOD = "mean |change of a robot's confidence| when the step is empty"


def measure(store: d.FigureStore, run: StageRun) -> float:
    """Write the data of stage 4's six figures and of its attention maps.

    Returns:
        Share of right first choices, after its chain, of the model that the stage started from, on validation.
    """
    before = float("nan")
    followed = [r for r in run.validation if r.robots][:CHAINS]
    looked = next((r for r in run.validation if has_default_fleet(r) and r.image is not None), None)
    compared = [r for r in run.test if r.robots][:PHASE_TASKS]
    phases: dict[int, dict[str, tuple[float, float, float]]] = {}
    for moment, (model, _) in run.models():
        product = moment is run.product
        ends = product or moment.step in run.phase_ends
        found = c.evaluated(run) if product else {}
        shown = [r for r in run.test if r.id in found] or (compared if product else followed)
        wanted = [*followed, *([looked] if looked else []), *shown, *(compared if ends else [])]
        if moment is run.moments[0]:
            wanted = [*run.validation, *wanted]
        asked = {r.id: r for r in wanted if r.id not in found}
        found |= {chain.record.id: chain for chain in c.written(model, list(asked.values()))}
        if moment is run.moments[0]:
            before = float(np.mean([found[r.id].correct for r in run.validation]))
        note = f"{'test' if product else 'validation'} split, {len(shown)} chains written by the model"
        dashboard(store, moment, [found[r.id] for r in shown], note)
        importance(store, model, moment, [found[r.id] for r in followed])
        if ends:
            phases[moment.step] = phase_row(model, [found[r.id] for r in compared])
        if looked is not None:
            attention_maps(store, model, moment, found[looked.id])
        if product:
            flowing = [found[r.id] for r in shown if r.image is not None][:FLOWS]
            attention_flow(store, model, moment, flowing)
    phase_comparison(store, run, phases, len(compared))
    chain_or_not(store, run)
    return before


# ------------------------------------------------------------------------ chains


def dashboard(store: d.FigureStore, moment: Moment, found: Sequence[c.Chain], note: str) -> None:
    """Coherence, consistency and length of every chain; consistency by task and by where the robot is named."""
    store.write(
        d.ReasoningDashboard(
            coherence=np.array([chain.coherence for chain in found]),
            consistency=np.array([chain.consistency for chain in found]),
            step_counts=np.array([len(chain.steps) for chain in found]),
            step=moment.step,
            source=f"{note}; {c.COHERENCE_MEANS}; {c.CONSISTENCY_MEANS}",
        )
    )
    kinds = [str(chain.record.tags.get("category", "")) for chain in found]
    tasks = [t for t in d.TASK_TYPES if t in kinds] + sorted({k for k in kinds if k and k not in d.TASK_TYPES})
    if not tasks:
        return store.note(d.ReasoningConsistency, "the records name no type of task")
    places = [chain.place for chain in found if chain.place is not None]
    # Chains are alike: in all of them a robot comes after task and scene. Half of them name it before their median.
    middle = float(np.median(places)) if places else 0.5
    cells: list[list[list[float]]] = [
        [
            [
                x.consistency
                for x, kind in zip(found, kinds, strict=True)
                if kind == task and x.place is not None and (x.place < middle) is early
            ]
            for early in (True, False)
        ]
        for task in tasks
    ]
    store.write(
        d.ReasoningConsistency(
            tasks=tuple(tasks),
            score=np.array([[np.mean(cell) if cell else np.nan for cell in row] for row in cells]),
            count=np.array([[len(cell) for cell in row] for row in cells]),
            boundary=f"before or after the median place, at {middle:.0%} of the chain",
            step=moment.step,
            source=f"{note}; {c.CONSISTENCY_MEANS}",
        )
    )
    return None


def importance(store: d.FigureStore, model: EmberVLM, moment: Moment, found: Sequence[c.Chain]) -> None:
    """How far every robot's confidence moves when one step of the model's own chain is emptied."""
    whole = [chain for chain in found if len(chain.steps) == len(d.REASONING_STEPS)]
    if not whole:
        return store.note(d.StepImportance, "no chain has all four steps")
    moved = []
    for part in chunks(whole, BATCH):
        without = ([c.ablated(chain.steps)[q] for chain in part] for q in range(len(d.REASONING_STEPS)))
        base, *others = confidences(model, part, [chain.steps for chain in part], *without)
        moved.append([[np.abs(a - b).mean() for a, b in zip(base, other, strict=True)] for other in others])
    store.write(
        d.StepImportance(
            np.array([moment.step]),
            d.REASONING_STEPS,
            np.concatenate(moved, axis=1).mean(axis=1)[None],
            method=METHOD,
            source=f"validation split, {len(whole)} whole chains written by the model",
        )
    )
    return None


def chain_or_not(store: d.FigureStore, run: StageRun) -> None:
    """The evaluation's own answers with chain and without, for the default fleet."""
    truth = {r.id: r for r in run.test if has_default_fleet(r)}
    robots = tuple(default_fleet().names)
    rows = [
        (robots.index(best), row["first_without_reasoning"] in truth[row["id"]].labels, bool(row["correct"]))
        for row in run.tables.get("predictions", ())
        if row["id"] in truth and (best := c.best_robot(truth[row["id"]])) in robots
    ]
    if not rows:
        return store.note(d.ChainAgainstDirect, "no test record of the default fleet was answered both ways")
    robot, direct, chain = (np.array(column) for column in zip(*rows, strict=True))
    store.write(
        d.ChainAgainstDirect(
            robots,
            robot,
            direct,
            chain,
            step=run.product.step,
            source=f"test split, first choices of {len(rows)} tasks of the default fleet; a task counts for the robot "
            "that the reference names first",
        )
    )
    return None


# ------------------------------------------------------------------------ phases


def phase_row(model: EmberVLM, found: Sequence[c.Chain]) -> dict[str, tuple[float, float, float]]:
    """Accuracy, coherence, ECE and latency with their 95% intervals."""
    correct = np.array([chain.correct for chain in found], float)
    coherence = np.array([chain.coherence for chain in found])
    sure = np.array([chain.answer["robots"][0]["confidence"] for chain in found])
    ece = expected_calibration_error(sure, correct)
    times = latencies(model, [request(chain.record) for chain in found[:TIMED]], reasoning=True)
    # Resampling adds noise to every bin, so an interval of resampled ECEs may lie beside the value itself.
    low, high = ece_interval(sure, correct)
    return {
        "Robot Accuracy": (float(correct.mean()), *bootstrap_interval(correct)),
        "Reasoning Coherence": (float(coherence.mean()), *bootstrap_interval(coherence)),
        "ECE": (ece, min(ece, low), max(ece, high)),
        "Latency": (float(np.median(times)), float(min(times)), float(max(times))),
    }


def latencies(model: EmberVLM, requests: Sequence[dict[str, Any]], reasoning: bool) -> list[float]:
    """Milliseconds of single requests, one after the other, after one to warm up."""
    times = []
    for one in [requests[0], *requests]:
        start = time.perf_counter()
        model.select_many([one], reasoning=reasoning, batch_size=1)
        times.append(1000 * (time.perf_counter() - start))
    return times[1:]


def phase_comparison(
    store: d.FigureStore, run: StageRun, phases: dict[int, dict[str, tuple[float, float, float]]], count: int
) -> None:
    """Phase 1's last model beside the product."""
    if len(phases) < 2:
        return store.note(d.PhaseComparison, "no model was kept from the end of phase 1")
    rows = [phases[step] for step in (sorted(phases)[0], run.product.step)]
    names = tuple(rows[0])
    values, low, high = (np.array([[row[name][k] for name in names] for row in rows]) for k in range(3))
    store.write(
        d.PhaseComparison(
            metrics=names,
            units=tuple("ms" if name == "Latency" else "" for name in names),
            better=tuple("lower" if name in ("ECE", "Latency") else "higher" for name in names),
            values=values,
            low=low,
            high=high,
            source=f"test split, {count} tasks answered with chain; latency: median and range of {TIMED} single "
            "requests on this machine; phase 1 still has the calibration of stage 3",
        )
    )
    return None


# --------------------------------------------------------------------- attention


def attention_maps(store: d.FigureStore, model: EmberVLM, moment: Moment, chain: c.Chain) -> None:
    """Where each step and each robot's selection token looks in one picture, the same at every moment."""
    rolled = rollouts(model, [chain])[0]
    place, side = rolled.columns(), round(rolled.visual**0.5)
    rows = rolled.weights[place["chain"], place["visual"]]
    queries = {
        name: rows[rolled.step == q].mean(dim=0)
        for q, name in enumerate(d.REASONING_STEPS)
        if bool((rolled.step == q).any())
    }
    last = rolled.weights[place["selection"], place["visual"]]
    queries |= {str(robot["name"]): last[n] for n, robot in enumerate(chain.record.robots)}
    picture = to_square(open_image(chain.record.image, chain.record.id), model.config.image_size)
    store.write(
        d.AttentionMaps(
            images=(picture.transpose(1, 2, 0),),
            queries=tuple(queries),
            attention=tuple(values.reshape(side, side).numpy() for values in queries.values()),
            task=chain.record.instruction,
            step=moment.step,
            source=f"validation record {chain.record.id}, attention rollout over all layers",
        )
    )


_REGIONS = ("top left", "top right", "bottom left", "bottom right")
_INPUTS = ("Picture", "Task words", "Robot texts")
_SELECTED = ("First choice", "Other robots")


def attention_flow(store: d.FigureStore, model: EmberVLM, moment: Moment, found: Sequence[c.Chain]) -> None:
    """Of what selection and reasoning are made, in groups of tokens."""
    if not found:
        return store.note(d.AttentionFlow, "no test record with a picture has a chain")
    parts = [flow_of(rolled, chain) for rolled, chain in zip(rollouts(model, found), found, strict=True)]
    reasoning = (*d.REASONING_STEPS, "Plan")
    nodes = (*_REGIONS, *_INPUTS, *reasoning, *_SELECTED)
    column = [0] * len(_REGIONS) + [1] * len(_INPUTS) + [2] * len(reasoning) + [3] * len(_SELECTED)
    strength = np.mean(parts, axis=0)
    start, end = np.nonzero(strength)
    store.write(
        d.AttentionFlow(
            nodes,
            np.array(column),
            start,
            end,
            strength[start, end],
            method=f"attention rollout over all layers, mean of {len(found)} tasks; width: share of the selection",
            step=moment.step,
            source="test split; what a token is made of, its own input aside, in groups of tokens",
        )
    )
    return None


def flow_of(rolled: Rollout, chain: c.Chain) -> Array:
    """Strength (V, V) of every link of one sample; both groups of selection tokens draw 1 together.

    A group's share of its sources is that of its rollout. What reaches the selection through a reasoning step is
    traced on to the inputs that the step was made of, so that what enters a step equals what leaves it.
    """
    place, weights = rolled.columns(), rolled.weights
    names = [robot["name"] for robot in chain.record.robots]
    first = names.index(chain.chosen)
    step = rolled.step

    def shares(rows: Array) -> tuple[Array, Array]:
        """Of rows (r, M): the shares of the three inputs and of the five parts of the chain, their sum being 1."""
        row = rows.mean(axis=0)
        inputs = np.array([row[place["visual"]].sum(), row[place["task"]].sum(), row[place["fleet"]].sum()])
        own = row[place["chain"]]
        parts = np.array([own[step.numpy() == q].sum() for q in range(5)])
        total = inputs.sum() + parts.sum()
        return inputs / total, parts / total

    table = weights.numpy()
    selection = table[place["selection"]]
    others = [n for n in range(len(names)) if n != first]
    strength = np.zeros((14, 14))
    side = round(rolled.visual**0.5)
    quarter = np.array([2 * (i // side >= side / 2) + (i % side >= side / 2) for i in range(rolled.visual)], int)
    for g, rows in enumerate((selection[[first]], selection[others])):
        if not len(rows):
            continue
        share = 1 / len(names) if g == 0 else len(others) / len(names)
        inputs, parts = shares(rows)
        strength[4:7, 12 + g] += share * inputs
        strength[7:12, 12 + g] += share * parts
    chain_rows = table[place["chain"]]
    for q in range(5):
        through = strength[7 + q, 12:].sum()
        mine = chain_rows[step.numpy() == q]
        if not len(mine) or not through:
            continue
        inputs, _ = shares(mine)
        strength[4:7, 7 + q] = through * inputs / inputs.sum()
    looks = table[np.r_[place["chain"], place["selection"]]][:, place["visual"]].mean(axis=0)
    looked = np.bincount(quarter, looks, 4)
    strength[:4, 4] = strength[4].sum() * looked / looked.sum()
    return strength
