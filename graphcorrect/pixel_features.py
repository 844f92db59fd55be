"""Features of pixels for whoever has no network's."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def pixel_features(image: Tensor, position_weight: float = 1.0) -> Tensor:
    r"""Features of an image's pixels (18, H, W) for whoever has no network's: color, position, and what is around.

    Nine numbers a pixel, each in [0, 1]: its color; the color around it (5x5 and 3x3 means one after the other); the
    strength of the edge there; row and column. Graphs compare by cosine, to which dark and bright grey are the same. So
    each number u becomes the pair (cos pi u, sin pi u), and the cosine of two pixels is
    :math:`\sum_n w_n \cos \pi (u_n - v_n)` over the weights' sum: 1 where they are alike, less the more they differ.

    Args:
        image: (3, H, W) uint8.
        position_weight: w of row and column, where the three colors, those around, and the edge weigh 1 each.
    """
    color = image.float() / 255
    around = _box_mean(_box_mean(color[None], 5), 3)[0]
    grey = around.mean(0)
    down, right = F.pad(grey.diff(dim=0), (0, 0, 0, 1)), F.pad(grey.diff(dim=1), (0, 1))
    edge = (4 * (down.square() + right.square()).sqrt()).clamp(max=1)
    height, width = grey.shape
    # One scale for both sides, so that a step down is worth a step to the right.
    row = (torch.arange(height) / max(height, width))[:, None].expand(height, width)
    column = (torch.arange(width) / max(height, width)).expand(height, width)
    numbers = torch.cat([color, around, edge[None], row[None], column[None]])
    weight = torch.tensor([1.0] * 7 + [position_weight] * 2).sqrt()[:, None, None]
    return torch.cat([weight * (math.pi * numbers).cos(), weight * (math.pi * numbers).sin()])


def _box_mean(maps: Tensor, size: int) -> Tensor:
    """Mean over size x size pixels, over those within the image along its border."""
    return F.avg_pool2d(maps, size, stride=1, padding=size // 2, count_include_pad=False)
