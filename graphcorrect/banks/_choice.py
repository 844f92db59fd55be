"""The choice among settings by labeled images, which goes no further than so many images can tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from graphcorrect import metrics
from graphcorrect.banks.anchors import AnchorBank


class Settings(NamedTuple):
    """How a bank's anchors move probabilities; see :class:`graphcorrect.AnchorBank`."""

    strength: float
    eps: float
    balance: float | None
    temperature: float

    @classmethod
    def of(cls, bank: AnchorBank) -> Settings:
        """Those that a bank has."""
        return cls(*(getattr(bank, name) for name in cls._fields))

    def give(self, bank: AnchorBank) -> None:
        """Make them those of a bank."""
        for name, value in self._asdict().items():
            setattr(bank, name, value)


NONE = Settings(0.0, 1.0, 1.0, 0.05)  # which move nothing


class Calibration(NamedTuple):
    """What :func:`calibrate` chose, and what it is worth on the images that it saw.

    Attributes:
        settings: the chosen ones, of strength 0 where no correction did better than none.
        before: mean IoU of the network's own labels, in [0, 1].
        after: mean IoU with the chosen settings.
        worst_class: smallest change of a class's IoU.
        tried: number of settings compared.
        in_place: mean IoU with the settings that the bank had.

    Example:
        >>> anchors = AnchorBank(num_classes=2, feature_dim=3)
        >>> anchors.update(torch.eye(3), torch.tensor([0, 1, 1]))
        >>> said = torch.tensor([[0.7, 0.3], [0.7, 0.3], [0.3, 0.7]])
        >>> found = calibrate(anchors, [torch.eye(3)], [torch.tensor([0, 1, 1])], [said])
        >>> f"{found.after - found.before:+.2f} at strength {found.settings.strength}"
        '+0.50 at strength 1.0'
    """

    settings: Settings
    before: float
    after: float
    worst_class: float
    tried: int
    in_place: float


def counts_of(predictions: Tensor, labels: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """How many pixels of each class are right, predicted and true, (3, C) int64: what its IoU is made of."""
    confusion = metrics.confusion_matrix(predictions, labels, num_classes, ignore_index=ignore_index)
    return torch.stack([confusion.diagonal(), confusion.sum(0), confusion.sum(1)]).cpu()


def choose(candidates: Sequence[Settings], counts: Tensor, max_class_loss: float) -> Calibration:
    """The best of the settings that harm no class, or `NONE`; those in place unless others are better by an error.

    Standard errors are those of the jackknife, which leaves each image out in turn. A class is harmed where it loses
    more than `max_class_loss` and a standard error.

    Args:
        candidates: settings, the first of them those in place.
        counts: (images, 1 + candidates, 3, C) of :func:`counts_of`, the first ones without any correction.
        max_class_loss: IoU.
    """
    total = counts.sum(0)
    iou, without_one = _iou(total), _iou(total - counts)
    mean, right = iou.nanmean(1), total[:, 0].sum(1)
    change = (iou - iou[0]).nan_to_num(nan=0.0)
    error = _standard_error((without_one - without_one[:, :1]).nan_to_num(nan=0.0))
    is_safe = (change + error >= -max_class_loss).all(1) & (right >= right[0])
    best = int(torch.where(is_safe, mean, -1.0).argmax())
    if is_safe[1] and mean[1] > mean[0]:
        means = without_one.nanmean(2)
        if mean[best] - mean[1] <= _standard_error(means[:, best] - means[:, 1]):
            best = 1
    if best == 0 and NONE in candidates:  # what else is done to the labels is done with them, too
        best = 1 + candidates.index(NONE)
    settings = candidates[best - 1] if best else NONE
    worst = float(change[best].amin())
    return Calibration(settings, float(mean[0]), float(mean[best]), worst, len(candidates), float(mean[1]))


def _iou(counts: Tensor) -> Tensor:
    """IoU (..., C) of counts (..., 3, C); NaN for a class neither present nor predicted."""
    right, predicted, true = counts.double().unbind(-2)
    return right / (predicted + true - right)


def _standard_error(without_one: Tensor) -> Tensor:
    """Of estimates (images, ...), each without one of the images; 0 for a single image, which cannot tell."""
    if len(without_one) == 1:
        return torch.zeros_like(without_one[0])
    spread = (without_one - without_one.mean(0)).square().mean(0)
    return (spread * (len(without_one) - 1)).sqrt()
