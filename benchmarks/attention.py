"""Plain matrix products against PyTorch's fused kernel on a CPU, at the shapes of training and of writing, in bf16.

`python benchmarks/attention.py [--rounds 15]` interleaves both in one run and prints the ratio of their times, with its
spread. `embervlm.models.attention` chooses by it.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from embervlm.models.attention import attention

#: (samples, heads, queries, keys, width): robots, prefix and selection of a batch of 64 with the nano preset, and one
#: token that each of them writes.
SHAPES = {
    "robots": (48, 3, 60, 60, 64),
    "prefix": (64, 3, 44, 44, 64),
    "selection": (64, 3, 8, 400, 64),
    "writing": (64, 3, 1, 500, 64),
}


def fused(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """PyTorch's own choice of kernel."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)


def plain(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Ours."""
    return attention(nn.Identity(), query, key, value, mask)[0]


def seconds(function: object, tensors: tuple[Tensor, Tensor, Tensor], mask: Tensor) -> float:
    """One forward pass, and where a gradient is wanted a backward pass."""
    start = time.perf_counter()
    result = function(*tensors, mask)  # type: ignore[operator]
    if result.requires_grad:
        result.sum().backward()
    return time.perf_counter() - start


def main() -> None:
    """Print one line per shape."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    for name, (samples, heads, queries, keys, width) in SHAPES.items():
        shapes = ((samples, heads, queries, width), *((samples, heads, keys, width),) * 2)
        learns = name != "writing"
        query, key, value = (torch.randn(shape, dtype=torch.bfloat16, requires_grad=learns) for shape in shapes)
        mask = torch.rand(samples, 1, queries, keys) > 0.3
        mask[..., 0] = True
        ratios = []
        for _ in range(rounds + 2):
            one = seconds(fused, (query, key, value), mask)
            two = seconds(plain, (query, key, value), mask)
            ratios.append(one / two)
        ratios = sorted(ratios[2:])
        print(
            f"{name:10s} fused / plain: median {statistics.median(ratios):.2f} "
            f"(from {ratios[0]:.2f} to {ratios[-1]:.2f}), {torch.get_num_threads()} threads"
        )


if __name__ == "__main__":
    main()
