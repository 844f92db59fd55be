"""What a corrector is given, checked before any work, and brought into one form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import Any

import torch
from torch import Tensor

from graphcorrect import _checks
from graphcorrect.ops.values import widen

TINY = 1e-8  # zero has no logarithm


def pairs_of(images: Iterable[Any], masks: Iterable[Tensor] | None) -> Iterable[Any]:
    """Pairs of images and masks, or what `images` holds of them.

    Raises:
        ValueError: there are masks for some of the images only.
    """
    if masks is None:
        if isinstance(images, Tensor):
            raise ValueError("expected `masks` beside `images`, got None")
        return images
    if isinstance(images, Sized) and isinstance(masks, Sized) and len(images) != len(masks):
        raise ValueError(f"expected `masks` for {len(images)} images, got {len(masks)}")
    return zip(images, masks, strict=True)


def labeled_images(
    pair: Any, num_classes: int, ignore_index: int, place: Tensor, validate_args: bool
) -> tuple[Tensor, Tensor]:
    """Images (B, 3, H, W) and labels (B, H, W) of a pair of them, or of one image and its labels.

    Raises:
        ValueError: shapes, devices or ranges do not fit.
        TypeError: it is no pair of tensors, or dtypes do not fit.
    """
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        size = f" of {len(pair)}" if isinstance(pair, Sequence | Mapping) else ""
        raise TypeError(f"expected pairs of images and masks, got {type(pair).__name__}{size}")
    images, masks = pair
    _checks.images("images", images)
    _checks.integral("masks", masks)
    _checks.ndim("images", images, (3, 4), "(B, 3, H, W) or (3, H, W)")
    _checks.channels_first("images", images)
    if images.ndim == 3:
        _checks.shape("masks", masks, images.shape[-2:], "(a label for each pixel of `images`)")
        images, masks = images[None], masks[None]
    _checks.shape("masks", masks, (len(images), *images.shape[-2:]), "(a label for each pixel of `images`)")
    _checks.same_device("images", images, "the corrector", place)
    _checks.same_device("masks", masks, "`images`", images)
    masks = masks.long()  # torch has next to no operation for uint16
    if validate_args:
        _checks.unit_images("images", images)
        _checks.labels_in_range("masks", masks, num_classes, ignore_index)
    return images, masks


def judged_images(
    images: Tensor | Sequence[Tensor],
    masks: Tensor | Sequence[Tensor],
    probabilities: Tensor | Sequence[Tensor] | None,
    logits: Tensor | Sequence[Tensor] | None,
    num_classes: int,
    ignore_index: int,
    place: Tensor,
    validate_args: bool,
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Each image (1, 3, H, W) with its labels (1, H, W) and its logits (1, C, h, w), of whichever was given.

    Raises:
        ValueError: numbers, shapes, devices or ranges do not fit, there is no image, or one is given as the other.
        TypeError: dtypes do not fit.
    """
    name, given = _one_of(probabilities, logits)
    _checks.not_empty("images", images, "image")
    for other, values in (("masks", masks), (name, given)):
        if len(values) != len(images):
            raise ValueError(f"expected `{other}` for {len(images)} images, got {len(values)}")
    found = []
    for image, mask, said in zip(images, masks, given, strict=True):
        image, labels = labeled_images((image, mask), num_classes, ignore_index, place, validate_args)
        scores = {name: said[None]}
        asked = image, scores.get("probabilities"), scores.get("logits"), None, None
        found.append((image, labels, scores_of_images(*asked, num_classes, place, validate_args)))
    return found


def _one_of(probabilities: Any, logits: Any) -> tuple[str, Any]:
    if (probabilities is None) == (logits is None):
        raise ValueError(f"expected `probabilities` or `logits`, got {'neither' if logits is None else 'both'}")
    return ("logits", logits) if logits is not None else ("probabilities", probabilities)


def scores_of_images(
    images: Tensor,
    probabilities: Tensor | None,
    logits: Tensor | None,
    features: Tensor | None,
    mask: Tensor | None,
    num_classes: int,
    place: Tensor,
    validate_args: bool,
) -> Tensor:
    """Logits (B, C, h, w), of whichever of `probabilities` and `logits` was given.

    Raises:
        ValueError: shapes, devices or ranges do not fit, or one is given as the other.
        TypeError: dtypes do not fit.
    """
    _checks.images("images", images)
    _checks.ndim("images", images, (4,), "(B, 3, H, W)")
    _checks.channels_first("images", images)
    _checks.same_device("images", images, "the corrector", place)
    name, given = _one_of(probabilities, logits)
    given = _checks.floating(name, given)
    _checks.ndim(name, given, (4,), "(B, C, h, w)")
    _checks.size(name, given, 0, len(images), "images")
    if given.shape[1] == 1:
        raise ValueError(
            f"expected `{name}` of each class, got one channel; of a sigmoid p give torch.cat([1 - p, p], 1)"
        )
    _checks.size(name, given, 1, num_classes, "classes")
    _checks.same_device(name, given, "`images`", images)
    _checks.not_transposed(name, given, "`images`", images)
    if given.shape[-2] > images.shape[-2] or given.shape[-1] > images.shape[-1]:
        raise ValueError(f"expected `images` at least as large as `{name}`, got {_checks.shape_of(images)}")
    if features is not None:
        _checks.floating("features", features)
        _checks.ndim("features", features, (4,), "(B, D, h, w)")
        _checks.size("features", features, 0, len(images), "images")
    shape = (len(given), *given.shape[-2:])
    _checks.mask("mask", mask, shape, f"(an entry for each pixel of `{name}`)", f"`{name}`", given)
    if mask is not None:
        given = torch.where(mask[:, None] | given.isfinite(), given, 1 / num_classes)  # where nothing is said
    if validate_args:
        _checks.unit_images("images", images)
        _checks.finite(name, given)
        if features is not None and mask is None:
            _checks.finite("features", features)
        (_checks.scores if logits is not None else _checks.on_simplex)(name, given, 1)
    return widen(given) if logits is not None else widen(given).clamp_min(TINY).log()
