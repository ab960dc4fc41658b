"""The heads that read words alone, trained on a text side that stays as it was pretrained.

    python benchmarks/frozen_words.py --name frozen --robot_data robot-selection-dataset

The states of every robot and task are computed once; a step then costs a tenth of a second, not seconds, and what the
text side knows of words that no lexicon has cannot be forgotten. Trained are the readers of kinds, the weight of the
similarity and the score's bias, with stage 3's losses; the selection tokens add nothing yet, so that the model's score
is exactly the one trained here. The best weights are those of the best validation, whose words and forms training never
sees. What is kept is a model folder, from which stage 3 can go on (`--resume_from`).

With `--robot_data` the public files are answered twice: by the best weights, which never saw any of them, and in five
folds by task, for as many seeds as `--fold_seeds` says, by those weights after some steps on the other four folds.
Beside these stand majority and TF-IDF + logistic regression on the same folds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.text_sides import by_fleet, judged, public
from ember_platform.config import RunConfig, load_config
from ember_platform.data.ingest import prepare
from ember_platform.data.rows import Rows
from ember_platform.data.steps import plan_of
from ember_platform.train.engine import autocast
from ember_platform.train.optimizer import make_optimizer, set_rate
from ember_platform.train.precision import resolve_precision
from ember_platform.train.schedule import learning_rate, seed_step
from ember_platform.train.setup import new_model
from embervlm import EmberVLM, EmberVLMProcessor
from embervlm.data.prompts import robot_text
from embervlm.data.schema import Record
from embervlm.evaluation.baselines import Answers, answer_figures, fold_answers, labels_of, majority, team_of, tfidf
from embervlm.fleet import Robot
from embervlm.models.heads import Words
from embervlm.models.layout import segment_mask
from embervlm.stages import get_stage
from embervlm.stages.losses import reason_loss
from embervlm.stages.selection import RobotSelectionModule, selection_inputs, words_losses
from embervlm.stages.trusting import Scored, calibrate

STAGE = 3
Padded = tuple[Tensor, Tensor]


def main() -> int:
    """Train, keep the best, judge it as a whole model."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--config", default="configs/words.yaml")
    flags.add_argument("--name", required=True, help="of the trial: its folder in --out")
    flags.add_argument("--out", default="outputs/frozen_words")
    flags.add_argument("--steps", type=int, default=1200)
    flags.add_argument("--tasks", type=int, default=64, help="records of a step")
    flags.add_argument("--records", type=int, default=8192, help="records of the train split that are read")
    flags.add_argument("--judged", type=int, default=512, help="records of the other splits that are read")
    flags.add_argument("--rate", type=float, default=4e-3, help="the peak learning rate")
    flags.add_argument("--word_dropout", type=float, default=0.15, help="share of tokens that a step does not see")
    flags.add_argument("--state_dropout", type=float, default=0.2, help="share of the states' entries set to zero")
    flags.add_argument("--every", type=int, default=250, help="steps between two judgements")
    flags.add_argument("--threads", type=int, default=2)
    flags.add_argument("--robot_data", help="the public robot-selection files: a JSON file or a folder; only judged on")
    flags.add_argument("--fold_seeds", type=int, default=5, help="times that the public files are folded anew")
    flags.add_argument("--fold_steps", type=int, default=120, help="steps on four folds, of 32 records each")
    flags.add_argument("--fold_rate", type=float, default=2e-3, help="their peak learning rate")
    flags.add_argument("overrides", nargs="*", help="dotted.key=value of the configuration")
    given = flags.parse_args()
    torch.set_num_threads(given.threads)
    settings = [f"stages.3.batch_size={given.tasks}", "stages.3.max_steps=null", "stages.3.weight_decay=0.5"]
    trial = Frozen(load_config(given.config, [*settings, *given.overrides]), given)
    trial.train()
    sets = {"public": public(given.robot_data)} if given.robot_data else {}
    folded = trial.folded(sets["public"]) if sets else {}
    sets["test words"] = trial.split("test")
    found = trial.whole(by_fleet(sets))
    told = {"name": given.name, "rows": trial.rows, "best": found, "folds": folded, "arguments": vars(given)}
    (trial.folder / "told.json").write_text(json.dumps(told, indent=1))
    print(json.dumps(told))
    return 0


