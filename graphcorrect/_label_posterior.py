"""Three opinions of a pixel's label: the model's, that of similar pixels of other images, that of the labels around."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from graphcorrect import _checks
from graphcorrect._image_sources import ImageSources, LabeledImage
from graphcorrect.banks.anchors import AnchorBank
from graphcorrect.cells import full_size, pad_to_cells, size_of
from graphcorrect.guided import (
    COLOR_SCALE,
    DISTANCE_SCALE,
    OWN_SHARE,
    RADIUS,
    STEPS,
    distance_mean,
    smoothed,
    window_mean,
    window_weights,
)

# Exponents and floors, chosen on training frames of CamVid with wrong annotations of four kinds: docs/evidence.md
MODEL, OTHERS, AROUND = 0.8, 0.7, 0.03
MODEL_ALONE = 1.0  # exponent of the model where no other image is asked
BALANCE = 0.5  # of the anchors: halfway between classes of equal size and those of the images
MODEL_FLOOR, OTHERS_FLOOR, AROUND_FLOOR = 1e-3, 0.03, 0.02
BEYOND_THE_RATE = 0.8  # what a given label is worth beyond the odds that the rate of errors gives it, in log odds


def trust(error_rate: float) -> float:
    """The log odds of a given label before anything is seen."""
    return BEYOND_THE_RATE + math.log((1 - error_rate) / error_rate)


def posterior(item: LabeledImage, others: Tensor | None, trust: float) -> Tensor:
    """Probabilities of each pixel's true class, (C, H, W).

    Args:
        item: the image.
        others: (C, h, w), what similar pixels of other images are labeled; None where nobody was asked.
        trust: log odds of the given label.
    """
    size = item.labels.shape
    classes = torch.arange(len(item.probabilities), device=item.labels.device)
    given = (item.labels.long() == classes[:, None, None]).to(item.probabilities.dtype)  # void: no class
    model = full_size(item.probabilities[None], *size)
    if item.image is None:  # its colors would have told where the model's edges may be blurred
        around = distance_mean(given[None], RADIUS, DISTANCE_SCALE)
    else:
        weights = window_weights(item.image[None].to(model.dtype), RADIUS, COLOR_SCALE, DISTANCE_SCALE)
        model = smoothed(model, weights, STEPS, RADIUS, OWN_SHARE)
        around = window_mean(given[None], weights, RADIUS)
    exponent = MODEL_ALONE if others is None else MODEL
    log_odds = exponent * (model[0] + MODEL_FLOOR).log() + trust * given
    # A pixel among ignored ones: its neighbors have no opinion
    share = around[0] / around[0].sum(0).clamp_min(1e-6)
    log_odds += AROUND * (share + AROUND_FLOOR).log()
    if others is not None:
        log_odds += OTHERS * (full_size(others[None], *size)[0] + OTHERS_FLOOR).log()
    return log_odds.softmax(0)


class OtherImages:
    """Pixels of two halves of the images, by turns, with the labels that they were given: each half asks the other.

    Args:
        ignore_index, capacity_per_class, quota_per_image, seed: of the two banks.
    """

    def __init__(self, ignore_index: int, capacity_per_class: int, quota_per_image: int, seed: int) -> None:
        self._settings: dict[str, Any] = {"ignore_index": ignore_index, "capacity_per_class": capacity_per_class}
        self._settings |= {"quota_per_image": quota_per_image, "seed": seed, "balance": BALANCE, "synchronize": False}
        self._banks: list[AnchorBank] = []

    def fill(self, sources: ImageSources) -> None:
        """Reads all images, unless they have been read; the halves are those at even and at odd places.

        Raises:
            ValueError: features of two images differ in width.
        """
        if self._banks:
            return
        banks: list[AnchorBank] = []
        for item in sources:
            assert item.features is not None
            if not banks:
                shape = len(item.probabilities), len(item.features)
                banks = [AnchorBank(*shape, **self._settings).to(item.features.device) for _ in range(2)]
            self._expect_width(banks, item)
            labels = pad_to_cells(item.labels[None].long(), size_of(item.features), banks[0].ignore_index)
            banks[item.place % 2].update(item.features[None], labels)
        self._banks = banks

    def posterior(self, item: LabeledImage) -> Tensor | None:
        """(C, h, w) of an image's features; None where the other half holds no labeled pixel."""
        assert item.features is not None
        self._expect_width(self._banks, item)
        bank = self._banks[1 - item.place % 2]
        return bank(item.features[None])[0] if bool(bank.counts.any()) else None

    @staticmethod
    def _expect_width(banks: list[AnchorBank], item: LabeledImage) -> None:
        assert item.features is not None
        width = banks[0].feature_dim
        _checks.size(f"features (image {item.place})", item.features, 0, width, "entries, as the first image has")
