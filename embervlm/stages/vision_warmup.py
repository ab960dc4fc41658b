"""Stage 0: teach the vision encoder to see, where it has no pretrained weights.

The encoder is frozen from stage 1 on, as in the published recipe, which starts from ImageNet weights. Without them,
frozen random features would leave every later stage half blind. So the encoder first learns to tell the facts of the
scene graph of EmberWorld's training pictures; the heads that read them are thrown away. With a weight above 0 for
`teacher` or `classes` it learns the features or the classes of a network of ImageNet too, on every picture there is
(`embervlm.stages.teacher`), and with `mixup` on blends of photographs (`embervlm.stages.mixup`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from embervlm.data.processor import EmberVLMProcessor
from embervlm.data.schema import Record
from embervlm.stages.base import Batch, Gather, Stage, StageModule, chunks, draws, to_device
from embervlm.stages.mixup import NUMBERS, mix
from embervlm.stages.teacher import Likeness, Naming, Teacher, load_teacher
from embervlm.world import ontology

if TYPE_CHECKING:
    # Processes that only make batches need no model.
    from embervlm.models.modeling import EmberVLM

#: The facts a picture shows, with their values.
FACTS: dict[str, tuple[str, ...]] = {
    "environment": tuple(ontology.ENVIRONMENTS),
    "weather": ontology.WEATHERS,
    "light": ontology.LIGHTS,
    "terrain": ontology.TERRAINS,
    "access": ontology.ACCESSES,
    "site": ontology.SITES,
    "hazard": ontology.HAZARDS,
    "size": ontology.SIZES,
    "kind": tuple(ontology.KINDS),
    "color": ontology.COLORS,
}

#: What decides who can do a task counts most; the 51 kinds would otherwise take over the small encoder.
WEIGHTS = MappingProxyType(
    dict.fromkeys(FACTS, 1.0)
    | {"terrain": 2.0, "size": 2.0, "light": 0.5, "kind": 0.2, "color": 0.4}
    | {"teacher": 0.0, "classes": 0.0}
)


class VisionWarmupModule(StageModule):
    """A linear head per fact on mean- and max-pooled visual features."""

    def __init__(self, model: EmberVLM, weights: Mapping[str, float]) -> None:
        super().__init__(model, weights)
        width = 2 * model.vision.width
        self.heads = nn.ModuleDict({fact: nn.Linear(width, len(values)) for fact, values in FACTS.items()})
        self._teacher: list[Teacher] = []  # in a list, so that it is no submodule and is never saved
        self.likeness: Likeness | None = None
        self.naming: Naming | None = None
        if self.weights["teacher"] or self.weights["classes"]:
            self._teacher.append(load_teacher())
        if self.weights["teacher"]:
            self.likeness = Likeness(model.vision.width)
        if self.weights["classes"]:
            self.naming = Naming(model.vision.width)

    def logits(self, features: Tensor) -> dict[str, Tensor]:
        """The encoder's features (B, P, V) → per fact (B, values)."""
        pooled = torch.cat([features.mean(dim=1), features.amax(dim=1)], dim=1)
        return {fact: head(pooled).float() for fact, head in self.heads.items()}

    def forward(self, batch: Batch, progress: float = 0.0, gather: Gather | None = None) -> dict[str, Tensor]:
        """Weighted mean of the facts' cross-entropy, plus the teacher's part; facts that are unknown are left out.

        Raises:
            ValueError: no record knows a fact, and there is no teacher.
        """
        losses: dict[str, Tensor] = {}
        correct = []
        features = self.model.visual_features(batch["pixel_values"])
        for fact, logits in self.logits(features).items():
            target = batch[f"fact_{fact}"]
            known = target >= 0
            if bool(known.any()):
                losses[fact] = F.cross_entropy(logits[known], target[known])
                correct.append((logits[known].argmax(1) == target[known]).float().mean())
        found = {}
        loss = features.new_zeros((), dtype=torch.float32)
        if losses:
            weights = [self.weights[fact] for fact in losses]
            values = torch.stack(list(losses.values()))
            loss = loss + (values * values.new_tensor(weights)).sum() / sum(weights)
            found["fact_accuracy"] = torch.stack(correct).mean()
        elif not self._teacher:
            raise ValueError(
                "stage 0: no picture of this batch has facts to learn, and stages.0.losses.teacher and .classes are 0"
            )
        for name, unlike in self.unlike(features, batch["pixel_values"]).items():
            loss = loss + self.weights[name] * unlike
            found[name] = unlike
        return {"loss": loss, **found}

    def unlike(self, features: Tensor, pixel_values: Tensor) -> dict[str, Tensor]:
        """How far the encoder's features (B, P, V) are from what the teacher sees in pictures (B, 3, S, S).

        By the names of the weights above 0: `teacher` the features, `classes` the classes; none without a teacher.
        """
        found: dict[str, Tensor] = {}
        if self._teacher:
            teacher = self._teacher[0].to(pixel_values.device)
            taught = teacher(pixel_values)
            if self.likeness is not None:
                found["teacher"] = self.likeness(features, taught)
            if self.naming is not None:
                found["classes"] = self.naming(features, taught, teacher)
        return found


