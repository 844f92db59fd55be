"""The losses of pixels: cross entropy and Dice, of labels or probabilities, each the mean over the joined batch.

Over several processes a loss is one's share of that mean: DDP averages gradients, and so sums and counts are taken over
all processes, however unevenly their pixels are labeled.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from segmentation.datasets import IGNORE_INDEX
from segmentation.processes import rank_and_ranks, sum_over_ranks

SMOOTH = 1e-5  # of Dice, as in the field's code


def cross_entropy(
    logits: Tensor, labels: Tensor, weight: Tensor | None = None, *, targets: Tensor | None = None
) -> Tensor:
    """Mean over pixels that are not ignored, (B, C, H, W) and (B, H, W); a weight of 0 still counts in the mean.

    With `targets` (B, C, H, W), probabilities, those are what is learned, and labels say only what is ignored.
    """
    wide, known = _wide(logits), labels != IGNORE_INDEX
    if targets is None:
        each = F.cross_entropy(wide, labels, ignore_index=IGNORE_INDEX, reduction="none")
    else:
        each = F.cross_entropy(wide, targets.to(wide.dtype), reduction="none") * known
    return (each if weight is None else each * weight).sum() / mean_count(known)


def dice(logits: Tensor, labels: Tensor, weight: Tensor | None = None, *, targets: Tensor | None = None) -> Tensor:
    r"""Dice of the softmax over the whole batch, mean over all classes, (B, C, H, W) and (B, H, W).

    .. math:: 1 - \frac{1}{C} \sum_c \frac{2 \sum_i w_i p_{ic} t_{ic} + s}{\sum_i w_i (p_{ic}^2 + t_{ic}^2) + s}

    Squared in the denominator, s = 1e-5, the background a class like the others: as the field's code for ACDC has it.
    Ignored pixels have no weight, and `weight` (B, H, W) is that of the others; `targets` as in `cross_entropy`.
    """
    probabilities, known = _wide(logits).softmax(1), labels != IGNORE_INDEX
    if targets is None:
        targets = torch.zeros_like(probabilities).scatter_(1, labels.masked_fill(~known, 0)[:, None], 1.0)
    share = (known if weight is None else known * weight)[:, None].to(probabilities.dtype)
    overlap = (share * probabilities * targets).sum((0, 2, 3))
    size = (share * (probabilities**2 + targets**2)).sum((0, 2, 3))
    overlap, size = _sum_with_gradient(torch.stack([overlap, size]))
    return 1 - ((2 * overlap + SMOOTH) / (size + SMOOTH)).mean()


def mean_count(mask: Tensor) -> Tensor:
    """Pixels under a mask, the mean over all processes: what one's sum is divided by to share in the joined mean."""
    return sum_over_ranks(mask.sum()).clamp_min(1) / rank_and_ranks()[1]


def _sum_with_gradient(values: Tensor) -> Tensor:
    """The sum over all processes; its gradient in one of them is that of its share in the mean which DDP takes."""
    own = values * rank_and_ranks()[1]
    return own + (sum_over_ranks(values) - own).detach()


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
