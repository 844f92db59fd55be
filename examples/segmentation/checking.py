"""The check of a whole data set before the first step: every file is read once, every fault is reported together.

A broken mask is worth a line at the start and not a crash in the night.
"""

from __future__ import annotations

import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from graphcorrect.files.faults import UnreadableFile
from graphcorrect.files.images import read_image, read_picture
from graphcorrect.files.text import few
from segmentation import cityscapes
from segmentation.contents import faults_of_all, notes_on
from segmentation.datasets import IGNORE_INDEX, Sample, SegmentationData, read_stored_labels
from segmentation.spelling import identity, is_there

SHOWN = 50
ROLES = ("labeled", "unlabeled", "test", "held_out")


class Found(NamedTuple):
    """What reading one sample has shown.

    Attributes:
        faults: a line each.
        size: (height, width) of the image, or None.
        counts: (256,) pixels of the mask by id, Cityscapes' label ids as train ids; None without a mask.
        colors: of a palette mask, the color of each id that occurs.
        highest_label_id: of a mask of Cityscapes' label ids, the largest but 255.
        turned: whether EXIF has the image turned.
        brightest: the largest value of an image of 16 bits.
        sums: checksums of the files, by path.
    """

    faults: list[str]
    size: tuple[int, int] | None = None
    counts: np.ndarray | None = None
    colors: dict[int, tuple[int, ...]] = {}
    highest_label_id: int | None = None
    turned: bool = False
    brightest: int | None = None
    sums: dict[Path, int] = {}


class Survey(NamedTuple):
    """What the check has seen of a data set without faults: samples by role, and notes for a person."""

    found: dict[str, list[tuple[Sample, Found]]]
    notes: list[str]

    def sums(self) -> dict[Path, int]:
        """Checksums of all files."""
        return {path: value for part in self.found.values() for _, each in part for path, value in each.sums.items()}


def check(data: SegmentationData) -> Survey:
    """Read everything; raise one `ValueError` that lists every fault."""
    faults = _roles(data)
    jobs = [(role, sample) for role in ROLES for sample in getattr(data, role)]
    # Threads: decoding, which is most of it, holds no lock.
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        found = pool.map(lambda job: look_at(job[1], len(data.class_names), needs_mask=job[0] != "unlabeled"), jobs)
        each = list(tqdm(found, "checking files", len(jobs), leave=False, delay=3))
    by_role: dict[str, list[tuple[Sample, Found]]] = {role: [] for role in ROLES}
    for (role, sample), seen in zip(jobs, each, strict=True):
        named = data.origin.get(sample.image)
        faults += [f"{fault} ({named})" if named and fault.endswith("missing") else fault for fault in seen.faults]
        by_role[role].append((sample, seen))
    faults += faults_of_all(by_role, data)
    if faults:
        more = f"\n  ... and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        shown = "\n  ".join(faults[:SHOWN])
        strange = any(": ids [" in fault for fault in faults)
        names = f"\nthe {len(data.class_names)} class names are those of {data.names_from}" if strange else ""
        raise ValueError(f"the data set has {len(faults)} fault(s):\n  {shown}{more}{names}")
    used = {sample.image for _, sample in jobs}
    unused = [f"{path} ({named})" for path, named in data.origin.items() if path not in used]
    unused_note = (
        [f"{len(unused)} image(s) that lists name are not there, and not used: {few(unused)}"] if unused else []
    )
    return Survey(by_role, [*data.notes, *unused_note, *notes_on(by_role, data)])


def _roles(data: SegmentationData) -> list[str]:
    """Images that have two roles, and roles without an image."""
    paths = {role: {identity(sample.image): sample.image for sample in getattr(data, role)} for role in ROLES}
    training = paths["labeled"] | paths["unlabeled"]
    pairs = (
        (training, paths["test"], "is among the training images and the test images"),
        (training, paths["held_out"], "is held out and among the training images"),
        (paths["test"], paths["held_out"], "is held out and among the test images"),
        (paths["labeled"], paths["unlabeled"], "is among the labeled images and the unlabeled ones"),
    )
    faults = [f"{one[key]}: {words}" for one, other, words in pairs for key in sorted(one.keys() & other.keys())]
    return faults + [f"no {role} images" for role in ("labeled", "unlabeled", "test") if not paths[role]]


def look_at(sample: Sample, num_classes: int, *, needs_mask: bool) -> Found:
    """Read one image and its mask."""
    faults, picture, size, sums = [], None, None, {}
    try:
        picture = read_picture(sample.image)
        size, sums = (picture.rgb.height, picture.rgb.width), {sample.image: _sum(sample.image)}
    except UnreadableFile as error:
        faults.append(str(error))
    seen = {"turned": picture.turned, "brightest": picture.brightest} if picture else {}
    if sample.mask is None or not is_there(sample.mask):
        if needs_mask and (sample.mask is not None or picture is not None):
            faults.append(f"{sample.image}: has no mask" if sample.mask is None else f"{sample.mask}: missing")
        return Found(faults, size, sums=sums, **seen)
    try:
        mask = read_stored_labels(sample)
        sums[sample.mask] = _sum(sample.mask)
    except UnreadableFile as error:
        return Found([*faults, str(error)], size, sums=sums, **seen)
    if size is not None and mask.ids.shape != size:
        stored = f", {picture.stored} before it is turned as its EXIF says" if picture.turned else ""
        faults.append(f"{sample.mask}: is {mask.ids.shape}, its image is {size} (height, width){stored}")
    counts, has_label_ids = np.bincount(mask.ids.ravel(), minlength=256), cityscapes.has_label_ids(sample.mask)
    highest = cityscapes.NUM_LABEL_IDS if has_label_ids else num_classes
    strange = [int(label) for label in np.flatnonzero(counts) if label >= highest and label != IGNORE_INDEX]
    if strange:
        faults.append(f"{sample.mask}: ids {strange}, expected 0 to {highest - 1} or {IGNORE_INDEX}")
    highest_label_id = None
    if has_label_ids:
        highest_label_id = int(max(np.flatnonzero(counts[:IGNORE_INDEX]), default=0))
        train_ids = cityscapes.to_train_ids(torch.arange(256)).numpy()
        counts = np.bincount(train_ids, weights=counts, minlength=256).astype(np.int64)
    return Found(faults, size, counts, mask.colors, highest_label_id, sums=sums, **seen)


def _sum(path: Path) -> int:
    return zlib.crc32(Path(path).read_bytes())


def usual_size(
    samples: list[Sample], resize: tuple[int, int] | None, most: int = 512, multiple: int = 16
) -> tuple[int, int]:
    """A crop for these images: their median (height, width), at most `most`, in whole multiples of `multiple`.

    `resize` is the size that they are brought to before any view, or None.
    """
    sizes = [resize] if resize else [read_image(sample.image).shape[-2:] for sample in samples[:64]] or [(most, most)]
    height, width = (max(multiple, int(min(side, most)) // multiple * multiple) for side in np.median(sizes, 0))
    return height, width
