"""Settings of an anchor bank that labeled images choose for themselves."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from graphcorrect import _checks
from graphcorrect.banks._choice import Calibration, Settings, choose, counts_of
from graphcorrect.banks._lookup import with_prior
from graphcorrect.banks.anchors import LIMITS, AnchorBank
from graphcorrect.labels import labeled_nodes
from graphcorrect.nodes import image_to_nodes, resize_maps
from graphcorrect.ops.values import widen

STRENGTHS, EPS, TEMPERATURES = (0.5, 1.0, 2.0), (0.02, 0.1, 0.3), (0.02, 0.05, 0.1)
BALANCES = (None, 0.0, 0.5, 1.0)


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
    balances: Sequence[float | None] = BALANCES,
    temperatures: Sequence[float] = TEMPERATURES,
) -> Calibration:
    """Chooses strength, eps, balance and temperature of a bank by labeled images, and sets them.

    Of the settings under which no more labels are broken than fixed and no class loses more than `max_class_loss`, the
    one of the largest mean IoU; where there is none, strength 0. The bank's own settings are compared too, and stay
    unless others are better by more than a standard error: a handful of images tells few settings apart. Errors are
    those over images (jackknife), also of what a class loses. Each image is looked up once, whatever is compared.

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
        >>> said = torch.tensor([[0.7, 0.3], [0.7, 0.3], [0.3, 0.7]])  # of a held-out image of three nodes
        >>> found = calibrate(anchors, [torch.eye(3)], [torch.tensor([0, 1, 1])], [said])
        >>> found.before < found.after, anchors.strength
        (True, 1.0)
    """
    _check_lengths(keys, labels, probabilities, folds)
    _checks.in_interval("max_class_loss", max_class_loss, 0.0, 1.0)
    compared = {"strengths": strengths, "eps": eps, "balances": balances, "temperatures": temperatures}
    for (argument, values), setting in zip(compared.items(), Settings._fields, strict=True):
        _checks.not_empty(argument, values, "setting to compare")
        for value in values:
            if value is not None or setting != "balance":
                _checks.in_interval(argument, value, **LIMITS[setting])
    grid = [Settings.of(bank), *itertools.starmap(Settings, itertools.product(*compared.values()))]
    images = [_nodes(bank, *each) for each in zip(keys, labels, probabilities, strict=True)]
    counts = []
    searched = bank
    if folds is not None:
        searched = copy.deepcopy(bank)
        searched.synchronize = False  # filled anew by this process alone
    for fold in range(folds or 1):
        if folds is not None:
            _refill(searched, [image for place, image in enumerate(images) if place % folds != fold])
        counts += [_outcomes(searched, image, grid) for image in images[fold :: folds or 1]]
    if not any(each.any() for each in counts):
        raise ValueError("expected `labels` with a label that is not ignored, got none")
    found = choose(grid, torch.stack(counts), max_class_loss)
    found.settings.give(bank)
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
    """Counts (1 + settings, 3, C) of one image: without correction, then under each of the settings."""
    is_known = image.labels != bank.ignore_index
    truth = image.labels[is_known]
    said = widen(image.probabilities[is_known])
    votes = bank.votes(image.keys[is_known], {each.temperature for each in grid})
    labels = [said.argmax(-1)]
    for each in grid:
        posterior = with_prior(votes[each.temperature], bank.num_seen, each.balance)
        labels.append((said * (posterior + each.eps) ** each.strength).argmax(-1))
    return torch.stack([counts_of(each, truth, bank.num_classes, bank.ignore_index) for each in labels])
