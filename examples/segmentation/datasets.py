"""Images and masks on disk: what a data set is to the trainer, and how its files are read.

`layouts.py` turns a folder into a `SegmentationData`; `checking.py` reads every file once, before the first step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from graphcorrect.files.class_tables import Color
from graphcorrect.files.faults import UnreadableFile
from graphcorrect.files.images import read_image as read_image
from graphcorrect.files.label_maps import LabelMap
from graphcorrect.files.masks import decode_mask
from graphcorrect.files.stored_masks import read_stored_mask
from graphcorrect.labels import IGNORE_INDEX as IGNORE_INDEX
from segmentation import cityscapes

VOC_CLASSES = (
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person "
    "pottedplant sheep sofa train tvmonitor"
).split()


class Sample(NamedTuple):
    """Two files; `mask` is None where nobody has labeled the image, `label_map` where its ids are the labels."""

    image: Path
    mask: Path | None
    label_map: LabelMap | None = None


class SegmentationData(NamedTuple):
    """A data set as the trainer sees it.

    Attributes:
        labeled, unlabeled: training samples. Masks of `unlabeled`, where there are any, are hidden from training and
            serve to measure pseudo-labels.
        test: samples to report on.
        held_out: training samples that no method sees, labeled or not: to choose settings on, never on `test`.
        class_names: C names, in the order of their ids.
        layout: "digits", "voc", "cityscapes", "camvid" or "pairs".
        folder: where it is; None for a data set that is only counted.
        names_from: the file of the class names, or whose they are.
        origin: by images that are not there, the list and line that name them.
        notes: what a person should know of how lists and class names were read.
    """

    labeled: list[Sample]
    unlabeled: list[Sample]
    test: list[Sample]
    held_out: list[Sample]
    class_names: list[str]
    layout: str
    folder: Path | None = None
    names_from: str = ""
    origin: Mapping[Path, str] = MappingProxyType({})
    notes: Sequence[str] = ()

    @property
    def flip(self) -> bool:
        """Whether a mirrored image is still of this world: a mirrored digit is not."""
        return self.layout != "digits"


class Ids(NamedTuple):
    """Ids (H, W) uint8, and of a palette image the color of every id that occurs, 255 left out."""

    ids: NDArray[np.uint8]
    colors: dict[int, Color]


def read_ids(path: Path) -> Ids:
    """A mask of ids: grey or palette image of up to 8 bits (or 16, if all ids fit in 8), or SBD's .mat.

    Raises:
        UnreadableFile: it is none, or cannot be read; the message names it.
    """
    stored, fault = read_stored_mask(path), ""
    least, most = stored.values.min(), stored.values.max()
    if stored.values.ndim == 3:
        fault = (
            f"expected a mask of one 8-bit channel (palette or grey), got mode {stored.form.upper()!r}: "
            "save the ids of the classes, not their colors"
        )
    elif most > 255:
        fault = f"expected ids from 0 to 255, got {least} to {most} in 16 bits"
    if fault:
        raise UnreadableFile(f"{path}: unreadable ({fault})")
    ids = np.ascontiguousarray(stored.values.astype(np.uint8))
    colors = stored.palette or ()
    used = [number for number in np.flatnonzero(np.bincount(ids.ravel())).tolist() if number != IGNORE_INDEX]
    return Ids(ids, {number: colors[number] for number in used if number < len(colors)})


def read_mask(path: Path) -> Tensor:
    """(H, W) uint8 ids as they stand in the file: of a palette image the indices, never the colors."""
    return torch.from_numpy(read_ids(path).ids)


def read_stored_labels(sample: Sample) -> Ids:
    """What a sample's mask holds: ids as they stand in the file, or the labels that its label map gives them.

    Raises:
        UnreadableFile: it cannot be read, or holds what no class has; the message names the file.
    """
    if sample.label_map is None:
        return read_ids(sample.mask)
    stored = read_stored_mask(sample.mask)
    try:
        return Ids(decode_mask(stored, sample.label_map).numpy().astype(np.uint8), {})
    except ValueError as error:
        raise UnreadableFile(f"{sample.mask}: {error}") from error


def read_labels(sample: Sample, size: tuple[int, int] | None = None) -> Tensor:
    """(H, W) uint8 class ids, 255 where ignored; Cityscapes' label ids become train ids. `size` resizes, by nearest."""
    labels = torch.from_numpy(read_stored_labels(sample).ids)
    if cityscapes.has_label_ids(sample.mask):
        labels = cityscapes.to_train_ids(labels)
    if size is not None and tuple(labels.shape) != tuple(size):
        resized = Image.fromarray(labels.numpy()).resize((size[1], size[0]), Image.Resampling.NEAREST)
        labels = torch.from_numpy(np.array(resized))
    return labels


def with_masks(samples: list[Sample]) -> list[Sample]:
    """Those whose true labels exist."""
    return [sample for sample in samples if sample.mask is not None and sample.mask.exists()]
