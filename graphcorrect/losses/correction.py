"""LabelCorrectionLoss: both losses over all rounds, as the paper adds them up."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from graphcorrect import _checks
from graphcorrect._settings import printed
from graphcorrect.labels import IGNORE_INDEX, labels_of_nodes, resize_labels
from graphcorrect.losses._reduce import mean_divisor
from graphcorrect.losses.clg import CLGLoss, known_labels, weighted_entropy
from graphcorrect.losses.slg import (
    LabeledNodes,
    PrototypeTargets,
    SLGLoss,
    check_prototypes,
    contrast,
    prototype_targets,
    weighted_mean,
)
from graphcorrect.nodes import image_to_nodes
from graphcorrect.ops.values import full_precision, widen
from graphcorrect.refined_labels import RefinedLabels


class CorrectionLoss(NamedTuple):
    """The loss to minimize and its parts, scalars; `slg` and `clg` are sums over rounds before weighting.

    ``loss.backward()`` is that of `total`; take `total` itself to add, scale or print it.

    Example:
        >>> refiner = DualGraphRefiner(num_classes=4, feature_dim=8, num_neighbors=5)
        >>> out = refiner(torch.randn(2, 30, 8), torch.randn(2, 30, 4))
        >>> loss = LabelCorrectionLoss(slg_weight=0.0)(out, torch.randint(4, (2, 30)))
        >>> bool(loss.total == loss.clg)
        True
    """

    total: Tensor
    slg: Tensor
    clg: Tensor

    def backward(self, *args: Any, **kwargs: Any) -> None:
        """:meth:`torch.Tensor.backward` of `total`."""
        self.total.backward(*args, **kwargs)  # type: ignore[no-untyped-call]


class LabelCorrectionLoss(nn.Module):
    r"""What trains network and refiner on corrected labels, Eq. (17).

    .. math:: \lambda_{SLG} \sum_{k=1}^K L_{SLG}(x^{(k)}) + \lambda_{CLG} \sum_{k=0}^K L_{CLG}(p^{(k)})

    The plain head, k = 0, takes the label loss too: it is what is used at inference.

    Args:
        slg_weight: weight of the contrastive loss.
        clg_weight: weight of the label loss.
        balance: of :class:`SLGLoss`.
        temperature: of :class:`SLGLoss`.
        self_weighted: of :class:`CLGLoss`.
        ignore_index: label left out.
        validate_args: False takes labels outside the classes for ignored ones, and does not wait for a GPU.

    Raises:
        ValueError: a number is out of range.

    Example:
        >>> refiner = DualGraphRefiner(num_classes=4, feature_dim=8, num_neighbors=5)
        >>> student = refiner(torch.randn(2, 8, 6, 9), torch.randn(2, 4, 6, 9))  # of the strong view
        >>> loss = LabelCorrectionLoss()(student, torch.randint(4, (2, 6, 9)))
        >>> loss.backward()
        >>> loss.slg.shape, loss.clg.shape  # its parts
        (torch.Size([]), torch.Size([]))
    """

    def __init__(
        self,
        *,
        slg_weight: float = 0.1,
        clg_weight: float = 1.0,
        balance: float = 0.5,
        temperature: float = 0.1,
        self_weighted: bool = True,
        ignore_index: int = IGNORE_INDEX,
        validate_args: bool = True,
    ) -> None:
        super().__init__()
        _checks.in_interval("slg_weight", slg_weight, 0.0, float("inf"), open_high=True)
        _checks.in_interval("clg_weight", clg_weight, 0.0, float("inf"), open_high=True)
        self.slg_weight = slg_weight
        self.clg_weight = clg_weight
        self.slg = SLGLoss(
            balance=balance, temperature=temperature, ignore_index=ignore_index, validate_args=validate_args
        )
        self.clg = CLGLoss(self_weighted=self_weighted, ignore_index=ignore_index, validate_args=validate_args)

    def forward(
        self,
        student_out: RefinedLabels,
        pseudo_labels: Tensor,
        *,
        prototypes: Tensor | None = None,
        prototype_mask: Tensor | None = None,
    ) -> CorrectionLoss:
        """Adds up the losses of all rounds.

        Args:
            student_out: what the student's refiner returned for the strong view.
            pseudo_labels: (..., N), or (B, H', W') of any resolution; the teacher's corrected labels, or true ones.
            prototypes: (R, C, D) with R at least the number of rounds, :class:`PrototypeBank`'s.
            prototype_mask: (R, C) bool, True where a class has a prototype.

        Returns:
            CorrectionLoss(total, slg, clg).

        Raises:
            ValueError, TypeError: shapes, ranges or dtypes do not fit.
        """
        rounds = len(student_out.features) - 1
        first = student_out.probabilities[0]
        is_image = first.ndim == 4
        num_classes = first.shape[1] if is_image else first.shape[-1]
        slg, clg = self.slg, self.clg
        check_prototypes(prototypes, prototype_mask, ("num_rounds", "C", "D"))
        if prototypes is not None:
            if len(prototypes) < rounds:
                raise ValueError(
                    f"expected `prototypes` of at least {rounds} rounds, got {_checks.shape_of(prototypes)}"
                )
            feature_dim = student_out.features[-1].shape[1 if is_image else -1]
            _checks.size("prototypes", prototypes, 1, num_classes, "classes, as `student_out` has")
            _checks.size("prototypes", prototypes, 2, feature_dim, "entries, as the features of `student_out` have")
            _checks.same_device("prototypes", prototypes, "`student_out`", first)
            if prototype_mask is None and clg.validate_args:
                _checks.some_prototypes("prototypes", prototypes[:rounds])
        # What follows from the labels alone is found once, for all rounds
        node_labels = labels_of_nodes(
            student_out.features[0],
            pseudo_labels,
            num_classes,
            ignore_index=clg.ignore_index,
            validate_args=clg.validate_args,
            name="pseudo_labels",
        )
        if is_image:
            pseudo_labels = resize_labels(pseudo_labels, (first.shape[2], first.shape[3]))
        is_labeled, labels = known_labels(pseudo_labels, num_classes, clg.ignore_index)
        of_labels: list[Tensor] = []
        for probabilities in student_out.probabilities:
            rows = probabilities.movedim(1, -1) if is_image else probabilities
            of_labels.append(weighted_entropy(rows, labels, is_labeled, clg.self_weighted).sum())
        label_loss = torch.stack(of_labels).sum() / -mean_divisor(is_labeled, dtype=of_labels[0].dtype)
        of_features: list[Tensor] = []
        with full_precision(first):
            known = LabeledNodes.of(node_labels, num_classes, slg.ignore_index, widen(student_out.features[-1]).dtype)
            targets: list[PrototypeTargets | None] = [None] * rounds
            if prototypes is not None:
                masks = None if prototype_mask is None else prototype_mask[:rounds]
                targets = list(prototype_targets(prototypes[:rounds], masks, known, slg.temperature))
            for features, of_round in zip(student_out.features[1:], targets, strict=True):
                nodes = image_to_nodes(features) if is_image else features
                of_features.append(weighted_mean(*contrast(nodes, known, of_round), known, of_round, slg.balance))
        feature_loss = torch.stack(of_features).sum() if of_features else torch.zeros_like(label_loss)
        total = torch.add(self.clg_weight * label_loss, feature_loss, alpha=self.slg_weight)
        return CorrectionLoss(total, feature_loss, label_loss)

    extra_repr = printed("slg_weight clg_weight")
