"""CorrectedLabels: what a corrector returns, at the size of the images."""

from typing import NamedTuple

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
