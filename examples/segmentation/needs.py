"""What the methods will need of images and labels, checked before the first step rather than met after the last."""

from __future__ import annotations

import torch.nn.functional as F

from graphcorrect.files.text import few
from graphcorrect.labels import pool_labels
from segmentation.checking import Survey
from segmentation.datasets import IGNORE_INDEX, SegmentationData, read_labels
from segmentation.method import parse
from segmentation.networks import overhang
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
    """Whether any labeled image leaves a labeled node on the grid of the keys, as `AnchorBank.update` pools labels.

    Asked here because only one process looks at the files.
    """
    for sample, seen in survey.found["labeled"]:
        size = recipe.data.resize or seen.size
        grid, labels = tuple(-(-side // KEY_STRIDE) for side in size), read_labels(sample)[None].long()
        labels = F.pad(labels, overhang(grid, size, labels.shape[-2:]), value=IGNORE_INDEX)
        if (pool_labels(labels, grid, len(data.class_names)) != IGNORE_INDEX).any():
            return True
    return False
