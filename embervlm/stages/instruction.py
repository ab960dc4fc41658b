"""Stage 2: instruction tuning. 0.7 supervised answers + 0.3 distillation where a teacher has spoken.

A teacher with our tokenizer is matched at the answer's tokens: KL divergence at temperature 2 on its stored top-k. Of
one with another tokenizer only the words mean something here: its own answer is learned as a second one (sequence-level
distillation, Kim & Rush, arXiv:1606.07947). Where it is asked for, sorted probabilities are matched instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from embervlm.data.processor import EmberVLMProcessor
from embervlm.data.schema import Record
from embervlm.stages.base import Batch, Gather, Stage, StageModule, draws
from embervlm.stages.losses import language_loss

if TYPE_CHECKING:
    # Processes that only make batches need no model.
    from embervlm.models.modeling import EmberVLM


_TAUGHT = "taught_"


class InstructionModule(StageModule):
    """Answers from the data and, at their tokens, the teacher's stored distribution, or else the teacher's answers."""

    temperature = 2.0

    def forward(self, batch: Batch, progress: float = 0.0, gather: Gather | None = None) -> dict[str, Tensor]:
        """The supervised loss, and the distillation loss where records have teacher fields."""
        model = self.model
        features = self.image_features(batch)
        supervised, matched = language_loss(
            model,
            model(**{**batch, "image_features": features}).text_hidden,
            batch["labels"],
            batch.get("teacher_ids"),
            batch.get("teacher_logprobs"),
            self.temperature,
        )
        terms = [matched] if matched is not None else []
        if f"{_TAUGHT}rows" in batch:
            terms.append(self._repeated(batch, features))
        if not terms:
            return {"loss": supervised, "sft_loss": supervised.detach()}
        distilled = torch.stack(terms).sum()
        loss = self.weights["sft"] * supervised + self.weights["distillation"] * distilled
        return {"loss": loss, "sft_loss": supervised.detach(), "distill_loss": distilled.detach()}

    def _repeated(self, batch: Batch, features: Tensor | None) -> Tensor:
        """Cross-entropy of the teacher's own answers to the questions that have one."""
        rows = batch[f"{_TAUGHT}rows"]
        output = self.model(
            input_ids=batch["input_ids"][rows],
            attention_mask=batch["attention_mask"][rows],
            image_features=None if features is None else features[rows],
            image_mask=None if features is None else batch["image_mask"][rows],
            generated_ids=batch[f"{_TAUGHT}generated_ids"],
            generated_mask=batch[f"{_TAUGHT}generated_mask"],
        )
        return language_loss(self.model, output.text_hidden, batch[f"{_TAUGHT}labels"])[0]


class Instruction(Stage):
    """Fusion and language learn to answer questions about pictures."""

    number, name, kind = 2, "instruction", "instruction"
    judged = MappingProxyType({"answer_accuracy": "max"})
    metric = "answer_accuracy"
    weights = MappingProxyType({"sft": 0.7, "distillation": 0.3})
    #: Share of training questions whose picture is withheld, so that the model also knows to do without.
    image_dropout = 0.1

    def trained(self, model: EmberVLM, phase: str) -> list[nn.Module | nn.Parameter]:
        """Fusion and language."""
        return [model.fusion, model.language, *model.writing_parts()]

    def module(self, model: EmberVLM) -> InstructionModule:
        """The model with the instruction loss."""
        return InstructionModule(model, self.weights)

    def collate(self, processor: EmberVLMProcessor, records: Sequence[Record], seed: int | None) -> Batch:
        """Questions, pictures, answers and what a teacher said."""
        batch: Batch = processor.texts([r.instruction for r in records])
        batch |= _answers(processor, [r.response for r in records])
        drop = np.zeros(len(records), dtype=bool)
        if seed is not None:
            drop = draws(records, seed, 1)[:, 0] < self.image_dropout
        batch |= processor.images([None if d else r.image for r, d in zip(records, drop, strict=True)])
        return batch | _teacher(records, batch["labels"]) | _teacher_answers(processor, records)

    @torch.inference_mode()
    def evaluate(
        self, module: StageModule, processor: EmberVLMProcessor, records: Sequence[Record], batch_size: int = 64
    ) -> dict[str, float]:
        """Share of greedy answers that equal the expected one, case and spaces aside."""
        model = module.model
        model.processor = processor
        requests = [{"image": r.image, "prompt": r.instruction} for r in records]
        answers = model.generate_texts(requests, max_new_tokens=16, batch_size=batch_size)
        right = [a.strip().lower() == r.response.strip().lower() for a, r in zip(answers, records, strict=True)]
        return {"answer_accuracy": float(np.mean(right))}


