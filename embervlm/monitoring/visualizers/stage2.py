"""Stage 2, instruction tuning."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from embervlm.monitoring.canvas import Canvas, Drawn
from embervlm.monitoring.data import (
    DistillationGap,
    FigureDataError,
    InstructionComplexity,
    PerplexityByPosition,
    ResponseLengths,
    TokenProbability,
)
from embervlm.monitoring.drawing import stage2 as draw
from embervlm.monitoring.visualizers.inputs import checked, pictures, step_name

#: The label of tokens that are no part of an answer, as in transformers.
IGNORED = -100


class Stage2Visualizer(Canvas):
    """Figures of instruction tuning. Every method returns the figure and its picture; `save` writes the files."""

    def plot_instruction_complexity(self, data: InstructionComplexity, save: bool = True) -> Drawn:
        """Bars per instruction type, with and without vision (instruction_complexity_bars)."""
        fill = partial(draw.instruction_complexity, data=data, palette=self.palette)
        return self.draw(data.name, (max(8.0, 2.6 + 0.7 * len(data.categories)), 4.4), fill, data.source, save)

    def plot_token_probability(self, data: TokenProbability, save: bool = True) -> Drawn:
        """Token probability over the sequence (token_probability_sequence)."""
        fill = partial(draw.token_probability, data=data, palette=self.palette)
        return self.draw(data.name, (9.0, 4.8), fill, data.source, save)

    def plot_distillation_gap(self, data: DistillationGap, save: bool = True) -> Drawn:
        """KL divergence from the teacher and the student's accuracy (distillation_gap)."""
        fill = partial(draw.distillation_gap, data=data, palette=self.palette)
        return self.draw(data.name, (7.6, 4.4), fill, data.source, save)

    def plot_response_lengths(self, data: ResponseLengths, save: bool = True) -> Drawn:
        """Violins of response lengths by task (response_length_violin)."""
        fill = partial(draw.response_lengths, data=data, palette=self.palette)
        return self.draw(data.name, (8.0, 4.6), fill, data.source, save)

    def plot_perplexity(self, data: PerplexityByPosition, save: bool = True) -> Drawn:
        """Perplexity by token position and training step (perplexity_heatmap)."""
        size = (9.0, 2.6 + 0.32 * min(20, len(data.steps)))
        return self.draw(data.name, size, partial(draw.perplexity, data=data, palette=self.palette), data.source, save)

    # ------------------------------------------------------- single moments

    def plot_token_probability_distribution(self, logits: Any, labels: Any, step: int, save: bool = True) -> Drawn:
        """Probability of the true and of the likeliest token at each answer position (token_probability/step_…).

        Args:
            logits: (B, T, vocabulary); position t speaks about the token at t, shift before if it does not.
            labels: (B, T) token ids; -100 is no part of the answer.
            step: training step.
        """
        scores, truth = np.asarray(logits, float), np.asarray(labels)
        if scores.ndim != 3:
            raise FigureDataError(f"logits: expected (B, T, vocabulary), found shape {scores.shape}")
        checked("logits and labels", scores.shape[:2], truth.shape)
        scores = scores - scores.max(-1, keepdims=True)
        chances = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        counted = truth != IGNORED
        own = np.take_along_axis(chances, np.where(counted, truth, 0)[..., None], -1)[..., 0]
        packed = np.full((2, *truth.shape), np.nan)
        for row, keep in enumerate(counted):  # answers begin at different places: move them to the front
            for g, values in enumerate((own, chances.max(-1))):
                packed[g, row, : keep.sum()] = values[row, keep]
        longest = max(1, int(counted.sum(1).max()))
        data = TokenProbability(truth=packed[0, :, :longest], generated=packed[1, :, :longest], step=step)
        fill = partial(draw.token_probability, data=data, palette=self.palette)
        return self.draw(f"token_probability/{step_name(step)}", (9.0, 4.8), fill, "", save, vector=False)

    def plot_response_length_distribution(
        self, generated_lengths: Any, target_lengths: Any, step: int, save: bool = True
    ) -> Drawn:
        """Lengths of generated answers beside the references' (response_length/step_…); (R,) tokens each."""
        generated, target = np.asarray(generated_lengths), np.asarray(target_lengths)
        checked("generated_lengths and target_lengths", generated.shape, target.shape)
        task = np.zeros(len(generated), int)
        data = ResponseLengths(tasks=("all answers",), task=task, generated=generated, target=target, step=step)
        fill = partial(draw.response_lengths, data=data, palette=self.palette)
        return self.draw(f"response_length/{step_name(step)}", (6.4, 4.4), fill, "", save, vector=False)

    def plot_generation_examples(
        self,
        images: Sequence[Any],
        instructions: Sequence[str],
        generated: Sequence[str],
        ground_truth: Sequence[str],
        step: int,
        n_examples: int = 4,
        save: bool = True,
    ) -> Drawn:
        """Pictures with instruction, answer and reference (generation_examples/step_…)."""
        checked("images and texts", len(images), len(instructions), len(generated), len(ground_truth))
        shown = pictures("images", images[:n_examples])
        texts = list(zip(instructions, generated, ground_truth, strict=True))[: len(shown)]
        fill = partial(draw.generation_examples, images=shown, texts=texts, step=step)
        size = (8.5, 1.6 * len(shown) + 0.5)
        return self.draw(f"generation_examples/{step_name(step)}", size, fill, "", save, vector=False)
