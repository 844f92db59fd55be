"""What is measured: mIoU on the test images; pseudo-labels, before and after correction, against hidden true labels."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
import torch.distributed
from torch import Tensor

from graphcorrect import AnchorBank, DualGraphRefiner, metrics
from segmentation.datasets import IGNORE_INDEX, Sample, SegmentationImages
from segmentation.methods import SegmentationModel, correct_labels
from segmentation.networks import NetworkOutput, upsample


def batches(samples: list[Sample], device: torch.device, limit: int = 16) -> Iterator[tuple[Tensor, Tensor]]:
    """Whole images in [0, 1] (B, 3, H, W) and labels (B, H, W), neighbors of one size together; this rank's share."""
    rank, ranks = rank_and_ranks()
    images = SegmentationImages(samples[rank::ranks])
    group: list[tuple[Tensor, Tensor]] = []
    for index in range(len(images)):
        item = images[index]
        if group and (len(group) == limit or item[0].shape != group[0][0].shape):
            yield _stack(group, device)
            group = []
        group.append(item)
    if group:
        yield _stack(group, device)


@torch.no_grad()
def test_iou(model: SegmentationModel, samples: list[Sample], num_classes: int, device: torch.device) -> Tensor:
    """IoU of each class (C,) of the plain head, which is what is used at inference; NaN for a class that is absent."""
    was_training = model.training
    model.eval()
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)
    for images, labels in batches(samples, device):
        output, _ = model(images)
        predictions = plain_labels(output, labels.shape[-2:])
        confusion += metrics.confusion_matrix(predictions, labels, num_classes)
    model.train(was_training)
    return metrics.per_class_iou(_over_ranks(confusion))


@torch.no_grad()
def judge_pseudo_labels(
    model: SegmentationModel,
    samples: list[Sample],
    correctors: dict[str, tuple[DualGraphRefiner, AnchorBank | None]],
    num_classes: int,
    device: torch.device,
) -> dict[str, dict[str, float]]:
    """Pseudo-labels of whole images before correction and after each corrector, against their hidden true labels.

    Returns:
        `{"before": {"miou": ...}, NAME: {"miou": ..., "fixed": ..., "broken": ..., "changed": ...}}`; counts of pixels.
    """
    names = ["before", *correctors]
    confusions = {name: torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device) for name in names}
    counts = {name: torch.zeros(3, dtype=torch.int64, device=device) for name in correctors}
    for images, labels in batches(samples, device):
        output, _ = model(images)
        before = plain_labels(output, labels.shape[-2:])
        confusions["before"] += metrics.confusion_matrix(before, labels, num_classes)
        for name, (refiner, anchors) in correctors.items():
            after = corrected(refiner, output, anchors, labels.shape[-2:])
            confusions[name] += metrics.confusion_matrix(after, labels, num_classes)
            found = metrics.correction_counts(before, after, labels, ignore_index=IGNORE_INDEX)
            counts[name] += torch.tensor([int(found.fixed), int(found.broken), int(found.changed)], device=device)
    result = {name: {"miou": float(metrics.mean_iou(_over_ranks(confusions[name])))} for name in names}
    for name in correctors:
        fixed, broken, changed = _over_ranks(counts[name]).tolist()
        result[name] |= {"fixed": fixed, "broken": broken, "changed": changed}
    return result


def plain_labels(output: NetworkOutput, size: tuple[int, int]) -> Tensor:
    """The classifier's labels at the size of the image, (B, H, W) int64."""
    return upsample(output.logits.softmax(1), size).argmax(1)


def corrected(
    refiner: DualGraphRefiner, output: NetworkOutput, anchors: AnchorBank | None, size: tuple[int, int]
) -> Tensor:
    """Corrected labels at the size of the image, (B, H, W) int64."""
    return upsample(correct_labels(refiner, output, anchors=anchors).soft_labels, size).argmax(1)


def on_its_own(refiner: DualGraphRefiner) -> DualGraphRefiner:
    """A copy for evaluation: ranks judge unequal numbers of images, so none may wait for the others' thresholds."""
    refiner = copy.deepcopy(refiner).eval()
    refiner.threshold.synchronize = False
    return refiner


def distributed() -> bool:
    """Whether this process is one of several."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def rank_and_ranks() -> tuple[int, int]:
    """This process's number and how many there are."""
    return (torch.distributed.get_rank(), torch.distributed.get_world_size()) if distributed() else (0, 1)


def _stack(group: list[tuple[Tensor, Tensor]], device: torch.device) -> tuple[Tensor, Tensor]:
    images, labels = (torch.stack(tensors).to(device) for tensors in zip(*group, strict=True))
    return images.float() / 255, labels.long()


def _over_ranks(counts: Tensor) -> Tensor:
    """Integer counts summed over all ranks."""
    if distributed():
        torch.distributed.all_reduce(counts)
    return counts
