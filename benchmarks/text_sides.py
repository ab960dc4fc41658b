"""Text sides compared: stage 3 on words alone, with the platform's own batches and optimizer, in one process.

    python benchmarks/text_sides.py --name minilm --robot_data robot-selection-dataset
    python benchmarks/text_sides.py --name scratch preset=embervlm-37m-scratch stages.3.pretrained_rate=1
    python benchmarks/text_sides.py --name pairs model.pair_reading=true

Settings are those of `--config` and of the overrides behind it; no picture, no chain, no Ray. Judged are first choices
in the labelled set, on the validation split of free words, whose words and forms training never sees (the best weights
are those of the best validation), and at the end on its test split and on the public robot-selection files, none of
which is trained on. A trial that was stopped goes on from where it was; its rows and its best model stay in its folder.
Seconds are of the processor's time.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ember_platform.config import RunConfig, load_config
from ember_platform.data.ingest import prepare
from ember_platform.data.rows import Rows
from ember_platform.data.steps import StepMaker, plan_of
from ember_platform.train.engine import autocast
from ember_platform.train.optimizer import make_optimizer, set_rate
from ember_platform.train.precision import resolve_precision
from ember_platform.train.schedule import learning_rate, seed_step
from ember_platform.train.setup import new_model, stage_of
from ember_platform.train.words import by_fleet
from embervlm import EmberVLM, EmberVLMProcessor
from embervlm.data.readers.base import Dataset, Found, LocalFiles
from embervlm.data.readers.robot_selection import parts, read
from embervlm.data.schema import Record
from embervlm.evaluation.baselines import labels_of
from embervlm.stages.selection import RobotSelection, score_records
from embervlm.stages.trusting import Scored, calibrate

STAGE = 3
#: A small encoder: there are no pictures here.
_NO_EYES = ["model.vision_name=repvit_m0_9", "model.vision_args={embed_dim: [8, 16, 24, 32], depth: [1, 1, 1, 1]}"]


def main() -> int:
    """Train and judge one side; print its rows and one line of JSON."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--config", default="configs/words.yaml")
    flags.add_argument("--name", required=True, help="of the trial: its folder in --out")
    flags.add_argument("--out", default="outputs/text_sides")
    flags.add_argument("--judged", type=int, default=160, help="records of the validation split")
    flags.add_argument("--whole", action="store_true", help="with the preset's own vision encoder, to keep the model")
    flags.add_argument("--threads", type=int, default=2)
    flags.add_argument("--robot_data", help="the public robot-selection files: a JSON file or a folder; only judged on")
    flags.add_argument("overrides", nargs="*", help="dotted.key=value of the configuration")
    given = flags.parse_args()
    torch.set_num_threads(given.threads)
    config = load_config(given.config, [*given.overrides, *([] if given.whole else _NO_EYES)])
    trial = Trial(config, Path(given.out, given.name), given.judged)
    trial.train()
    rows = {"test words": trial.split("test", None)}
    if given.robot_data:
        rows["public"] = public(given.robot_data)
    found = {name: trial.best(records) for name, records in parted(rows).items()}
    print(json.dumps({"name": given.name, "rows": trial.rows, "best": found, "settings": given.overrides}))
    return 0


def public(folder: str) -> list[Record]:
    """The public files' records."""
    dataset, files = Dataset("robot_selection", "robot_selection", folder, split="test"), LocalFiles()
    return [
        row.record for part in parts(dataset, files) for row in read(dataset, part, files) if isinstance(row, Found)
    ]


def parted(rows: dict[str, list[Record]]) -> dict[str, list[Record]]:
    """Each set apart by its fleets: the default five in any words, and all others."""
    return {f"{name}, {kind}": some for name, records in rows.items() for kind, some in by_fleet(records).items()}


def judged(model: EmberVLM, processor: EmberVLMProcessor, rows: dict[str, list[Record]]) -> dict[str, float]:
    """First choices in the labelled set."""
    found = {}
    for name, records in rows.items():
        with autocast("cpu", resolve_precision("auto", "cpu") == "bf16"):
            scores, _ = score_records(model, processor, records, 16)
        right = [labels_of(r)[s.argmax()] > 0 for r, s in zip(records, scores, strict=True)]
        found[name] = round(float(np.mean(right)), 4)
    return found


