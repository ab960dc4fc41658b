"""The training loop: one for every stage and phase. Order and hooks only.

    batch → forward → backward → step → record, and now and then: validate → checkpoint → report

It knows neither Ray nor DeepSpeed: batches, engine and report are handed to it, so it runs in process as it runs in a
worker. Every rank runs it in step with the others.
"""

from __future__ import annotations

import math
import tempfile
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
from ember_platform.train.schedule import learning_rate, seed_step

Row = dict[str, Any]
Observer = Callable[[StepInfo, Row], None]


class TrainingError(RuntimeError):
    """Training that cannot go on and would fail again: not retried. The message names step and records."""


class Backend(Protocol):
    """What the loop needs of an engine (`ember_platform.train.engine.Engine`)."""

    def forward(self, batch: dict[str, Any], progress: float) -> dict[str, Tensor]: ...
    def backward(self, loss: Tensor) -> None: ...
    def step(self, learning_rate: float) -> float: ...
    def save(self, folder: Path) -> None: ...
    def load(self, folder: Path) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class PhasePlan:
    """One phase: its name and its optimizer steps."""

    name: str
    steps: int


@dataclass
class Job:
    """Everything a stage's training is made of, on one rank.

    Attributes:
        number, digest, seed: of the stage and its run.
        settings: the stage's configuration.
        phases: what to do, in order.
        batches: (phase index, first step) → the remaining steps, each with its place and its micro-batches.
        ids: places among the training records → their ids, for messages.
        engine: phase index → an engine on the stage's module, made after the phase's parameters were set to train.
        prepare: phase index → sets what trains and what is frozen.
        validate: → validation metrics (rank 0 computes, all return the same).
        metric, mode: the metric that chooses the best, and "max" or "min".
        save_model: writes the model folder; called on every rank.
        report: (metrics, checkpoint folder or None, its name) → hands both over; called on every rank.
        observers: called on every rank after each step with the position and that step's row as this rank knows it.
        log: takes a history row every `log_every` steps and at each validation (rank 0).
        say: prints a line of progress (rank 0).
    """

    number: int
    digest: str
    seed: int
    settings: StageConfig
    phases: list[PhasePlan]
    batches: Callable[[int, int], Iterator[tuple[StepInfo, list[dict[str, Any]]]]]
    ids: Callable[[Sequence[int]], list[str]]
    engine: Callable[[int], Backend]
    prepare: Callable[[int], None]
    validate: Callable[[], dict[str, float]]
    metric: str
    mode: str
    save_model: Callable[[Path], None]
    report: Callable[[dict[str, float], Path | None, str], None]
    observers: list[Observer] = field(default_factory=list)
    log: Callable[[Row], None] = lambda row: None
    say: Callable[[str], None] = print


def train(job: Job, resume: Path | None = None) -> tuple[ck.RunState, list[Row]]:
    """Run every phase that is left, from a checkpoint where one is given.

    Returns:
        The state at the end and the history, a row per step.

    Raises:
        TrainingError: the loss is not a number.
        CheckpointError: the checkpoint is damaged or belongs to another run.
    """
    state = ck.RunState(job.number, job.digest, collectives.world_size())
    history: list[Row] = []
    if resume is not None:
        state, history = ck.read_state(resume, job.digest)
        state.world_size = collectives.world_size()
    for phase in range(state.phase, len(job.phases)):
        if phase > state.phase:
            state.begin_phase(phase)
        if not (state.phase_over and phase == len(job.phases) - 1):
            _Phase(job, phase, state, history).run(resume)
        resume = None
    return state, history


class _Phase:
    """One phase of a stage, from the state's step to its end."""

    def __init__(self, job: Job, phase: int, state: ck.RunState, history: list[Row]) -> None:
        self.job, self.phase, self.state, self.history = job, phase, state, history
        self.plan = job.phases[phase]
        self.pending: list[Row] = []
        job.prepare(phase)
        self.engine = job.engine(phase)

    def run(self, resume: Path | None) -> None:
        """Every remaining step."""
        if resume is not None:
            self.engine.load(resume / ck.ENGINE)
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
        job, step = self.job, self.state.step
        seed_step(job.seed, job.number, self.phase, step, collectives.rank())
        progress = step / max(1, self.plan.steps - 1)
        sums: dict[str, float] = {}
        for batch, weight in zip(micro_batches, self.weights(info, len(micro_batches)), strict=True):
            losses = self.engine.forward(batch, progress)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach()) / len(micro_batches)
            self.engine.backward(losses["loss"] * weight)
        self.check_finite(info, sums["loss"])
        rate = learning_rate(
            step,
            self.plan.steps,
            job.settings.learning_rate_of(self.phase),
            job.settings.warmup_ratio,
            job.settings.min_lr_ratio,
        )
        norms = [self.engine.step(rate) for _ in micro_batches]
        self.state.step += 1
        self.state.total_step += 1
        self.state.samples += info.samples
        place = {"step": self.state.total_step, "phase": self.phase, "phase_step": self.state.step}
        return place | {"epoch": info.epoch, "lr": rate, "samples": info.samples, "grad_norm": norms[-1], **sums}

    def weights(self, info: StepInfo, count: int) -> list[float]:
        """What makes the mean over micro-batches and ranks the mean over samples, where the batch does not divide."""
        first = collectives.rank() * count
        even = info.samples / len(info.shares)
        return [size / even for size in info.shares[first : first + count]]

    def check_finite(self, info: StepInfo, loss: float) -> None:
        """Stop all ranks where the loss of any is not a number, before it reaches the weights."""
        bad = collectives.mean_over_ranks({"bad": float(not math.isfinite(loss))})["bad"]
        if bad:
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
        self.pending.append(row)
        for observer in self.job.observers:
            observer(info, row)
        if self.state.step % self.job.settings.log_every == 0:
            self.flush()
            self.tell()

    def flush(self) -> None:
        """Move pending rows to the history, their losses averaged over the ranks that have them."""
        ranks = collectives.all_objects(self.pending)
        for rows in zip(*ranks, strict=True):
            merged = dict(rows[0])
            for name in dict.fromkeys(name for row in rows for name in row if isinstance(row[name], float)):
                values = [row[name] for row in rows if name in row]
                merged[name] = sum(values) / len(values)
            self.history.append(merged)
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
        state.finished = state.phase_over and self.phase == len(self.job.phases) - 1
        if improved or state.phase_over or to_save:
            self.checkpoint(metrics, improved)
        else:
            self.job.report(self.report_metrics(metrics, improved), None, state.name)
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
        state.improvements += 1
        state.best = ck.Best(value, state.step, state.name, metrics)
        return True

    def report_metrics(self, metrics: dict[str, float], improved: bool) -> dict[str, float]:
        """What goes to Ray: the validation, and the order by which checkpoints are kept (the best outranks all)."""
        state = self.state
        order = 1e9 + state.improvements if improved else float(state.total_step)
        loss = self.history[-1]["loss"]
        return {**metrics, "step": state.total_step, "phase": self.phase, "loss": loss, "keep_order": order}

    def checkpoint(self, metrics: dict[str, float], improved: bool) -> None:
        """Write a checkpoint beside the run and hand it over; it is part of the run once that returned."""
        with tempfile.TemporaryDirectory(prefix="embervlm-checkpoint-") as temporary:
            folder = Path(temporary)
            self.engine.save(folder / ck.ENGINE)
            self.job.save_model(folder / ck.MODEL)
            if collectives.rank() == 0:
                ck.write_state(folder, self.state, self.history)
            self.job.report(self.report_metrics(metrics, improved), folder, self.state.name)

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
