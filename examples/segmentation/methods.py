"""The four methods, each a few lines: what the teacher says of unlabeled images, and what the student is asked to do.

All of them see the same batches and share the supervised loss, Eq. (2); they differ in the term for unlabeled images:

- `supervised`: none.
- `self_training`: cross entropy with the teacher's hard pseudo-labels, every pixel.
- `fixmatch`: the same, pixels of confidence 0.95 and above only (Sohn et al., 2020).
- `mllc`: pseudo-labels corrected by the teacher's refiner; `LabelCorrectionLoss`, Eq. (17), on the student's refiner.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphcorrect import (
    DualGraphRefiner,
    EMATeacher,
    LabelCorrectionLoss,
    PrototypeBank,
    RefinedLabels,
    guided_upsample,
)
from segmentation.datasets import IGNORE_INDEX
from segmentation.keys import LabeledPixels
from segmentation.networks import NetworkOutput, SegmentationNetwork, upsample
from segmentation.processes import rank_and_ranks, sum_over_ranks

METHODS = ("supervised", "self_training", "fixmatch", "mllc")


class SegmentationModel(nn.Module):
    """Network and refiner as one module, so that one teacher averages both and one DDP shell wraps both."""

    def __init__(self, network: SegmentationNetwork, refiner: DualGraphRefiner):
        super().__init__()
        self.network, self.refiner = network, refiner

    def forward(
        self,
        images: Tensor,
        *,
        correct: bool = False,
        inside: Tensor | None = None,
        anchors: LabeledPixels | None = None,
    ) -> tuple[NetworkOutput, RefinedLabels | None]:
        """The network's answer for images (B, 3, H, W), and with `correct` what the graphs make of it.

        `inside` (B, H, W) bool marks real pixels; what a view padded takes no part in the graphs.
        """
        output = self.network(images)
        if not correct:
            return output, None
        return output, correct_labels(self.refiner, output, images, inside=inside, anchors=anchors)


def correct_labels(
    refiner: DualGraphRefiner,
    output: NetworkOutput,
    images: Tensor,
    *,
    inside: Tensor | None = None,
    anchors: LabeledPixels | None = None,
) -> RefinedLabels:
    """Run a refiner on what a network says of images (B, 3, H, W); `anchors` are consulted first."""
    size = output.logits.shape[-2:]
    mask = None if inside is None else F.interpolate(inside[:, None].float(), size=size, mode="nearest-exact")[:, 0] > 0
    keys = None if anchors is None else anchors.keys(images, output)
    return refiner(output.embedding, output.logits, mask=mask, anchors=anchors, anchor_features=keys)


class Banks(nn.Module):
    """What a run remembers beside its weights: prototypes for the loss, anchors for the teacher; None without them."""

    def __init__(self, prototypes: PrototypeBank | None, anchors: LabeledPixels | None):
        super().__init__()
        self.prototypes, self.anchors = prototypes, anchors


class PseudoLabels(NamedTuple):
    """What a teacher says of images at full size: labels (B, H, W) int64, 255 outside the image, of probabilities."""

    labels: Tensor
    probabilities: Tensor  # (B, C, H, W)
    changed: Tensor  # share of the pixels whose label the graphs changed, a scalar


def pseudo_label(
    method: str, teacher: EMATeacher, images: Tensor, inside: Tensor, banks: Banks, *, guided: bool = True
) -> PseudoLabels:
    """Label the weak views (B, 3, H, W) of unlabeled images; only `mllc` lets the graphs have their say."""
    output, refined = teacher(images, correct=method == "mllc", inside=inside, anchors=banks.anchors)
    before = upsample(output.logits.softmax(1), images.shape[-2:])
    after = before if refined is None else at_pixels(refined, images, guided=guided)
    labels = after.argmax(1)
    changed = (inside & (labels != before.argmax(1))).sum() / mean_count(inside)
    return PseudoLabels(labels.masked_fill(~inside, IGNORE_INDEX), after, changed)


def at_pixels(refined: RefinedLabels, images: Tensor, *, guided: bool) -> Tensor:
    """Corrected probabilities of every pixel, (B, C, H, W); `guided` puts their edges where the image has some."""
    enlarged = upsample(refined.soft_labels, images.shape[-2:])
    return guided_upsample(enlarged, images) if guided else enlarged


def remember_labeled(teacher: EMATeacher, images: Tensor, labels: Tensor, anchors: LabeledPixels) -> None:
    """Show labeled images (B, 3, H, W) with labels (B, H, W) to the anchors, if need be through the teacher's eyes."""
    output = None if anchors.has_own_eyes else teacher(images)[0]
    anchors.remember(images, output, labels)


