"""What a correction did to labels whose truth is known: counts of an image, and of all."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from graphcorrect import metrics
from graphcorrect.cli.changes import Counts, as_csv, counts_of
from graphcorrect.files.faults import reading
from graphcorrect.files.label_maps import LabelMap
from graphcorrect.files.masks import read_mask
from graphcorrect.labels import IGNORE_INDEX


class Summary(NamedTuple):
    """Confusion matrices (C, C) before and after, and labels fixed and broken."""

    before: Tensor
    after: Tensor
    fixed: int
    broken: int
    images: int
    names: list[str]

    def line(self) -> str:
        """All of it in one line."""
        ious = [100 * metrics.mean_iou(matrix) for matrix in (self.before, self.after)]
        return (
            f"against the truth of {self.images} images: mIoU {ious[0]:.2f} -> {ious[1]:.2f}; {self.fixed:,} labels "
            f"fixed, {self.broken:,} broken ({self.fixed / max(1, self.broken):.2f} : 1)"
        )

    def csv(self) -> str:
        """A line a class: intersection over union before and after, in [0, 1]."""
        ious = zip(*(metrics.per_class_iou(matrix).tolist() for matrix in (self.before, self.after)), strict=True)
        rows = [(name, f"{old:.5f}", f"{new:.5f}") for name, (old, new) in zip(self.names, ious, strict=True)]
        return as_csv(("class", "iou_before", "iou_after"), rows)


def outcome_of(path: Path, before: Tensor, after: Tensor, classes: LabelMap | int) -> Counts:
    """Pixels for each (true class, class before, class after) of an image and its true mask."""
    with reading(path):
        truth = read_mask(path, classes)
    counted = (truth != IGNORE_INDEX) & (after != IGNORE_INDEX)
    return counts_of(truth[counted], before[counted], after[counted])


def summary(outcomes: list[Counts], names: list[str]) -> Summary:
    """The sums over images."""
    count = max([len(names) - 1, *(max(triple) for outcome in outcomes for triple in outcome)]) + 1
    matrices, fixed, broken = torch.zeros(2, count, count, dtype=torch.int64), 0, 0
    for outcome in outcomes:
        for (truth, before, after), pixels in outcome.items():
            matrices[0, truth, before] += pixels
            matrices[1, truth, after] += pixels
            fixed += pixels * (before != truth and after == truth)
            broken += pixels * (before == truth and after != truth)
    names = [*names, *map(str, range(len(names), count))]
    return Summary(matrices[0], matrices[1], fixed, broken, len(outcomes), names)
