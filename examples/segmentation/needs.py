"""What the methods will need of images and labels, checked before the first step rather than met after the last."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from graphcorrect.files.text import few
from segmentation.checking import Survey
from segmentation.datasets import IGNORE_INDEX, SegmentationData, read_labels
from segmentation.method import parse
from segmentation.recipe import Recipe

KEY_STRIDE = 4  # of the keys of anchors


def check_needs(recipe: Recipe, data: SegmentationData, survey: Survey) -> None:
    """Raise a `ValueError` that says what some method of the recipe would lack."""
    if any(parse(name).uses_anchors for name in recipe.methods) and not _has_anchors(recipe, data, survey):
        masks = few([str(sample.mask) for sample in data.labeled], 3)
        cell = f"{KEY_STRIDE} x {KEY_STRIDE} pixels"
        raise ValueError(
            f"the methods would not get what they need:\n  {masks}: no cell of {cell} has a class as its majority, the "
            "labels are too sparse for anchors: label more pixels, or leave out the methods with +anchors"
        )


def _has_anchors(recipe: Recipe, data: SegmentationData, survey: Survey) -> bool:
    """Whether any labeled image leaves a labeled node on the grid of the keys."""
    for sample, seen in survey.found["labeled"]:
        if _has_majority(read_labels(sample), [-(-side // KEY_STRIDE) for side in recipe.data.resize or seen.size]):
            return True
    return False


def _has_majority(labels: Tensor, grid: list[int]) -> bool:
    """Whether in some cell of a grid more pixels (H, W) are of one class than of any other, the ignored included.

    The rule by which `AnchorBank.update` pools labels; asked here because only one process looks at the files.
    """
    shares = {int(label): F.adaptive_avg_pool2d((labels == label).float()[None], grid) for label in labels.unique()}
    ignored = shares.pop(IGNORE_INDEX, torch.zeros(1, *grid))
    best = torch.stack([*shares.values(), ignored]).topk(min(2, len(shares) + 1), dim=0).values
    is_known = best[0] > ignored
    return bool((is_known & (best[0] > best[-1])).any()) if shares else False