class States:
    """The states of texts under a frozen text side, each text read once."""

    def __init__(self, model: EmberVLM, processor: EmberVLMProcessor, start: int) -> None:
        self.model, self.processor, self.start = model, processor, start
        self.known: dict[str, Tensor] = {}

    @torch.inference_mode()
    def read(self, texts: Sequence[str], batch: int = 64) -> None:
        """Read what is not known yet, texts of a length together."""
        ids = {text: self.processor.segment(text, self.processor.max_text_tokens) for text in texts}
        order = sorted((text for text in ids if text not in self.known), key=lambda text: len(ids[text]))
        for first in range(0, len(order), batch):
            part = order[first : first + batch]
            padded, mask = self.processor._pad([ids[text] for text in part])
            places = self.start + torch.arange(padded.shape[1]).expand_as(padded)
            with autocast("cpu", resolve_precision("auto", "cpu") == "bf16"):
                language = self.model.language
                hidden, _ = language(language.embed(padded), segment_mask(mask, True), places)
            for row, text in enumerate(part):
                self.known[text] = hidden[row, : len(ids[text])].half().clone()

    def padded(self, texts: Sequence[str], dropout: float = 0.0) -> Padded:
        """States (R, L, D) and mask (R, L); of each text a share of the tokens is hidden, never its first."""
        states = [self.known[text] for text in texts]
        hidden = nn.utils.rnn.pad_sequence(states, batch_first=True).float()
        lengths = torch.tensor([len(state) for state in states])
        mask = torch.arange(hidden.shape[1]) < lengths[:, None]
        if dropout:
            seen = torch.rand(mask.shape) >= dropout
            seen[:, 0] = True
            mask &= seen
        return hidden, mask


class FrozenModule(RobotSelectionModule):
    """Stage 3's loss on states that are there already; the selection tokens are not read."""

    def forward(self, batch: dict[str, Any], *_: Any) -> dict[str, Tensor]:
        """As stage 3's, of batches with `robots` and `tasks`: states and masks."""
        scores, reasons, words = self.scores(batch)
        mask = batch["robot_index"] >= 0
        assert words.asks is not None
        assert words.lacks is not None
        losses = {"reason_loss": reason_loss(reasons, batch["reason_labels"], mask)}
        losses |= words_losses([(words.asks, words.lacks)], batch)
        return self._combine(scores, batch, losses)

    def scores(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor, Words]:
        """Scores (B, N), reasons, and what the words tell."""
        model, rows = self.model, batch["robot_index"].clamp_min(0)
        assert model.asking is not None
        assert model.lacking is not None
        words = Words(
            summaries=model.reference.summaries(*batch["robots"])[rows],
            asked=model.reference.summaries(*batch["tasks"]),
            asks=model.asking(*batch["tasks"]),
            lacks=model.lacking(*batch["robots"])[rows],
        )
        scores, reasons = model.selection(torch.zeros_like(words.summaries), words)
        return scores.masked_fill(batch["robot_index"] < 0, -1e4), reasons, words


