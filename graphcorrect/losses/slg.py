"""The contrastive loss on the semantic-level graph, exact and linear in the number of nodes."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphcorrect import _checks
from graphcorrect._eager import is_seen_full, may_loop
from graphcorrect._precision import full_precision, widen
from graphcorrect._typing import Reduction
from graphcorrect.labels import IGNORE_INDEX, labeled_nodes
from graphcorrect.losses._reduce import check_reduction, mean_over_ranks
from graphcorrect.nodes import unit_and_inverse, unit_rows, unit_rows_gradient

# Columns of a symmetric product that a CPU makes at a time; launches of a GPU cost more than half a product
GRAM_BLOCK = 64
TILE_ROWS = 2048  # that a CPU's cache holds


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

    Differs from the paper: means rather than sums. Averaged gradients of several ranks are those of the joined batch.

    Args:
        features: (B, N, D) or (N, D) nodes, or (B, D, H, W) images, floating point, any scale; leading dimensions are
            separate images.
        labels: (B, N) or (N,), or (B, H', W') of any resolution (pooled to that of the features by majority vote);
            integers in [0, C) or `ignore_index`.
        prototypes: (C, D) class means of :class:`PrototypeBank`; taken as constants. None leaves the second term out.
        prototype_mask: (C,) bool, True where a class has a prototype; nodes of the others take no part in the second
            term.
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
    """
    check_reduction(reduction)
    _checks.in_interval("balance", balance, 0.0, 1.0)
    _checks.in_interval("temperature", temperature, 0.0, float("inf"), open_low=True, open_high=True)
    num_classes = _number_of_classes(labels, prototypes, prototype_mask, num_classes, ignore_index)
    nodes, node_labels = labeled_nodes(
        features, labels, num_classes, ignore_index=ignore_index, validate_args=validate_args
    )
    nodes = nodes.reshape(nodes.shape[:-2].numel(), *nodes.shape[-2:])
    node_labels = node_labels.reshape(nodes.shape[:-1])
    is_labeled = node_labels != ignore_index
    node_labels = torch.where(is_labeled, node_labels, -1)  # `ignore_index` may be the number of a class
    with full_precision(nodes):
        wide = widen(nodes)
        pairs, num_labeled = _pair_term(wide, is_labeled, node_labels, num_classes)
        has_nodes = num_labeled > 0
        image_means = pairs / num_labeled.clamp_min(1).to(pairs.dtype).square()
        if prototypes is None:
            contrast = node_counted = torch.zeros_like(wide[..., 0])
        else:
            _checks.size("prototypes", prototypes, 1, wide.shape[-1], "entries, as `features` has")
            rows = unit_rows(wide, is_labeled)
            contrast, node_counted = _prototype_term(rows, node_labels, prototypes, prototype_mask, temperature)
        if reduction == "none":
            return balance * image_means + (1 - balance) * contrast.sum(1) / node_counted.sum(1).clamp_min(1)
        if reduction == "sum":
            return balance * image_means.sum() + (1 - balance) * contrast.sum()
        return balance * mean_over_ranks(image_means.sum(), has_nodes.sum()) + (1 - balance) * mean_over_ranks(
            contrast.sum(), node_counted.sum()
        )


def _number_of_classes(
    labels: Tensor, prototypes: Tensor | None, prototype_mask: Tensor | None, num_classes: int | None, ignore_index: int
) -> int:
    if prototypes is not None:
        _checks.floating("prototypes", prototypes)
        _checks.ndim("prototypes", prototypes, (2,), "(C, D)")
        if num_classes is not None:
            _checks.size("prototypes", prototypes, 0, num_classes, "classes")
        if prototype_mask is not None:
            _checks.boolean("prototype_mask", prototype_mask)
            _checks.shape("prototype_mask", prototype_mask, prototypes.shape[:1], "(one entry for each class)")
        return prototypes.shape[0]
    if prototype_mask is not None:
        raise ValueError("expected `prototypes` beside `prototype_mask`, got None")
    if num_classes is not None:
        _checks.integer_at_least("num_classes", num_classes, 1)
        return num_classes
    _checks.integral("labels", labels)
    counted = labels[labels != ignore_index]
    return max(1, int(counted.max()) + 1) if counted.numel() else 1


