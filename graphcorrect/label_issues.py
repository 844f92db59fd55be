"""label_issues: annotations that look wrong, and what they should be, an image at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from graphcorrect import _checks
from graphcorrect._image_sources import Images, ImageSources, LabeledImage
from graphcorrect._label_posterior import OtherImages, posterior, trust
from graphcorrect.labels import IGNORE_INDEX

# What arrays of all images hold; None: what the labels are
COMPACT = {"issues": np.bool_, "pixel_scores": np.float16, "image_scores": np.float32, "corrected": None}


class ImageIssues(NamedTuple):
    """What was found of one image; arrays where its labels were numpy's, else tensors.

    Attributes:
        issues: (H, W) bool, True where the label looks wrong.
        pixel_scores: (H, W) float32 in [0, 1], the probability that the label is right; 1 where it is ignored.
        image_score: in [0, 1], low for an image with labels that look wrong.
        corrected: (H, W), in the dtype of the labels: other labels at the clearest issues.

    Example:
        >>> labels = torch.zeros(2, 8, 8).long()
        >>> probabilities = torch.tensor([0.9, 0.1]).view(1, 2, 1, 1).repeat(2, 1, 8, 8)
        >>> [bool(found.issues.any()) for found in label_issues(labels, probabilities)]
        [False, False]
    """

    issues: Any
    pixel_scores: Any
    image_score: float
    corrected: Any


def label_issues(
    labels: Images,
    probabilities: Images,
    images: Images | None = None,
    *,
    features: Images | None = None,
    error_rate: float = 0.1,
    caution: float = 4.0,
    temperature: float = 0.1,
    ignore_index: int = IGNORE_INDEX,
    capacity_per_class: int = 1000,
    quota_per_image: int = 20,
    seed: int = 0,
) -> LabelIssues:
    r"""Finds wrong annotations of segmentation masks, and corrects them.

    Beyond the paper, whose labels are a model's: here they are people's, and three opinions judge each pixel's label y:

    .. math:: q_c \propto p_c^{0.8}\; (r_c + 0.03)^{0.7}\; (v_c + 0.02)^{0.03}\; e^{\pi [c = y]}

    p is the model's, smoothed between pixels of one color (:func:`guided_upsample`); r is that of the most similar
    pixels of *other images*, by `features`, and of the labels that these were given (an :class:`AnchorBank`; images at
    even places look among those at odd ones, and the other way round, so that no image confirms its own mistakes); v
    are the labels given around the pixel. pi is the trust in a label before anything is seen. A pixel's score is q_y,
    and its label is an issue where another class has a larger q.

    The model must not have learned from the labels that it judges: predict each half of the images with a model trained
    on the other half. Where images resemble their neighbors (frames of a video) let the halves alternate in order, so
    that anchors come from the other half, too.

    Args:
        labels: (N, H, W) integers in [0, C) or `ignore_index`, as they were given.
        probabilities: (N, C, h, w) floating point on the simplex, h <= H and w <= W; smaller ones are interpolated.
        images: (N, 3, H, W), floating point in [0, 1] or uint8; None uses no colors.
        features: (N, D, h', w') floating point, of any encoder: what pixels are compared by across images; or the
            encoder, a module or function that turns an image (1, 3, H, W) in [0, 1] into a map, such as
            :func:`graphcorrect.encoders.key_encoder` makes of one of timm, which runs twice (of a function the argument
            has no default); None compares with no other image.
        error_rate: share of labels that are expected to be wrong, in (0, 1); more makes more issues. By the model alone
            a label is an issue where another class is 2.2 (1 - rate) / rate times as likely, 20 times at 0.1: say 0.3
            where the model is right and never so sure.
        caution: how many times likelier than the given label another class must be to take its place; 1 corrects every
            issue. A list for people to look at may be longer than what is changed unseen.
        temperature: of the softmin that makes an image's score of its pixels' scores, as cleanlab's; above 0.
        ignore_index: label left out: never an issue, never changed.
        capacity_per_class: most pixels of one class that stand for all other images.
        quota_per_image: most of them that come from one image.
        seed: of their draw.

    Each of the first four is an array or tensor, an iterable of images or of batches (a list, a `DataLoader`), or a
    function without arguments that returns an iterator; iterables may hold images of different sizes. With `features`
    all is read twice, and iterators that end are refused.

    Returns:
        :class:`LabelIssues`: iterate over it for one image at a time, or ask it for whole arrays.

    Raises:
        ValueError: shapes, ranges or numbers of images do not fit, or the dtype of the labels does not hold every class
            that they may be corrected to; the message names the image.
        TypeError: dtypes do not fit, or an iterator cannot be read twice.

    Cost: memory of one image, and of 2 C `capacity_per_class` D numbers with `features`; results are made when they are
    asked for.

    Example:
        >>> labels = torch.zeros(4, 8, 8, dtype=torch.uint8)
        >>> probabilities = torch.tensor([0.995, 0.005]).view(1, 2, 1, 1).repeat(4, 1, 8, 8)
        >>> labels[1, :, 5:] = 1  # wrong, the model says
        >>> found = label_issues(labels, probabilities)
        >>> found.issues.sum((1, 2)).tolist()
        [0, 24, 0, 0]
        >>> int(found.corrected.sum()), int(found.image_scores.argmin())
        (0, 1)
    """
    _checks.in_interval("error_rate", error_rate, 0.0, 1.0, open_low=True, open_high=True)
    _checks.in_interval("caution", caution, 1.0, math.inf, open_high=True)
    _checks.in_interval("temperature", temperature, 0.0, math.inf, open_low=True, open_high=True)
    _checks.integer_at_least("capacity_per_class", capacity_per_class, 1)
    _checks.integer_at_least("quota_per_image", quota_per_image, 1)
    _checks.ignored_label(ignore_index, 0)
    sources = ImageSources(labels, probabilities, images, features, ignore_index)
    others = None if features is None else OtherImages(ignore_index, capacity_per_class, quota_per_image, seed)
    return LabelIssues(sources, others, trust(error_rate), caution, temperature)


class LabelIssues:
    """Issues of all images: iterate for an :class:`ImageIssues` each, or read whole arrays, which are made once.

    Whole arrays take 4 bytes a pixel, which `save` leaves on disk.

    Attributes:
        issues: (N, H, W) bool, cleanlab's mask.
        pixel_scores: (N, H, W) float16 in [0, 1].
        image_scores: (N,) float32 in [0, 1].
        corrected: (N, H, W), in the dtype of the labels.

    Example:
        >>> labels = torch.zeros(2, 8, 8).long()
        >>> probabilities = torch.tensor([0.9, 0.1]).view(1, 2, 1, 1).repeat(2, 1, 8, 8)
        >>> found = label_issues(labels, probabilities)
        >>> found.issues.shape, found.image_scores.shape
        (torch.Size([2, 8, 8]), torch.Size([2]))
    """

    def __init__(
        self, sources: ImageSources, others: OtherImages | None, trust: float, caution: float, temperature: float
    ) -> None:
        self._sources, self._others = sources, others
        self._trust, self._caution, self._temperature = trust, caution, temperature
        self._whole: dict[str, Any] | None = None

    def __iter__(self) -> Iterator[ImageIssues]:
        if self._others is not None:
            self._others.fill(self._sources)
        for item in self._sources:
            yield self._judge(item)

    @torch.no_grad()
    def _judge(self, item: LabeledImage) -> ImageIssues:
        """Scores and corrects one image."""
        labels = item.labels.long()
        evidence = None if self._others is None else self._others.posterior(item)
        is_labeled = labels != self._sources.ignore_index  # which may be the number of a class
        known = item._replace(labels=labels.where(is_labeled, -1))
        found = posterior(known, evidence, self._trust)  # (C, H, W)
        scores = found.gather(0, labels.where(is_labeled, 0)[None])[0].where(is_labeled, 1.0).float()
        best = found.max(0)
        is_other = is_labeled & (best.indices != labels)
        corrected = best.indices.where(is_other & (best.values > self._caution * scores), labels)
        weight = (1 - scores[is_labeled]).div(self._temperature).softmax(0)
        image_score = float((weight * scores[is_labeled]).sum()) if bool(is_labeled.any()) else 1.0
        values = is_other, scores, corrected.to(item.labels.dtype)
        issues, scores_, corrected_ = values if item.as_tensors else (value.cpu().numpy() for value in values)
        return ImageIssues(issues, scores_, image_score, corrected_)

    @property
    def issues(self) -> Any:
        """(N, H, W) bool."""
        return self._collected()["issues"]

    @property
    def pixel_scores(self) -> Any:
        """(N, H, W) float16."""
        return self._collected()["pixel_scores"]

    @property
    def image_scores(self) -> Any:
        """(N,) float32."""
        return self._collected()["image_scores"]

    @property
    def corrected(self) -> Any:
        """(N, H, W), in the dtype of the labels."""
        return self._collected()["corrected"]

    def save(self, folder: str | Path) -> list[Path]:
        """Writes the four arrays as `.npy` files to a folder, image by image; whole, or not at all.

        `numpy.load(file, mmap_mode="r")` reads them without holding them; labels that were read so from files of these
        names are safe.

        Raises:
            ValueError: images are of different sizes, or there are none.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        count, files = self._sources.count(), {name: folder / f"{name}.npy" for name in COMPACT}
        partial = {name: file.with_name(f"{file.name}.partial") for name, file in files.items()}
        arrays: dict[str, Any] = {}
        try:
            for place, values in self._compact():
                for name, value in values.items():
                    if place == 0:
                        shape = (count, *value.shape)
                        arrays[name] = np.lib.format.open_memmap(partial[name], "w+", dtype=value.dtype, shape=shape)
                    arrays[name][place] = value
            arrays.clear()  # which writes what is left, and lets go of the files
            for name, file in files.items():
                partial[name].replace(file)
        finally:
            arrays.clear()
            for path in partial.values():
                path.unlink(missing_ok=True)
        return list(files.values())

    def _collected(self) -> dict[str, Any]:
        """The four arrays."""
        if self._whole is None:
            images = [values for _, values in self._compact()]
            whole = {name: np.stack([values[name] for values in images]) for name in COMPACT}
            as_tensors = self._sources.as_tensors
            self._whole = {name: torch.from_numpy(each) for name, each in whole.items()} if as_tensors else whole
        return self._whole

    def _compact(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Place and results of each image in the types of whole arrays; refuses images of another size."""
        size: tuple[int, ...] | None = None
        for place, found in enumerate(self):
            arrays = [np.asarray(value.cpu() if isinstance(value, Tensor) else value) for value in found]
            size = size or arrays[0].shape
            if arrays[0].shape != size:
                raise ValueError(
                    f"expected images of one size for whole arrays, got {size} and {arrays[0].shape} (image {place}); "
                    "iterate over the images instead"
                )
            types = zip(COMPACT.items(), arrays, strict=True)
            yield place, {name: array.astype(dtype or array.dtype) for (name, dtype), array in types}
        if size is None:
            raise ValueError("expected `labels` of at least one image, got none")