class Frozen:
    """One trial, in a folder of its own."""

    def __init__(self, config: RunConfig, given: argparse.Namespace) -> None:
        self.config, self.given, self.settings = config, given, config.stage(STAGE)
        self.folder = Path(given.out, given.name)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.manifest = prepare(config, runner=lambda jobs, make: map(make, jobs))
        self.stage: Any = get_stage(STAGE, self.settings.losses)
        self.model, self.processor = new_model(config)
        self.model.requires_grad_(False).eval()
        head = self.model.selection
        for part in (self.model.asking, self.model.lacking, head.score.bias, head.closeness):
            if part is None:
                raise ValueError("model.word_kinds and model.similarity: must be set, they are what is trained here")
            part.requires_grad_(True)
        self.module = FrozenModule(self.model, self.stage.weights)
        self.optimizer = make_optimizer("adamw", self.module, self.settings.weight_decay)
        start = self.model.config.max_robot_tokens + self.model.config.image_tokens
        self.robots = States(self.model, self.processor, 0)
        self.tasks = States(self.model, self.processor, start)
        self.records = {name: self.split(name) for name in ("train", "validation")}
        self.rows: list[dict[str, Any]] = []
        self.best: dict[str, Tensor] = {}
        self.spent = 0.0

    def split(self, name: str) -> list[Record]:
        """The first records of a split."""
        rows = Rows(self.manifest.paths(STAGE, name))
        return rows.take(range(min(len(rows), self.given.records if name == "train" else self.given.judged)))

    def read(self) -> None:
        """Every robot and task once, or what an earlier start of this trial read."""
        kept = self.folder / "states.pt"
        if kept.exists():
            self.robots.known, self.tasks.known = torch.load(kept, weights_only=True)
            return
        before = time.process_time()
        for name, records in self.records.items():
            self.robots.read([robot_text(Robot.from_dict(r)) for record in records for r in record.robots])
            self.tasks.read([record.instruction for record in records])
            print(f"{name}: {len(records)} tasks read, {time.process_time() - before:.0f} s", flush=True)
        torch.save((self.robots.known, self.tasks.known), kept)

    def batch(self, records: Sequence[Record], dropout: float = 0.0) -> dict[str, Any]:
        """Stage 3's labels, and states in place of tokens."""
        batch, tasks, fleets = selection_inputs(self.processor, records, None, 0.0, 0.0)
        distinct = list(dict.fromkeys(robot_text(robot) for fleet in fleets for robot in fleet))
        robots, asked = self.robots.padded(distinct, dropout), self.tasks.padded(tasks, dropout)
        if dropout:
            share = self.given.state_dropout
            robots, asked = ((nn.functional.dropout(hidden, share), mask) for hidden, mask in (robots, asked))
        return batch | {"robots": robots, "tasks": asked}

    def steps(self) -> Iterator[list[Record]]:
        """Batches in the platform's order, epoch after epoch."""
        plan, epoch = plan_of(self.config, self.stage, self.stage.phases[0], self.manifest), 0
        while True:
            order = plan.epoch(epoch)
            for indices in order:
                if chosen := [self.records["train"][i] for i in indices if i < len(self.records["train"])]:
                    yield chosen
            epoch += 1

    def train(self) -> None:
        """All steps; a row at the start and every so many, the best weights kept."""
        self.read()
        losses: list[dict[str, float]] = []
        self.judge(0, losses)
        for step, records in zip(range(self.given.steps), self.steps(), strict=False):
            before = time.process_time()
            seed_step(self.config.seed, STAGE, 0, step, 0)
            found = self.module(self.batch(records, self.given.word_dropout))
            found["loss"].backward()
            rate = learning_rate(step, self.given.steps, self.given.rate, 0.05, 0.05)
            set_rate(self.optimizer, rate)
            self.optimizer.step()
            self.optimizer.zero_grad()
            losses.append({name: float(value.detach()) for name, value in found.items()})
            self.spent += time.process_time() - before
            if (step + 1) % self.given.every == 0 or step + 1 == self.given.steps:
                self.judge(step + 1, losses)
                losses = []

    @torch.inference_mode()
    def judge(self, step: int, losses: Sequence[dict[str, float]]) -> None:
        """First choices on validation, from the states; the best weights stay in the folder."""
        row: dict[str, Any] = {"step": step, "seconds": round(self.spent)}
        if losses:
            row |= {name: round(float(np.mean([loss[name] for loss in losses])), 3) for name in losses[0]}
        sets = by_fleet({"validation": self.records["validation"]})
        scores: list[NDArray[np.float32]] = []
        labels: list[NDArray[Any]] = []
        for name, records in sets.items():
            for first in range(0, len(records), 64):
                chosen = records[first : first + 64]
                found, _, _ = self.module.scores(self.batch(chosen))
                scores += [row[: len(r.robots)].numpy() for row, r in zip(found, chosen, strict=True)]
                labels += [labels_of(r) for r in chosen]
            right = [y[s.argmax()] > 0 for s, y in zip(scores[-len(records) :], labels[-len(records) :], strict=True)]
            row[name] = round(float(np.mean(right)), 4)
        row["validation"] = round(float(np.mean([row[name] for name in sets])), 4)
        if row["validation"] > max((r["validation"] for r in self.rows), default=-1.0):
            self.best = {n: p.detach().clone() for n, p in self.model.named_parameters() if p.requires_grad}
            calibrate(self.model, {"text": Scored(scores, labels)})
            self.model.save_pretrained(self.folder / "best")
            self.processor.save_pretrained(self.folder / "best")
        self.rows.append(row)
        print(json.dumps(row), flush=True)
        (self.folder / "rows.json").write_text(json.dumps(self.rows, indent=1))

    def folded(self, records: Sequence[Record]) -> dict[str, dict[str, list[float]]]:
        """Figures of the public files by who answers, a value per seed; nobody saw the task that is asked."""
        self.robots.read([robot_text(Robot.from_dict(r)) for record in records for r in record.robots])
        self.tasks.read([record.instruction for record in records])
        found: dict[str, dict[str, list[float]]] = {}
        for seed in range(self.given.fold_seeds):
            for name, learner in (("model", self.fine_tuned), ("tfidf", tfidf), ("majority", majority)):
                figures = answer_figures(fold_answers(records, learner, seed=seed), records)
                for figure, value in figures.items():
                    found.setdefault(name, {}).setdefault(figure, []).append(round(value, 4))
        for name, values in found.items():
            print(name, {figure: round(float(np.mean(v)), 4) for figure, v in values.items()}, flush=True)
        return found

    def fine_tuned(self, known: Sequence[Record], asked: Sequence[Record]) -> Answers:
        """Answers of the best weights after some steps on the known records."""
        self.model.load_state_dict(self.best, strict=False)
        optimizer = make_optimizer("adamw", self.module, self.settings.weight_decay)
        rng, steps = np.random.default_rng(self.config.seed), self.given.fold_steps
        for step in range(steps):
            seed_step(self.config.seed, STAGE, 1, step, 0)
            chosen = rng.choice(len(known), min(32, len(known)), replace=False)
            self.module(self.batch([known[i] for i in chosen], self.given.word_dropout))["loss"].backward()
            set_rate(optimizer, learning_rate(step, steps, self.given.fold_rate, 0.1, 0.05))
            optimizer.step()
            optimizer.zero_grad()
        with torch.inference_mode():
            scores, _, _ = self.module.scores(self.batch(asked))
        own = [row[: len(record.robots)].double().numpy() for row, record in zip(scores, asked, strict=True)]
        sure = [1 / (1 + np.exp(-row)) for row in own]
        return Answers(sure, [team_of(row) for row in sure], own)

    def whole(self, sets: dict[str, list[Record]]) -> dict[str, float]:
        """First choices of the best weights as a whole model, its words read as they come."""
        model = EmberVLM.from_pretrained(self.folder / "best")
        found: dict[str, float] = {}
        for name, records in sets.items():
            found |= judged(model, self.processor, {name: records})
            print(json.dumps(found), flush=True)
        return found


if __name__ == "__main__":
    sys.exit(main())
