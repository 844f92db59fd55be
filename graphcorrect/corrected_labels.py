"""CorrectedLabels: what a corrector returns, at the size of the images."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class CorrectedLabels(NamedTuple):
    """What a corrector returns.

    Attributes:
        probabilities: (B, C, H, W) on the simplex, at the size of the images.
    """

    probabilities: Tensor

    @property
    def labels(self) -> Tensor:
        """The most probable class of each pixel, int64 (B, H, W)."""
        return self.probabilities.argmax(1)

    @property
    def confidence(self) -> Tensor:
        """Its probability, (B, H, W)."""
        return self.probabilities.amax(1)


def full_size(maps: Tensor, height: int, width: int) -> Tensor:
    """Maps (B, C, h, w) at (H, W). Cells of a whole number of pixels keep their place: the last may hang over."""
    rows, columns = maps.shape[-2:]
    factor = -(-height // rows)
    if (rows, columns) != (-(-height // factor), -(-width // factor)):
        return F.interpolate(maps, size=(height, width), mode="bilinear")
    enlarged = F.interpolate(maps, scale_factor=float(factor), mode="bilinear") if factor > 1 else maps
    return enlarged[..., :height, :width]
