"""A stage small enough to train in milliseconds: a line through points, in one or two phases."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ember_platform.config import StageConfig
from ember_platform.data.order import Plan, share_edges
from ember_platform.data.steps import StepInfo
from ember_platform.train import collectives
from ember_platform.train.engine import Engine, EngineSettings
from ember_platform.train.loop import Job, PhasePlan
from embervlm.stages.losses import rows_before

FEATURES = 16  # wide enough for Muon


class Line(nn.Module):
    """y = w·x, with a dropout that makes the result depend on the random numbers of every step."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.backbone = nn.Linear(FEATURES, 16)
        self.channels = nn.Conv2d(16, 16, 1)  # a matrix for Muon, too
        self.head = nn.Linear(16, 1)
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.dropout = nn.Dropout(0.2)
        self.exchanges = False

    def forward(self, batch: dict[str, Any], progress: float, gather: Any) -> dict[str, Tensor]:
        hidden = torch.tanh(self.backbone(batch["x"]))
        # As a product: a convolution was once seen to round otherwise in another process.
        hidden = hidden + F.linear(hidden, self.channels.weight.flatten(1), self.channels.bias)
        guess = self.scale * self.head(self.dropout(hidden))
        loss = (guess.float() - batch["y"]).square().mean()
        if self.exchanges:
            everyone = gather(guess) if gather else guess
            first = rows_before(gather, guess)
            assert torch.equal(everyone[first : first + len(guess)], guess)
            loss = loss + (guess - everyone.mean()).square().mean() + guess.abs().max()  # no mean over samples
        return {"loss": loss, "size": torch.tensor(float(len(batch["x"])))}


def points(count: int) -> tuple[Tensor, Tensor]:
    """(count, FEATURES) inputs and (count, 1) targets."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, FEATURES, generator=generator)
    return x, x.sum(1, keepdim=True) * 0.5


def settings(**changes: Any) -> StageConfig:
    """A stage's settings for the line."""
    values: dict[str, Any] = {"epochs": 2, "batch_size": 8, "learning_rate": 0.02, "precision": "fp32", "log_every": 3}
    return StageConfig(**{**values, **changes})


class Run:
    """Everything around one run of the line, and what it handed over."""

    def __init__(
        self, folder: Path, config: StageConfig, phases: int = 1, count: int = 40, shares: int | None = None
    ) -> None:
        self.folder, self.config, self.count = folder, config, count
        self.model = Line()
        self.hosted = (shares or collectives.world_size()) // collectives.world_size()
        self.x, self.y = points(count)
        self.reports: list[tuple[dict[str, float], str | None]] = []
        self.lines: list[str] = []
        self.seen: list[tuple[int, ...]] = []
        self.scores: list[float] = []
        self.poison: int | None = None
        self.ballast: dict[str, Tensor] = {}  # makes the model's folder larger
        plan = self.plan(0)
        self.job = Job(
            number=3,
            digest="d",
            seed=5,
            folder=str(folder),
            settings=config,
            phases=[PhasePlan(f"phase{i}", plan.steps) for i in range(phases)],
            batches=self.batches,
            ids=lambda indices: [f"record-{i}" for i in indices],
            engine=self.engine,
            prepare=self.prepare,
            validate=self.validate,
            metric="score",
            mode="max",
            snapshot_model=self.snapshot_model,
            report=self.report,
            observers=[lambda info, row: self.seen.append(info.indices)],
            say=self.lines.append,
            together=self.together,
            patience=0.0,
        )

    def plan(self, phase: int) -> Plan:
        return Plan(
            lengths=torch.arange(self.count).numpy(),
            sources=["line"] * self.count,
            batch_size=self.config.batch_size,
            epochs=self.config.epochs,
            seed=5,
            salt=str(phase),
            mixing={},
            max_steps=self.config.max_steps,
        )

    def batches(self, phase: int, start: int) -> Iterator[tuple[StepInfo, list[dict[str, Any]]]]:
        plan = self.plan(phase)
        world, rank = collectives.world_size(), collectives.rank()
        parts = self.config.gradient_accumulation * self.hosted
        step = 0
        for epoch in range(plan.epochs):
            order = plan.epoch(epoch)
            for number, batch in enumerate(order):
                if start <= step < plan.steps:
                    edges = share_edges(len(batch), world * parts)
                    mine = [batch[edges[rank * parts + i] : edges[rank * parts + i + 1]] for i in range(parts)]
                    info = StepInfo(
                        step=step,
                        steps=plan.steps,
                        epoch=epoch,
                        last_of_epoch=number == len(order) - 1,
                        samples=len(batch),
                        shares=tuple(int(b - a) for a, b in itertools.pairwise(edges)),
                        indices=tuple(i for part in mine for i in part),
                    )
                    yield info, [self.micro(part, step) for part in mine]
                step += 1

    def micro(self, part: list[int], step: int) -> dict[str, Any]:
        y = self.y[part] * (float("nan") if step == self.poison else 1.0)
        return {"x": self.x[part], "y": y}

    def together(self, phase: int) -> int:
        return self.hosted if self.model.exchanges else 1

    def engine(self, phase: int) -> Engine:
        config = self.config
        passes = config.gradient_accumulation * self.hosted // self.together(phase)
        wanted = EngineSettings(
            micro_batch=max(1, config.batch_size // collectives.world_size() // passes),
            accumulation=passes,
            weight_decay=config.weight_decay,
            clip=config.clip,
            precision=config.precision,
            zero_stage=config.zero_stage,
            optimizer=config.optimizer,
        )
        return Engine(self.model, wanted, torch.device("cpu"))

    def prepare(self, phase: int) -> None:
        self.model.train()
        self.model.backbone.requires_grad_(phase == len(self.job.phases) - 1 if hasattr(self, "job") else True)

    def validate(self) -> dict[str, float]:
        if self.scores:
            return {"score": self.scores.pop(0)}
        self.model.eval()
        with torch.no_grad():
            loss = self.model({"x": self.x, "y": self.y}, 1.0, None)["loss"]
        return {"score": -float(loss)}

    def snapshot_model(self) -> Callable[[Path], None]:
        return functools.partial(self.write_model, self.weights() | self.ballast)

    def write_model(self, weights: dict[str, Tensor], folder: Path) -> None:
        folder.mkdir(parents=True)
        save_file(weights, folder / "weights.safetensors")

    def weights(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def report(self, metrics: dict[str, float], path: str | None, name: str) -> None:
        self.reports.append((metrics, name if path else None))


def interrupted_at(run: Run, step: int) -> Callable[..., None]:
    """Make a run die after so many of its steps."""

    def die(info: StepInfo, row: dict[str, Any]) -> None:
        if row["step"] == step:
            raise KeyboardInterrupt

    run.job.observers.append(die)
    return die
