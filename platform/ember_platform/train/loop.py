"""The training loop: one for every stage and phase. Order and hooks only.

    batch → forward → backward → agree → step → record, and now and then: validate → checkpoint → report

It knows neither Ray nor DeepSpeed: batches, engine and report are handed to it, so it runs in process as it runs in a
worker. Every rank runs it in step with the others.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from ember_platform.config import StageConfig
from ember_platform.data.steps import StepInfo
from ember_platform.train import checkpoint as ck
from ember_platform.train import collectives
from ember_platform.train.faults import TrainingError, told, transient
from ember_platform.train.saving import Saver
from ember_platform.train.schedule import learning_rate, seed_step

__all__ = ["Backend", "Job", "PhasePlan", "TrainingError", "train"]

Row = dict[str, Any]
Observer = Callable[[StepInfo, Row], None]


class Backend(Protocol):
    """What the loop needs of an engine (`ember_platform.train.engine.Engine`)."""

    def forward(
        self, batches: Sequence[dict[str, Any]], progress: float, begin: Callable[[int], None]
    ) -> list[dict[str, Tensor]]: ...
    def backward(self, loss: Tensor) -> None: ...
    def step(self, learning_rate: float) -> float: ...
    def snapshot(self) -> Callable[[Path], None]: ...
    def load(self, folder: Path) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class PhasePlan:
    """One phase: its name, its optimizer steps, and at which of them the learning rate begins anew."""

    name: str
    steps: int
    restarts: tuple[int, ...] = ()


def last_phase(steps: Sequence[int]) -> int:
    """The phase that ends a stage, of the steps of each: the last that has any."""
    return max((phase for phase, count in enumerate(steps) if count), default=0)


@dataclass
class Job:
    """Everything a stage's training is made of, on one rank.

    Attributes:
        number, digest, seed: of the stage and its run.
        folder: the stage's; its checkpoints go there.
        settings: the stage's configuration.
        phases: what to do, in order; one of no steps is passed over.
        batches: (phase index, first step) → the remaining steps, each with its place and its micro-batches.
        ids: places among the training records → their ids, for messages.
        engine: phase index → an engine on the stage's module, made after the phase's parameters were set to train.
        prepare: phase index → sets what trains and what is frozen.
        validate: → validation metrics (rank 0 computes, all return the same).
        metric, mode: the metric that chooses the best, and "max" or "min".
        snapshot_model: copies the model as it is, and returns what writes the copy to a folder; called on every rank,
            what it returns on rank 0 only.
        together: phase index → how many of a worker's micro-batches run together, because they exchange rows.
        report: (metrics, path of a complete checkpoint or None, its name) → hands both over; called on every rank.
        observers: called on every rank after each step with the position and that step's row as this rank knows it.
        log: takes a history row every `log_every` steps and at each validation (rank 0).
        say: prints a line of progress (rank 0).
        patience: seconds that a checkpoint is tried again where storage refuses it.
    """

    number: int
    digest: str
    seed: int
    folder: str
    settings: StageConfig
    phases: list[PhasePlan]
    batches: Callable[[int, int], Iterator[tuple[StepInfo, list[dict[str, Any]]]]]
    ids: Callable[[Sequence[int]], list[str]]
    engine: Callable[[int], Backend]
    prepare: Callable[[int], None]
    validate: Callable[[], dict[str, float]]
    metric: str
    mode: str
    snapshot_model: Callable[[], Callable[[Path], None]]
    report: Callable[[dict[str, float], str | None, str], None]
    observers: list[Observer] = field(default_factory=list)
    log: Callable[[Row], None] = lambda row: None
    say: Callable[[str], None] = print
    together: Callable[[int], int] = lambda phase: 1
    patience: float = 300.0

    @property
    def last_phase(self) -> int:
        """The phase that ends the stage."""
        return last_phase([plan.steps for plan in self.phases])


@dataclass
class _Log:
    """What a checkpoint keeps of the steps so far: a row of figures each, and the samples that it trained on."""

    history: list[Row] = field(default_factory=list)
    samples: list[Row] = field(default_factory=list)


def train(job: Job, resume: Path | None = None) -> tuple[ck.RunState, list[Row]]:
    """Run every phase that is left, from a checkpoint where one is given.

    Returns:
        The state at the end and the history, a row per step.

    Raises:
        TrainingError: it would fail again: the loss is not a number, code or data are wrong, storage refuses.
        CheckpointError: the checkpoint is damaged or belongs to another run.
    """
    state, log = ck.RunState(job.number, job.digest, collectives.world_size()), _Log()
    if resume is not None:
        state, *kept = ck.read_state(resume, job.digest)
        log = _Log(*kept)
        state.world_size = collectives.world_size()
    saver = Saver(job.folder, job.settings.keep, job.patience, job.report, job.say)
    try:
        for phase in range(state.phase, job.last_phase + 1):
            if not job.phases[phase].steps:
                continue
            if phase > state.phase:
                state.begin_phase(phase)
            if not (state.phase_over and phase == job.last_phase):
                _Phase(job, phase, state, log, saver).run(resume)
            resume = None
    except Exception as error:
        if isinstance(error, TrainingError | ck.CheckpointError) or transient(error):
            raise
        raise TrainingError(
            f"stage {job.number}, phase {job.phases[state.phase].name}, step {state.step + 1}, rank "
            f"{collectives.rank()}: {told(error)}. It would fail again, so it is not tried again"
        ) from error
    finally:
        saver.close()
    return state, log.history


class _Phase:
    """One phase of a stage, from the state's step to its end."""

    def __init__(self, job: Job, phase: int, state: ck.RunState, log: _Log, saver: Saver) -> None:
        self.job, self.phase, self.state, self.saver = job, phase, state, saver
        self.history, self.samples = log.history, log.samples
        self.plan = job.phases[phase]
        self.pending: list[tuple[Row, tuple[int, ...]]] = []
        job.prepare(phase)
        self.engine = job.engine(phase)

    def run(self, resume: Path | None) -> None:
        """Every remaining step."""
        if resume is not None:
            self.engine.load(resume)
        if not self.state.phase_over:
            started = time.perf_counter()
            for info, micro_batches in self.job.batches(self.phase, self.state.step):
                row = self.step(info, micro_batches)
                now = time.perf_counter()
                row |= {"seconds": now - started, "samples_per_second": row["samples"] / (now - started)}
                self.record(info, row)
                self.after_step(info)
                if self.state.phase_over:
                    break
                started = time.perf_counter()
            self.check_complete()
        self.engine.close()

    def step(self, info: StepInfo, micro_batches: list[dict[str, Any]]) -> Row:
        """One optimizer step. Weights change only where every rank's loss is a number."""
        job, step, count = self.job, self.state.step, len(micro_batches)
        progress = step / max(1, self.plan.steps - 1)
        weights = self.weights(info, count)
        sums: dict[str, float] = {}
        passes = self.passes(count)
        for numbers in passes:
            begin = functools.partial(self.draw, step, [collectives.rank() * count + n for n in numbers])
            losses = self.engine.forward([micro_batches[n] for n in numbers], progress, begin)
            for name in dict.fromkeys(name for part in losses for name in part):
                found = [float(part[name].detach()) for part in losses if name in part]
                sums[name] = sums.get(name, 0.0) + sum(found) / len(found) / len(passes)
            weighted = [part["loss"] * weights[n] for n, part in zip(numbers, losses, strict=True)]
            self.engine.backward(sum(weighted[1:], weighted[0]) / len(weighted))
        self.agree(info, sums["loss"])
        rate = learning_rate(
            step,
            self.plan.steps,
            job.settings.learning_rate_of(self.phase),
            job.settings.warmup_ratio,
            job.settings.min_lr_ratio,
            self.plan.restarts,
        )
        norm = self.engine.step(rate)
        self.state.step += 1
        self.state.total_step += 1
        self.state.samples += info.samples
        place = {"step": self.state.total_step, "phase": self.phase, "phase_step": self.state.step}
        return place | {"epoch": info.epoch, "lr": rate, "samples": info.samples, "grad_norm": norm, **sums}

    def passes(self, count: int) -> list[list[int]]:
        """Which micro-batches have a forward and a backward pass together, by their numbers."""
        number = count // self.job.together(self.phase)
        return [list(range(first, count, number)) for first in range(number)]

    def draw(self, step: int, places: list[int], number: int) -> None:
        """Set the random numbers of a micro-batch: those of its place in the global batch, whoever runs it."""
        seed_step(self.job.seed, self.job.number, self.phase, step, places[number])

    def weights(self, info: StepInfo, count: int) -> list[float]:
        """What makes the mean over micro-batches and ranks the mean over samples, where the batch does not divide."""
        first = collectives.rank() * count
        even = info.samples / len(info.shares)
        return [size / even for size in info.shares[first : first + count]]

    def agree(self, info: StepInfo, loss: float) -> None:
        """The one exchange of a step: is every rank's loss a number, and is the checkpoint under way stored?

        All ranks stop where the loss of any is not a number, before it reaches the weights.
        """
        flags = collectives.mean_over_ranks({"bad": float(not math.isfinite(loss)), **self.saver.flags()})
        self.saver.take(flags)
        if flags["bad"]:
            self.saver.settle()
            found = [f"rank {r}: {value}" for r, value in enumerate(collectives.all_objects(loss))]
            mine = [] if math.isfinite(loss) else self.job.ids(info.indices)
            ids = [i for part in collectives.all_objects(mine) for i in part]
            raise TrainingError(
                f"stage {self.job.number}, phase {self.plan.name}, step {self.state.step + 1}: the loss is not a "
                f"number ({', '.join(found)}); records: {', '.join(ids)}. The last checkpoint is intact; "
                f"try a lower stages.{self.job.number}.learning_rate or clip, or precision fp32"
            )

    def record(self, info: StepInfo, row: Row) -> None:
        """Keep the row; every `log_every` steps the ranks' losses are averaged and a line is printed."""
        self.pending.append((row, info.indices))
        for observer in self.job.observers:
            observer(info, row)
        if self.state.step % self.job.settings.log_every == 0:
            self.flush()
            self.tell()

    def flush(self) -> None:
        """Move pending rows to the history, their losses averaged over the ranks that have them."""
        ranks = collectives.all_objects(self.pending)
        for parts in zip(*ranks, strict=True):
            rows = [row for row, _ in parts]
            merged = dict(rows[0])
            for name in dict.fromkeys(name for row in rows for name in row if isinstance(row[name], float)):
                values = [row[name] for row in rows if name in row]
                merged[name] = sum(values) / len(values)
            self.history.append(merged)
            place = {name: merged[name] for name in ("phase", "phase_step", "epoch")}
            self.samples.append(place | {"indices": [i for _, indices in parts for i in indices]})
        self.pending = []

    def after_step(self, info: StepInfo) -> None:
        """Validate, keep, report, stop: whatever is due."""
        settings, state = self.job.settings, self.state
        last = state.step >= self.plan.steps
        to_validate, to_save = (last or self.due(every, info) for every in (settings.eval_every, settings.save_every))
        if not (to_validate or to_save):
            return
        self.flush()
        metrics: dict[str, float] = {}
        improved = False
        if to_validate:
            metrics = self.job.validate()
            self.job.prepare(self.phase)
            self.history[-1] |= {f"val_{name}": value for name, value in metrics.items()}
            improved = self.judge(metrics)
        stop = settings.early_stop is not None and state.stale >= settings.early_stop.patience
        state.phase_over = last or stop
        state.finished = state.phase_over and self.phase == self.job.last_phase
        if improved or state.phase_over or to_save:
            self.checkpoint(metrics)
        else:
            self.saver.settle()  # reports come in the order of the steps
            self.job.report(self.report_metrics(metrics), None, state.name)
        if state.phase_over:
            self.saver.settle()
        if metrics:
            self.tell()

    def due(self, every: int | None, info: StepInfo) -> bool:
        """Whether something that happens every so many steps (None: each epoch) happens now."""
        return info.last_of_epoch if every is None else self.state.step % every == 0

    def judge(self, metrics: dict[str, float]) -> bool:
        """Whether these validation metrics are the best of the phase; keeps the early-stop count."""
        job, state = self.job, self.state
        if job.metric not in metrics:
            raise TrainingError(
                f"stage {job.number}: validation gave no {job.metric!r}, by which the best is chosen, only "
                f"{', '.join(sorted(metrics)) or 'nothing'}"
            )
        value, best = metrics[job.metric], state.best.value
        least = job.settings.early_stop.min_delta if job.settings.early_stop else 0.0
        gain = math.inf if best is None else (value - best if job.mode == "max" else best - value)
        # The least gain counts against patience only; any gain makes a better model.
        state.stale = 0 if gain > least else state.stale + 1
        if gain <= 0 or math.isnan(value):
            return False
        state.best = ck.Best(value, state.step, state.name, metrics)
        return True

    def report_metrics(self, metrics: dict[str, float]) -> dict[str, float]:
        """What goes to Ray: the validation, and where the run is."""
        state = self.state
        return {**metrics, "step": state.total_step, "phase": self.phase, "loss": self.history[-1]["loss"]}

    def checkpoint(self, metrics: dict[str, float]) -> None:
        """Copy everything as it is now and have it written while training goes on."""
        self.saver.settle()  # one at a time: two copies would not fit where one does
        model = self.job.snapshot_model()  # first: it makes what differs between ranks (batch statistics) the same
        engine = self.engine.snapshot()
        state, history, samples = self.state.to_json(), list(self.history), list(self.samples)

        def write(folder: Path) -> None:
            engine(folder)
            if collectives.rank() == 0:
                model(folder / ck.MODEL)
                ck.write_state(folder, state, history, samples)

        self.saver.save(self.state.name, self.report_metrics(metrics), write)

    def check_complete(self) -> None:
        """The data ended where the plan ends."""
        if not self.state.phase_over:
            raise TrainingError(
                f"stage {self.job.number}, phase {self.plan.name}: the data ended after {self.state.step} of "
                f"{self.plan.steps} steps; the shards are not those that the plan was made of, prepare the data again"
            )

    def tell(self) -> None:
        """Log the last row, and print it as a line of progress."""
        if collectives.rank() != 0:
            return
        row = self.history[-1]
        self.job.log(row)
        recent = [r for r in self.history[-self.job.settings.log_every :] if r["phase"] == self.phase]
        spent = sum(r["seconds"] for r in recent)
        rate = sum(r["samples"] for r in recent) / max(1e-9, spent)
        left = round((self.plan.steps - self.state.step) * spent / len(recent))
        parts = [f"stage {self.job.number} {self.plan.name}", f"step {self.state.step}/{self.plan.steps}"]
        parts += [f"loss {row['loss']:.4f}", f"lr {row['lr']:.2e}", f"{rate:.1f} samples/s"]
        parts += [f"{name[4:]} {value:.4f}" for name, value in row.items() if name.startswith("val_")]
        self.job.say("  ".join([*parts, f"{left // 60}:{left % 60:02d} left"]))
