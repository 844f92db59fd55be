"""What the methods will need of images and labels, checked before the first step rather than met after the last."""

from __future__ import annotations

import torch

from graphcorrect import AnchorBank, DualGraphRefiner
from segmentation.checking import Survey
from segmentation.datasets import SegmentationData, read_labels
from segmentation.recipe import Recipe
from segmentation.state import new_refiner
from segmentation.text import few

STRIDES = {"deeplabv3plus": 4, "deeplabv2": 8, "segformer": 4}  # of the map that the graphs are built on
KEY_STRIDE = 4  # of the keys of anchors


def check_needs(recipe: Recipe, data: SegmentationData, survey: Survey, crop: tuple[int, int]) -> None:
    """Raise one `ValueError` that lists what some method of the recipe would lack."""
    faults = _graphs(recipe, data, survey, crop)
    if recipe.anchors.use and not _has_anchors(recipe, data, survey):
        masks = few([str(sample.mask) for sample in data.labeled], 3)
        faults.append(
            f"{masks}: no cell of {KEY_STRIDE} x {KEY_STRIDE} pixels has a class as its majority, the labels are too "
            "sparse for anchors: label more pixels, or leave anchors out (--no-anchors)"
        )
    if faults:
        raise ValueError("\n  ".join(["the methods would not get what they need:", *faults]))


def _graphs(recipe: Recipe, data: SegmentationData, survey: Survey, crop: tuple[int, int]) -> list[str]:
    """Images and crops of which a graph cannot be built: those with fewer nodes than neighbors."""
    refiner = new_refiner(recipe, len(data.class_names)).eval()
    stride = STRIDES[recipe.network.architecture]
    faults = []
    if "mllc" in recipe.methods:
        reason = _refusal(refiner, crop, stride)
        if reason:
            faults.append(f"a crop of {crop[0]} x {crop[1]} (--crop) is too small: {reason} (--neighbors)")
    judged = [(sample, seen) for sample, seen in survey.found["unlabeled"] if seen.counts is not None]
    known: dict[tuple[int, int], str | None] = {}
    for sample, seen in judged[: recipe.evaluation.judged]:
        size = recipe.data.resize or seen.size
        if size not in known:
            known[size] = _refusal(refiner, size, stride)
        if known[size]:
            faults.append(
                f"{sample.image}: {size[0]} x {size[1]} pixels are too few to judge its pseudo-labels: {known[size]} "
                "(--neighbors); or leave the image out"
            )
    return faults


@torch.no_grad()
def _refusal(refiner: DualGraphRefiner, size: tuple[int, int], stride: int) -> str | None:
    """What the refiner says to maps of an image of that size, if it refuses them."""
    grid = [-(-side // stride) for side in size]
    if min(grid[0] * grid[1], refiner.max_nodes) > 4 * refiner.affinity.num_neighbors:  # however it is pooled
        return None
    try:
        refiner(torch.ones(1, refiner.feature_dim, *grid), torch.ones(1, refiner.num_classes, *grid))
    except ValueError as error:
        return str(error)
    return None


def _has_anchors(recipe: Recipe, data: SegmentationData, survey: Survey) -> bool:
    """Whether any labeled image leaves a labeled node on the grid of the keys."""
    bank = AnchorBank(len(data.class_names), 1, capacity_per_class=1)
    for sample, seen in survey.found["labeled"]:
        grid = [-(-side // KEY_STRIDE) for side in recipe.data.resize or seen.size]
        bank.update(torch.ones(1, 1, *grid), read_labels(sample)[None].long())
        if bank.counts.any():
            return True
    return False
