"""What the five figures of stage 1, alignment, are drawn from.

Shape legend: S evaluations during training, V visual tokens, P image-text pairs, D width, N datasets, K ranks,
I pictures, L layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import ClassVar

from embervlm.monitoring.data.base import FREE, Array, Arrays, FigureData, Names, array, arrays, names, number


class _Stage1(FigureData):
    home: ClassVar[str] = "stage1"


@dataclass(frozen=True, eq=False)
class SimilarityEvolution(_Stage1):
    """How close each visual token is to the text, over training.

    Attributes:
        steps: (S,) training steps.
        similarity: (S, V) mean over pairs of the cosine between a visual token and its own text's embedding, both in
            the shared space; tokens in reading order of a square grid, so V is a square (49 = 7 × 7).
    """

    name: ClassVar[str] = "similarity_evolution_3d"
    along: ClassVar[tuple[str, ...]] = ("S",)

    steps: Array = array("S", dtype="int", low=0, increasing=True)
    similarity: Array = array("S", "V", low=-1.0001, high=1.0001)

    def check(self) -> None:
        count = self.similarity.shape[1]
        if isqrt(count) ** 2 != count:
            self.fail("similarity", f"{count} visual tokens are no square grid")


@dataclass(frozen=True, eq=False)
class EmbeddingEvolution(_Stage1):
    """Embeddings of the same pairs of image and text at several points of training.

    Attributes:
        steps: (S,) training steps.
        image, text: (S, P, D) embeddings in the shared space, of any length; row p of both is one pair.
    """

    name: ClassVar[str] = "tsne_embedding_evolution"
    along: ClassVar[tuple[str, ...]] = ("S",)

    steps: Array = array("S", dtype="int", low=0, increasing=True)
    image: Array = array("S", "P", "D", dtype="single")
    text: Array = array("S", "P", "D", dtype="single")

    def check(self) -> None:
        if self.image.shape[1] < 3:
            self.fail("image", f"{self.image.shape[1]} pairs show no neighbourhood; record at least 3")


@dataclass(frozen=True, eq=False)
class RetrievalAccuracy(_Stage1):
    """Retrieval in both directions on each dataset.

    Attributes:
        datasets: (N,) names.
        ranks: (K,) the k of recall@k.
        image_to_text, text_to_image: (N, K) share of queries whose partner is among the first k.
        pool: (N,) candidates that a query chooses from.
        queries: (N,) queries asked per direction.
        step: training step of the measurement.
    """

    name: ClassVar[str] = "retrieval_accuracy_heatmap"

    datasets: Names = names("N")
    ranks: Array = array("K", dtype="int", low=1, increasing=True)
    image_to_text: Array = array("N", "K", low=0, high=1, missing=True)
    text_to_image: Array = array("N", "K", low=0, high=1, missing=True)
    pool: Array = array("N", dtype="int", low=2)
    queries: Array = array("N", dtype="int", low=1)
    step: int = number(0, dtype="int", low=0)


@dataclass(frozen=True, eq=False)
class FeatureMaps(_Stage1):
    """What the vision encoder's layers answer to some pictures.

    Attributes:
        images: I arrays (height, width, 3) of bytes, as the encoder saw them before normalisation.
        layers: (L,) names, from the input to the output.
        maps: L arrays (I, height_l, width_l): mean over channels of the absolute activation.
        step: training step of the model.
    """

    name: ClassVar[str] = "vision_feature_maps"

    images: Arrays = arrays("I", FREE, FREE, "3", dtype="byte")
    layers: Names = names("L")
    maps: Arrays = arrays("L", "I", FREE, FREE, dtype="single", low=0)
    step: int = number(0, dtype="int", low=0)


@dataclass(frozen=True, eq=False)
class LossLandscape(_Stage1):
    """Where training went on the contrastive loss.

    Attributes:
        steps: (S,) training steps.
        positive: (S,) mean cosine distance (1 - cosine) of a batch's pairs.
        negative: (S,) mean cosine distance of its non-pairs.
        loss: (S,) contrastive loss of the batch, nats.
        scale: (S,) factor on the cosines (exp of the learnt logit scale).
        batch: texts that an image chooses from, the same in all steps.
    """

    name: ClassVar[str] = "contrastive_loss_landscape"
    along: ClassVar[tuple[str, ...]] = ("S",)

    steps: Array = array("S", dtype="int", low=0, increasing=True)
    positive: Array = array("S", low=-0.0001, high=2.0001)
    negative: Array = array("S", low=-0.0001, high=2.0001)
    loss: Array = array("S", low=0)
    scale: Array = array("S", low=0)
    batch: int = number(dtype="int", low=2)