def _answers(processor: EmberVLMProcessor, texts: Sequence[str]) -> Batch:
    """Answers that are to be written, each up to its end token."""
    return processor.generated([processor.pieces([("words", text), ("special", "eos")]) for text in texts])


def _teacher_answers(processor: EmberVLMProcessor, records: Sequence[Record]) -> Batch:
    """A teacher's answers where its distributions are not stored, and whose they are (`taught_rows`); or nothing.

    Where it had nothing to say the data's answer stands, so that every worker has the same terms in its loss.
    """
    rows = [i for i, r in enumerate(records) if r.teacher_text is not None and not r.teacher_logprobs]
    if not rows:
        return {}
    spoken = _answers(processor, [records[i].teacher_text or records[i].response for i in rows])
    return {f"{_TAUGHT}rows": torch.tensor(rows)} | {f"{_TAUGHT}{name}": value for name, value in spoken.items()}


def _teacher(records: Sequence[Record], labels: Tensor) -> Batch:
    """Teacher fields at the labelled tokens: ids and log-probabilities (B, T, K); empty where none spoke.

    Raises:
        ValueError: a record has another number of teacher entries than response tokens (its shards were made with
            another tokenizer).
    """
    spoken = [r for r in records if r.teacher_token_ids]
    if not spoken:
        return _teacher_sorted(records, labels)
    width = max(len(entry) for r in spoken for entry in r.teacher_token_ids or [])
    ids = torch.full((*labels.shape, width), -1, dtype=torch.long)
    logprobs = torch.zeros((*labels.shape, width))
    for i, record in enumerate(records):
        if not record.teacher_token_ids or not record.teacher_logprobs:
            continue
        places = (labels[i] >= 0).nonzero()[:, 0].tolist()
        if len(places) != len(record.teacher_token_ids):
            raise ValueError(
                f"record {record.id}: {len(record.teacher_token_ids)} teacher entries for {len(places)} response "
                "tokens; run the teacher job again with this tokenizer"
            )
        for place, entry, values in zip(places, record.teacher_token_ids, record.teacher_logprobs, strict=True):
            ids[i, place, : len(entry)] = torch.tensor(entry)
            logprobs[i, place, : len(values)] = torch.tensor(values)
    return {"teacher_ids": ids, "teacher_logprobs": logprobs}


def _teacher_sorted(records: Sequence[Record], labels: Tensor) -> Batch:
    """Log-probabilities of another vocabulary, largest first, (B, T, K); empty where none spoke.

    The teacher cuts the answer into other tokens: its first goes with our first, and so on to the end of the shorter.
    """
    width = max((len(entry) for r in records for entry in r.teacher_logprobs or []), default=0)
    if not width:
        return {}
    logprobs = torch.full((*labels.shape, width), -torch.inf)
    for i, record in enumerate(records):
        places = (labels[i] >= 0).nonzero()[:, 0].tolist()
        for place, values in zip(places, record.teacher_logprobs or [], strict=False):
            logprobs[i, place, : len(values)] = torch.tensor(values)
    return {"teacher_logprobs": logprobs}
