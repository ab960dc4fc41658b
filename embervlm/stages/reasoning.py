"""Stage 4: reasoning, in two phases.

Phase "modules" trains the reasoning module (reasoning head, step validator, answer head) on a frozen backbone; phase
"joint" trains everything and adds grounding. Scheduled sampling (Bengio et al., arXiv:1506.03099, in the two-pass form
of Mihaylova and Martins, arXiv:1906.07651) replaces a growing share of the chain's input tokens by the model's own, so
that the answer head learns to read chains as the model writes them, not as the data holds them.

Shape legend: B batch, N robots, T tokens, D width; four steps a chain.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from embervlm.data.processor import EmberVLMProcessor
from embervlm.data.prompts import chain_pieces, plan_pieces
from embervlm.data.schema import STEPS, Record
from embervlm.stages.base import Batch, Gather, Stage, StageModule, chunks
from embervlm.stages.losses import info_nce, reason_loss, rows_before, selection_losses
from embervlm.stages.selection import chain_losses, fleet_group, leave_unseen, selection_inputs
from embervlm.stages.trusting import TRAINING, calibrate, finish_direct, finish_reasoned

if TYPE_CHECKING:
    # Processes that only make batches need no model.
    from embervlm.models.modeling import EmberVLM, EmberVLMOutput

_ENVIRONMENT_STEP = STEPS.index("environment assessment")
#: Steps that may be replaced by another record's; the decision is judged by the answer, not by the validator.
_CORRUPTIBLE = (0, 1, 2)


class ReasoningStageModule(StageModule):
    """Chain, step validity, answer after the chain, and in the joint phase grounding and the direct answer."""

    #: Share of the chain's tokens that are the model's own at the end of the phase.
    sampling_share = 0.5

    def forward(self, batch: Batch, progress: float = 0.0, gather: Gather | None = None) -> dict[str, Tensor]:
        """The stage's losses; which parts get gradients is the phase's choice."""
        model = self.model
        joint = any(p.requires_grad for p in model.language.parameters())
        features = self.image_features(batch)
        fleet = model.read_robots(batch["robot_input_ids"], batch["robot_attention_mask"])
        inputs = {
            "input_ids": batch["chain_input_ids"],
            "attention_mask": batch["chain_attention_mask"],
            "generated_mask": batch["chain_generated_mask"],
            "image_features": features,
            "image_mask": batch.get("image_mask"),
            "fleet": fleet,
            "robot_index": batch["robot_index"],
            "select": True,
        }
        ids, mentions = self._mixed(batch, inputs, progress * self.sampling_share)
        output = model(generated_ids=ids, mention_index=mentions, select_reasoned=True, **inputs)
        losses = chain_losses(model, output, batch, mentions)
        validity = self._validity(output, batch)
        robot_mask = batch["robot_index"] >= 0
        ranking, team = selection_losses(output.reasoned_scores, batch["robot_labels"], robot_mask)
        answer = ranking + team
        loss = (
            self.weights["reasoning"] * (losses["reasoning_loss"] + losses["mention_loss"])
            + self.weights["consistency"] * validity
            + self.weights["answer"] * answer
        )
        logged = {name: value.detach() for name, value in losses.items()}
        if joint:
            direct_ranking, direct_team = selection_losses(output.scores, batch["robot_labels"], robot_mask)
            loss = loss + self.weights["answer"] * (direct_ranking + direct_team)
            reasons = reason_loss(output.reasons, batch["reason_labels"], robot_mask)
            loss = loss + self.weights["reasoning"] * reasons
            logged["reason_loss"] = reasons.detach()
            grounding = self._grounding(output, features, batch, gather)
            loss = loss + self.weights["grounding"] * grounding
            logged["grounding_loss"] = grounding.detach()
        first = batch["robot_labels"].gather(1, output.reasoned_scores.argmax(1, keepdim=True))
        return {
            "loss": loss,
            "consistency_loss": validity.detach(),
            "answer_loss": answer.detach(),
            "accuracy": first.mean(),
            **logged,
        }

    @torch.no_grad()
    def _mixed(self, batch: Batch, inputs: dict[str, object], share: float) -> tuple[Tensor, Tensor]:
        """The chain's input tokens with a share replaced by what the model would have written there."""
        ids, mentions = batch["chain_generated_ids"], batch["chain_mention_index"]
        if share <= 0:
            return ids, mentions
        model = self.model
        output = model(generated_ids=ids, mention_index=mentions, **inputs)
        hidden = model.reasoning.refine(output.text_hidden)[:, :-1]
        swap = (batch["chain_labels"][:, 1:] >= 0) & (batch["chain_draws"][:, 1:] < share)
        ids, mentions = ids.clone(), mentions.clone()
        is_mention = mentions[:, 1:] >= 0
        special = torch.tensor(sorted(model.config.token_ids.values()), device=ids.device)
        word = swap & ~is_mention & ~torch.isin(ids[:, 1:], special)
        if bool(word.any()):
            own = model.language.logits(hidden[word]).argmax(-1)
            # A special token in the middle of words would break the layout of steps: words stay words.
            ids[:, 1:][word] = torch.where(torch.isin(own, special), ids[:, 1:][word], own)
        named = swap & is_mention
        if bool(named.any()):
            spent = model.spent(batch["chain_generated_ids"], batch["chain_mention_index"], output.context)
            pointer = model.pointer(hidden, output.context, spent[:, :-1])
            mentions[:, 1:][named] = pointer.argmax(-1)[named]
        return ids, mentions

    def _validity(self, output: EmberVLMOutput, batch: Batch) -> Tensor:
        rows = torch.arange(batch["step_ends"].shape[0], device=batch["step_ends"].device)[:, None]
        known = batch["step_ends"] >= 0
        assert output.text_hidden is not None
        hidden = output.text_hidden[rows, batch["step_ends"].clamp_min(0)]
        logits = self.model.reasoning.validate(hidden)
        return F.binary_cross_entropy_with_logits(logits[known], batch["step_valid"][known])

    def _grounding(
        self, output: EmberVLMOutput, features: Tensor | None, batch: Batch, gather: Gather | None
    ) -> Tensor:
        """InfoNCE between a picture and what the chain says of the place, over the samples that have a picture.

        Every worker takes part in the exchange, also one whose samples have none, or the others would wait for it.
        """
        hidden, model = output.text_hidden, self.model
        assert hidden is not None
        if features is None:
            shown = torch.zeros(len(hidden), dtype=torch.bool, device=hidden.device)
            features = hidden.new_zeros(len(hidden), model.config.image_tokens, model.vision.width)
        else:
            shown = batch["image_mask"]
        images = model.embed_images(features[shown])
        texts = model.text_pool(hidden[shown], batch["environment_mask"][shown])
        # One exchange for both: its backward is a collective too, and two could run in another order on each worker.
        pairs = torch.cat([images, texts], dim=1)
        everyone = gather(pairs) if gather else pairs
        before = rows_before(gather, images)
        if len(pairs) == 0:
            return everyone.sum() * 0
        images_all, texts_all = everyone.chunk(2, dim=1)
        loss = info_nce(images, texts, model.logit_scale, images_all, texts_all, before)["loss"]
        parts = gather.parts if gather else 1
        return loss * (parts * len(pairs) / len(everyone))  # so that the parts' mean is the mean over all pairs


