"""The golden set: what a version must answer before it takes traffic.

The questions are records of EmberWorld's test split, made here from a seed, so that their answers are known and nothing
has to be stored. A version passes where every answer is finite, its first choice is about as often right as its own
registered test figure says, and the precision it is served in chooses as float32 does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np

from ember_platform.config_serving import GoldenConfig
from ember_platform.serving.engine import Engine, Precision, Request, UnfitError
from embervlm.data.images import open_image, to_square
from embervlm.data.schema import Record
from embervlm.fleet import Fleet

#: Questions in one pass: few, since requests wait meanwhile.
BATCH = 4
#: Two choices whose float32 scores differ by less (log-odds) are the same choice: rounding may swap them.
TIE = 0.25
Run = Callable[[Callable[[], Any]], Any]


@lru_cache(maxsize=4)
def records(samples: int, seed: int, image_size: int) -> tuple[Record, ...]:
    """The questions with their answers."""
    from embervlm.world.dataset import build

    return tuple(build("test", "selection", samples, seed, image_size))


def check(engine: Engine, config: GoldenConfig, precision: Precision, run: Run) -> dict[str, Any]:
    """Ask the questions, and switch the engine to the precision that it is to be served in.

    Args:
        run: calls a function where the model computes, between requests, and gives its result.

    Returns:
        What was found, for `/v1/model`.

    Raises:
        UnfitError: why the version does not pass.
    """
    started = time.monotonic()
    asked = records(config.samples, config.seed, engine.image_size)
    requests = [_request(record, engine.image_size) for record in asked]
    reference = _ask(engine, requests, run)
    found: dict[str, Any] = {"questions": len(asked), "first_choice": round(_first_choice(reference, asked), 4)}
    if precision != engine.precision:
        run(engine.narrow)
        narrow = _ask(engine, requests, run)
        found["agreement"] = round(_agreement(reference, narrow), 4)
        if found["agreement"] < config.min_agreement:
            raise UnfitError(f"{precision} chooses as float32 does in {found['agreement']:.0%} of the golden set")
        found["first_choice"] = round(_first_choice(narrow, asked), 4)
    least = config.min_first_choice
    claimed = engine.facts.metrics.get("first_choice")
    if claimed is not None:
        found["claimed_first_choice"] = round(claimed, 4)
        least = max(least, claimed - config.max_drop)
    if found["first_choice"] < least:
        raise UnfitError(
            f"its first choice is right in {found['first_choice']:.0%} of the golden set, {least:.0%} asked"
        )
    _write(engine, requests[0], run)
    found["seconds"] = round(time.monotonic() - started, 2)
    return found


def _request(record: Record, size: int) -> Request:
    from PIL import Image

    image = None
    if record.image is not None:
        image = Image.fromarray(to_square(open_image(record.image), size).transpose(1, 2, 0))
    return Request(record.instruction, Fleet.of(record.robots), image, attention=False)


def _ask(engine: Engine, requests: Sequence[Request], run: Run) -> list[np.ndarray]:
    """Scores of every question, in fleet order."""
    scores: list[np.ndarray] = []
    for start in range(0, len(requests), BATCH):
        part = requests[start : start + BATCH]
        try:
            answers = run(partial(engine.select, part))
        except (RuntimeError, ValueError, ArithmeticError, IndexError, KeyError) as error:
            raise UnfitError(f"a golden question fails ({type(error).__name__})") from error
        scores.extend(np.asarray(answer["scores"]) for answer in answers)
        if not all(0 <= robot["confidence"] <= 1 for answer in answers for robot in answer["robots"]):
            raise UnfitError("a confidence is no probability")
    return scores


def _write(engine: Engine, request: Request, run: Run) -> None:
    """One text of a few tokens: that it can be written at all."""

    def write() -> None:
        for _ in engine.reason([request], 4):
            pass

    try:
        run(write)
    except (RuntimeError, ValueError, ArithmeticError, IndexError, KeyError) as error:
        raise UnfitError(f"it cannot write a reasoning ({type(error).__name__})") from error


def _first_choice(scores: Sequence[np.ndarray], asked: Sequence[Record]) -> float:
    hits = [
        Fleet.of(record.robots).names[int(np.argmax(own))] in record.labels
        for own, record in zip(scores, asked, strict=True)
    ]
    return float(np.mean(hits))


def _agreement(reference: Sequence[np.ndarray], narrow: Sequence[np.ndarray]) -> float:
    same = [full[int(np.argmax(own))] >= full.max() - TIE for full, own in zip(reference, narrow, strict=True)]
    return float(np.mean(same))
