"""What can be read from the encoder's features by a linear classifier: what it sees, whatever it was trained for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import RidgeClassifierCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from embervlm.data.processor import EmberVLMProcessor
from embervlm.data.schema import Record
from embervlm.stages.base import chunks
from embervlm.stages.vision_warmup import FACTS
from embervlm.world.crops import SOURCE as CROPS

Floats = npt.NDArray[np.float32]
_STRENGTHS = (1.0, 10.0, 100.0, 1000.0, 10000.0)
#: Fewer records than this on either side measure nothing.
LEAST = 20


class Encoder(Protocol):
    """What is probed: the model, or anything that gives features of its pictures as the model does."""

    @property
    def device(self) -> torch.device:
        """Where its pictures go."""
        ...

    def eval(self) -> object:
        """Stop training."""
        ...

    def visual_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Pictures (B, 3, S, S) of bytes → features (B, P, V)."""
        ...


@torch.inference_mode()
def pooled(model: Encoder, processor: EmberVLMProcessor, records: Sequence[Record], batch_size: int = 64) -> Floats:
    """The mean and the maximum of each picture's features, (N, 2 V)."""
    model.eval()
    rows = []
    for group in chunks(records, batch_size):
        pixels = processor.images([record.image for record in group])["pixel_values"].to(model.device)
        features = model.visual_features(pixels).float()
        rows.append(torch.cat([features.mean(dim=1), features.amax(dim=1)], dim=1).cpu())
    return np.asarray(torch.cat(rows), np.float32)


def linear_probe(fit: Floats, fit_labels: Sequence[str], score: Floats, score_labels: Sequence[str]) -> float:
    """Accuracy on (M, D) of a ridge classifier fitted on (N, D), its strength chosen by leaving one out."""
    probe = make_pipeline(StandardScaler(), RidgeClassifierCV(alphas=_STRENGTHS))
    probe.fit(fit, np.asarray(fit_labels))
    return float(np.mean(probe.predict(score) == np.asarray(score_labels)))


def probe_accuracies(
    model: Encoder, processor: EmberVLMProcessor, fit: Sequence[Record], score: Sequence[Record]
) -> dict[str, float]:
    """Accuracy of linear probes of the encoder.

    Args:
        model: its encoder is probed.
        processor: of the model.
        fit: records that the probes are fitted on.
        score: others, that they are measured on. Of panoramas these are crops in other directions.

    Returns:
        `probe_<fact>` for each fact of the scene graph, `probe_facts` their mean, and `probe_panorama`: which
        panorama a crop is of. What too few records know is left out.
    """
    seen = pooled(model, processor, fit), pooled(model, processor, score)
    found: dict[str, float] = {}
    for fact in (*FACTS, "panorama"):
        labels = [[_label(record, fact) for record in records] for records in (fit, score)]
        known = [np.array([label is not None for label in side], bool) for side in labels]
        names = [[label for label in side if label is not None] for side in labels]
        if min(map(len, names)) < LEAST or len(set(names[0])) < 2:
            continue
        found[f"probe_{fact}"] = linear_probe(seen[0][known[0]], names[0], seen[1][known[1]], names[1])
    facts = [found[f"probe_{fact}"] for fact in FACTS if f"probe_{fact}" in found]
    return found | ({"probe_facts": float(np.mean(facts))} if facts else {})


def _label(record: Record, fact: str) -> str | None:
    if fact == "panorama":
        return str(record.tags["picture"]["background"]) if record.source == CROPS else None
    value = record.tags.get("scene", {}).get(fact)
    return None if value is None else str(value)
