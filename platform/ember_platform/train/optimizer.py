"""The optimizers a stage may name: AdamW for all parameters, or Muon for the hidden matrices and AdamW for the rest.

Muon (Jordan et al., 2024; scaled as in arXiv:2502.16982, so that it shares AdamW's learning rate and weight decay)
makes the update of a matrix orthogonal, so that directions with small gradients are learned as fast as those with large
ones. It needs whole matrices and therefore ZeRO stage 0. Making updates orthogonal is most of an optimizer's step on a
CPU, so several workers share it out among them. A convolution of one place (1 × 1) is a matrix as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ember_platform.train import collectives

#: The optimizers by the name that a configuration uses.
NAMES = ("adamw", "muon")
#: Where a parameter group keeps its learning rate as a share of the stage's.
SHARE = "rate_share"
#: Where torch's Muon keeps what it remembers of a matrix.
_MOMENTUM = "momentum_buffer"


class MuonAdamW(torch.optim.Optimizer):
    """torch's Muon and torch's AdamW over one list of parameter groups and one state, as an engine expects it.

    Args:
        matrices: groups of parameters (O, I) or (O, I, 1, 1), for Muon.
        others: groups of all else, for AdamW.
    """

    def __init__(self, matrices: list[dict[str, Any]], others: list[dict[str, Any]]) -> None:
        with _as_matrices(matrices, {}):
            muon = torch.optim.Muon(matrices, lr=0.0, adjust_lr_fn="match_rms_adamw")
        adamw = torch.optim.AdamW(others, lr=0.0, fused=True)
        self._parts: list[torch.optim.Optimizer] = [muon, adamw]
        self._counts = [len(muon.param_groups), len(adamw.param_groups)]
        super().__init__([*muon.param_groups, *adamw.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Let both parts work on this optimizer's own groups and state, which loading replaces."""
        start = 0
        for part, count in zip(self._parts, self._counts, strict=True):
            part.param_groups = self.param_groups[start : start + count]
            part.state = self.state
            start += count

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's."""
        super().load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient; closures are not supported.

        Raises:
            ValueError: a closure was given.
        """
        if closure is not None:
            raise ValueError("MuonAdamW.step takes no closure")
        muon, adamw = self._parts
        with _as_matrices(muon.param_groups, self.state):
            if collectives.world_size() > 1:
                self._step_together(muon)
            else:
                muon.step()
        adamw.step()

    def _step_together(self, muon: torch.optim.Optimizer) -> None:
        """Muon's step, each matrix updated by one rank for all: what every rank would have come to, bit for bit.

        The momentum is kept by every rank, so that any of them can write or read a checkpoint.
        """
        matrices = [(p, group["momentum"]) for group in muon.param_groups for p in group["params"]]
        owners = shared_out([p.numel() * min(p.shape) for p, _ in matrices], collectives.world_size())
        others = [(p, p.grad, m) for (p, m), owner in zip(matrices, owners, strict=True) if owner != collectives.rank()]
        for matrix, gradient, momentum in others:
            if gradient is not None:
                kept = self.state[matrix].setdefault(_MOMENTUM, torch.zeros_like(gradient))
                kept.lerp_(gradient, 1 - momentum)
            matrix.grad = None  # torch's Muon passes over it
        muon.step()
        for matrix, gradient, _ in others:
            matrix.grad = gradient
        collectives.from_owners([p for p, _ in matrices], owners)


@contextmanager
def _as_matrices(groups: Sequence[dict[str, Any]], state: Mapping[Any, dict[str, Any]]) -> Iterator[None]:
    """Within it, kernels (O, I, 1, 1) of parameter groups are matrices (O, I), as torch's Muon wants them.

    So are their gradients and what is remembered of them, which has a parameter's own shape everywhere else. All stay
    the same numbers in the same memory.
    """
    kernels = [(p, p.shape) for group in groups for p in group["params"] if p.ndim > 2]
    for kernel, shape in kernels:
        _reshape(kernel, shape[:2], state)
    try:
        yield
    finally:
        for kernel, shape in kernels:
            _reshape(kernel, shape, state)


def _reshape(parameter: nn.Parameter, shape: torch.Size, state: Mapping[Any, dict[str, Any]]) -> None:
    """Give a parameter, its gradient and its momentum, where there are any, another shape of as many numbers."""
    gradient, parameter.grad = parameter.grad, None  # a gradient must have its parameter's shape at all times
    parameter.data = parameter.data.view(shape)
    parameter.grad = None if gradient is None else gradient.view(shape)
    remembered = state.get(parameter, {})
    if _MOMENTUM in remembered:
        remembered[_MOMENTUM] = remembered[_MOMENTUM].view(shape)


def shared_out(costs: Sequence[int], parts: int) -> list[int]:
    """Which of so many parts takes each piece of work: the dearest first, each to the part that has least so far."""
    taken, owners = [0] * parts, [0] * len(costs)
    for i in sorted(range(len(costs)), key=lambda i: -costs[i]):
        owners[i] = taken.index(min(taken))
        taken[owners[i]] += costs[i]
    return owners


def hidden_matrices(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that Muon is made for: trained weights of layers that map features to features.

    Linear layers, and convolutions of one place that mix all channels. Embedding tables, the vocabulary's output layer,
    maps with fewer than 16 inputs or outputs, wider and depthwise kernels, and tables of places are not.
    """
    tables = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    found: list[nn.Parameter] = []
    for layer in module.modules():
        if not isinstance(layer, nn.Linear) and not _mixes_channels(layer):
            continue
        weight = layer.weight
        if not isinstance(weight, nn.Parameter) or not weight.requires_grad or id(weight) in tables:
            continue
        if min(weight.shape[:2]) >= 16:
            found.append(weight)
    return found


