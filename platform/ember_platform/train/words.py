"""The readers of words alone, trained on a text side that stays as it was pretrained.

The states of every robot and task are computed once; a step then costs a tenth of a second on a processor, and what the
text side knows of words that no lexicon has cannot be forgotten. Trained are the readers of kinds, the weight of the
similarity and the score's bias, with stage 3's losses; the selection tokens add nothing yet, so that the model's direct
score is exactly the one trained here. What is left is a model folder that stage 3 goes on from.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ember_platform import storage
from ember_platform.config import RunConfig
from ember_platform.data.ingest import prepare
from ember_platform.data.manifest import Manifest
from ember_platform.data.steps import plan_of
from ember_platform.train import folders
from ember_platform.train.engine import autocast
from ember_platform.train.optimizer import make_optimizer, set_rate
from ember_platform.train.plan import PlanError
from ember_platform.train.precision import resolve_precision
from ember_platform.train.schedule import learning_rate, seed_step
from ember_platform.train.setup import device_of, new_model, split_records
from embervlm import EmberVLM, EmberVLMProcessor
from embervlm.data.prompts import robot_text
from embervlm.data.schema import Record
from embervlm.evaluation.baselines import labels_of
from embervlm.evaluation.metrics import first_choice
from embervlm.fleet import Robot
from embervlm.models.heads import Words
from embervlm.models.layout import segment_mask
from embervlm.stages import get_stage
from embervlm.stages.base import to_device
from embervlm.stages.losses import reason_loss
from embervlm.stages.selection import RobotSelectionModule, selection_inputs, words_losses
from embervlm.stages.trusting import TRAINING, calibrate, finish_direct

STAGE, NAME = 3, "words"
Padded = tuple[Tensor, Tensor]
Row = dict[str, Any]


class States:
    """The states of texts under a frozen text side, each text read once.

    Args:
        model, processor: the text side and its tokenizer.
        start: the position at which the model reads such a text.
    """

    def __init__(self, model: EmberVLM, processor: EmberVLMProcessor, start: int) -> None:
        self.model, self.processor, self.start = model, processor, start
        self.known: dict[str, Tensor] = {}

    @torch.inference_mode()
    def read(self, texts: Sequence[str], batch: int = 64) -> None:
        """Read what is not known yet, texts of a length together."""
        ids = {text: self.processor.segment(text, self.processor.max_text_tokens) for text in texts}
        order = sorted((text for text in ids if text not in self.known), key=lambda text: len(ids[text]))
        device = self.model.device
        for first in range(0, len(order), batch):
            part = order[first : first + batch]
            padded, mask = (tensor.to(device) for tensor in self.processor._pad([ids[text] for text in part]))
            places = self.start + torch.arange(padded.shape[1], device=device).expand_as(padded)
            with autocast(device.type, resolve_precision("auto", device.type) == "bf16"):
                language = self.model.language
                hidden, _ = language(language.embed(padded), segment_mask(mask, True), places)
            for row, text in enumerate(part):
                self.known[text] = hidden[row, : len(ids[text])].half().cpu()

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
        return hidden.to(self.model.device), mask.to(self.model.device)


class WordsModule(RobotSelectionModule):
    """Stage 3's loss on states that are there already; the selection tokens are not read."""

    def forward(self, batch: dict[str, Any], *_: Any) -> dict[str, Tensor]:
        """As stage 3's, of batches with `robots` and `tasks`: states and masks."""
        scores, reasons, words = self.scores(batch)
        assert words.asks is not None
        assert words.lacks is not None
        losses = {"reason_loss": reason_loss(reasons, batch["reason_labels"], batch["robot_index"] >= 0)}
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


