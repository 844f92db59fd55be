"""RefinedLabels: what a refiner returns."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from graphcorrect.ops.values import widen

LabelRounds = Literal["all", "last"]


class RefinedLabels(NamedTuple):
    """What a refiner returns: every round's probabilities and features, and the labels that follow from them.

    Attributes:
        probabilities: num_rounds + 1 tensors shaped like the logits; the first is their softmax. Without rounds but
            with anchors there are two, the second corrected by these alone.
        features: as many tensors shaped like the features, or (B, D, h, w) on the grid where the node budget
            applied; the first is the input (pooled to that grid).
        label_rounds: "all" averages the rounds after the input for the labels, Eq. (15); "last" takes the last one.

    Example:
        >>> refiner = DualGraphRefiner(num_classes=4, feature_dim=8, num_neighbors=5)
        >>> out = refiner(torch.randn(2, 8, 6, 9), torch.randn(2, 4, 6, 9))
        >>> out.soft_labels.shape, out.pseudo_labels.shape, len(out.probabilities)
        (torch.Size([2, 4, 6, 9]), torch.Size([2, 6, 9]), 3)
    """

    probabilities: tuple[Tensor, ...]
    features: tuple[Tensor, ...]
    label_rounds: LabelRounds = "all"

    @property
    def soft_labels(self) -> Tensor:
        """Mean of the corrected probabilities, shaped like the logits, on the simplex."""
        corrected = self.probabilities[1:] or self.probabilities
        if self.label_rounds == "last":
            return corrected[-1]
        return torch.stack([widen(probabilities) for probabilities in corrected]).mean(0).to(corrected[0].dtype)

    @property
    def pseudo_labels(self) -> Tensor:
        """Most probable class by the soft labels, Eq. (15), as int64 (B, H, W) or (..., N)."""
        return self.soft_labels.argmax(self._class_dim)

    @property
    def confidence(self) -> Tensor:
        """The largest soft label of each node, in [0, 1], shaped like `pseudo_labels`."""
        return self.soft_labels.amax(self._class_dim)

    @property
    def _class_dim(self) -> int:
        return 1 if self.probabilities[0].ndim == 4 else -1
