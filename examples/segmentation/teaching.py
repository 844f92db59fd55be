"""How a student is taught: what the teacher says of unlabeled images, and what the student is asked to do with it.

All methods see the same batches and share the supervised loss, Eq. (2). The teacher, a running average of the student,
labels the weak view of each unlabeled image; where a method corrects labels, anchors and graphs do so before anybody
reads them, confidence included. What the student learns from them:

- `supervised`: nothing.
- `self_training`: a strong view, every pixel.
- `fixmatch` (Sohn et al., 2020): a strong view, pixels of confidence 0.95 and above.
- `unimatch` (Yang et al., CVPR 2023): three streams of such pixels, with shares 1/4, 1/4 and 1/2: two strong views,
  each with colors and a CutMix box of its own, and the weak view with half of the channels of each of the encoder's
  levels dropped. As in UniMatch V2 (2025) the labels are those of the running average. Differs from the published
  code: partners of CutMix are neighbors in the batch, all images pass through BatchNorm together, once a step, and
  there is no factor of 1/2 before the sum of the losses, which a learning rate holds as well.
- `rounds` (ST++, Yang et al., CVPR 2022): a strong view with the labels that a frozen teacher gave once a round, see
  `rounds.py`.
- `mllc` (Xiao et al., 2024): self-training, with `LabelCorrectionLoss`, Eq. (17), on the student's own graphs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphcorrect import EMATeacher, LabelCorrectionLoss, PrototypeBank, RefinedLabels
from segmentation.datasets import IGNORE_INDEX
from segmentation.keys import LabeledPixels
from segmentation.losses import cross_entropy, dice, mean_count, wide
from segmentation.method import Method
from segmentation.model import corrected_probabilities
from segmentation.networks import overhang, upsample
from segmentation.recipe import Recipe
from segmentation.transforms import kept_channels, mix, strong_view


class Banks(nn.Module):
    """What a run keeps beside its weights: prototypes for the loss, anchors for the teacher; None without them."""

    def __init__(self, prototypes: PrototypeBank | None, anchors: LabeledPixels | None):
        super().__init__()
        self.prototypes, self.anchors = prototypes, anchors


class PseudoLabels(NamedTuple):
    """What a teacher says of images at full size: labels (B, H, W) int64, 255 outside the image, of probabilities."""

    labels: Tensor
    probabilities: Tensor  # (B, C, H, W)
    kept: Tensor  # (B, H, W) bool: the label is still the teacher's own
    changed: Tensor  # share of the pixels whose label the correction changed, a scalar
    confidence: Tensor  # the mean over the pixels, a scalar


class Stream(NamedTuple):
    """Images for the student, and what it is to say of them, pixel for pixel.

    Attributes:
        images: (B, 3, H, W).
        labels: (B, H, W) int64.
        probabilities: (B, C, H, W), or None: labels from elsewhere.
        kept: (B, H, W) bool, as in `PseudoLabels`; None where nothing asks for it.
        channels: (B, M) for each level of the encoder, what its channels are multiplied by; None for all ones.
        share: of this stream in the loss of unlabeled images.
    """

    images: Tensor
    labels: Tensor
    probabilities: Tensor | None = None
    kept: Tensor | None = None
    channels: list[Tensor] | None = None
    share: float = 1.0


@torch.no_grad()
def pseudo_label(
    method: Method,
    teacher: EMATeacher,
    images: Tensor,
    inside: Tensor,
    banks: Banks,
    *,
    places: Tensor | None = None,
    guided: bool = True,
    counts: bool = False,
) -> PseudoLabels:
    """Label the weak views (B, 3, H, W) of unlabeled images; every process as many, since class thresholds are of all.

    Args:
        method: decides what corrects the labels.
        teacher: of a `SegmentationModel`.
        images: (B, 3, H, W).
        inside: (B, H, W) bool, real pixels.
        banks: the anchors are read.
        places, guided: as in `corrected_probabilities`.
        counts: whether thresholds that count over all of training count these images.
    """
    output, _ = teacher(images)
    output = output._replace(logits=wide(output.logits))  # a confidence of 0.95 is none in bf16
    before = after = upsample(output.logits.softmax(1), images.shape[-2:])
    if method.correct:
        options = {"anchors": banks.anchors, "inside": inside, "places": places, "guided": guided}
        refiner = teacher.module.refiner.train(counts)
        refiner.threshold.train()  # which has it count over all processes
        after = corrected_probabilities(method.correct, refiner, output, images, **options)
        refiner.eval()
    labels = after.argmax(1)
    kept = labels == before.argmax(1)
    changed, confidence = ((inside * each).sum() / mean_count(inside) for each in (~kept, after.amax(1)))
    return PseudoLabels(labels.masked_fill(~inside, IGNORE_INDEX), after, kept, changed, confidence)


@torch.no_grad()
def update_anchors(
    model: nn.Module, images: Tensor, labels: Tensor, anchors: LabeledPixels, places: Tensor | None = None
) -> None:
    """Show labeled images (B, 3, H, W) with labels (B, H, W) to the anchors, if need be as a teacher sees them."""
    output = None if anchors.has_key_encoder else model(images)[0]
    keys = anchors.keys(images, output, places)
    padding = overhang(keys.shape[-2:], images.shape[-2:], labels.shape[-2:])
    anchors.update(keys, F.pad(labels, padding, value=IGNORE_INDEX))


def streams_of(
    method: Method, weak: Tensor, draws: Tensor, pseudo: PseudoLabels, recipe: Recipe, widths: Sequence[int]
) -> list[Stream]:
    """What the student sees of unlabeled images.

    Args:
        method: decides which views.
        weak: weak views (B, 3, H, W), of which `pseudo` speaks.
        draws: (B, 2, K), what the strong views are to do.
        recipe: how views are mixed, and which labels are learned.
        widths: channels of the encoder's levels.
    """
    views = (0, 1) if method.teaching == "unimatch" else (0,)
    held = (pseudo.probabilities,) + ((pseudo.kept,) if recipe.loss.labels == "agree" else ())
    streams = []
    for view in views:
        strong = strong_view(weak, draws[:, view], recipe.views.blur)
        mixed = mix(strong, draws[:, view], pseudo.labels, *held, kind=recipe.views.mix)
        streams.append(Stream(*mixed, share=0.5 / len(views) if len(views) > 1 else 1.0))
    if method.teaching == "unimatch":
        channels = [each.to(weak) for each in kept_channels(draws[:, 1], widths)]
        kept = pseudo.kept if recipe.loss.labels == "agree" else None
        streams.append(Stream(weak, pseudo.labels, pseudo.probabilities, kept, channels, share=0.5))
    return streams


def training_loss(
    method: Method,
    student: nn.Module,
    labeled: tuple[Tensor, Tensor],
    streams: list[Stream],
    banks: Banks,
    recipe: Recipe,
    correction: LabelCorrectionLoss | None = None,
) -> dict[str, Tensor]:
    """The parts of one step's loss by name; their sum is what to minimize.

    Args:
        method: decides what is asked of each pixel.
        student: a `SegmentationModel`, or DDP around it.
        labeled: weak views (B, 3, H, W) and true labels (B, H, W).
        streams: of unlabeled images; empty for `supervised`.
        banks: prototypes are moved and then read; the anchors are the teacher's alone: of the student's labeled images
            they hold the very pixels, and would give the answers away.
        recipe: its section `loss`, and the confidence asked for.
        correction: the loss of Eq. (17), for methods with `graph_losses`; None trains no graphs.
    """
    settings = recipe.loss
    trains_graphs = method.graph_losses and correction is not None
    images = torch.cat([labeled[0], *(stream.images for stream in streams)])  # one batch: BatchNorm sees all kinds
    labels = torch.cat([labeled[1], *(stream.labels for stream in streams)])
    channels = _channels_of_all(len(labeled[0]), streams)
    output, refined = student(images, correct=trains_graphs, inside=labels != IGNORE_INDEX, channels=channels)
    sizes = [len(labeled[0]), *(len(stream.images) for stream in streams)]
    own, *others = upsample(output.logits, labels.shape[-2:]).split(sizes)
    losses = {"supervised": cross_entropy(own, labeled[1])}
    if settings.dice > 0:
        losses["dice"] = settings.dice * dice(own, labeled[1])
    if trains_graphs:
        losses["correction"] = _graph_losses(correction, refined, labels, banks)
    weight = settings.pixel_weight if method.graph_losses else settings.unlabeled
    if streams and weight > 0:
        pairs = zip(others, streams, strict=True)
        parts = [stream.share * _unlabeled_loss(method, logits, stream, recipe) for logits, stream in pairs]
        losses["unlabeled"] = weight * sum(parts)
    return losses


def _unlabeled_loss(method: Method, logits: Tensor, stream: Stream, recipe: Recipe) -> Tensor:
    """Cross entropy and Dice of one stream, of the pixels that the method learns from."""
    settings, weight, targets = recipe.loss, None, None
    if method.teaching in ("fixmatch", "unimatch"):
        weight = (stream.probabilities.amax(1) >= recipe.teacher.confidence).float()
    if settings.labels == "agree" and stream.kept is not None:
        agreed = torch.where(stream.kept, 1.0, settings.disagreed)
        weight = agreed if weight is None else weight * agreed
    if settings.labels == "soft":
        # Where most of a thin class goes to its neighbors, a student of labels loses it; probabilities keep its share.
        targets = stream.probabilities
    loss = settings.unlabeled_cross_entropy * cross_entropy(logits, stream.labels, weight, targets=targets)
    if settings.dice * settings.unlabeled_dice > 0:
        loss = loss + settings.dice * settings.unlabeled_dice * dice(logits, stream.labels, weight, targets=targets)
    return loss


def _graph_losses(correction: LabelCorrectionLoss, refined: RefinedLabels, labels: Tensor, banks: Banks) -> Tensor:
    """Eq. (17) with prototypes, Eqs. (13), (14), which see these features first."""
    padding = overhang(refined.probabilities[0].shape[-2:], labels.shape[-2:])
    labels = F.pad(labels, padding, value=IGNORE_INDEX)
    known = {}
    if banks.prototypes is not None:
        for number, features in enumerate(refined.features[1:]):
            banks.prototypes.update(features.detach(), labels, round=number)
        known = {"prototypes": banks.prototypes.prototypes, "prototype_mask": banks.prototypes.is_initialized}
    return correction(refined, labels, **known).total


def _channels_of_all(labeled: int, streams: list[Stream]) -> list[Tensor] | None:
    """Multipliers of the whole batch, a level each, (B, M); None if all are one."""
    given = next((stream.channels for stream in streams if stream.channels is not None), None)
    if given is None:
        return None
    levels = []
    for number, example in enumerate(given):
        parts = [example.new_ones(labeled, example.shape[1])]
        for stream in streams:
            ones = example.new_ones(len(stream.images), example.shape[1])
            parts.append(ones if stream.channels is None else stream.channels[number])
        levels.append(torch.cat(parts))
    return levels
