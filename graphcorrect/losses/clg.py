"""The weighted cross entropy on corrected labels."""

import torch
from torch import Tensor, nn

from graphcorrect import _checks
from graphcorrect._settings import printed
from graphcorrect.labels import IGNORE_INDEX, resize_labels
from graphcorrect.losses._reduce import check_reduction, mean_divisor
from graphcorrect.ops.typing import Reduction
from graphcorrect.ops.values import full_precision, reading_is_free, widen


def clg_loss(
    probabilities: Tensor,
    pseudo_labels: Tensor,
    *,
    self_weighted: bool = True,
    ignore_index: int = IGNORE_INDEX,
    reduction: Reduction = "mean",
    validate_args: bool = True,
) -> Tensor:
    r"""Cross entropy against corrected labels, each node weighted by its own belief in its label, Eqs. (15), (16).

    .. math::
        \mathrm{mean}_i \left[ -\omega_i \log p_i[\hat Y_i] \right], \quad
        \omega_i = p_i[\hat Y_i] \text{, detached}

    with the mean over nodes that are not ignored (not over the weights). Differs from the paper: a mean rather than a
    sum, and with the minus sign that its print lacks. Averaged gradients of several ranks are those of the joined
    batch; within `torch.no_grad()` each rank has the mean of its own nodes.

    Args:
        probabilities: (..., N, C) nodes or (B, C, H, W) images on the simplex: those of one round for the strong view.
        pseudo_labels: (..., N), or (B, H', W') of any resolution (resized by nearest neighbor); integers in [0, C) or
            `ignore_index`.
        self_weighted: False sets every weight to 1: the plain cross entropy.
        ignore_index: label left out.
        reduction: "mean", "sum", or "none" for the loss of each node, shaped like the labels, 0 where ignored.
        validate_args: False takes labels outside the classes for ignored ones, and does not wait for a GPU.

    Returns:
        A scalar or the loss of each node, float32 or better; 0 where no node has a label.

    Raises:
        ValueError: shapes do not fit, or a label is outside the classes.
        TypeError: dtypes do not fit.

    Example:
        >>> probabilities = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]])
        >>> clg_loss(probabilities, torch.tensor([0, 0, 255]), self_weighted=False)  # the mean of two nodes
        tensor(0.3993)
    """
    check_reduction(reduction)
    _checks.floating("probabilities", probabilities)
    _checks.at_least_2d("probabilities", probabilities, "(..., N, C) or (B, C, H, W)")
    _checks.integral("pseudo_labels", pseudo_labels)
    _checks.same_device("pseudo_labels", pseudo_labels, "`probabilities`", probabilities)
    if probabilities.ndim == 4:
        _checks.ndim("pseudo_labels", pseudo_labels, (3,), "(B, H, W), as `probabilities` is (B, C, H, W)")
        _checks.not_transposed("pseudo_labels", pseudo_labels, "`probabilities`", probabilities)
        pseudo_labels = resize_labels(pseudo_labels, (probabilities.shape[2], probabilities.shape[3]))
        probabilities = probabilities.movedim(1, -1)
    _checks.shape("pseudo_labels", pseudo_labels, probabilities.shape[:-1], "(one for each node)")
    num_classes = probabilities.shape[-1]
    _checks.ignored_label(ignore_index, num_classes)
    if validate_args:
        _checks.labels_in_range("pseudo_labels", pseudo_labels, num_classes, ignore_index)
    is_labeled, labels = known_labels(pseudo_labels, num_classes, ignore_index)
    if reading_is_free(probabilities):
        _checks.not_logits("probabilities", probabilities, -1, is_labeled)
    losses = weighted_entropy(probabilities, labels, is_labeled, self_weighted)
    if reduction == "none":
        return -losses
    return -losses.sum() if reduction == "sum" else losses.sum() / -mean_divisor(is_labeled, dtype=losses.dtype)


def known_labels(labels: Tensor, num_classes: int, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Which of labels (...) are those of classes, and int64 labels with 0 in place of the others."""
    labels = labels.long()  # before they are compared, which a narrower dtype would wrap
    is_labeled = (labels >= 0) & (labels < num_classes)
    if 0 <= ignore_index < num_classes:
        is_labeled &= labels != ignore_index
    return is_labeled, torch.where(is_labeled, labels, 0)


def weighted_entropy(probabilities: Tensor, labels: Tensor, is_labeled: Tensor, self_weighted: bool) -> Tensor:
    """The negative of Eqs. (15), (16) at each node, for probabilities (..., C) and what :func:`known_labels` says."""
    with full_precision(probabilities):
        wide = widen(probabilities)
        believed = wide.gather(-1, labels[..., None]).squeeze(-1)
        # where before the log: an ignored node has value and gradient zero, whatever its probabilities
        believed = torch.where(is_labeled, believed, 1.0)
        tiny = torch.finfo(wide.dtype).tiny
        if self_weighted:
            return believed.detach() * (believed + tiny).log()
        return believed.clamp_min(tiny).log()  # whose gradient would be infinite at zero


class CLGLoss(nn.Module):
    """:func:`clg_loss` with its settings, Eqs. (15), (16).

    Args:
        self_weighted: False sets every weight to 1.
        ignore_index: label left out.
        reduction: "mean", "sum" or "none".
        validate_args: False takes labels outside the classes for ignored ones.

    Example:
        >>> loss = CLGLoss()(torch.rand(2, 50, 4).softmax(-1), torch.randint(4, (2, 50)))
        >>> loss.shape
        torch.Size([])
    """

    def __init__(
        self,
        *,
        self_weighted: bool = True,
        ignore_index: int = IGNORE_INDEX,
        reduction: Reduction = "mean",
        validate_args: bool = True,
    ) -> None:
        super().__init__()
        check_reduction(reduction)
        self.self_weighted = self_weighted
        self.ignore_index = ignore_index
        self.reduction: Reduction = reduction
        self.validate_args = validate_args

    def forward(self, probabilities: Tensor, pseudo_labels: Tensor) -> Tensor:
        """Shapes as in :func:`clg_loss`."""
        return clg_loss(
            probabilities,
            pseudo_labels,
            self_weighted=self.self_weighted,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            validate_args=self.validate_args,
        )

    extra_repr = printed("self_weighted ignore_index reduction")
