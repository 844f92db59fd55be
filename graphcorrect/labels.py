"""Class labels: the ignored one, one-hot rows, and labels at another resolution."""

import torch
import torch.nn.functional as F
from torch import Tensor

from graphcorrect import _checks
from graphcorrect.nodes import image_to_nodes
from graphcorrect.ops.majority_vote import majority_vote

IGNORE_INDEX = 255  # as in VOC and Cityscapes (torch's own default is -100)


def one_hot(labels: Tensor, num_classes: int, *, ignore_index: int = IGNORE_INDEX) -> Tensor:
    """Turns labels (...) into float32 rows (..., C); an ignored label gives a row of zeros.

    Raises:
        TypeError: `labels` are not integers.
        ValueError: a label lies outside [0, C) and is not `ignore_index`.

    Example:
        >>> one_hot(torch.tensor([1, 255]), num_classes=3)
        tensor([[0., 1., 0.],
                [0., 0., 0.]])
    """
    labels = _checks.class_labels("labels", labels)
    _checks.labels_in_range("labels", labels, num_classes, ignore_index)
    # Not torch's one_hot: 255 there is an error on the CPU and a device assert on the GPU.
    rows = labels[..., None] == torch.arange(num_classes, device=labels.device)
    return (rows & (labels != ignore_index)[..., None]).float()


def resize_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes label images (B, H, W) to (B, h, w) by nearest neighbor, so that no label is invented.

    Example:
        >>> resize_labels(torch.tensor([[[0, 1], [2, 3]]]), (1, 2))
        tensor([[[2, 3]]])
    """
    _checks.integral("labels", labels)
    _checks.ndim("labels", labels, (3,), "(B, H, W)")
    if tuple(labels.shape[1:]) == tuple(size):
        return labels
    (height, rows), (width, columns) = zip(labels.shape[1:], size, strict=True)
    if rows and columns and height % rows == 0 and width % columns == 0:  # the same pixels, without a copy
        down, across = height // rows, width // columns
        return labels[:, down // 2 :: down, across // 2 :: across]
    # float64 holds every label exactly; interpolate takes no integers
    return F.interpolate(labels[:, None].double(), size=size, mode="nearest-exact")[:, 0].to(labels.dtype)


def pool_labels(labels: Tensor, size: tuple[int, int], num_classes: int, *, ignore_index: int = IGNORE_INDEX) -> Tensor:
    """Pools label images (B, H, W) to a grid (h, w) by majority vote over each cell, in the dtype of the labels.

    Void takes part in the vote, and a tie is void: a cell gets a class only if more of its pixels carry that class than
    any other, ignored ones included. Cells are those of :func:`graphcorrect.nodes.pool_maps`, so that labels meet
    features pooled over the same pixels. Labels outside [0, C) count as void.

    Raises:
        ValueError: `labels` is not of three dimensions or of a dtype that does not hold `ignore_index`, or `size` is
            not two numbers of at least 1.
        TypeError: `labels` are not integers.

    Example:
        >>> pool_labels(torch.tensor([[[0, 0, 1, 2], [0, 3, 1, 2]]]), (1, 2), 4)
        tensor([[[  0, 255]]])
    """
    _checks.integral("labels", labels)
    _checks.ignored_label(ignore_index, num_classes)
    _checks.can_hold("labels", labels.dtype, ignore_index, f"ignore_index={ignore_index}")
    _checks.ndim("labels", labels, (3,), "(B, H, W)")
    _checks.image_size("size", size)
    votes = labels.long()  # before they are compared, which a narrower dtype would wrap
    is_class = (votes >= 0) & (votes < num_classes)
    if 0 <= ignore_index < num_classes:
        is_class &= votes != ignore_index
    if tuple(labels.shape[1:]) == tuple(size):
        return torch.where(is_class, votes, ignore_index).to(labels.dtype)
    votes = torch.where(is_class, votes, num_classes)
    return majority_vote(votes, size, num_classes, void=ignore_index).to(labels.dtype)


def labeled_nodes(
    features: Tensor, labels: Tensor, num_classes: int, *, ignore_index: int = IGNORE_INDEX, validate_args: bool = True
) -> tuple[Tensor, Tensor]:
    """Features and the labels of the same nodes, in node form: (..., N, D) and int64 (..., N).

    Nodes pass as they are. Images (B, D, H, W) become (B, H * W, D), and their labels (B, H', W') of any resolution are
    pooled to H x W by majority vote.

    Args:
        features: (..., N, D) or (B, D, H, W) floating point.
        labels: (..., N) or (B, H', W'); integers in [0, C) or `ignore_index`.
        num_classes: C.
        ignore_index: the label left out.
        validate_args: True refuses labels outside the classes, which reads them and so waits for a GPU; False takes
            them for ignored ones.

    Raises:
        ValueError: shapes do not fit, or a label is outside the classes.
        TypeError: dtypes do not fit.

    Example:
        >>> features, labels = labeled_nodes(torch.zeros(2, 8, 6, 9), torch.zeros(2, 24, 36, dtype=torch.int64), 3)
        >>> features.shape, labels.shape
        (torch.Size([2, 54, 8]), torch.Size([2, 54]))
    """
    labels = labels_of_nodes(features, labels, num_classes, ignore_index=ignore_index, validate_args=validate_args)
    return image_to_nodes(features) if features.ndim == 4 else features, labels


def labels_of_nodes(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    ignore_index: int = IGNORE_INDEX,
    validate_args: bool = True,
    name: str = "labels",
) -> Tensor:
    """The labels alone of :func:`labeled_nodes`, int64 (..., N); `name` is what messages call them.

    Example:
        >>> labels_of_nodes(torch.zeros(1, 8, 1, 2), torch.tensor([[[2, 2, 0, 255]]]), num_classes=3)
        tensor([[  2, 255]])
    """
    _checks.floating("features", features)
    labels = _checks.class_labels(name, labels)
    _checks.at_least_2d("features", features, "(..., N, D) or (B, D, H, W)")
    _checks.same_device(name, labels, "`features`", features)
    _checks.ignored_label(ignore_index, num_classes)
    if validate_args:
        _checks.labels_in_range(name, labels, num_classes, ignore_index)
    if features.ndim == 4:
        _checks.ndim(name, labels, (3,), "(B, H, W), as `features` is (B, D, H, W)")
        _checks.size(name, labels, 0, features.shape[0], "images")
        _checks.not_transposed(name, labels, "`features`", features)
        size = (features.shape[2], features.shape[3])
        if tuple(labels.shape[1:]) != size and validate_args:  # so that others are void: half the operations
            votes = torch.where(labels == ignore_index, num_classes, labels)
            labels = majority_vote(votes, size, num_classes, void=ignore_index)
        elif tuple(labels.shape[1:]) != size:
            labels = pool_labels(labels, size, num_classes, ignore_index=ignore_index)
        labels = labels.flatten(1)
    else:
        _checks.shape(name, labels, features.shape[:-1], "(one for each node)")
    if not validate_args:
        labels = torch.where((labels >= 0) & (labels < num_classes), labels, ignore_index)
    return labels