def training_loss(
    method: str,
    student: nn.Module,
    labeled: tuple[Tensor, Tensor],
    unlabeled: tuple[Tensor, Tensor, Tensor] | None,
    banks: Banks,
    *,
    correction: LabelCorrectionLoss | None,
    confidence: float = 0.95,
    pixel_weight: float = 1.0,
    soft: bool = False,
) -> dict[str, Tensor]:
    """The parts of one step's loss by name; their sum is what to minimize.

    Args:
        method: one of `METHODS`.
        student: a `SegmentationModel`, or its DDP shell.
        labeled: weak views (B, 3, H, W) and true labels (B, H, W).
        unlabeled: strong views, pseudo-labels and their probabilities, pixel for pixel; None for `supervised`.
        banks: prototypes are moved and then read; the anchors are the teacher's alone: of the student's labeled images
            they hold the very pixels, and would give the answers away.
        correction: the loss of Eq. (17), for `mllc`; None trains no graphs.
        confidence: what `fixmatch` asks of a pixel.
        pixel_weight: in `mllc`, of a plain cross entropy with the corrected labels at full resolution; 0 in the paper.
        soft: that cross entropy is with the corrected probabilities, not with the labels they make.
    """
    images, labels = labeled
    if unlabeled is not None:  # one batch, so that BatchNorm sees both kinds
        strong, pseudo_labels, probabilities = unlabeled
        images, labels = torch.cat([images, strong]), torch.cat([labels, pseudo_labels])
    trains_graphs = method == "mllc" and correction is not None
    output, refined = student(images, correct=trains_graphs, inside=labels != IGNORE_INDEX)
    split = len(labeled[0])
    logits = upsample(output.logits, labels.shape[-2:])
    losses = {"supervised": cross_entropy(logits[:split], labels[:split])}
    if method == "self_training":
        losses["unlabeled"] = cross_entropy(logits[split:], pseudo_labels)
    elif method == "fixmatch":
        is_sure = probabilities.amax(1) >= confidence
        losses["unlabeled"] = cross_entropy(logits[split:], pseudo_labels, is_sure.float())
    elif method == "mllc":
        if trains_graphs:
            known = {}
            if banks.prototypes is not None:
                for number, features in enumerate(refined.features[1:]):
                    banks.prototypes.update(features.detach(), labels, round=number)
                known = {"prototypes": banks.prototypes.prototypes, "prototype_mask": banks.prototypes.is_initialized}
            losses["correction"] = correction(refined, labels, **known).total
        if pixel_weight > 0:
            # The weight of Eq. (16) is small where the student disagrees with a label, which is where a correction has
            # something to teach; and a quarter of the resolution has lost what is thin. Labels are sharper, but where
            # most of a thin class goes to its neighbors a student of labels loses it; probabilities keep its share.
            targets = probabilities if soft else None
            losses["unlabeled"] = pixel_weight * cross_entropy(logits[split:], pseudo_labels, targets=targets)
    return losses


def cross_entropy(
    logits: Tensor, labels: Tensor, weight: Tensor | None = None, *, targets: Tensor | None = None
) -> Tensor:
    """Mean over pixels that are not ignored, (B, C, H, W) and (B, H, W); a weight of 0 still counts in the mean.

    With `targets` (B, C, H, W), probabilities, those are what is learned, and labels say only what is ignored.

    Over several processes, one's share of the mean over the joined batch: DDP averages their gradients, and so the
    pixels are counted over all processes, however unevenly they are labeled.
    """
    wide, known = logits.to(torch.promote_types(logits.dtype, torch.float32)), labels != IGNORE_INDEX
    if targets is None:
        each = F.cross_entropy(wide, labels, ignore_index=IGNORE_INDEX, reduction="none")
    else:
        each = F.cross_entropy(wide, targets.to(wide.dtype), reduction="none") * known
    return (each if weight is None else each * weight).sum() / mean_count(known)


def mean_count(mask: Tensor) -> Tensor:
    """Pixels under a mask, the mean over all processes: what one's sum is divided by to share in the joined mean."""
    return sum_over_ranks(mask.sum()).clamp_min(1) / rank_and_ranks()[1]