def _pair_term(nodes: Tensor, is_labeled: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Sum over the ordered pairs of each image, and its labeled nodes, both (B,), for nodes (B, N, D) of any scale."""
    slots = torch.where(is_labeled, labels, num_classes)
    counts = _class_counts(slots, num_classes)
    # A compiler derives the backward itself.
    form = _pairs_of if torch.compiler.is_compiling() else _PairSum.apply
    pairs: Tensor = form(nodes, is_labeled, slots, num_classes) + counts.to(nodes.dtype).square().sum(1)
    return pairs, counts.sum(1)


def _class_counts(slots: Tensor, num_classes: int) -> Tensor:
    """How many nodes of each image are in each class, (B, C)."""
    if slots.device.type == "cpu":  # a GPU counts in whatever order comes, which its deterministic mode refuses
        return slots.new_zeros(len(slots), num_classes + 1).scatter_add(1, slots, torch.ones_like(slots))[:, :-1]
    classes = torch.arange(num_classes, device=slots.device)
    return (slots[:, None, :] == classes[:, None]).sum(-1)


def _pairs_of(nodes: Tensor, is_labeled: Tensor | None, slots: Tensor, num_classes: int) -> Tensor:
    """|V^T V|^2 - 2 sum_c |sum_{i in c} v_i|^2 of each image, (B,)."""
    gram, sums = _moments(unit_rows(nodes, is_labeled), slots, num_classes)
    return gram.square().sum((1, 2)) - 2.0 * sums.square().sum((1, 2))


def _moments(rows: Tensor, slots: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """V^T V (..., D, D) and the sum of each class's rows (..., C + 1, D); ignored rows are zero."""
    return rows.mT @ rows, _class_sums(rows, slots, num_classes)


def _class_sums(rows: Tensor, slots: Tensor, num_classes: int) -> Tensor:
    if rows.ndim == 2 and rows.device.type == "cpu":  # a GPU adds in whatever order comes, and batches need offsets
        return rows.new_zeros(num_classes + 1, rows.shape[1]).index_add_(0, slots, rows)
    return F.one_hot(slots, num_classes + 1).to(rows.dtype).mT @ rows


def _add_gram(total: Tensor, rows: Tensor) -> None:
    """Adds V^T V of rows (n, D) to the blocks of `total` (D, D) on and above the diagonal: it is symmetric."""
    width = GRAM_BLOCK if rows.device.type == "cpu" else max(1, rows.shape[1])
    for start in range(0, rows.shape[1], width):
        block = slice(start, start + width)
        total[block, start:].addmm_(rows[:, block].mT, rows[:, start:])


class _PairSum(torch.autograd.Function):
    """`_pairs_of` a tile of rows at a time, which stays in the cache; no copy of the nodes is made or kept.

    Tiles also keep rounding in bounds: one float32 sum of 160,000 nearly equal products is a hundredth of it off.

    The gradient of the unit row v_i is 4 V^T V v_i - 4 sum_{j in c(i)} v_j.
    """

    @staticmethod
    def forward(ctx: Any, nodes: Tensor, is_labeled: Tensor, slots: Tensor, num_classes: int) -> Tensor:
        batch, _, dim = nodes.shape
        gram, sums = nodes.new_zeros(batch, dim, dim), nodes.new_zeros(batch, num_classes + 1, dim)
        mask = None if is_seen_full(is_labeled) else is_labeled
        looped = _looped(nodes)
        inverse = nodes.new_empty((0,) if looped is None else nodes.shape[:-1])
        for image, tile in _tiles(nodes):
            of_tile = nodes[image, tile], None if mask is None else mask[image, tile]
            if looped is not None:
                rows = looped.unit(*of_tile, slots[image, tile], sums[image], inverse[image, tile])
            else:
                rows = unit_rows(*of_tile)
                sums[image] += _class_sums(rows, slots[image, tile], num_classes)
            _add_gram(gram[image], rows)
        gram = gram.triu() + gram.triu(1).mT
        ctx.num_classes = num_classes
        ctx.are_plain = looped is not None and looped.are_plain
        ctx.save_for_backward(nodes, mask, slots, gram, sums, inverse)
        return gram.square().sum((1, 2)) - 2.0 * sums.square().sum((1, 2))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        nodes, mask, slots, gram, sums, inverse = ctx.saved_tensors
        if torch.is_grad_enabled():  # second derivatives are wanted: by the form that autograd can read
            pairs = _pairs_of(nodes, mask, slots, ctx.num_classes)
            return *torch.autograd.grad(pairs, nodes, grad, create_graph=True), None, None, None
        slope_of_row, slope_of_class = 4.0 * grad[:, None, None] * gram, -4.0 * grad[:, None, None] * sums
        result = torch.empty_like(nodes)
        looped = _looped(nodes) if ctx.are_plain else None
        for image, tile in _tiles(nodes):
            exact, slots_of_tile, slope_of_tile = nodes[image, tile], slots[image, tile], result[image, tile]
            if looped is not None:
                slopes = slope_of_row[image], slope_of_class[image]
                looped.slopes(exact, inverse[image, tile], slots_of_tile, *slopes, out=slope_of_tile)
                continue
            rows, inverse_of_tile = unit_and_inverse(exact, None if mask is None else mask[image, tile])
            slope = slope_of_class[image].index_select(0, slots_of_tile).addmm_(rows, slope_of_row[image])
            unit_rows_gradient(exact, rows, inverse_of_tile, slope, out=slope_of_tile)
        return result, None, None, None


def _looped(nodes: Tensor) -> Any:
    """What goes through tiles of these nodes in compiled loops, or None where torch alone does."""
    if not nodes.numel() or not may_loop(nodes):
        return None
    from graphcorrect.losses._numba_pairs import TiledRows  # not above: it imports numba

    return TiledRows(min(TILE_ROWS, nodes.shape[1]), nodes)


def _tiles(nodes: Tensor) -> Iterator[tuple[int, slice]]:
    """Image and rows of each tile: as many as a CPU's cache holds; elsewhere whole images, since launches cost more."""
    batch, num_nodes, _ = nodes.shape
    size = TILE_ROWS if nodes.device.type == "cpu" else max(1, num_nodes)
    return ((image, slice(start, start + size)) for image in range(batch) for start in range(0, num_nodes, size))


def _prototype_term(
    rows: Tensor, labels: Tensor, prototypes: Tensor, prototype_mask: Tensor | None, temperature: float
) -> tuple[Tensor, Tensor]:
    """Cross entropy of each node against the prototypes, (B, N), zero where it does not count; and who counts."""
    scores = rows @ unit_rows(widen(prototypes.detach())).to(rows.dtype).mT / temperature  # (B, N, C)
    is_class = (labels >= 0) & (labels < len(prototypes))
    known = torch.where(is_class, labels, 0)
    if prototype_mask is not None:
        is_class = is_class & prototype_mask[known]
        # Not -inf: where no class has a prototype a row of -inf would make NaN gradients.
        scores = scores.masked_fill(~prototype_mask, torch.finfo(scores.dtype).min)
    contrast = F.cross_entropy(scores.flatten(0, 1), known.flatten(), reduction="none").reshape(labels.shape)
    return torch.where(is_class, contrast, 0.0), is_class.to(rows.dtype)


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

    def extra_repr(self) -> str:
        """The settings that `repr` prints."""
        return (
            f"balance={self.balance}, temperature={self.temperature}, ignore_index={self.ignore_index}, "
            f"reduction={self.reduction!r}"
        )