class Trial:
    """One side under training, in a folder that it can go on from."""

    def __init__(self, config: RunConfig, folder: Path, judged_records: int) -> None:
        self.config, self.folder, self.settings = config, folder, config.stage(STAGE)
        folder.mkdir(parents=True, exist_ok=True)
        self.manifest = prepare(config, runner=lambda jobs, make: map(make, jobs))
        stage = stage_of(self.config, STAGE)
        assert isinstance(stage, RobotSelection)
        stage.chain_share = stage.task_dropout = 0.0
        self.stage = stage
        self.model, self.processor = new_model(config)
        self.stage.prepare(self.model, self.stage.phases[0])
        self.model.freeze_lowest(self.settings.pretrained_frozen)
        self.module = self.stage.module(self.model)
        self.optimizer = make_optimizer(
            self.settings.optimizer,
            self.module,
            self.settings.weight_decay,
            self.model.pretrained_parameters(),
            self.settings.pretrained_rate,
        )
        self.validation = parted({"validation": self.split("validation", judged_records)})
        self.rows: list[dict[str, Any]] = []
        self.step, self.spent = 0, 0.0

    def split(self, name: str, count: int | None) -> list[Record]:
        """The first records of a split."""
        return Rows(self.manifest.paths(STAGE, name)).take(range(len(Rows(self.manifest.paths(STAGE, name)))))[:count]

    def train(self) -> None:
        """Every step that is left; a row at the start, every `eval_every` steps and at the end."""
        self._resume()
        plan = plan_of(self.config, self.stage, self.stage.phases[0], self.manifest)
        paths = tuple(self.manifest.paths(STAGE, "train"))
        maker = StepMaker(plan, paths, self.stage, self.processor, rank=0, world_size=1, micro_batches=1)
        every = self.settings.eval_every or plan.steps
        losses: list[float] = []
        if not self.rows:
            self._judge(losses)
        while self.step < plan.steps:
            losses.append(self._step(maker, plan.steps))
            if self.step % every == 0 or self.step == plan.steps:
                self._judge(losses)
                losses = []

    def _step(self, maker: StepMaker, steps: int) -> float:
        before, settings = time.process_time(), self.settings
        _, (batch,) = maker(self.step)
        seed_step(self.config.seed, STAGE, 0, self.step, 0)
        self.module.train()
        with autocast("cpu", resolve_precision(settings.precision, "cpu") == "bf16"):
            loss = self.module(batch, self.step / steps, None)["loss"]
        loss.backward()
        trained = [p for p in self.model.parameters() if p.requires_grad]
        torch.nn.utils.clip_grad_norm_(trained, settings.clip or float("inf"))
        peak = settings.learning_rate_of(0)
        set_rate(self.optimizer, learning_rate(self.step, steps, peak, settings.warmup_ratio, settings.min_lr_ratio))
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.spent += time.process_time() - before
        if self.step % settings.log_every == 0:
            print(
                f"step {self.step}/{steps}: loss {loss.item():.3f}, {self.spent / self.step:.1f} s a step", flush=True
            )
        return float(loss.item())

    def _judge(self, losses: Sequence[float]) -> None:
        """Judge on validation, keep the weights where it is the best, and what is needed to go on."""
        row: dict[str, Any] = {"step": self.step, "seconds": round(self.spent)}
        if losses:
            row["loss"] = round(float(np.mean(losses)), 4)
        row |= judged(self.model, self.processor, self.validation)
        row["validation"] = round(float(np.mean([row[name] for name in self.validation])), 4)
        if row["validation"] > max((r["validation"] for r in self.rows), default=-1.0):
            self._keep()
        self.rows.append(row)
        print(json.dumps(row), flush=True)
        torch.save(
            {
                "step": self.step,
                "spent": self.spent,
                "rows": self.rows,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            },
            self.folder / "state.new",
        )
        (self.folder / "state.new").replace(self.folder / "state.pt")
        (self.folder / "rows.json").write_text(json.dumps(self.rows, indent=1))

    def _keep(self) -> None:
        new = self.folder / "best.new"
        shutil.rmtree(new, ignore_errors=True)
        self.model.save_pretrained(new)
        self.processor.save_pretrained(new)
        shutil.rmtree(self.folder / "best", ignore_errors=True)
        new.rename(self.folder / "best")

    def _resume(self) -> None:
        path = self.folder / "state.pt"
        if path.exists():
            state = torch.load(path, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.spent, self.rows = state["step"], state["spent"], state["rows"]

    def best(self, records: Sequence[Record]) -> float:
        """First choices of the best weights; their calibration is fitted on the validation split once."""
        if not hasattr(self, "_best"):
            folder = self.folder / "best"
            self._best = EmberVLM.from_pretrained(folder)
            found = score_records(self._best, self.processor, self.split("validation", None), 16)
            calibrate(self._best, {"text": Scored(*found)})
            self._best.save_pretrained(folder)
        return judged(self._best, self.processor, {"": list(records)})[""]


if __name__ == "__main__":
    sys.exit(main())