def _mixes_channels(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.groups == 1 and layer.kernel_size == (1, 1)


def parameter_groups(parameters: list[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: matrices decay; biases, norms and scalars do not."""
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_optimizer(
    name: str,
    module: nn.Module,
    weight_decay: float,
    pretrained: Iterable[nn.Parameter] = (),
    pretrained_rate: float = 1.0,
) -> torch.optim.Optimizer:
    """The optimizer of this name over the module's parameters that train, its learning rate still 0 (`set_rate`).

    Args:
        name: of `NAMES`.
        module: with `requires_grad` set as the stage wants it, and its parameters whole.
        weight_decay: of matrices.
        pretrained: the parameters that were pretrained; among them may be others than the module's.
        pretrained_rate: their learning rate as a share of that of the others; 1 makes no difference between them.

    Raises:
        ValueError: another name.
    """
    if name not in NAMES:
        raise ValueError(f"optimizer: {name!r} is not one of {', '.join(NAMES)}")
    trained = [p for p in module.parameters() if p.requires_grad]
    slow = set() if pretrained_rate == 1.0 else {id(p) for p in pretrained}
    matrices = hidden_matrices(module) if name == "muon" else []
    taken = {id(p) for p in matrices}
    rest = parameter_groups([p for p in trained if id(p) not in taken], weight_decay)
    rest = _shared(rest, slow, pretrained_rate)
    if not matrices:
        return torch.optim.AdamW(rest, lr=0.0, fused=True)
    groups = _shared([{"params": matrices, "weight_decay": weight_decay}], slow, pretrained_rate)
    return MuonAdamW(groups, rest)


def _shared(groups: list[dict[str, Any]], slow: set[int], share: float) -> list[dict[str, Any]]:
    """The groups, those parameters apart whose ids are given, and each with its share of the learning rate."""
    parts = [
        {**group, "params": [p for p in group["params"] if (id(p) in slow) == slower], SHARE: share if slower else 1.0}
        for group in groups
        for slower in (False, True)
    ]
    return [part for part in parts if part["params"]]


def set_rate(optimizer: Any, learning_rate: float) -> None:
    """Give every parameter group its share of a learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get(SHARE, 1.0)
