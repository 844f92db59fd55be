"""What is measured: test images; pseudo-labels, before and after correction, against hidden true labels."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from graphcorrect import DualGraphRefiner, metrics
from graphcorrect.files.images import read_image
from segmentation.datasets import IGNORE_INDEX, Sample, read_labels
from segmentation.keys import LabeledPixels
from segmentation.model import SegmentationModel, corrected_probabilities
from segmentation.networks import NetworkOutput, upsample
from segmentation.processes import rank_and_ranks, sum_over_ranks
from segmentation.recipe import Evaluation, Recipe
from segmentation.scores import Confusions, groups_of, scores_of
from segmentation.state import dtype_of


class WholeImages(Dataset):
    """Images (3, H, W) uint8, brought to the recipe's size if it has one, and their labels at their own size."""

    def __init__(self, samples: list[Sample], resize: tuple[int, int] | None):
        self.samples, self.resize = samples, resize

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        sample = self.samples[index]
        return read_image(sample.image, self.resize), read_labels(sample)


PIXELS = 2**22  # of a batch of whole images: 16 of VOC, 2 of Cityscapes


def batches(
    samples: list[Sample], recipe: Recipe, device: torch.device, limit: int = 16
) -> Iterator[tuple[Tensor, Tensor]]:
    """Whole images in [0, 1] (B, 3, H, W) and labels (B, H', W'), neighbors of one size together; this rank's share."""
    rank, ranks = rank_and_ranks()
    images = WholeImages(samples[rank::ranks], recipe.data.resize)
    workers = recipe.running.workers
    group: list[tuple[Tensor, Tensor]] = []
    for item in DataLoader(images, batch_size=None, num_workers=workers, generator=torch.Generator()):
        most = max(1, min(limit, PIXELS // max(item[0][0].numel(), item[1].numel())))
        if group and (len(group) >= most or _shapes(item) != _shapes(group[0])):
            yield _stack(group, recipe, device)
            group = []
        group.append(item)
    if group:
        yield _stack(group, recipe, device)


@torch.no_grad()
def predict(model: SegmentationModel, images: Tensor, settings: Evaluation, crop: tuple[int, int]) -> Tensor:
    """Class probabilities (B, C, H, W) of the plain head, which is what is used at inference.

    Whole images or a sliding window, averaged over the recipe's scales and, with `flip`, the mirrored image.
    """
    size = images.shape[-2:]
    total = torch.zeros((), device=images.device)
    for scale in settings.scales:
        scaled = images
        if scale != 1:
            wanted = [max(1, round(side * scale)) for side in size]
            scaled = F.interpolate(images, size=wanted, mode="bilinear", antialias=scale < 1)
        for mirrored in (False, True) if settings.flip else (False,):
            view = scaled.flip(-1) if mirrored else scaled
            window = settings.window or crop
            found = _sliding(model, view, window) if settings.mode == "sliding" else _whole(model, view)
            total = total + resized(found.flip(-1) if mirrored else found, size)
    return total / (len(settings.scales) * (1 + settings.flip))


def _whole(model: SegmentationModel, images: Tensor) -> Tensor:
    output, _ = model(images)
    return upsample(output.logits.float().softmax(1), images.shape[-2:])


def _sliding(model: SegmentationModel, images: Tensor, window: tuple[int, int]) -> Tensor:
    """The mean over windows that overlap by a third at least; the last ones end at the image's edges."""
    size = images.shape[-2:]
    starts = []
    for side, length in zip(size, window, strict=True):
        last = max(0, side - length)
        count = -(-last // max(1, length * 2 // 3)) + 1
        starts.append([round(last * number / max(1, count - 1)) for number in range(count)])
    total, seen = torch.zeros((), device=images.device), images.new_zeros(size)
    for top in starts[0]:
        for left in starts[1]:
            place = (..., slice(top, min(size[0], top + window[0])), slice(left, min(size[1], left + window[1])))
            found = _whole(model, images[place])
            if total.ndim == 0:
                total = found.new_zeros(len(images), found.shape[1], *size)
            total[place] += found
            seen[place] += 1
    return total / seen


@torch.no_grad()
def score(
    predict: Callable[[Tensor], Tensor],
    samples: list[Sample],
    class_names: list[str],
    recipe: Recipe,
    device: torch.device,
) -> dict[str, Any]:
    """The scores of `scores_of` for what `predict` says of images, (B, 3, H, W) to probabilities; of all ranks."""
    confusions = Confusions(groups_of(samples, recipe.evaluation.dice), len(class_names), device)
    for images, labels in batches(samples, recipe, device):
        confusions.add(resized(predict(images), labels.shape[-2:]).argmax(1), labels)
    return scores_of(confusions.joined(), class_names, recipe.evaluation.dice)


def test(
    model: SegmentationModel, samples: list[Sample], class_names: list[str], recipe: Recipe, crop: tuple[int, int]
) -> dict[str, Any]:
    """Scores of the plain head, as the recipe's section `evaluation` has images looked at."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    found = score(lambda images: predict(model, images, recipe.evaluation, crop), samples, class_names, recipe, device)
    model.train(was_training)
    return found


class Corrector(NamedTuple):
    """What corrects labels: `correct` as in :class:`Method`, by these graphs and these labeled pixels."""

    correct: tuple[str, ...]
    refiner: DualGraphRefiner
    anchors: LabeledPixels | None = None

    def probabilities(self, output: NetworkOutput, images: Tensor, *, guided: bool) -> Tensor:
        """Corrected probabilities (B, C, H, W) of images (B, 3, H, W), of which a network says `output`."""
        found = self.correct, self.refiner, output, images
        return corrected_probabilities(*found, anchors=self.anchors, guided=guided)

    def labels(self, output: NetworkOutput, images: Tensor, labels: Tensor, *, guided: bool) -> Tensor:
        """Corrected labels at the size of the true ones, (B, H', W') int64."""
        return resized(self.probabilities(output, images, guided=guided), labels.shape[-2:]).argmax(1)


@torch.no_grad()
def judge_pseudo_labels(
    model: SegmentationModel,
    samples: list[Sample],
    correctors: dict[str, Corrector],
    class_names: list[str],
    recipe: Recipe,
) -> dict[str, dict[str, Any]]:
    """Pseudo-labels of whole images before correction and after each corrector, against their hidden true labels.

    Returns:
        `{"before": {"miou": ...}, NAME: {"miou": ..., "fixed": ..., "broken": ..., "changed": ...}}`, with the scores
        of `scores_of` and counts of pixels.
    """
    device, kind = next(model.parameters()).device, recipe.evaluation.dice
    groups = groups_of(samples, kind)
    confusions = {name: Confusions(groups, len(class_names), device) for name in ("before", *correctors)}
    counts = {name: torch.zeros(3, dtype=torch.int64, device=device) for name in correctors}
    for images, labels in batches(samples, recipe, device):
        output, _ = model(images)
        before = plain_labels(output, images, labels)
        confusions["before"].add(before, labels)
        for name, corrector in correctors.items():
            after = corrector.labels(output, images, labels, guided=recipe.refiner.guided)
            confusions[name].add(after, labels)
            found = metrics.correction_counts(before, after, labels, ignore_index=IGNORE_INDEX)
            counts[name] += torch.tensor([int(found.fixed), int(found.broken), int(found.changed)], device=device)
    result = {name: scores_of(each.joined(), class_names, kind) for name, each in confusions.items()}
    for name in correctors:
        fixed, broken, changed = sum_over_ranks(counts[name]).tolist()
        result[name] |= {"fixed": fixed, "broken": broken, "changed": changed}
    return result


def plain_labels(output: NetworkOutput, images: Tensor, labels: Tensor) -> Tensor:
    """The classifier's labels at the size of the true ones, (B, H', W') int64."""
    probabilities = upsample(output.logits.float().softmax(1), images.shape[-2:])
    return resized(probabilities, labels.shape[-2:]).argmax(1)


def on_its_own(refiner: DualGraphRefiner) -> DualGraphRefiner:
    """A copy for evaluation: ranks judge unequal numbers of images, so none may wait for the others' thresholds."""
    return copy.deepcopy(refiner).eval()


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (B, C, H, W) at another size, by bilinear interpolation; those that have it already as they are."""
    same = tuple(maps.shape[-2:]) == tuple(size)
    return maps if same else F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def _shapes(item: tuple[Tensor, Tensor]) -> tuple:
    return item[0].shape, item[1].shape


def _stack(group: list[tuple[Tensor, Tensor]], recipe: Recipe, device: torch.device) -> tuple[Tensor, Tensor]:
    images, labels = (torch.stack(tensors).to(device) for tensors in zip(*group, strict=True))
    return images.to(dtype_of(recipe)) / 255, labels.long()


def one_image(sample: Sample, recipe: Recipe, device: torch.device) -> tuple[Tensor, Tensor]:
    """A batch of one: image (1, 3, H, W) in [0, 1] and labels (1, H', W')."""
    return _stack([WholeImages([sample], recipe.data.resize)[0]], recipe, device)


def read_one(path: Path, recipe: Recipe, device: torch.device) -> Tensor:
    """A batch of one image, (1, 3, H, W) in [0, 1]."""
    return read_image(path, recipe.data.resize)[None].to(device, dtype_of(recipe)) / 255