class VisionWarmup(Stage):
    """Train the vision encoder on the scene graph's facts."""

    number, name, kind = 0, "vision_warmup", "caption"
    judged = MappingProxyType(dict.fromkeys(("fact_accuracy", *(f"{fact}_accuracy" for fact in FACTS)), "max"))
    metric = "fact_accuracy"
    trains_vision = ("main",)
    weights = WEIGHTS

    def trained(self, model: EmberVLM, phase: str) -> list[nn.Module | nn.Parameter]:
        """The vision encoder."""
        return [model.vision]

    def module(self, model: EmberVLM) -> VisionWarmupModule:
        """The model with a head per fact."""
        return VisionWarmupModule(model, self.weights)

    def length(self, record: Record) -> int:
        """The same for every record: a caption is not read, and every picture costs what another does.

        Batches by the length of captions would be batches by source, whose statistics batch normalisation then takes
        for those of all.
        """
        return 0

    def collate(self, processor: EmberVLMProcessor, records: Sequence[Record], seed: int | None) -> Batch:
        """Pictures and the facts' values. In training half of the pictures are mirrored: no fact has a side.

        With `mixup`, training pictures without a scene graph are mixed; of a blend no fact is known.
        """
        batch: Batch = processor.images([r.image for r in records])
        scenes = [r.tags.get("scene", {}) for r in records]
        for fact, values in FACTS.items():
            known = [scene.get(fact) for scene in scenes]
            batch[f"fact_{fact}"] = torch.tensor([values.index(v) if v in values else -1 for v in known])
        if seed is None:
            return batch
        chance = draws(records, seed, 1 + NUMBERS)
        pixels, mirrored = batch["pixel_values"], torch.from_numpy(chance[:, 0] < 0.5)
        batch["pixel_values"] = torch.where(mirrored[:, None, None, None], pixels.flip(3), pixels)
        # A scene's thing and obstacle are small: a part of it, or a blend, may not show what its graph says.
        photographs = [i for i, scene in enumerate(scenes) if "kind" not in scene]
        if self.mixup and photographs:
            mixed, blends = mix(batch["pixel_values"][photographs], self.mixup, chance[photographs, 1:])
            batch["pixel_values"][photographs] = mixed
            for fact in FACTS:
                batch[f"fact_{fact}"][torch.tensor(photographs)[blends]] = -1
        return batch

    @torch.inference_mode()
    def evaluate(
        self, module: StageModule, processor: EmberVLMProcessor, records: Sequence[Record], batch_size: int = 64
    ) -> dict[str, float]:
        """Accuracy per fact and their mean; with a teacher, how like its features the encoder's are (1 is the same).

        And `classes_divergence`, how far its classes are (nats; 0 is the same), where those are taught.
        """
        assert isinstance(module, VisionWarmupModule)
        module.eval()
        hits: dict[str, list[float]] = {fact: [] for fact in FACTS}
        unlike: dict[str, list[float]] = {}
        for group in chunks(records, batch_size):
            batch = to_device(self.collate(processor, group, None), module.model.device)
            features = module.model.visual_features(batch["pixel_values"])
            for name, value in module.unlike(features, batch["pixel_values"]).items():
                unlike.setdefault(name, []).extend([float(value)] * len(group))
            for fact, logits in module.logits(features).items():
                target = batch[f"fact_{fact}"]
                known = target >= 0
                hits[fact].extend((logits.argmax(1) == target)[known].float().tolist())
        accuracy = {f"{fact}_accuracy": float(np.mean(h)) for fact, h in hits.items() if h}
        likeness = {}
        if "teacher" in unlike:
            likeness["teacher_likeness"] = 1 - float(np.mean(unlike["teacher"]))
        if "classes" in unlike:
            likeness["classes_divergence"] = float(np.mean(unlike["classes"]))
        return accuracy | likeness | {"fact_accuracy": float(np.mean(list(accuracy.values())))}
