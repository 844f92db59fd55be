"""Settings of an anchor bank that labeled images choose for themselves."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from graphcorrect import _checks, metrics
from graphcorrect.banks._lookup import with_prior
from graphcorrect.banks.anchors import LIMITS, AnchorBank
from graphcorrect.labels import labeled_nodes
from graphcorrect.nodes import image_to_nodes, resize_maps
from graphcorrect.ops.values import widen

STRENGTHS, EPS, BALANCES, TEMPERATURES = (0.5, 1.0, 2.0), (0.02, 0.1, 0.3), (0.0, 0.5, 1.0), (0.02, 0.05, 0.1)


class Settings(NamedTuple):
    """How a bank's anchors move probabilities; see :class:`graphcorrect.AnchorBank`."""

    strength: float
    eps: float
    balance: float
    temperature: float


class Calibration(NamedTuple):
    """What :func:`calibrate` chose, and what it is worth on the images that it saw.

    Attributes:
        settings: the chosen ones, of strength 0 where no correction did better than none.
        before: mean IoU of the network's own labels, in [0, 1].
        after: mean IoU with the chosen settings.
        worst_class: smallest change of a class's IoU.
        tried: number of settings compared.

    Example:
        >>> anchors = AnchorBank(num_classes=2, feature_dim=3)
        >>> anchors.update(torch.eye(3), torch.tensor([0, 1, 1]))
        >>> said = torch.tensor([[0.6, 0.4], [0.6, 0.4], [0.4, 0.6]])
        >>> found = calibrate(anchors, [torch.eye(3)], [torch.tensor([0, 1, 1])], [said])
        >>> f"{found.after - found.before:+.2f} at strength {found.settings.strength}"
        '+0.50 at strength 0.5'
    """

    settings: Settings
    before: float
    after: float
    worst_class: float
    tried: int


@torch.no_grad()
def calibrate(
    bank: AnchorBank,
    keys: Sequence[Tensor],
    labels: Sequence[Tensor],
    probabilities: Sequence[Tensor],
    *,
    folds: int | None = None,
    max_class_loss: float = 0.01,
    strengths: Sequence[float] = STRENGTHS,
    eps: Sequence[float] = EPS,
    balances: Sequence[float] = BALANCES,
    temperatures: Sequence[float] = TEMPERATURES,
) -> Calibration:
    """Chooses strength, eps, balance and temperature of a bank by labeled images, and sets them.

    Of the settings under which no more labels are broken than fixed and no class loses more than `max_class_loss`, the
    one of the largest mean IoU; where there is none, strength 0. Each image is looked up once, whatever is compared.

    Args:
        bank: whose `strength`, `eps`, `balance` and `temperature` are replaced. A state dict does not hold these: build
            the bank that loads it with them, or keep a `SegmentationCorrector`, which does.
        keys: of each image, (D, h, w) or (N, D), as the bank takes them.
        labels: of each image, (H, W) of any resolution or (N,); the bank's `ignore_index` where there is none.
        probabilities: of each image, (C, h', w') of any resolution or (N, C), on the simplex: what a network says that
            **has not been trained on these images**. Of images that it knows, a network is right anyway, and the best
            correction would be none.
        folds: None for images that are not in the bank. A number from 2 on for images that are: the bank is filled
            anew that many times, each time without a share of them (as many folds as images leave one out), and by this
            process alone.
        max_class_loss: IoU, in [0, 1].
        strengths: to compare.
        eps: to compare.
        balances: to compare.
        temperatures: to compare.

    Returns:
        The choice and what it is worth.

    Raises:
        ValueError: numbers of images differ, shapes or devices do not fit, a setting is out of range, or no
            image has a label.
        RuntimeError: the bank is empty, and `folds` is None.

    Cost: a look-up for each image, and with `folds` as many updates of each image less one.

    Example:
        >>> anchors = AnchorBank(num_classes=2, feature_dim=3)
        >>> anchors.update(torch.eye(3), torch.tensor([0, 1, 1]))
        >>> said = torch.tensor([[0.6, 0.4], [0.6, 0.4], [0.4, 0.6]])  # of a held-out image of three nodes
        >>> found = calibrate(anchors, [torch.eye(3)], [torch.tensor([0, 1, 1])], [said])
        >>> found.before < found.after, anchors.strength
        (True, 0.5)
    """
    _check_lengths(keys, labels, probabilities, folds)
    _checks.in_interval("max_class_loss", max_class_loss, 0.0, 1.0)
    compared = {"strengths": strengths, "eps": eps, "balances": balances, "temperatures": temperatures}
    for (argument, values), setting in zip(compared.items(), Settings._fields, strict=True):
        _checks.not_empty(argument, values, "setting to compare")
        for value in values:
            _checks.in_interval(argument, value, **LIMITS[setting])
    grid = [Settings(*each) for each in itertools.product(strengths, eps, balances, temperatures)]
    images = [_nodes(bank, *each) for each in zip(keys, labels, probabilities, strict=True)]
    confusions = torch.zeros(1 + len(grid), bank.num_classes, bank.num_classes, dtype=torch.int64)
    searched = bank
    if folds is not None:
        searched = copy.deepcopy(bank)
        searched.synchronize = False  # filled anew by this process alone
    for fold in range(folds or 1):
        if folds is not None:
            _refill(searched, [image for place, image in enumerate(images) if place % folds != fold])
        for image in images[fold :: folds or 1]:
            confusions += _outcomes(searched, image, grid)
    if confusions[0].sum() == 0:
        raise ValueError("expected `labels` with a label that is not ignored, got none")
    found = _choose(grid, confusions, max_class_loss)
    for name, value in found.settings._asdict().items():
        setattr(bank, name, value)
    return found


