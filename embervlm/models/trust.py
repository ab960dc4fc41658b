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
#: What familiarity looks at: the robots' states before the score (N, D), the task's mean word embedding (1, D).
PARTS = ("states", "words")
#: An input as familiarity sees it: part → rows.
Read = Mapping[str, Tensor]
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

    Two parts of what the model reads are compared with training, each by Mahalanobis' distance (`PARTS`): every robot's
    state just before its score, which is what became of robot, task and picture together, and the mean of the task's
    word embeddings: a state hardly shows words that the model passes over. An input is as far as its further part.
    Inputs with a picture and without are compared with their own kind.

    Args:
        tensors: per kind ("picture", "text") and part `<kind>.<part>.mean` (D,), `<kind>.<part>.whitening` (D, D) with
            W·Wᵀ the inverse covariance, and `<kind>.<part>.distances` of the validation inputs; and `<kind>.shares`,
            the smaller of their two shares. The last two ascend.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = {name: value.float().cpu() for name, value in tensors.items()}

    @classmethod
    def fit(cls, training: Mapping[str, Sequence[Read]], validation: Mapping[str, Sequence[Read]]) -> Familiarity:
        """From the parts of the inputs of both splits by kind; the covariance is shrunk after Ledoit and Wolf."""
        itself = cls({})
        for kind, seen in training.items():
            inputs = validation.get(kind, ())
            if not seen or not inputs:
                continue
            for part in PARTS:
                name = f"{kind}.{part}"
                itself.tensors |= _whitening(name, torch.cat([read[part].float().cpu() for read in seen]))
                distances = torch.tensor([itself.distance(name, read[part]) for read in inputs])
                itself.tensors[f"{name}.distances"] = distances.sort().values
            itself.tensors[f"{kind}.shares"] = (
                torch.tensor([itself._least(kind, read) for read in inputs]).sort().values
            )
        return itself

    def distance(self, name: str, rows: Tensor) -> float:
        """The mean distance of an input's rows (N, D) of `<kind>.<part>`, in units of √D."""
        centred = rows.float().cpu() - self.tensors[f"{name}.mean"]
        return float((centred @ self.tensors[f"{name}.whitening"]).square().mean(dim=-1).sqrt().mean())

    def _least(self, kind: str, read: Read) -> float:
        """The smaller share of the two parts."""
        shares = []
        for part in PARTS:
            known = self.tensors[f"{kind}.{part}.distances"]
            nearer = int(torch.searchsorted(known, torch.tensor(self.distance(f"{kind}.{part}", read[part]))))
            shares.append((len(known) - nearer) / len(known))
        return min(shares)

    def share(self, kind: str, read: Read) -> float | None:
        """The share of validation inputs of a kind that are at least as far as this one; None without any.

        Counted with the input itself among them, so that it is never exactly 0.
        """
        known = self.tensors.get(f"{kind}.shares")
        if known is None:
            return None
        as_far = int(torch.searchsorted(known, torch.tensor(self._least(kind, read)), right=True))
        return (as_far + 1) / (len(known) + 1)

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


def _whitening(name: str, rows: Tensor) -> dict[str, Tensor]:
    from sklearn.covariance import LedoitWolf  # slow to import, and only fitting needs it

    found = LedoitWolf().fit(rows.double().numpy())
    values, vectors = np.linalg.eigh(found.covariance_)
    whitening = vectors / np.sqrt(np.maximum(values, 1e-8))
    tensors = {f"{name}.mean": found.location_, f"{name}.whitening": whitening}
    return {key: torch.from_numpy(value).float() for key, value in tensors.items()}
