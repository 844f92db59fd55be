"""What the methods will need of images and labels, checked before the first step rather than met after the last."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from graphcorrect import DualGraphRefiner
from segmentation.checking import Survey
from segmentation.datasets import IGNORE_INDEX, SegmentationData, read_labels
from segmentation.evaluation import on_its_own
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
    refiner = on_its_own(new_refiner(recipe, len(data.class_names)))  # the other processes wait meanwhile
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