@dataclass
class WordsTrainer:
    """A model's readers of words under training.

    Args:
        config: `words` says how, `seed` in what order.
        model, processor: with `word_kinds` and `similarity`.
        say: takes lines of progress.

    Raises:
        PlanError: the model has no readers of words.
    """

    config: RunConfig
    model: EmberVLM
    processor: EmberVLMProcessor
    say: Callable[[str], None] = print
    best: dict[str, Tensor] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        model = self.model
        model.to(torch.device(device_of(self.config)))  # type: ignore[arg-type]  # transformers types it as a function
        model.requires_grad_(False).eval()
        for name, part in (("word_kinds", model.lacking), ("similarity", model.selection.closeness)):
            if part is None:
                raise PlanError(
                    f"model.{name}: 0, so there are no readers of words to train; use preset=embervlm-37m-minilm"
                )
        stage: Any = get_stage(STAGE, self.config.stage(STAGE).losses)
        self.module = WordsModule(model, stage.weights)
        for part in (model.asking, model.lacking, model.selection.score.bias, model.selection.closeness):
            assert part is not None
            part.requires_grad_(True)
        start = model.config.max_robot_tokens + model.config.image_tokens
        self.robots, self.tasks = States(model, self.processor, 0), States(model, self.processor, start)

    def read(self, records: Sequence[Record]) -> None:
        """The states of the records' robots and tasks."""
        self.robots.read([robot_text(Robot.from_dict(robot)) for record in records for robot in record.robots])
        self.tasks.read([record.instruction for record in records])

    def batch(self, records: Sequence[Record], dropout: bool = False) -> dict[str, Any]:
        """Stage 3's labels, and states in place of tokens."""
        batch, tasks, fleets = selection_inputs(self.processor, records, None, 0.0, 0.0)
        distinct = list(dict.fromkeys(robot_text(robot) for fleet in fleets for robot in fleet))
        hidden = self.config.words.word_dropout if dropout else 0.0
        robots, asked = self.robots.padded(distinct, hidden), self.tasks.padded(tasks, hidden)
        if dropout:
            share = self.config.words.state_dropout
            robots, asked = ((nn.functional.dropout(states, share), mask) for states, mask in (robots, asked))
        return to_device(batch, self.model.device) | {"robots": robots, "tasks": asked}

    def train(self, batches: Iterator[Sequence[Record]], validation: Mapping[str, Sequence[Record]]) -> None:
        """All steps; judged at the start and every so many. The model ends with its best weights, also in `best`.

        Args:
            batches: records of a step, whose states were read, for as long as there are steps.
            validation: sets of records; the best weights are those of the best mean first choice over the sets.
        """
        settings = self.config.words
        losses: list[dict[str, float]] = []
        self.judge(0, losses, validation)
        began = time.process_time()
        for step, found in enumerate(self.steps(batches, settings.steps, settings.learning_rate), 1):
            losses.append(found)
            if step % settings.eval_every == 0 or step == settings.steps:
                self.judge(step, losses, validation, time.process_time() - began)
                losses = []
        self.restore()

    def steps(self, batches: Iterator[Sequence[Record]], count: int, rate: float) -> Iterator[dict[str, float]]:
        """So many optimizer steps from the weights as they are; the losses of each."""
        settings = self.config.words
        optimizer = make_optimizer("adamw", self.module, settings.weight_decay)
        for step, records in zip(range(count), batches, strict=False):
            seed_step(self.config.seed, STAGE, 0, step, 0)
            found = self.module(self.batch(records, dropout=True))
            found["loss"].backward()
            set_rate(optimizer, learning_rate(step, count, rate, settings.warmup_ratio, settings.min_lr_ratio))
            optimizer.step()
            optimizer.zero_grad()
            yield {name: float(value.detach()) for name, value in found.items()}

    def restore(self) -> None:
        """The best weights again."""
        self.model.load_state_dict(self.best, strict=False)

    @torch.inference_mode()
    def scores(self, records: Sequence[Record]) -> list[np.ndarray]:
        """Direct scores (N,) of records whose states were read."""
        found: list[np.ndarray] = []
        for first in range(0, len(records), 64):
            part = records[first : first + 64]
            rows, _, _ = self.module.scores(self.batch(part))
            found += [row[: len(record.robots)].cpu().numpy() for row, record in zip(rows, part, strict=True)]
        return found

    def right(self, records: Sequence[Record]) -> float:
        """First choices in the labelled set."""
        return first_choice(self.scores(records), [labels_of(record) for record in records])

    def judge(
        self, step: int, losses: Sequence[dict[str, float]], sets: Mapping[str, Sequence[Record]], seconds: float = 0.0
    ) -> None:
        """A row of figures; the weights are kept where they are the best so far."""
        row: Row = {"step": step, "seconds": round(seconds)}
        if losses:
            row |= {name: round(float(np.mean([loss[name] for loss in losses])), 3) for name in losses[0]}
        found = {name: round(self.right(records), 4) for name, records in sets.items()}
        row |= {**found, "first_choice": round(float(np.mean(list(found.values()))), 4)}
        if row["first_choice"] > max((r["first_choice"] for r in self.rows), default=-1.0):
            self.best = {n: p.detach().clone() for n, p in self.model.named_parameters() if p.requires_grad}
        self.rows.append(row)
        told = [f"loss {row['loss']:.3f}"] if "loss" in row else []
        self.say("  ".join([f"words step {step}/{self.config.words.steps}", *told, *map(shown, found.items())]))


