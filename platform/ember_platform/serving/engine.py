"""One loaded version of the model: from a folder to answers.

Everything that computes (`select`, `reason`, `warm`) runs on the one thread of `worker.Worker`; `prepare` runs in the
threads that decode pictures.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ember_platform.config_serving import LimitsConfig
from ember_platform.registry import folder_digest
from ember_platform.serving import pictures
from ember_platform.serving.problems import invalid
from ember_platform.serving.schemas import ModelRef, VersionInfo
from embervlm.fleet import Fleet

if TYPE_CHECKING:
    from torch import Tensor

    from embervlm import EmberVLM

logger = logging.getLogger(__name__)

Precision = Literal["fp32", "bf16"]
LINEAGE = ("stage", "code_revision", "data_digest", "config_digest", "parent", "registered_from")


class UnfitError(RuntimeError):
    """A version that must not take traffic. The message says why, without a path."""


@dataclass(frozen=True)
class Facts:
    """What is known of a version before it is loaded."""

    name: str
    version: str
    alias: str | None
    source: str
    digest: str | None = None  # sha256 that the folder must have; None: whatever it has
    lineage: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """A question as the model takes it."""

    task: str
    fleet: Fleet
    image: Any  # RGB square of the model's size, or None
    attention: bool

    def as_dict(self) -> dict[str, Any]:
        """The mapping that `select_many` takes."""
        return {"task": self.task, "fleet": self.fleet, "image": self.image}


class Engine:
    """A version that is loaded and answers."""

    def __init__(
        self, model: EmberVLM, facts: Facts, precision: Precision, digest: str, checks: dict[str, Any]
    ) -> None:
        self.model = model
        self.facts = facts
        self.precision: Precision = precision
        self.digest = digest
        self.golden = checks
        self.loaded_at = datetime.now(UTC)
        self.image_size = int(model.config.image_size)

    @classmethod
    def load(cls, folder: Path, facts: Facts, fleet_cache: int = 64, device: str = "cpu") -> Engine:
        """Read a model folder, in float32.

        Raises:
            UnfitError: not the folder that was registered, not readable, weights missing or not finite.
        """
        import torch

        from embervlm import EmberVLM

        digest = folder_digest(folder)
        if facts.digest is not None and digest != facts.digest:
            raise UnfitError("its files are not those that were registered (sha256 differs)")
        try:
            loaded: Any = EmberVLM.from_pretrained(folder, output_loading_info=True, use_safetensors=True)
            model, info = loaded
            _ = model.processor
        except Exception as error:
            # Whatever a damaged file makes the libraries raise, the version is not to be served.
            raise UnfitError(f"it cannot be loaded ({type(error).__name__})") from error
        wrong = [name for key in ("missing_keys", "mismatched_keys", "unexpected_keys") for name in info.get(key) or ()]
        if wrong:
            raise UnfitError(f"{len(wrong)} weights do not fit its configuration, as {wrong[0]!s:.80}")
        with torch.inference_mode():
            broken = next((n for n, p in model.named_parameters() if not bool(torch.isfinite(p).all())), None)
        if broken is not None:
            raise UnfitError(f"weights of {broken} are not finite")
        model.fleet_cache_size = fleet_cache
        return cls(model.to(device).eval().requires_grad_(False), facts, "fp32", digest, {})

    def narrow(self) -> None:
        """Answer in bf16 from now on, the encoder's weights packed for this processor."""
        import torch

        self.model.answer_in(torch.bfloat16, packed=True)
        self.precision = "bf16"

    @property
    def version(self) -> str:
        """Its version as answers name it."""
        return self.facts.version

    @property
    def ref(self) -> ModelRef:
        """What answers say about it."""
        return ModelRef(name=self.facts.name, version=self.facts.version, alias=self.facts.alias)

    def info(self) -> VersionInfo:
        """What `/v1/model` says about it."""
        return VersionInfo(
            name=self.facts.name,
            version=self.facts.version,
            alias=self.facts.alias,
            source=self.facts.source,
            digest=self.digest,
            parameters=self.model.num_parameters(),
            precision=self.precision,
            loaded_at=self.loaded_at.isoformat(timespec="seconds"),
            lineage=dict(self.facts.lineage),
            metrics=dict(self.facts.metrics),
            golden=self.golden,
        )

    # ------------------------------------------------------------ before the model

    def prepare(
        self, task: str, fleet: Fleet, content: bytes | None, attention: bool, limits: LimitsConfig, field_: str = ""
    ) -> Request:
        """Check what depends on this model and decode the picture.

        Args:
            field_: prefix of field names in errors, as "requests.3.".

        Raises:
            ProblemError: a text longer than the model reads, or a picture that is refused.
        """
        tokens = len(self.model.processor.words(task))
        if tokens > self.model.config.max_text_tokens:
            raise invalid(f"{field_}task", f"{tokens} tokens; the model reads {self.model.config.max_text_tokens}")
        if not tokens:
            raise invalid(f"{field_}task", "is blank to the model")
        self.check_fleet(fleet, f"{field_}fleet")
        image = None if content is None else pictures.decode(content, self.image_size, limits, f"{field_}image")
        return Request(task, fleet, image, attention)

    def check_fleet(self, fleet: Fleet, field_: str) -> None:
        """That every robot's description fits the model.

        Raises:
            ProblemError: the first that does not.
        """
        from embervlm.data.prompts import robot_text

        if self.model.knows_fleet(fleet):
            return
        most = self.model.config.max_robot_tokens
        for i, robot in enumerate(fleet):
            tokens = len(self.model.processor.words(robot_text(robot)))
            if tokens > most:
                raise invalid(f"{field_}.{i}", f"its description has {tokens} tokens, the model reads {most}")

    # ------------------------------------------------------------ on the model's thread

    def select(self, requests: Sequence[Request]) -> list[dict[str, Any]]:
        """Answers of `select_many`, with attention where the requests (alike in that) ask for it.

        Raises:
            FloatingPointError: a score is not finite.
        """
        answers = self.model.select_many([r.as_dict() for r in requests], attention=requests[0].attention)
        return _finite(answers)

    def reason(
        self, requests: Sequence[Request], max_new_tokens: int
    ) -> Generator[tuple[Tensor, Tensor], Tensor | None, list[dict[str, Any]]]:
        """The same with reasoning, a token at a time; see `EmberVLM.reason`."""
        answers = yield from self.model.reason([r.as_dict() for r in requests], max_new_tokens, requests[0].attention)
        return _finite(answers)

    def read_fleet(self, fleet: Fleet) -> None:
        """Compute a fleet's keys and values now, so that the first question about it does not wait for them."""
        import torch

        with torch.inference_mode():
            self.model.fleet_state(fleet.robots)


def _finite(answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if not all(np.isfinite(answer["scores"]).all() for answer in answers):
        raise FloatingPointError("a score is not finite")
    return answers
