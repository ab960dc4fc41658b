"""Asking the model: one request, many requests, scores, embeddings, free text.

Shape legend: B batch, N robots of a fleet.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from embervlm.data.prompts import chain_pieces, parse_generated, robot_text, without_brackets
from embervlm.fleet import Fleet, Robot
from embervlm.models.attention import recorded_attention
from embervlm.models.trust import Familiarity, Read, fitted, mode_of, none_log_odds

if TYPE_CHECKING:
    from embervlm.data.processor import EmberVLMProcessor
    from embervlm.models.generation import Generation
    from embervlm.models.modeling import EmberVLM, FleetState

#: Distinct fleets whose keys and values are kept; the one that was not asked about for longest leaves first.
FLEET_CACHE = 16


class SelectionMixin:
    """The questions a user asks an `EmberVLM`. All run without gradients, in eval mode."""

    _processor: Any = None
    #: Distances to the training split, which `from_pretrained` finds in the model's folder; None where it has none.
    familiarity: Familiarity | None = None
    #: As FLEET_CACHE, for this model.
    fleet_cache_size: int = FLEET_CACHE

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
            the task; `team`: names to send, the best one where no robot is likely to be able; `none_of_these`: the
            probability that no robot of the fleet can do it, where both were as likely beforehand; `familiarity`: the
            share of validation inputs that were at least as far from training as this one (near 0: nothing like it was
            seen); `plan`: [{"order", "subtask", "robot"}] and `reasoning`: the steps as text, both empty unless asked
            for. `none_of_these` and `familiarity` are read before the reasoning, and are None where the model folder
            has nothing fitted for them.

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
        attention: bool = False,
    ) -> list[dict[str, Any]]:
        """`select_robots` for many requests at once: mappings with `image`, `task`, `fleet`.

        A request may carry `reasoning_text`, a list of steps that the chain opens with (mentions as `[Name]`).
        Besides `select_robots`' keys an answer has `scores` (fleet order, before calibration), `direct_scores` (without
        the chain) and `steps` (the chain with mentions in brackets); with `attention` also where in the picture each
        robot's selection token looked, (N, side, side) in fleet order and summing to one per robot, or None.
        """
        answers: list[dict[str, Any]] = []
        for chunk in _chunks(requests, batch_size):
            if reasoning:
                answers.extend(_drained(self.reason(chunk, max_new_tokens, attention)))
                continue
            fleets = [Fleet.of(r.get("fleet")) for r in chunk]
            batch = self._batch(chunk, fleets)
            with recorded_attention() if attention else nullcontext() as weights:
                output = self(**batch, select=True)
            read = self._read(batch, fleets, output.context.selected)
            answers += [
                self._answer(scores, scores, fleet, parts, mode_of(pictured(request), reasoned=False))
                for request, fleet, scores, parts in zip(chunk, fleets, output.scores, read, strict=True)
            ]
            if attention:
                self._looked(answers[-len(chunk) :], batch, weights or [])
        return answers

    @torch.inference_mode()
    def reason(  # type: ignore[misc]
        self: EmberVLM, requests: Sequence[dict[str, Any]], max_new_tokens: int = 192, attention: bool = False
    ) -> Generator[tuple[Tensor, Tensor], Tensor | None, list[dict[str, Any]]]:
        """`select_many` with reasoning for one batch, a token at a time; see `write` for what goes back and forth."""
        fleets = [Fleet.of(r.get("fleet")) for r in requests]
        batch = self._batch(requests, fleets) | self._forced(requests, fleets)
        start = torch.full((len(requests),), self.config.token_ids["<|reasoning_start|>"], device=self.device)
        written = yield from self.write(
            **batch, start_ids=start, max_new_tokens=max_new_tokens, select=True, attention=attention
        )
        assert written.selected is not None
        read = self._read(batch, fleets, written.selected)
        answers = [
            self._reasoned_answer(written, i, fleet, parts, pictured(request))
            for i, (request, fleet, parts) in enumerate(zip(requests, fleets, read, strict=True))
        ]
        if attention:
            self._looked(answers, batch, written.attention or [])
        return answers

    @torch.inference_mode()
    def score_many(  # type: ignore[misc]
        self: EmberVLM, requests: Sequence[dict[str, Any]], batch_size: int = 64
    ) -> list[np.ndarray]:
        """The direct score of every robot, before calibration: log-odds (N,) per request, in fleet order."""
        return [a["scores"] for a in self.select_many(requests, batch_size=batch_size)]

    @torch.inference_mode()
    def read_many(  # type: ignore[misc]
        self: EmberVLM, requests: Sequence[dict[str, Any]], batch_size: int = 64
    ) -> tuple[list[np.ndarray], list[Read]]:
        """Per request the direct scores (N,) in fleet order, and what `Familiarity` sees of it."""
        scores: list[np.ndarray] = []
        read: list[Read] = []
        for chunk in _chunks(requests, batch_size):
            fleets = [Fleet.of(r.get("fleet")) for r in chunk]
            batch = self._batch(chunk, fleets)
            output = self(**batch, select=True)
            scores += [
                row[: len(fleet)].float().cpu().numpy() for row, fleet in zip(output.scores, fleets, strict=True)
            ]
            read += self._read(batch, fleets, output.context.selected)
        return scores, read

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

    def confidences(  # type: ignore[misc]
        self: EmberVLM, scores: Tensor | np.ndarray, mode: str
    ) -> np.ndarray:
        """Scores to calibrated probabilities that a robot can do the task; `mode` is one of `trust.MODES`."""
        return torch.sigmoid(torch.from_numpy(self.log_odds(scores, mode))).numpy()

    def log_odds(self: EmberVLM, scores: Tensor | np.ndarray, mode: str) -> np.ndarray:  # type: ignore[misc]
        """Scores to calibrated log-odds that a robot can do the task, float32."""
        default = self.config.score_temperature, self.config.score_bias
        temperature, bias = fitted(self.config.calibration, mode, default)
        return (torch.as_tensor(scores, dtype=torch.float32) / temperature + bias).cpu().numpy()

    def none_probability(self: EmberVLM, scores: Tensor | np.ndarray, kind: str) -> float | None:  # type: ignore[misc]
        """The probability that no robot can do the task, from the direct scores (N,) of all; None where not fitted.

        `kind` is "picture" or "text".
        """
        if kind not in self.config.none_calibration:
            return None
        temperature, bias = self.config.none_calibration[kind]
        log_odds = none_log_odds(self.log_odds(scores, kind)) / temperature + bias
        return float(torch.sigmoid(torch.tensor(log_odds)))

    def fleet_state(self: EmberVLM, robots: Sequence[Robot]) -> FleetState:  # type: ignore[misc]
        """The state of robots, read once and kept for the next request with the same ones."""
        return self._fleet_states([Fleet(robots)])[0]

    def knows_fleet(self: EmberVLM, robots: Sequence[Robot]) -> bool:  # type: ignore[misc]
        """Whether the state of these robots is kept."""
        return self._fleet_key(robots) in self.__dict__.get("_fleet_cache", {})

    def _fleet_key(self: EmberVLM, robots: Sequence[Robot]) -> tuple[Any, ...]:  # type: ignore[misc]
        return self._weights_version(), tuple(robot_text(r) for r in robots)

    def _fleet_states(self: EmberVLM, fleets: Sequence[Fleet]) -> list[FleetState]:  # type: ignore[misc]
        """A state per fleet; those that are not kept are read in one pass."""
        cache: dict[Any, FleetState] = self.__dict__.setdefault("_fleet_cache", {})
        keys = [self._fleet_key(fleet) for fleet in fleets]
        states = {key: cache.pop(key) for key in dict.fromkeys(keys) if key in cache}
        missing = {key: fleet for key, fleet in zip(keys, fleets, strict=True) if key not in states}
        if missing:
            batch = self.processor.robots(list(missing.values()))
            mask = batch["robot_attention_mask"].to(self.device)
            read = self.read_robots(batch["robot_input_ids"].to(self.device), mask)
            for key, rows in zip(missing, batch["robot_index"], strict=True):
                states[key] = type(read).gathered([(read, rows[rows >= 0].to(self.device))])
        cache.update(states)  # at the end: asked about last
        while len(cache) > self.fleet_cache_size:
            cache.pop(next(iter(cache)))
        return [states[key] for key in keys]

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
        distinct = list(dict.fromkeys(fleets))
        if len(distinct) > self.fleet_cache_size:
            batch |= self.processor.robots(fleets)  # a dataset's fleets come once: nothing to keep
        else:
            states = self._fleet_states(distinct)
            sizes = torch.tensor([len(fleet) for fleet in distinct])
            first = dict(zip(distinct, (sizes.cumsum(0) - sizes).tolist(), strict=True))
            place = torch.arange(int(sizes.max())).expand(len(chunk), -1)
            own = torch.tensor([len(fleet) for fleet in fleets])[:, None]
            start = torch.tensor([first[fleet] for fleet in fleets])[:, None]
            batch["robot_index"] = torch.where(place < own, place + start, -1)
            parts = [(s, torch.arange(len(f), device=self.device)) for s, f in zip(states, distinct, strict=True)]
            batch["fleet"] = states[0] if len(states) == 1 else type(states[0]).gathered(parts)
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

    def _read(  # type: ignore[misc]
        self: EmberVLM, batch: dict[str, Any], fleets: Sequence[Fleet], states: Tensor
    ) -> list[Read]:
        """What `Familiarity` sees of each request of a batch, `states` (B, N, D) being those of the direct scores."""
        mask = batch["attention_mask"][:, :, None].float()
        words = (self.language.embed(batch["input_ids"]).float() * mask).sum(dim=1) / mask.sum(dim=1)
        return [
            {"states": own[: len(fleet)], "words": task[None]}
            for own, task, fleet in zip(states, words, fleets, strict=True)
        ]

    def _answer(  # type: ignore[misc]
        self: EmberVLM, scores: Tensor, direct: Tensor, fleet: Fleet, read: Read, mode: str
    ) -> dict[str, Any]:
        """An answer from the scores (N,) that count, the direct ones, and what familiarity sees."""
        values, before = (given[: len(fleet)].float().cpu().numpy() for given in (scores, direct))
        kind = mode.removesuffix("_reasoned")
        confidence = self.confidences(values, mode)
        known: Familiarity | None = self.familiarity
        order = np.argsort(-values, kind="stable")
        team = [fleet.names[i] for i in order if confidence[i] >= self.config.team_threshold]
        return {
            "robots": [{"robot": fleet.names[i], "confidence": float(confidence[i])} for i in order],
            "team": team or [fleet.names[order[0]]],
            "none_of_these": self.none_probability(before, kind),
            "familiarity": None if known is None else known.share(kind, read),
            "plan": [],
            "reasoning": "",
            "scores": values,
        }

    def _reasoned_answer(  # type: ignore[misc]
        self: EmberVLM, written: Generation, row: int, fleet: Fleet, read: Read, pictured: bool
    ) -> dict[str, Any]:
        assert written.reasoned_scores is not None
        assert written.scores is not None
        mode = mode_of(pictured, reasoned=True)
        answer = self._answer(written.reasoned_scores[row], written.scores[row], fleet, read, mode)
        parts = self.processor.parts(written.sequences[row].tolist(), written.mentions[row].tolist(), fleet.names)
        steps, plan = parse_generated(parts)
        answer["steps"], answer["plan"] = steps, plan
        answer["reasoning"] = "\n".join(without_brackets(step) for step in steps)
        answer["direct_scores"] = written.scores[row, : len(fleet)].float().cpu().numpy()
        return answer

    def _looked(  # type: ignore[misc]
        self: EmberVLM, answers: Sequence[dict[str, Any]], batch: dict[str, Any], weights: Sequence[Tensor]
    ) -> None:
        """Put the mean over layers and heads of what each robot's selection token gave the picture into its answer.

        Of the weights the last pass counts: (B, H, N, K) per layer, the keys being fleet, picture, task, queries.
        """
        layers = self.config.decoder_config().num_hidden_layers
        index, mask = batch["robot_index"], batch.get("image_mask")
        start = index.shape[1] * batch["fleet"].token_mask.shape[1] if "fleet" in batch else 0
        if "robot_input_ids" in batch:
            start = index.shape[1] * batch["robot_input_ids"].shape[1]
        cells = self.config.image_tokens
        side = round(cells**0.5)
        for i, answer in enumerate(answers):
            answer["attention"] = None
            if mask is None or not bool(mask[i]):
                continue
            seen = torch.stack([w[i, :, -index.shape[1] :, start : start + cells].mean(0) for w in weights[-layers:]])
            seen = seen.mean(0)[: len(answer["scores"])]
            seen = seen / seen.sum(-1, keepdim=True).clamp_min(1e-12)
            answer["attention"] = seen.view(-1, side, side).cpu().numpy()


def pictured(request: dict[str, Any]) -> bool:
    """Whether a request has a picture."""
    return request.get("image") is not None


def _drained(steps: Generator[Any, Any, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