def shown(figure: tuple[str, float]) -> str:
    """A share as text."""
    return f"{figure[0]} {100 * figure[1]:.1f}%"


def by_fleet(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Records apart by their fleets, "the five" (default) and "free fleets"; without those that all or none can do."""
    found: dict[str, list[Record]] = {}
    for record in records:
        if record.labels and len(record.labels) < len(record.robots):
            five = str(record.tags.get("fleet", "default")).startswith("default")
            found.setdefault("the five" if five else "free fleets", []).append(record)
    return found


def batches(config: RunConfig, manifest: Manifest, records: Sequence[Record]) -> Iterator[list[Record]]:
    """Records of a step in stage 3's order, epoch after epoch, without end."""
    changes = {"batch_size": config.words.batch_size, "epochs": 1, "max_steps": None, "gradient_accumulation": 1}
    stage = config.stage(STAGE).model_copy(update=changes)
    alone = config.model_copy(
        update={
            "stages": {**config.stages, str(STAGE): stage},
            "cluster": config.cluster.model_copy(update={"num_workers": 1}),
        }
    )
    definition = get_stage(STAGE, stage.losses)
    plan, epoch = plan_of(alone, definition, definition.phases[0], manifest), 0
    while True:
        yield from ([records[i] for i in indices] for indices in plan.epoch(epoch))
        epoch += 1


def train_words(config: RunConfig, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Train, calibrate, measure on the test split; leave `<output_dir>/words/`: `final`, `metrics.json`.

    Returns:
        The content of `metrics.json`: `metrics` and `baselines` (the model untrained: the plain similarity), first
        choices of the test split by kind of fleet; `history`, a row per validation.

    Raises:
        PlanError: the model has no readers of words. ConfigError: there is no stage 3. DataError: nothing to read.
    """
    trainer = WordsTrainer(config, *new_model(config), say)
    manifest = prepare(config, runner=lambda jobs, make: map(make, jobs), say=say)
    records = {
        name: split_records(manifest, STAGE, name, None, config.seed) for name in ("train", "validation", "test")
    }
    for name, some in records.items():
        began = time.perf_counter()
        trainer.read(some)
        say(f"words: {name}, {len(some)} tasks read in {time.perf_counter() - began:.0f} s")
    test = by_fleet(records["test"])
    plain = {f"similarity, {name}": trainer.right(some) for name, some in test.items()}
    trainer.train(batches(config, manifest, records["train"]), by_fleet(records["validation"]))
    metrics = {name: trainer.right(some) for name, some in test.items()}
    trainer.model.processor = trainer.processor
    calibrate(trainer.model, finish_direct(trainer.model, records["validation"], records["train"][:TRAINING]))
    folder = storage.join(config.output_dir, NAME)
    with tempfile.TemporaryDirectory(prefix="embervlm-words-") as temporary:
        trainer.model.save_pretrained(temporary)
        trainer.processor.save_pretrained(temporary)
        folders.publish(Path(temporary), storage.join(folder, folders.FINAL))
    content = {
        "split": "test",
        "samples": {name: len(some) for name, some in test.items()},
        "metrics": metrics,
        "baselines": plain,
        "history": trainer.rows,
        "config_digest": config.digest(),
        "data_digest": manifest.digest,
    }
    folders.write_json(storage.join(folder, folders.METRICS), content)
    return content
