"""The contrastive loss on the semantic-level graph, exact and linear in the number of nodes."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphcorrect import _checks
from graphcorrect._settings import printed
from graphcorrect.labels import IGNORE_INDEX, labeled_nodes
from graphcorrect.losses._reduce import check_reduction, mean_divisor
from graphcorrect.ops.pair_sum import pair_sum
from graphcorrect.ops.typing import Reduction
from graphcorrect.ops.unit_rows import unit_rows
from graphcorrect.ops.values import full_precision, widen


def slg_loss(
    features: Tensor,
    labels: Tensor,
    prototypes: Tensor | None = None,
    prototype_mask: Tensor | None = None,
    *,
    num_classes: int | None = None,
    balance: float = 0.5,
    temperature: float = 0.1,
    ignore_index: int = IGNORE_INDEX,
    reduction: Reduction = "mean",
    validate_args: bool = True,
) -> Tensor:
    r"""Pulls features of one class together and apart from the others', within an image and across images, Eq. (12).

    .. math::
        \lambda \, \mathrm{mean}_{ij} \left[ Y_{ij} (v_i \cdot v_j - 1)^2 + (1 - Y_{ij}) (v_i \cdot v_j)^2 \right]
        + (1 - \lambda) \, \mathrm{mean}_i \, \mathrm{CE}(v_i \cdot P / \tau, y_i)

    with unit rows v and P. The first mean is over the ordered pairs of an image, i = j included, then over images; the
    second over nodes. Its sum is computed as :math:`\|V^\top V\|_F^2 + \sum_c (n_c^2 - 2 \|\sum_{i \in c} v_i\|^2)`:
    exact, O(N D²) time, no pair formed.

    Differs from the paper: means rather than sums. Averaged gradients of several ranks are those of the joined batch;
    within `torch.no_grad()` each rank has the mean of its own nodes.

    Args:
        features: (B, N, D) or (N, D) nodes, or (B, D, H, W) images, floating point, any scale; leading dimensions are
            separate images.
        labels: (B, N) or (N,), or (B, H', W') of any resolution (pooled to that of the features by majority vote);
            integers in [0, C) or `ignore_index`.
        prototypes: (C, D) class means of :class:`PrototypeBank`; taken as constants. None leaves the second term out.
        prototype_mask: (C,) bool, True where a class has a prototype; nodes of the others take no part in the second
            term. None takes a row of zeros for no prototype.
        num_classes: C; None is that of `prototypes`, or else the largest label + 1, which reads the labels.
        balance: lambda, in [0, 1].
        temperature: tau, above 0.
        ignore_index: label left out everywhere.
        reduction: "mean"; "sum" adds up both terms over images and over nodes; "none" gives the pair term of each
            image plus the mean of its nodes' second term, (B,).
        validate_args: False takes labels outside the classes for ignored ones, and does not wait for a GPU.

    Returns:
        A scalar, or (B,), float32 or better; 0 where no node has a label.

    Raises:
        ValueError: shapes or ranges do not fit, or a label is outside the classes.
        TypeError: dtypes do not fit.

    Example:
        >>> apart = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> slg_loss(apart, torch.tensor([0, 0, 1]), num_classes=2)  # nothing left to pull together or to push apart
        tensor(0.)
    """
    check_reduction(reduction)
    _checks.in_interval("balance", balance, 0.0, 1.0)
    _checks.in_interval("temperature", temperature, 0.0, float("inf"), open_low=True, open_high=True)
    num_classes = _number_of_classes(labels, prototypes, prototype_mask, num_classes, ignore_index)
    nodes, node_labels = labeled_nodes(
        features, labels, num_classes, ignore_index=ignore_index, validate_args=validate_args
    )
    with full_precision(nodes):
        known = LabeledNodes.of(node_labels, num_classes, ignore_index, widen(nodes).dtype)
        targets = None
        if prototypes is not None:
            _checks.size("prototypes", prototypes, 1, nodes.shape[-1], "entries, as `features` has")
            _checks.same_device("prototypes", prototypes, "`features`", nodes)
            if prototype_mask is None and validate_args:
                _checks.some_prototypes("prototypes", prototypes)
            masks = None if prototype_mask is None else prototype_mask[None]
            (targets,) = prototype_targets(prototypes[None], masks, known, temperature)
        pairs, entropy = contrast(nodes, known, targets)
        if reduction == "none":
            of_nodes = 0.0 if targets is None else entropy.sum(1) / targets.counted.sum(1).clamp_min(1)
            return balance * pairs + (1 - balance) * of_nodes
        if reduction == "sum":
            return balance * pairs.sum() + (1 - balance) * entropy.sum()
        return weighted_mean(pairs, entropy, known, targets, balance)


class LabeledNodes(NamedTuple):
    """The labels of nodes in the forms that the loss needs, which are the same for all rounds.

    Attributes:
        labels: (B, N) int64, -1 where there is none.
        is_labeled: (B, N) bool.
        is_of_class: (B, N, C), one-hot rows, zero where there is no label.
        inverse_pairs: (B,), the inverse of the number of ordered pairs of labeled nodes in each image.
        same_class: (B,), how many of these pairs are of one class.
        divisor: (), of the mean over images with a labeled node.
    """

    labels: Tensor
    is_labeled: Tensor
    is_of_class: Tensor
    inverse_pairs: Tensor
    same_class: Tensor
    divisor: Tensor

    @classmethod
    def of(cls, labels: Tensor, num_classes: int, ignore_index: int, dtype: torch.dtype) -> LabeledNodes:
        """Those of labels (..., N) in [0, C) or `ignore_index`."""
        labels = labels.reshape(labels.shape[:-1].numel(), labels.shape[-1])
        is_labeled = labels != ignore_index
        labels = torch.where(is_labeled, labels, -1)  # `ignore_index` may be the number of a class
        classes = torch.arange(num_classes, dtype=dtype, device=labels.device)
        is_of_class = classes.new_empty(*labels.shape, num_classes)
        torch.eq(labels[..., None].to(dtype), classes, out=is_of_class)  # compared and written in one dtype: once
        of_class = is_of_class.sum(1)
        count = of_class.sum(1)
        inverse = count.clamp_min(1).square().reciprocal()
        divisor = mean_divisor(count > 0, dtype=dtype)
        return cls(labels, is_labeled, is_of_class, inverse, of_class.square().sum(1), divisor)


class PrototypeTargets(NamedTuple):
    """What the nodes of one round are compared with.

    Attributes:
        columns: (D, C), unit prototypes over the temperature.
        is_absent: (C,) bool, classes without a prototype.
        labels: (B, N) int64, -1 for nodes that do not count.
        counted: (B, N) bool, the others.
        divisor: (), of the mean over nodes.
    """

    columns: Tensor
    is_absent: Tensor
    labels: Tensor
    counted: Tensor
    divisor: Tensor


def prototype_targets(
    prototypes: Tensor, masks: Tensor | None, known: LabeledNodes, temperature: float
) -> list[PrototypeTargets]:
    """Those of each round, for prototypes (R, C, D) and which of them there are, (R, C); a row of zeros is none."""
    dtype = known.is_of_class.dtype
    if masks is None:
        masks = (prototypes != 0).any(-1)
    columns = (unit_rows(widen(prototypes.detach())).to(dtype) / temperature).mT
    counted = masks[:, known.labels] & known.is_labeled  # -1, where there is no label, is a place too
    labels = torch.where(counted, known.labels, -1)
    divisors = mean_divisor(counted, (1, 2), dtype=dtype)
    rounds = columns, ~masks, labels, counted, divisors
    return [PrototypeTargets(*of_round) for of_round in zip(*(each.unbind() for each in rounds), strict=True)]


def contrast(nodes: Tensor, known: LabeledNodes, targets: PrototypeTargets | None) -> tuple[Tensor, Tensor]:
    """Eq. (12) for nodes (..., N, D): the mean over the pairs of each image, (B,), and the entropy of nodes, (B, N)."""
    rows = unit_rows(widen(nodes).reshape(*known.labels.shape, nodes.shape[-1]), known.is_labeled)
    pairs = (pair_sum(rows, known.labels, known.is_of_class) + known.same_class) * known.inverse_pairs
    if targets is None:
        return pairs, rows.new_zeros(known.labels.shape)
    # Not -inf: where no class has a prototype a row of -inf would make NaN gradients.
    scores = (rows @ targets.columns).masked_fill(targets.is_absent, torch.finfo(rows.dtype).min)  # (B, N, C)
    entropy = F.cross_entropy(scores.flatten(0, 1), targets.labels.flatten(), ignore_index=-1, reduction="none")
    return pairs, entropy.reshape(known.labels.shape)


def weighted_mean(
    pairs: Tensor, entropy: Tensor, known: LabeledNodes, targets: PrototypeTargets | None, balance: float
) -> Tensor:
    """The loss of what :func:`contrast` gives, over images and over nodes of all ranks."""
    mean = pairs.sum() * (balance / known.divisor)
    return mean if targets is None else torch.addcmul(mean, entropy.sum(), (1 - balance) / targets.divisor)


def check_prototypes(prototypes: Tensor | None, mask: Tensor | None, form: tuple[str, ...]) -> None:
    """Refuses prototypes of other dimensions than `form` names, and a mask of another shape, or alone."""
    if prototypes is None:
        if mask is not None:
            raise ValueError("expected `prototypes` beside `prototype_mask`, got None")
        return
    _checks.floating("prototypes", prototypes)
    _checks.ndim("prototypes", prototypes, (len(form),), f"({', '.join(form)})")
    of_prototype = prototypes.shape[:-1], "(one entry for each prototype)"
    _checks.mask("prototype_mask", mask, *of_prototype, "`prototypes`", prototypes)


def _number_of_classes(
    labels: Tensor, prototypes: Tensor | None, prototype_mask: Tensor | None, num_classes: int | None, ignore_index: int
) -> int:
    check_prototypes(prototypes, prototype_mask, ("C", "D"))
    if prototypes is not None:
        if num_classes is not None:
            _checks.size("prototypes", prototypes, 0, num_classes, "classes")
        return prototypes.shape[0]
    if num_classes is not None:
        _checks.integer_at_least("num_classes", num_classes, 1)
        return num_classes
    labels = _checks.class_labels("labels", labels)
    counted = labels[labels != ignore_index]
    return max(1, int(counted.max()) + 1) if counted.numel() else 1


class SLGLoss(nn.Module):
    """:func:`slg_loss` with its settings, Eq. (12).

    Args:
        balance: lambda, share of the pair term.
        temperature: tau of the prototype term.
        ignore_index: label left out.
        reduction: "mean", "sum" or "none".
        validate_args: False takes labels outside the classes for ignored ones.

    Raises:
        ValueError: a number is out of range.

    Example:
        >>> features, labels = torch.randn(2, 50, 8), torch.randint(4, (2, 50))
        >>> loss = SLGLoss()(features, labels, prototypes=torch.randn(4, 8))
        >>> loss.shape
        torch.Size([])
    """

    def __init__(
        self,
        *,
        balance: float = 0.5,
        temperature: float = 0.1,
        ignore_index: int = IGNORE_INDEX,
        reduction: Reduction = "mean",
        validate_args: bool = True,
    ) -> None:
        super().__init__()
        _checks.in_interval("balance", balance, 0.0, 1.0)
        _checks.in_interval("temperature", temperature, 0.0, float("inf"), open_low=True, open_high=True)
        check_reduction(reduction)
        self.balance = balance
        self.temperature = temperature
        self.ignore_index = ignore_index
        self.reduction: Reduction = reduction
        self.validate_args = validate_args

    def forward(
        self,
        features: Tensor,
        labels: Tensor,
        prototypes: Tensor | None = None,
        prototype_mask: Tensor | None = None,
        *,
        num_classes: int | None = None,
    ) -> Tensor:
        """Shapes as in :func:`slg_loss`."""
        return slg_loss(
            features,
            labels,
            prototypes,
            prototype_mask,
            num_classes=num_classes,
            balance=self.balance,
            temperature=self.temperature,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            validate_args=self.validate_args,
        )

    extra_repr = printed("balance temperature ignore_index reduction")
