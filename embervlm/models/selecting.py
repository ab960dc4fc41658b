"""Asking the model: one request, many requests, scores, embeddings, free text.

Shape legend: B batch, N robots of a fleet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from embervlm.data.prompts import chain_pieces, parse_generated, without_brackets
from embervlm.fleet import Fleet, Robot

if TYPE_CHECKING:
    from embervlm.data.processor import EmberVLMProcessor
    from embervlm.models.generation import Generation
    from embervlm.models.modeling import EmberVLM, FleetState

#: Distinct fleets whose keys and values are kept; the oldest leaves first.
FLEET_CACHE = 16


class SelectionMixin:
    """The questions a user asks an `EmberVLM`. All run without gradients, in eval mode."""

    _processor: Any = None

    @property
    def processor(self: EmberVLM) -> EmberVLMProcessor:  # type: ignore[misc]
        """The processor saved beside the model, read when first needed; or the one that was set.

        Raises:
            ValueError: the model was not loaded from a folder and none was set.
        """
        if self._processor is None:
            from embervlm.data.processor import EmberVLMProcessor

            if not self.name_or_path:
                raise ValueError("processor: the model was not loaded from a folder; set model.processor first")
            self._processor = EmberVLMProcessor.from_pretrained(self.name_or_path)
        return self._processor

    @processor.setter
    def processor(self: EmberVLM, processor: EmberVLMProcessor) -> None:  # type: ignore[misc]
        self._processor = processor

    def select_robots(  # type: ignore[misc]
        self: EmberVLM,
        image: Any = None,
        task: str = "",
        fleet: Any = None,
        top_k: int | None = None,
        reasoning: bool = False,
        max_new_tokens: int = 192,
    ) -> dict[str, Any]:
        """Choose robots for a task.

        Args:
            image: path, bytes, PIL image or array of the scene; None for a task without a picture.
            task: what is to be done, in words.
            fleet: a `Fleet`, a list of `Robot` or of mappings, a YAML/JSON file; None for the five default robots.
            top_k: how many robots to list; all when None.
            reasoning: write the chain and the plan, and let them count in the answer.
            max_new_tokens: bound of the written text.

        Returns:
            `robots`: [{"robot", "confidence"}] best first, the confidence being the probability that the robot can do
            the task; `team`: names to send; `plan`: [{"order", "subtask", "robot"}] and `reasoning`: the steps as
            text, both empty unless asked for.

        Raises:
            ValueError: an empty task or a `top_k` below 1. FleetError, ImageError: what is wrong with them.
        """
        if top_k is not None and (not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1):
            raise ValueError(f"top_k: {top_k!r} is not a number of robots from 1")
        request = {"image": image, "task": task, "fleet": fleet}
        answer = self.select_many([request], reasoning=reasoning, max_new_tokens=max_new_tokens)[0]
        answer["robots"] = answer["robots"][:top_k]
        return answer

    @torch.inference_mode()
    def select_many(  # type: ignore[misc]
        self: EmberVLM,
        requests: Sequence[dict[str, Any]],
        reasoning: bool = False,
        batch_size: int = 64,
        max_new_tokens: int = 192,
    ) -> list[dict[str, Any]]:
        """`select_robots` for many requests at once: mappings with `image`, `task`, `fleet`.

        A request may carry `reasoning_text`, a list of steps that the chain opens with (mentions as `[Name]`).
        Besides `select_robots`' keys an answer has `scores` (fleet order, before calibration), `direct_scores` (without
        the chain) and `steps` (the chain with mentions in brackets).
        """
        answers: list[dict[str, Any]] = []
        for chunk in _chunks(requests, batch_size):
            fleets = [Fleet.of(r.get("fleet")) for r in chunk]
            batch = self._batch(chunk, fleets)
            if not reasoning:
                scores = self(**batch, select=True).scores
                answers.extend(self._answer(scores[i], fleets[i]) for i in range(len(chunk)))
                continue
            batch |= self._forced(chunk, fleets)
            start = torch.full((len(chunk),), self.config.token_ids["<|reasoning_start|>"], device=self.device)
            written = self.generate(**batch, start_ids=start, max_new_tokens=max_new_tokens, select=True)
            answers.extend(self._reasoned_answer(written, i, fleets[i]) for i in range(len(chunk)))
        return answers

    @torch.inference_mode()
    def score_many(  # type: ignore[misc]
        self: EmberVLM, requests: Sequence[dict[str, Any]], batch_size: int = 64
    ) -> list[np.ndarray]:
        """The direct score of every robot, before calibration: log-odds (N,) per request, in fleet order."""
        return [a["scores"] for a in self.select_many(requests, batch_size=batch_size)]

    @torch.inference_mode()
    def encode_images(self: EmberVLM, images: Sequence[Any], batch_size: int = 64) -> np.ndarray:  # type: ignore[misc]
        """Pictures to unit vectors (B, projection_dim)."""
        self.eval()
        rows = []
        for chunk in _chunks(images, batch_size):
            pixels = self.processor.images(chunk)["pixel_values"].to(self.device)
            rows.append(self.embed_images(self.visual_features(pixels)).float().cpu().numpy())
        return np.concatenate(rows)

    @torch.inference_mode()
    def encode_texts(self: EmberVLM, texts: Sequence[str], batch_size: int = 64) -> np.ndarray:  # type: ignore[misc]
        """Texts to unit vectors (B, projection_dim)."""
        self.eval()
        rows = []
        for chunk in _chunks(texts, batch_size):
            ids, mask = self.processor.segments(chunk)
            rows.append(self.embed_texts(ids.to(self.device), mask.to(self.device)).float().cpu().numpy())
        return np.concatenate(rows)

    @torch.inference_mode()
    def generate_texts(  # type: ignore[misc]
        self: EmberVLM, requests: Sequence[dict[str, Any]], max_new_tokens: int = 48, batch_size: int = 64
    ) -> list[str]:
        """Greedy answers to mappings with `image` (or None) and `prompt`."""
        self.eval()
        texts: list[str] = []
        for chunk in _chunks(requests, batch_size):
            inputs = self.processor.texts([r["prompt"] for r in chunk])
            inputs |= self.processor.images([r.get("image") for r in chunk])
            inputs = {k: v.to(self.device) for k, v in inputs.items()}
            start = torch.full((len(chunk),), self.config.token_ids["bos"], device=self.device)
            written = self.generate(**inputs, start_ids=start, max_new_tokens=max_new_tokens)
            texts.extend(self.processor.plain(row.tolist()) for row in written.sequences)
        return texts

    # ---------------------------------------------------------------- inside

    def confidences(self: EmberVLM, scores: Tensor | np.ndarray) -> np.ndarray:  # type: ignore[misc]
        """Scores to calibrated probabilities that a robot can do the task."""
        values = torch.as_tensor(scores, dtype=torch.float32)
        return torch.sigmoid(values / self.config.score_temperature + self.config.score_bias).cpu().numpy()

    def fleet_state(self: EmberVLM, robots: Sequence[Robot]) -> FleetState:  # type: ignore[misc]
        """The state of robots, read once and kept for the next request with the same ones."""
        from embervlm.data.prompts import robot_text

        key = (self._weights_version(), tuple(robot_text(r) for r in robots))
        cache: dict[Any, FleetState] = self.__dict__.setdefault("_fleet_cache", {})
        if key not in cache:
            batch = self.processor.robots([Fleet(robots)])
            mask = batch["robot_attention_mask"].to(self.device)
            state = self.read_robots(batch["robot_input_ids"].to(self.device), mask)
            while len(cache) >= FLEET_CACHE:
                cache.pop(next(iter(cache)))
            cache[key] = state
        return cache[key]

    def _weights_version(self: EmberVLM) -> tuple[int, str]:  # type: ignore[misc]
        # In-place updates of a parameter raise its version: a trained model never answers from an old cache.
        return sum(p._version for p in self.language.parameters()), str(self.device)

    def _batch(self: EmberVLM, chunk: Sequence[dict[str, Any]], fleets: Sequence[Fleet]) -> dict[str, Any]:  # type: ignore[misc]
        self.eval()
        tasks: list[str] = [r.get("task") or "" for r in chunk]
        for task in tasks:
            if not isinstance(task, str) or not task.strip():
                raise ValueError("task: empty; say what is to be done")
        batch: dict[str, Any] = self.processor.texts(tasks)
        batch |= self.processor.images([r.get("image") for r in chunk])
        if all(f == fleets[0] for f in fleets):
            batch["robot_index"] = torch.arange(len(fleets[0])).expand(len(chunk), -1)
            batch["fleet"] = self.fleet_state(fleets[0])
        else:
            batch |= self.processor.robots(fleets)
        return {k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in batch.items()}

    def _forced(self: EmberVLM, chunk: Sequence[dict[str, Any]], fleets: Sequence[Fleet]) -> dict[str, Any]:  # type: ignore[misc]
        """Given openings of chains as ids and mentions, padded with -1; empty where none is given."""
        if not any(r.get("reasoning_text") for r in chunk):
            return {}
        rows = []
        for request, fleet in zip(chunk, fleets, strict=True):
            steps = request.get("reasoning_text") or []
            # Four steps are a whole chain; fewer leave the next one to the model.
            pieces = chain_pieces(steps, fleet.names)
            if len(steps) < 4:
                pieces[-1] = ("special", "<|step|>")
            rows.append(self.processor.pieces(pieces) if steps else ([], []))
        length = max(len(ids) for ids, _ in rows)
        forced = torch.full((2, len(rows), length), -1)
        for i, (ids, mentions) in enumerate(rows):
            forced[0, i, : len(ids)] = torch.tensor(ids)
            forced[1, i, : len(ids)] = torch.tensor(mentions)
        return {"forced": forced[0].to(self.device), "forced_mentions": forced[1].to(self.device)}

    def _answer(self: EmberVLM, scores: Tensor, fleet: Fleet) -> dict[str, Any]:  # type: ignore[misc]
        values = scores[: len(fleet)].float().cpu().numpy()
        confidence = self.confidences(values)
        order = np.argsort(-values, kind="stable")
        team = [fleet.names[i] for i in order if confidence[i] >= self.config.team_threshold]
        return {
            "robots": [{"robot": fleet.names[i], "confidence": float(confidence[i])} for i in order],
            "team": team or [fleet.names[order[0]]],
            "plan": [],
            "reasoning": "",
            "scores": values,
        }

    def _reasoned_answer(self: EmberVLM, written: Generation, row: int, fleet: Fleet) -> dict[str, Any]:  # type: ignore[misc]
        assert written.reasoned_scores is not None
        assert written.scores is not None
        answer = self._answer(written.reasoned_scores[row], fleet)
        parts = self.processor.parts(written.sequences[row].tolist(), written.mentions[row].tolist(), fleet.names)
        steps, plan = parse_generated(parts)
        answer["steps"], answer["plan"] = steps, plan
        answer["reasoning"] = "\n".join(without_brackets(step) for step in steps)
        answer["direct_scores"] = written.scores[row, : len(fleet)].float().cpu().numpy()
        return answer


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
