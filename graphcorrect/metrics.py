"""How good labels are, and what a correction did to them."""

from typing import NamedTuple

import torch
from torch import Tensor

from graphcorrect import _checks
from graphcorrect.labels import IGNORE_INDEX


class CorrectionCounts(NamedTuple):
    """Labels that a correction made right and made wrong, of `total` labels with a known truth.

    Attributes:
        fixed: wrong before, right after.
        broken: right before, wrong after.
        changed: different from before, right or wrong.
        total: labels that were compared.

    Example:
        >>> truth = torch.tensor([0, 1, 1, 255])
        >>> correction_counts(torch.tensor([1, 1, 1, 0]), torch.tensor([0, 1, 0, 0]), truth)
        CorrectionCounts(fixed=1, broken=1, changed=2, total=3)
    """

    fixed: int
    broken: int
    changed: int
    total: int


def confusion_matrix(
    predictions: Tensor, labels: Tensor, num_classes: int, *, ignore_index: int = IGNORE_INDEX
) -> Tensor:
    """Counts each pair of true and predicted class; matrices of batches and of ranks add up.

    Args:
        predictions: (...) integers in [0, C).
        labels: (...) integers in [0, C) or `ignore_index`.
        num_classes: C.
        ignore_index: label left out.

    Returns:
        (C, C) int64; row: true class, column: predicted class.

    Raises:
        ValueError: shapes or devices differ, or a label or prediction is outside the classes.
        TypeError: not integers.

    Example:
        >>> confusion_matrix(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 255]), num_classes=2)
        tensor([[1, 1],
                [0, 0]])
    """
    predictions = _checks.class_labels("predictions", predictions)
    labels = _checks.class_labels("labels", labels)
    _checks.shape("predictions", predictions, labels.shape, "(that of `labels`)")
    _checks.same_device("predictions", predictions, "`labels`", labels)
    _checks.ignored_label(ignore_index, num_classes)
    _checks.labels_in_range("labels", labels, num_classes, ignore_index)
    counted = labels != ignore_index
    predictions, labels = predictions[counted], labels[counted]
    # ignore_index is no prediction: it has no column to go to.
    _checks.labels_in_range("predictions", predictions, num_classes)
    return torch.bincount(labels * num_classes + predictions, minlength=num_classes**2).reshape(
        num_classes, num_classes
    )


def per_class_iou(confusion: Tensor) -> Tensor:
    """Intersection over union of each class, (C,) float64 in [0, 1]; NaN for a class neither present nor predicted.

    Example:
        >>> per_class_iou(torch.tensor([[3, 1], [0, 4]]))
        tensor([0.7500, 0.8000], dtype=torch.float64)
    """
    confusion = _checked_confusion(confusion)
    intersection = confusion.diagonal()
    return intersection / (confusion.sum(0) + confusion.sum(1) - intersection)


def per_class_dice(confusion: Tensor) -> Tensor:
    """Dice of each class, twice the intersection over the sum of both sizes, (..., C) float64 in [0, 1].

    NaN for a class neither present nor predicted, so that `nanmean` over volumes leaves it out where it is not there.

    Args:
        confusion: (..., C, C) counts of :func:`confusion_matrix`, one of each volume or of all pixels.

    Raises:
        ValueError: the last two dimensions differ.
        TypeError: not numbers.

    Example:
        >>> per_class_dice(torch.tensor([[3, 1], [0, 4]]))
        tensor([0.8571, 0.8889], dtype=torch.float64)
    """
    counts = _checked_confusion(confusion, batched=True)
    return 2 * counts.diagonal(dim1=-2, dim2=-1) / (counts.sum(-1) + counts.sum(-2))


def mean_iou(confusion: Tensor) -> float:
    """Mean of the classes' intersection over union, in [0, 1], absent classes left out; NaN if all are absent.

    Example:
        >>> round(mean_iou(torch.tensor([[3, 1], [0, 4]])), 3)
        0.775
    """
    return float(per_class_iou(confusion).nanmean())


def accuracy(confusion: Tensor) -> float:
    """Share of right labels, in [0, 1]; NaN if there are none.

    Example:
        >>> accuracy(torch.tensor([[3, 1], [0, 4]]))
        0.875
    """
    confusion = _checked_confusion(confusion)
    return float(confusion.diagonal().sum() / confusion.sum())


def correction_counts(
    before: Tensor, after: Tensor, labels: Tensor, *, ignore_index: int = IGNORE_INDEX
) -> CorrectionCounts:
    """Counts the labels that a correction fixed and broke.

    Args:
        before: (...) integers, the labels before correction.
        after: (...) integers, after it.
        labels: (...) integers, the truth; `ignore_index` is left out.
        ignore_index: label left out.

    Raises:
        ValueError: shapes or devices differ, or a label of the truth is negative and not `ignore_index`.
        TypeError: not integers.

    Example:
        >>> before, after, truth = torch.tensor([1, 1, 1]), torch.tensor([0, 1, 0]), torch.tensor([0, 1, 1])
        >>> counts = correction_counts(before, after, truth)
        >>> counts.fixed, counts.broken
        (1, 1)
    """
    for name, tensor in (("labels", labels), ("before", before), ("after", after)):
        _checks.integral(name, tensor)
        _checks.shape(name, tensor, labels.shape, "(that of `labels`)")
        _checks.same_device(name, tensor, "`labels`", labels)
        _checks.has_values(name, tensor)
    _checks.ignored_label(ignore_index, 0)
    before, after, labels = before.long(), after.long(), labels.long()
    _checks.labels_in_range("labels", labels, 2**31, ignore_index)
    counted = labels != ignore_index
    was_right, is_right = before == labels, after == labels
    return CorrectionCounts(
        fixed=int((counted & ~was_right & is_right).sum()),
        broken=int((counted & was_right & ~is_right).sum()),
        changed=int((counted & (before != after)).sum()),
        total=int(counted.sum()),
    )


def _checked_confusion(confusion: Tensor, *, batched: bool = False) -> Tensor:
    if not _checks.is_tensor("confusion", confusion).is_floating_point():
        _checks.integral("confusion", confusion)
    _checks.has_values("confusion", confusion)
    if batched:
        _checks.at_least_2d("confusion", confusion, "(..., C, C)")
    else:
        _checks.ndim("confusion", confusion, (2,), "(C, C)")
    _checks.size("confusion", confusion, confusion.ndim - 1, confusion.shape[-2], "columns")
    return confusion.double()
