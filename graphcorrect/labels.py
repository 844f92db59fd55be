"""Class labels: the ignored one, one-hot rows, and labels at another resolution."""

import torch
import torch.nn.functional as F
from torch import Tensor

from graphcorrect import _checks

IGNORE_INDEX = 255  # as in VOC and Cityscapes (torch's own default is -100)


def one_hot(labels: Tensor, num_classes: int, *, ignore_index: int = IGNORE_INDEX) -> Tensor:
    """Turns labels (...) into float32 rows (..., C); an ignored label gives a row of zeros.

    Raises:
        TypeError: `labels` are not integers.
        ValueError: a label lies outside [0, C) and is not `ignore_index`.
    """
    _checks.integral("labels", labels)
    _checks.labels_in_range("labels", labels, num_classes, ignore_index)
    # Not torch's one_hot: 255 there is an error on the CPU and a device assert on the GPU.
    return (labels[..., None] == torch.arange(num_classes, device=labels.device)).float()


def resize_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes label images (B, H, W) to (B, h, w) by nearest neighbor, so that no label is invented."""
    _checks.ndim("labels", labels, (3,), "(B, H, W)")
    if tuple(labels.shape[1:]) == tuple(size):
        return labels
    # float64 holds every label exactly; interpolate takes no integers
    return F.interpolate(labels[:, None].double(), size=size, mode="nearest-exact")[:, 0].to(labels.dtype)


def pool_labels(
    labels: Tensor, size: tuple[int, int], num_classes: int, *, ignore_index: int = IGNORE_INDEX
) -> Tensor:
    """Pools label images (B, H, W) to a grid (h, w) by majority vote over each cell.

    Void takes part in the vote, and a tie is void: a cell gets a class only if more of its pixels carry that class than
    any other, ignored ones included. Cells are those of :func:`graphcorrect.nodes.pool_maps`, so that labels meet
    features pooled over the same pixels. Memory: three maps (B, H, W), whatever the number of classes.
    """
    _checks.ndim("labels", labels, (3,), "(B, H, W)")
    if tuple(labels.shape[1:]) == tuple(size):
        return labels
    best = F.adaptive_avg_pool2d((labels == ignore_index).float()[:, None], size)[:, 0]
    winner = torch.full_like(best, ignore_index, dtype=labels.dtype)
    for label in range(num_classes):
        share = F.adaptive_avg_pool2d((labels == label).float()[:, None], size)[:, 0]
        # Shares of one cell are counts over the same area: equal counts give equal floats.
        winner = torch.where(share > best, label, torch.where((share == best) & (share > 0), ignore_index, winner))
        best = torch.maximum(best, share)
    return winner
