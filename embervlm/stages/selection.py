"""Stage 3: robot selection. 0.6 selection (ranking + team) + 0.4 reasoning consistency."""

from __future__ import annotations

import json
from collections.abc import Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from embervlm.data.processor import EmberVLMProcessor
from embervlm.data.prompts import UNKNOWN_TASK, chain_pieces, plan_pieces
from embervlm.data.schema import Record
from embervlm.evaluation.calibration import binary_nll
from embervlm.fleet import Fleet, Robot
from embervlm.models.config import NAMED_KINDS
from embervlm.stages.base import Batch, Gather, Stage, StageModule, draws
from embervlm.stages.losses import language_loss, pointer_loss, reason_loss, selection_losses, words_loss
from embervlm.stages.trusting import TRAINING, calibrate, finish_direct
from embervlm.world.ontology import REQUIREMENTS

if TYPE_CHECKING:
    # Processes that only make batches need no model.
    from embervlm.models.modeling import EmberVLM, EmberVLMOutput

_CHAIN = "chain_"
_TEXT_KEYS = ("input_ids", "attention_mask", "generated_ids", "generated_mask", "mention_index")


class RobotSelectionModule(StageModule):
    """Direct scores of every sample; for some of them also the chain that explains the choice.

    The direct scores never see the chain, so the label that the chain holds cannot leak into them.
    """

    def forward(self, batch: Batch, progress: float = 0.0, gather: Gather | None = None) -> dict[str, Tensor]:
        """Selection loss of all samples, reasoning-consistency loss of those with a chain."""
        model = self.model
        fleet = model.read_robots(batch["robot_input_ids"], batch["robot_attention_mask"])
        features = self.image_features(batch)
        chained = batch["chain_input_ids"].shape[0] if "chain_input_ids" in batch else 0
        scores, reasons, words, losses = [], [], [], {}
        for prefix, rows in ((_CHAIN, slice(0, chained)), ("", slice(chained, None))):
            if f"{prefix}input_ids" not in batch:
                continue
            text = {k: batch.get(f"{prefix}{k}") for k in _TEXT_KEYS}
            output = model(
                **text,
                image_features=None if features is None else features[rows],
                image_mask=None if features is None else batch["image_mask"][rows],
                fleet=fleet,
                robot_index=batch["robot_index"][rows],
                select=True,
            )
            scores.append(output.scores)
            reasons.append(output.reasons)
            words.append(output.context.words)
            if prefix:
                losses = chain_losses(model, output, batch)
        losses["reason_loss"] = reason_loss(torch.cat(reasons), batch["reason_labels"], batch["robot_index"] >= 0)
        if model.config.word_kinds:
            losses |= words_losses([(part.asks, part.lacks) for part in words], batch)
        return self._combine(torch.cat(scores), batch, losses)

    def _combine(self, scores: Tensor, batch: Batch, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        robot_mask = batch["robot_index"] >= 0
        ranking, team = selection_losses(scores, batch["robot_labels"], robot_mask)
        loss = self.weights["selection"] * (ranking + team) + self.weights["consistency"] * sum(losses.values())
        logged = {"ranking_loss": ranking.detach(), "team_loss": team.detach()}
        logged |= {name: value.detach() for name, value in losses.items()}
        first = batch["robot_labels"].gather(1, scores.argmax(1, keepdim=True))
        return {"loss": loss, "accuracy": first.mean(), **logged}


def words_losses(words: Sequence[tuple[Tensor, Tensor]], batch: Batch) -> dict[str, Tensor]:
    """What tasks' words (B, K) ask for and robots' words (B, N, K) say is lacking, of the samples in their parts."""
    first = len(REQUIREMENTS)
    asks, lacks = (torch.cat(parts)[..., first:] for parts in zip(*words, strict=True))
    return {
        "asking_loss": words_loss(asks, batch["asked_labels"]),
        "lacking_loss": words_loss(lacks, batch["lacking_labels"]),
    }


def chain_losses(
    model: EmberVLM, output: EmberVLMOutput, batch: Batch, said: Tensor | None = None
) -> dict[str, Tensor]:
    """Writing the chain, and meaning the right robots in it; `said` as in `pointer_loss`.

    The names of places that bare pictures show are a mean of their own: a few tokens among all of the chains' would
    not count.
    """
    assert output.text_hidden is not None
    assert output.context is not None
    hidden = model.reasoning.refine(output.text_hidden)
    text = {name: batch[f"{_CHAIN}{name}"] for name in ("generated_ids", "mention_index", "mention_end", "labels")}
    bare = batch[f"{_CHAIN}bare"][:, None]
    chains, _ = language_loss(model, hidden, text["labels"].masked_fill(bare, -100))
    places, _ = language_loss(model, hidden, text["labels"].masked_fill(~bare, -100))
    mention = pointer_loss(model, hidden, text, output.context, said)
    return {"reasoning_loss": chains + places, "mention_loss": mention}


class RobotSelection(Stage):
    """All but vision learns to choose robots, and to say why."""

    number, name, kind = 3, "robot_selection", "selection"
    judged = MappingProxyType({"first_choice": "max", "team_exact": "max", "team_loss": "min"})
    metric = "first_choice"
    compared = TRAINING
    weights = MappingProxyType({"selection": 0.6, "consistency": 0.4})
    #: Shares of training samples whose picture or task is withheld: the model then answers from what is left, and
    #: the text-only and image-only baselines are honest.
    image_dropout = 0.08
    task_dropout = 0.04
    #: Share of samples that also write their chain (it triples a sample's tokens).
    chain_share = 0.125

    def trained(self, model: EmberVLM, phase: str) -> list[nn.Module | nn.Parameter]:
        """Fusion, language, selection, mentions, and the reasoning head that writes chains."""
        head = model.reasoning
        writing: list[nn.Module | nn.Parameter] = [head.reasoning_norm, head.reasoning_up, head.reasoning_down]
        writing += model.writing_parts()
        readers = [reader for reader in (model.asking, model.lacking) if reader is not None]
        return [model.fusion, model.language, model.reference, model.selection, *readers, *writing]

    def module(self, model: EmberVLM) -> RobotSelectionModule:
        """The model with the selection loss."""
        return RobotSelectionModule(model, self.weights)

    def group(self, record: Record) -> str:
        """The fleet."""
        return fleet_group(record)

    def length(self, record: Record) -> int:
        """The task's characters: robots are shared, chains are few."""
        return len(record.instruction)

    def collate(self, processor: EmberVLMProcessor, records: Sequence[Record], seed: int | None) -> Batch:
        """Fleets, pictures, tasks and labels; chains for the first `chain_share` of the samples in training."""
        chosen = list(records)
        chained = 0
        if seed is not None:
            with_chain = [r for r in chosen if r.reasoning]
            chained = round(self.chain_share * len(with_chain))
            rest = {id(r) for r in with_chain[:chained]}
            chosen = with_chain[:chained] + [r for r in chosen if id(r) not in rest]
        batch, tasks, fleets = selection_inputs(processor, chosen, seed, self.image_dropout, self.task_dropout)
        if chained:
            written = [chain_text(processor, r, f) for r, f in zip(chosen[:chained], fleets[:chained], strict=True)]
            texts = processor.texts(tasks[:chained]) | processor.generated(written, start="<|reasoning_start|>")
            texts["bare"] = leave_unseen(processor, chosen[:chained], texts)
            batch |= {f"{_CHAIN}{name}": value for name, value in texts.items()}
        if chained < len(chosen):
            batch |= processor.texts(tasks[chained:])
        return batch

    @torch.inference_mode()
    def evaluate(
        self, module: StageModule, processor: EmberVLMProcessor, records: Sequence[Record], batch_size: int = 64
    ) -> dict[str, float]:
        """First choice in the labelled set, exact teams at confidence 0.5, and the loss of who can do it."""
        scores, labels = score_records(module.model, processor, records, batch_size)
        losses = [binary_nll(s, y) for s, y in zip(scores, labels, strict=True)]
        first = [bool(y[s.argmax()]) for s, y in zip(scores, labels, strict=True)]
        exact = [bool(((s > 0) == (y > 0)).all()) for s, y in zip(scores, labels, strict=True)]
        return {
            "first_choice": float(np.mean(first)),
            "team_exact": float(np.mean(exact)),
            "team_loss": float(np.mean(losses)),
        }

    def finish(
        self,
        module: StageModule,
        processor: EmberVLMProcessor,
        records: Sequence[Record],
        training: Sequence[Record] = (),
    ) -> dict[str, float]:
        """Fit calibration, "none of these" and familiarity, with pictures and without."""
        module.model.processor = processor
        calibrate(module.model, finish_direct(module.model, records, training))
        return {}


def selection_inputs(
    processor: EmberVLMProcessor,
    records: Sequence[Record],
    seed: int | None,
    image_dropout: float,
    task_dropout: float,
) -> tuple[Batch, list[str], list[Fleet]]:
    """Fleets, pictures and labels (B, N) of records; the tasks' texts and the fleets beside them."""
    drops = draws(records, seed, 2) if seed is not None else np.ones((len(records), 2))
    fleets = [Fleet([Robot.from_dict(r) for r in record.robots]) for record in records]
    batch: Batch = processor.robots(fleets)
    no_image, no_task = drops[:, 0] < image_dropout, drops[:, 1] < task_dropout
    batch |= processor.images([None if d else r.image for r, d in zip(records, no_image, strict=True)])
    labels = torch.zeros(batch["robot_index"].shape)
    for i, (record, fleet) in enumerate(zip(records, fleets, strict=True)):
        for j, name in enumerate(fleet.names):
            labels[i, j] = float(name in record.labels)
    batch["robot_labels"] = labels
    batch["reason_labels"] = _reasons(records, fleets, labels.shape)
    batch["asked_labels"] = asked_labels(records)
    batch["lacking_labels"] = lacking_labels(records, labels.shape[1])
    tasks = [UNKNOWN_TASK if d else r.instruction for r, d in zip(records, no_task, strict=True)]
    return batch, tasks, fleets


def _reasons(records: Sequence[Record], fleets: Sequence[Fleet], shape: torch.Size) -> Tensor:
    """What each task asks for and each robot lacks: (B, N, 2, K), -1 where a record does not say."""
    kinds = {kind: k for k, kind in enumerate(REQUIREMENTS)}
    reasons = np.full((*shape, 2, len(kinds)), -1.0, np.float32)
    for i, (record, fleet) in enumerate(zip(records, fleets, strict=True)):
        if "needs" not in record.tags or "lacks" not in record.tags:
            continue
        for j, name in enumerate(fleet.names):
            reasons[i, j] = 0
            for row, found in enumerate((record.tags["needs"], record.tags["lacks"].get(name, []))):
                for kind in found:
                    reasons[i, j, row, kinds[kind]] = 1
    return torch.from_numpy(reasons)


def asked_labels(records: Sequence[Record]) -> Tensor:
    """Which of `NAMED_KINDS` each task in free words asks for (B, K), -1 where a record does not say."""
    asked = np.full((len(records), len(NAMED_KINDS)), -1.0, np.float32)
    for i, record in enumerate(records):
        if "asks" in record.tags:
            asked[i] = [float(name in record.tags["asks"]) for name in NAMED_KINDS]
    return torch.from_numpy(asked)


def lacking_labels(records: Sequence[Record], robots: int) -> Tensor:
    """Which of `NAMED_KINDS` each robot's words say it lacks (B, N, K), -1 where they or the record do not say."""
    lacking = np.full((len(records), robots, len(NAMED_KINDS)), -1.0, np.float32)
    for i, record in enumerate(records):
        for j, robot in enumerate(record.robots):
            if (told := record.tags.get("told", {}).get(robot["name"])) is not None:
                unsure, lacks = set(told["unsure"]), set(told["lacks"])
                lacking[i, j] = [-1.0 if name in unsure else float(name in lacks) for name in NAMED_KINDS]
    return torch.from_numpy(lacking)


def fleet_group(record: Record) -> str:
    """A key that records with the same robots share, in whatever order they stand."""
    return "\n".join(sorted(json.dumps(robot, sort_keys=True) for robot in record.robots))


def chain_text(processor: EmberVLMProcessor, record: Record, fleet: Fleet) -> tuple[list[int], list[int]]:
    """A record's chain and plan as ids and mentions."""
    pieces = chain_pieces(record.reasoning, fleet.names) + plan_pieces(record.plan, fleet.names)
    return processor.pieces(pieces)


def leave_unseen(processor: EmberVLMProcessor, records: Sequence[Record], texts: Batch) -> Tensor:
    """Of a chain whose picture shows nothing but the place, leave only the place's name to be learned.

    Changes `labels` (B, T) of generated texts that begin with the opening token. The name stands in the second step
    between a colon and a comma ("seen: facade, calm, day. …").

    Returns:
        (B,) True for those chains.
    """
    bare = torch.tensor([bool(record.tags.get("picture", {}).get("bare")) for record in records])
    for i in bare.nonzero().flatten().tolist():
        ids, labels = texts["generated_ids"][i].tolist(), texts["labels"][i]
        begin = ids.index(processor.ids["<|step|>"])
        told = [processor.tokenizer.decode([token]) for token in ids[begin:]]
        colon = next(i for i, part in enumerate(told) if ":" in part)
        comma = next(i for i, part in enumerate(told) if "," in part)
        labels[: begin + colon + 1] = -100
        labels[begin + comma + 1 :] = -100
    return bare


def score_records(
    model: EmberVLM, processor: EmberVLMProcessor, records: Sequence[Record], batch_size: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Direct scores and labels per record, each (N,)."""
    model.processor = processor
    requests = [{"image": r.image, "task": r.instruction, "fleet": r.robots} for r in records]
    scores = model.score_many(requests, batch_size=batch_size)
    labels = [np.array([float(robot["name"] in r.labels) for robot in r.robots]) for r in records]
    return scores, labels