class Reasoning(Stage):
    """First the reasoning module on a frozen backbone, then all together."""

    number, name, kind = 4, "cot_reasoning", "reasoning"
    phases = ("modules", "joint")
    exchanges = ("joint",)
    trains_vision = ("joint",)
    judged = MappingProxyType(
        dict.fromkeys(("first_choice", "first_choice_direct", "chain_complete", "chain_consistent"), "max")
    )
    metric = "first_choice"
    compared = TRAINING
    weights = MappingProxyType({"reasoning": 0.4, "consistency": 0.2, "answer": 0.6, "grounding": 0.1})
    image_dropout = 0.05
    task_dropout = 0.0
    #: Share of training chains in which one step is another record's, for the validator to notice.
    corrupted_share = 0.3

    def trained(self, model: EmberVLM, phase: str) -> list[nn.Module | nn.Parameter]:
        """The reasoning module; in the joint phase everything.

        Raises:
            ValueError: the phase is not one of the two.
        """
        if phase not in self.phases:
            raise ValueError(f"stage 4: phase {phase!r} is not one of {', '.join(self.phases)}")
        return [model.reasoning, *model.writing_parts()] if phase == "modules" else [model]

    def module(self, model: EmberVLM) -> ReasoningStageModule:
        """The model with the reasoning losses."""
        return ReasoningStageModule(model, self.weights)

    def group(self, record: Record) -> str:
        """The fleet."""
        return fleet_group(record)

    def length(self, record: Record) -> int:
        """Characters of task, chain and plan."""
        return len(record.instruction) + sum(map(len, record.reasoning)) + sum(len(p["subtask"]) for p in record.plan)

    def collate(self, processor: EmberVLMProcessor, records: Sequence[Record], seed: int | None) -> Batch:
        """Fleets, pictures, tasks, labels and chains, some with a wrong step."""
        rng = np.random.default_rng(seed)
        batch, tasks, fleets = selection_inputs(processor, records, seed, self.image_dropout, self.task_dropout)
        written, ends, valid, places = [], [], [], []
        for record, fleet in zip(records, fleets, strict=True):
            steps, wrong = list(record.reasoning), -1
            if seed is not None and rng.random() < self.corrupted_share:
                wrong = int(rng.choice(_CORRUPTIBLE))
                other = records[int(rng.integers(len(records)))]
                if len(other.reasoning) <= wrong or other.reasoning[wrong] == steps[wrong]:
                    wrong = -1
                else:
                    steps[wrong] = _plain(other.reasoning[wrong])
            written.append(_written(processor, steps, record, fleet.names))
            closes, spans = _steps(processor, written[-1][0])
            ends.append(closes)
            valid.append([float(i != wrong) for i in range(len(STEPS))])
            places.append((spans, wrong))
        texts = processor.texts(tasks) | processor.generated(written, start="<|reasoning_start|>")
        texts["bare"] = leave_unseen(processor, records, texts)
        labels = texts["labels"]
        length = labels.shape[1]
        environment = torch.zeros(labels.shape, dtype=torch.bool)
        for i, (spans, wrong) in enumerate(places):
            if wrong >= 0:
                labels[i, slice(*spans[wrong])] = -100
            environment[i, slice(*spans[_ENVIRONMENT_STEP])] = True
        batch |= {f"chain_{name}": value for name, value in texts.items()}
        batch["environment_mask"] = environment & texts["generated_mask"]
        batch["step_ends"] = torch.tensor([[e if e < length else -1 for e in row] for row in ends])
        # The analysis of a bare picture's chain is another record's already, and its later steps tell what it does not
        # show: nothing for the validator.
        batch["step_ends"][texts["bare"]] = -1
        batch["step_valid"] = torch.tensor(valid)
        batch["chain_draws"] = torch.from_numpy(rng.random(labels.shape, dtype=np.float32))
        return batch

    @torch.inference_mode()
    def evaluate(
        self, module: StageModule, processor: EmberVLMProcessor, records: Sequence[Record], batch_size: int = 64
    ) -> dict[str, float]:
        """With reasoning: first choice, four-step chains, and decisions that name the robot that is answered."""
        model = module.model
        model.processor = processor
        first, direct, complete, consistent = [], [], [], []
        for group in chunks(records, batch_size):
            requests = [{"image": r.image, "task": r.instruction, "fleet": r.robots} for r in group]
            for record, answer in zip(group, model.select_many(requests, reasoning=True), strict=True):
                names = [r["name"] for r in record.robots]
                best = answer["robots"][0]["robot"]
                first.append(best in record.labels)
                direct.append(names[int(answer["direct_scores"].argmax())] in record.labels)
                complete.append(len(answer["steps"]) == len(STEPS))
                consistent.append(bool(answer["steps"]) and f"[{best}]" in answer["steps"][-1])
        return {
            "first_choice": float(np.mean(first)),
            "first_choice_direct": float(np.mean(direct)),
            "chain_complete": float(np.mean(complete)),
            "chain_consistent": float(np.mean(consistent)),
        }

    def finish(
        self,
        module: StageModule,
        processor: EmberVLMProcessor,
        records: Sequence[Record],
        training: Sequence[Record] = (),
    ) -> dict[str, float]:
        """Fit again what stage 3 fitted; how far the chain corrects the answer; the calibration of what it then is."""
        module.model.processor = processor
        direct = finish_direct(module.model, records, training)
        reasoned, found = finish_reasoned(module.model, records)
        calibrate(module.model, direct | reasoned)
        return found


def _plain(step: str) -> str:
    """A step of another record, with its mentions as words: those robots are not in this fleet."""
    return step.replace("[", "").replace("]", "")


def _written(
    processor: EmberVLMProcessor, steps: Sequence[str], record: Record, names: Sequence[str]
) -> tuple[list[int], list[int]]:
    return processor.pieces(chain_pieces(steps, names) + plan_pieces(record.plan, names))


def _steps(processor: EmberVLMProcessor, ids: Sequence[int]) -> tuple[list[int], list[tuple[int, int]]]:
    """Where the steps of a chain close, and the span of each, counted with the opening token."""
    end = list(ids).index(processor.ids["<|reasoning_end|>"])
    closes = [i + 1 for i, t in enumerate(ids[: end + 1]) if t in (processor.ids["<|step|>"], ids[end])]
    starts = [1, *(c + 1 for c in closes[:-1])]
    return closes, list(zip(starts, closes, strict=True))
