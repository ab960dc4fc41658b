"""The readers of words alone, trained on a text side that stays as it was pretrained.

The states of every robot and task are computed once; a step then costs a tenth of a second on a processor, and what the
text side knows of words that no lexicon has cannot be forgotten. Trained are the readers of kinds, the weight of the
similarity and the score's bias, with stage 3's losses; the selection tokens add nothing yet, so that the model's direct
score is exactly the one trained here. Once the readers know what they look for, the text side's highest layers may
train with them, slowly and briefly (`words.upper`). What is left is a model folder that stage 3 goes on from.
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
from ember_platform.config import RunConfig, UpperConfig, WordsConfig
from ember_platform.data.ingest import prepare
from ember_platform.data.manifest import Manifest
from ember_platform.data.steps import plan_of
from ember_platform.train import folders
from ember_platform.train.optimizer import make_optimizer, set_rate
from ember_platform.train.plan import PlanError
from ember_platform.train.schedule import learning_rate, seed_step
from ember_platform.train.setup import device_of, new_model, split_records, stage_of
from ember_platform.train.states import States
from embervlm import EmberVLM, EmberVLMProcessor
from embervlm.data.prompts import robot_text
from embervlm.data.schema import Record
from embervlm.evaluation.baselines import labels_of
from embervlm.evaluation.metrics import first_choice
from embervlm.fleet import Robot
from embervlm.models.heads import Words
from embervlm.stages.base import to_device
from embervlm.stages.losses import reason_loss
from embervlm.stages.selection import RobotSelectionModule, selection_inputs, words_losses
from embervlm.stages.trusting import TRAINING, calibrate, finish_direct

STAGE, NAME = 3, "words"
Row = dict[str, Any]


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
    #: Takes a row per validation.
    log: Callable[[Row], None] = lambda row: None
    #: Whether layers of the text side train, so that no state can be kept.
    live: bool = False

    def __post_init__(self) -> None:
        model = self.model
        model.to(torch.device(device_of(self.config)))  # type: ignore[arg-type]  # transformers types it as a function
        model.requires_grad_(False).eval()
        for name, part in (("word_kinds", model.lacking), ("similarity", model.selection.closeness)):
            if part is None:
                raise PlanError(f"model.{name}: 0, so there are no readers of words to train; use preset=embervlm-37m")
        stage: Any = stage_of(self.config, STAGE)
        self.module = WordsModule(model, stage.weights)
        for part in (model.asking, model.lacking, model.selection.score.bias, model.selection.closeness):
            assert part is not None
            part.requires_grad_(True)
        upper = self.config.words.upper
        if upper is not None and upper.layers > len(model.language.layers):
            raise PlanError(f"words.upper.layers: {upper.layers}, and the text side has {len(model.language.layers)}")
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
        read = States.live if dropout and self.live else States.padded
        robots, asked = read(self.robots, distinct, hidden), read(self.tasks, tasks, hidden)
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
        settings, upper = self.config.words, self.config.words.upper
        self.judge(0, [], validation)
        self.phase(settings, self.steps(batches, settings.steps, settings.learning_rate), validation)
        if upper is not None:
            self.restore()  # the layers go on from the best readers
            self.open_upper(upper.layers)
            rates = (upper.learning_rate, upper.pretrained_rate, upper.clip)
            self.phase(upper, self.steps(batches, upper.steps, *rates), validation)
        self.restore()

    def phase(
        self,
        settings: WordsConfig | UpperConfig,
        steps: Iterator[dict[str, float]],
        validation: Mapping[str, Sequence[Record]],
    ) -> None:
        """Take steps, and judge every so many."""
        done, losses = self.rows[-1]["step"], list[dict[str, float]]()
        began = time.process_time()
        for step, found in enumerate(steps, 1):
            losses.append(found)
            if step % settings.eval_every == 0 or step == settings.steps:
                self.forget()
                self.judge(done + step, losses, validation, time.process_time() - began)
                losses = []

    def open_upper(self, layers: int) -> None:
        """Let the text side's highest layers train too; the best weights so far are theirs as they are."""
        self.live = True
        self.model.language.layers[-layers:].requires_grad_(True)
        self.best |= self.trained()

    def steps(
        self,
        batches: Iterator[Sequence[Record]],
        count: int,
        rate: float,
        pretrained_rate: float = 1.0,
        clip: float = 0.0,
    ) -> Iterator[dict[str, float]]:
        """So many optimizer steps from the weights as they are; the losses of each.

        Args:
            batches: records of a step, whose states were read or are live.
            count: steps, to whose end the rate falls.
            rate: peak learning rate. pretrained_rate: that of the text side as a share of it.
            clip: gradient norm limit; 0 is none.
        """
        settings = self.config.words
        pretrained = self.model.language.pretrained_parameters()
        optimizer = make_optimizer("adamw", self.module, settings.weight_decay, pretrained, pretrained_rate)
        for step, records in zip(range(count), batches, strict=False):
            seed_step(self.config.seed, STAGE, int(self.live), step, 0)
            found = self.module(self.batch(records, dropout=True))
            found["loss"].backward()
            if clip:
                nn.utils.clip_grad_norm_(self.model.parameters(), clip)
            set_rate(optimizer, learning_rate(step, count, rate, settings.warmup_ratio, settings.min_lr_ratio))
            optimizer.step()
            optimizer.zero_grad()
            yield {name: float(value.detach()) for name, value in found.items()}

    def trained(self) -> dict[str, Tensor]:
        """The values of the parameters that train now, by name."""
        return {n: p.detach().clone() for n, p in self.model.named_parameters() if p.requires_grad}

    def restore(self) -> None:
        """The best weights again."""
        self.model.load_state_dict(self.best, strict=False)
        self.forget()

    def forget(self) -> None:
        """Drop the states that a text side in training has left behind."""
        if self.live:
            self.robots.known.clear()
            self.tasks.known.clear()

    @torch.inference_mode()
    def scores(self, records: Sequence[Record]) -> list[np.ndarray]:
        """Direct scores (N,) of records."""
        self.read(records)
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
            self.best = self.trained()
        self.rows.append(row)
        self.log(row)
        told = [f"loss {row['loss']:.3f}"] if "loss" in row else []
        self.say("  ".join([f"words step {step}/{self.config.words.all_steps}", *told, *map(shown, found.items())]))


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
    definition = stage_of(alone, STAGE)
    plan, epoch = plan_of(alone, definition, definition.phases[0], manifest), 0
    while True:
        yield from ([records[i] for i in indices] for indices in plan.epoch(epoch))
        epoch += 1