class _Nodes(NamedTuple):
    """One image as rows."""

    keys: Tensor  # (N, D)
    labels: Tensor  # (N,)
    probabilities: Tensor  # (N, C)


def _check_lengths(
    keys: Sequence[Tensor], labels: Sequence[Tensor], probabilities: Sequence[Tensor], folds: int | None
) -> None:
    if len(keys) == 0:
        raise ValueError("expected `keys` of one image at least, got none")
    for name, values in (("labels", labels), ("probabilities", probabilities)):
        if len(values) != len(keys):
            raise ValueError(f"expected `{name}` of {len(keys)} images, as `keys` has, got {len(values)}")
    if folds is not None:
        _checks.integer_at_least("folds", folds, 2)
        if folds > len(keys):
            raise ValueError(f"expected `folds` of at most {len(keys)}, one for each image, got {folds}")


def _nodes(bank: AnchorBank, keys: Tensor, labels: Tensor, probabilities: Tensor) -> _Nodes:
    bank.check_keys("keys", keys if keys.ndim == 2 else keys[None])
    _checks.floating("probabilities", probabilities)
    _checks.same_device("probabilities", probabilities, "`keys`", keys)
    features, given = (keys, labels) if keys.ndim == 2 else (keys[None], labels[None])
    rows, truth = labeled_nodes(features, given, bank.num_classes, ignore_index=bank.ignore_index)
    if keys.ndim == 3:
        _checks.ndim("probabilities", probabilities, (3,), "(C, h, w), as `keys` is (D, h, w)")
        said = image_to_nodes(resize_maps(probabilities[None], (keys.shape[1], keys.shape[2]), None))
        rows, truth, probabilities = rows[0], truth[0], said[0]
    _checks.shape("probabilities", probabilities, (len(rows), bank.num_classes), "(one row for each node of `keys`)")
    _checks.not_logits("probabilities", probabilities, -1)
    return _Nodes(rows, truth, probabilities)


def _refill(bank: AnchorBank, images: list[_Nodes]) -> None:
    for buffer in (bank.features, bank.num_seen, bank.num_updates):
        buffer.zero_()
    bank.priority.fill_(-torch.inf)
    for image in images:
        bank.update(image.keys, image.labels)
    if not bank.counts.any():
        raise ValueError("expected `labels` that are not ignored in two of the `folds` at least, got none beside one")


def _outcomes(bank: AnchorBank, image: _Nodes, grid: Sequence[Settings]) -> Tensor:
    """Confusion matrices (1 + settings, C, C) of one image: without correction, then under each of the settings."""
    is_known = image.labels != bank.ignore_index
    truth = image.labels[is_known]
    said = widen(image.probabilities[is_known])

    def confusion(predictions: Tensor) -> Tensor:
        return metrics.confusion_matrix(predictions, truth, bank.num_classes, ignore_index=bank.ignore_index)

    found = [confusion(said.argmax(-1))]
    votes = bank.votes(image.keys[is_known], {each.temperature for each in grid})
    for each in grid:
        posterior = with_prior(votes[each.temperature], bank.num_seen, each.balance)
        after = (said * (posterior + each.eps) ** each.strength).argmax(-1)
        found.append(confusion(after))
    return torch.stack(found).cpu()


def _choose(grid: Sequence[Settings], confusions: Tensor, max_class_loss: float) -> Calibration:
    """The best of the settings that harm no class; the network's own labels where there is none."""
    iou = torch.stack([metrics.per_class_iou(each) for each in confusions])
    mean, right = iou.nanmean(1), confusions.diagonal(dim1=1, dim2=2).sum(1)
    change = (iou - iou[0]).nan_to_num(nan=0.0).amin(1)
    is_safe = (change >= -max_class_loss) & (right >= right[0])
    best = int(torch.where(is_safe, mean, -1.0).argmax())
    settings = grid[best - 1] if best else Settings(0.0, 1.0, 1.0, 0.05)
    return Calibration(settings, float(mean[0]), float(mean[best]), float(change[best]), len(grid))
