"""Scores of predictions from their confusion matrices: IoU of all pixels, Dice of each image or volume."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from graphcorrect import metrics
from segmentation.datasets import Sample
from segmentation.processes import rank_and_ranks, sum_over_ranks


class Groups(NamedTuple):
    """Which samples are scored together: a number for each, and how many groups there are."""

    numbers: list[int]
    count: int


def groups_of(samples: list[Sample], dice: str) -> Groups:
    """The groups that `evaluation.dice` asks for: all in one, each image, or the slices of a volume.

    A volume is all images whose names agree before "_slice".
    """
    names = [sample.image.stem for sample in samples]
    if dice == "none":
        return Groups([0] * len(samples), 1)
    if dice == "image":
        return Groups(list(range(len(samples))), len(samples))
    volumes = [name.split("_slice")[0] for name in names]
    order = {volume: number for number, volume in enumerate(dict.fromkeys(volumes))}
    return Groups([order[volume] for volume in volumes], len(order))


class Confusions:
    """Confusion matrices (G, C, C) of groups of images, counted in the order of this process's share of them."""

    def __init__(self, groups: Groups, num_classes: int, device: torch.device):
        self.num_groups, self.num_classes = groups.count, num_classes
        rank, ranks = rank_and_ranks()
        self.own = iter(groups.numbers[rank::ranks])
        self.counts = torch.zeros(groups.count, num_classes, num_classes, dtype=torch.int64, device=device)

    def add(self, predicted: Tensor, labels: Tensor) -> None:
        """Count the next images, (B, H, W); rows are true classes."""
        if self.num_groups == 1:
            self.counts[0] += metrics.confusion_matrix(predicted, labels, self.num_classes)
            return
        for one, truth in zip(predicted, labels, strict=True):
            self.counts[next(self.own)] += metrics.confusion_matrix(one, truth, self.num_classes)

    def joined(self) -> Tensor:
        """The counts of all processes."""
        return sum_over_ranks(self.counts)


def scores_of(confusions: Tensor, class_names: list[str], dice: str) -> dict[str, Any]:
    """`miou` and `iou` by class of all pixels, and `dice`, `dice_by_class` if they are asked for; all in [0, 1].

    Dice is a mean over groups first and classes then, the first class, the background, left out; a group that neither
    shows a class nor is said to does not count for it.
    """
    iou = metrics.per_class_iou(confusions.sum(0))
    found: dict[str, Any] = {"miou": float(iou.nanmean()), "iou": _by_class(iou, class_names)}
    if dice != "none":
        each = dice_of_groups(confusions).nanmean(0)
        found["dice"] = float(each[1:].nanmean())
        found["dice_by_class"] = _by_class(each, class_names)
    return found


def dice_of_groups(confusions: Tensor) -> Tensor:
    """Dice of each group and class, (G, C) float64; NaN for a class neither present nor predicted."""
    counts = confusions.double()
    return 2 * counts.diagonal(dim1=1, dim2=2) / (counts.sum(1) + counts.sum(2))


def _by_class(values: Tensor, class_names: list[str]) -> dict[str, float]:
    return dict(zip(class_names, (round(value, 4) for value in values.tolist()), strict=True))
