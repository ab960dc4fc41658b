"""Mixed pictures for the vision warm-up's teacher: a few photographs become many.

What the teacher says of any picture can be learned, of one that nobody would take too: so a part of one photograph is
blended with a part of another (mixup, Zhang et al. 2018, arXiv:1710.09412), and teacher and encoder see the same blend
(function matching, Beyer et al. 2022, arXiv:2106.05237). Without it the encoder learns what the teacher says of the few
photographs that there are by heart.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

#: The least side of the part of a picture that is shown, as a share of the picture's.
LEAST_SIDE = 0.55
#: Random numbers in [0, 1) that a picture needs.
NUMBERS = 6


def mix(pixels: Tensor, share: float, numbers: np.ndarray) -> tuple[Tensor, Tensor]:
    """Show another square part of each picture, and blend some with the next picture of a random order.

    Args:
        pixels: pictures (B, 3, S, S) of bytes.
        share: of the pictures that are blended, 0 to 1; how much of the other one they have is uniform in [0, 1).
        numbers: (B, `NUMBERS`), uniform in [0, 1).

    Returns:
        Pictures of the same shape, and which of them are blends (B,).
    """
    side, left, top, order, other, blended = numbers.T
    parts = torch.stack([_part(*given) for given in zip(pixels.float(), side, left, top, strict=True)])
    queue = np.argsort(order)
    partner = np.empty_like(queue)
    partner[queue] = np.roll(queue, -1)
    weight = torch.from_numpy(np.where(blended < share, other, 0.0)).float()[:, None, None, None]
    mixed = (1 - weight) * parts + weight * parts[torch.from_numpy(partner)]
    return mixed.round().clamp(0, 255).to(torch.uint8), torch.from_numpy(blended < share)


def _part(picture: Tensor, side: float, left: float, top: float) -> Tensor:
    """A square part of a picture (3, S, S), as large as the picture."""
    size = picture.shape[-1]
    width = round(size * (LEAST_SIDE + (1 - LEAST_SIDE) * side))
    x, y = round(left * (size - width)), round(top * (size - width))
    part = picture[None, :, y : y + width, x : x + width]
    return F.interpolate(part, size=(size, size), mode="bilinear", align_corners=False)[0]
