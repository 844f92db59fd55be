"""The check of a whole data set before the first step: every file is read once, every fault is reported together.

A broken mask is worth a line at the start and not a crash in the night.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import numpy as np
from tqdm import tqdm

from segmentation import cityscapes
from segmentation.datasets import IGNORE_INDEX, Sample, SegmentationData, read_image, read_mask

SHOWN = 50


def check(data: SegmentationData) -> None:
    """Raise one `ValueError` that lists every fault; no faults, no return value."""
    faults = []
    training = {sample.image for sample in data.labeled + data.unlabeled}
    overlap = training & {sample.image for sample in data.test}
    faults += [f"{path}: is among the training images and the test images" for path in sorted(overlap)]
    faults += [
        f"{path}: is held out and among the training images"
        for path in sorted(training & {sample.image for sample in data.held_out})
    ]
    twice = {sample.image for sample in data.labeled} & {sample.image for sample in data.unlabeled}
    faults += [f"{path}: is among the labeled images and the unlabeled ones" for path in sorted(twice)]
    jobs: list[tuple[Sample, bool]] = []
    for kind in ("labeled", "unlabeled", "test", "held_out"):
        samples = getattr(data, kind)
        if not samples and kind != "held_out":
            faults.append(f"no {kind} images")
        jobs += [(sample, kind != "unlabeled") for sample in samples]
    # Threads: decoding, which is most of it, holds no lock.
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        found = pool.map(lambda job: faults_of(job[0], len(data.class_names), needs_mask=job[1]), jobs)
        faults += chain.from_iterable(tqdm(found, "checking files", len(jobs), leave=False, delay=3))
    if faults:
        more = f"\n  ... and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        shown = "\n  ".join(faults[:SHOWN])
        raise ValueError(f"the data set has {len(faults)} fault(s):\n  {shown}{more}")


def faults_of(sample: Sample, num_classes: int, *, needs_mask: bool) -> list[str]:
    """What is wrong with one image and its mask, a line each."""
    faults, size = [], None
    try:
        size = tuple(read_image(sample.image).shape[-2:])
    except FileNotFoundError:
        faults.append(f"{sample.image}: missing")
    except (OSError, SyntaxError, ValueError) as error:  # PIL's ways to say truncated, no image, broken PNG
        faults.append(f"{sample.image}: unreadable ({error})")
    if sample.mask is None or not sample.mask.exists():
        return [*faults, f"{sample.mask}: missing"] if needs_mask else faults
    try:
        mask = read_mask(sample.mask)
    except (OSError, SyntaxError, ValueError) as error:
        return [*faults, f"{sample.mask}: unreadable ({error})"]
    if size is not None and tuple(mask.shape) != size:
        faults.append(f"{sample.mask}: is {tuple(mask.shape)}, its image is {size} (height, width)")
    highest = cityscapes.NUM_LABEL_IDS if cityscapes.has_label_ids(sample.mask) else num_classes
    strange = [int(label) for label in mask.unique() if label >= highest and label != IGNORE_INDEX]
    if strange:
        faults.append(f"{sample.mask}: ids {strange}, expected 0 to {highest - 1} or {IGNORE_INDEX}")
    return faults


def usual_size(samples: list[Sample], most: int = 512, multiple: int = 16) -> tuple[int, int]:
    """A crop for these images: their median (height, width), at most `most`, in whole multiples of `multiple`."""
    sizes = np.median([read_image(sample.image).shape[-2:] for sample in samples[:64]], axis=0)
    height, width = (max(multiple, int(min(side, most)) // multiple * multiple) for side in sizes)
    return height, width
