"""How far an answer can be trusted: calibration by mode, the chance that no robot suits, and familiarity.

Shape legend: N robots, D decoder width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.utils import cached_file

#: What an answer was made from: a picture or text alone, directly or after a chain. A calibration belongs to one.
KINDS = ("picture", "text")
MODES = (*KINDS, *(f"{kind}_reasoned" for kind in KINDS))
#: Where a model folder keeps its `Familiarity`.
FILE = "familiarity.safetensors"
#: What of `from_pretrained`'s arguments says where on a hub the files are.
HUB_ARGUMENTS = {"cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token"}


def mode_of(pictured: bool, reasoned: bool) -> str:
    """The mode of an answer."""
    return ("picture" if pictured else "text") + ("_reasoned" if reasoned else "")


def fitted(table: Mapping[str, Sequence[float]] | None, mode: str, default: tuple[float, float]) -> tuple[float, float]:
    """Temperature and bias of a mode; where it has none, of the same input without a chain; else the default."""
    found = table or {}
    value = found.get(mode, found.get(mode.removesuffix("_reasoned"), default))
    return float(value[0]), float(value[1])


def none_log_odds(log_odds: NDArray[Any]) -> float:
    """The log-odds that no robot is able, if robots were independent, from every robot's (N,) that it is.

    log Π(1 − p) = −Σ softplus(z); the log-odds of that product follow without leaving the logarithm.
    """
    product = -float(np.logaddexp(0.0, np.asarray(log_odds, dtype=np.float64)).sum())
    product = min(product, -1e-9)
    return product - float(np.log(-np.expm1(product)))


class Familiarity:
    """How far an input is from what the model was trained on, as a share of validation inputs at least as far.

    A robot's state (D,) is what the model made of it, the task and the picture, just before the score. Its distance is
    Mahalanobis' to the states of training; an input's is the mean over its fleet. Inputs with a picture and without
    are compared with their own kind.

    Args:
        tensors: per kind ("picture", "text") `<kind>.mean` (D,), `<kind>.whitening` (D, D) with W·Wᵀ the inverse
            covariance, and `<kind>.distances`, those of the validation inputs, ascending.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = {name: value.float().cpu() for name, value in tensors.items()}

    @classmethod
    def fit(
        cls, training: Mapping[str, Sequence[NDArray[Any]]], validation: Mapping[str, Sequence[NDArray[Any]]]
    ) -> Familiarity:
        """From states (N, D) of the inputs of both splits by kind; the covariance is shrunk after Ledoit and Wolf."""
        from sklearn.covariance import LedoitWolf  # slow to import, and only fitting needs it

        tensors: dict[str, Tensor] = {}
        for kind, states in training.items():
            if not len(states) or not len(validation.get(kind, ())):
                continue
            every = np.concatenate(states).astype(np.float64)
            found = LedoitWolf().fit(every)
            values, vectors = np.linalg.eigh(found.covariance_)
            whitening = vectors / np.sqrt(np.maximum(values, 1e-8))
            tensors[f"{kind}.mean"] = torch.from_numpy(found.location_)
            tensors[f"{kind}.whitening"] = torch.from_numpy(whitening)
        itself = cls(tensors)
        for kind, states in validation.items():
            if f"{kind}.mean" in itself.tensors:
                distances = torch.tensor([itself.distance(kind, torch.from_numpy(s)) for s in states])
                itself.tensors[f"{kind}.distances"] = distances.float().sort().values
        return itself

    def distance(self, kind: str, states: Tensor) -> float:
        """The mean distance of an input's robots (N, D), in units of √D."""
        centred = states.float().cpu() - self.tensors[f"{kind}.mean"]
        apart = (centred @ self.tensors[f"{kind}.whitening"]).square().mean(dim=-1).sqrt()
        return float(apart.mean())

    def share(self, kind: str, states: Tensor) -> float | None:
        """The share of validation inputs of a kind that are at least as far as these states (N, D); None without any.

        0 is further than all of them. Counted with the input itself among them, so that it is never exactly 0.
        """
        known = self.tensors.get(f"{kind}.distances")
        if known is None:
            return None
        nearer = int(torch.searchsorted(known, torch.tensor(self.distance(kind, states))))
        return (len(known) - nearer + 1) / (len(known) + 1)

    def save(self, folder: str | Path) -> None:
        """Write it into a model folder."""
        from safetensors.torch import save_file

        save_file({name: value.contiguous() for name, value in self.tensors.items()}, Path(folder, FILE))

    @classmethod
    def load(cls, name: str | Path, **where: Any) -> Familiarity | None:
        """That of a model folder or of a hub's model; None where it has none (as folders of older versions).

        Args:
            where: which of the hub's revisions and caches, as `from_pretrained` was told.
        """
        from safetensors.torch import load_file

        missing_is_fine = {
            "_raise_exceptions_for_missing_entries": False,
            "_raise_exceptions_for_connection_errors": False,  # without a network: what the cache has
        }
        path = cached_file(str(name), FILE, **missing_is_fine, **where)
        return None if path is None else cls(load_file(path))