def train_words(config: RunConfig, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Train, calibrate, measure on the test split, register; leave `<output_dir>/words/`: `final`, `metrics.json`.

    The model is registered as one of stage 3, whose work it does without a picture, and never as the one to serve.

    Returns:
        The content of `metrics.json`: `metrics` and `baselines` (the model untrained: the plain similarity), first
        choices of the test split by kind of fleet; `history`, a row per validation.

    Raises:
        PlanError: the model has no readers of words. ConfigError: there is no stage 3. DataError: nothing to read.
    """
    from ember_platform.registry import register_stage
    from ember_platform.tracking import Tracker

    trainer = WordsTrainer(config, *new_model(config), say)
    manifest = prepare(config, runner=lambda jobs, make: map(make, jobs), say=say)
    tracker = Tracker(config)
    with tracker.ending(say):
        tracker.start_pipeline({"data_digest": manifest.digest})
        run_id = tracker.start_stage(STAGE, NAME, config.words.model_dump(mode="json"))
        tracker.log_dataset(NAME, manifest.stage_digest(STAGE), manifest.dir)
        trainer.log = lambda row: tracker.log_metrics({k: v for k, v in row.items() if k != "step"}, step=row["step"])
        content = _train(trainer, manifest, say)
        tracker.log_measured(content, trainer.rows[-1]["step"])
        folder = storage.join(config.output_dir, NAME)
        with tempfile.TemporaryDirectory(prefix="embervlm-words-") as temporary:
            trainer.model.save_pretrained(temporary)
            trainer.processor.save_pretrained(temporary)
            lineage = {
                "parent": config.preset,
                "phase": NAME,
                "data_digest": manifest.stage_digest(STAGE),
                "config_digest": config.digest(),
            }
            figures = {name: value for name, value in content.items() if name != "history"}
            version = register_stage(config, STAGE, temporary, figures, lineage, run_id)
            folders.publish(Path(temporary), storage.join(folder, folders.FINAL))
        content |= {"version": version}
        folders.write_json(storage.join(folder, folders.METRICS), content)
    say(tracker.finish())
    return content


def _train(trainer: WordsTrainer, manifest: Manifest, say: Callable[[str], None]) -> dict[str, Any]:
    """The content of `metrics.json`; the trainer's model ends trained and calibrated."""
    config = trainer.config
    records = {
        name: split_records(manifest, STAGE, name, None, config.seed) for name in ("train", "validation", "test")
    }
    for name, some in records.items():
        began = time.perf_counter()
        trainer.read(some)
        say(f"words: {name}, {len(some)} tasks read in {time.perf_counter() - began:.0f} s")
    test = by_fleet(records["test"])
    plain = {f"similarity {name}": trainer.right(some) for name, some in test.items()}
    trainer.train(batches(config, manifest, records["train"]), by_fleet(records["validation"]))
    metrics = {name: trainer.right(some) for name, some in test.items()}
    trainer.model.processor = trainer.processor
    calibrate(trainer.model, finish_direct(trainer.model, records["validation"], records["train"][:TRAINING]))
    return {
        "stage": STAGE,
        "split": "test",
        "samples": {name: len(some) for name, some in test.items()},
        "metrics": metrics,
        "baselines": plain,
        "history": trainer.rows,
        "config_digest": config.digest(),
        "data_digest": manifest.digest,
    }
