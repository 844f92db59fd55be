"""Wrong annotations as people make them: regions of another class, contours that run beside, objects left out, noise.

Each kind takes masks (n, H, W) uint8 and a share of wrong pixels, and returns masks of which about that share of the
labeled pixels differ. Void stays void.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from scipy import ndimage

VOID = 255
# CamVid's ids: whom an annotator in a hurry takes each class for
SIMILAR = {
    0: (1, 5),
    1: (5, 7),
    2: (6, 5),
    3: (4,),
    4: (3,),
    5: (1, 7),
    6: (2, 1),
    7: (1, 4),
    8: (10, 1),
    9: (10, 2),
    10: (9, 8),
}


def swapped(masks: np.ndarray, rate: float, rng: np.random.Generator, num_classes: int) -> np.ndarray:
    """Whole regions carry the name of a similar class."""
    corrupted = masks.copy()
    for where, label in _drawn_regions(masks, rate, rng):
        choices = SIMILAR[label] if num_classes == len(SIMILAR) else ((label + 1) % num_classes,)
        corrupted[where] = rng.choice(choices)
    return corrupted


def dropped(masks: np.ndarray, rate: float, rng: np.random.Generator, num_classes: int) -> np.ndarray:
    """Regions were left out: what lies around them covers their pixels."""
    corrupted = masks.copy()
    holes = np.zeros(masks.shape, dtype=bool)
    for where, _ in _drawn_regions(masks, rate, rng, largest=0.25):
        holes[where] = True
    for image, hole, truth in zip(corrupted, holes, masks, strict=True):
        known = ~hole & (truth != VOID)
        if hole.any() and known.any():
            nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
            image[hole] = truth[tuple(nearest)][hole]
    return corrupted


def shifted(masks: np.ndarray, rate: float, rng: np.random.Generator, num_classes: int) -> np.ndarray:
    """Contours run beside those of the objects: each image is displaced by a smooth field of its own."""
    shape = masks.shape
    field = rng.standard_normal((len(masks), 2, *shape[1:])).astype(np.float32)
    field = ndimage.gaussian_filter(field, (0, 0, 12, 12), mode="reflect")
    field /= field.std()

    def displaced(amplitude: float) -> np.ndarray:
        rows, columns = np.mgrid[: shape[1], : shape[2]]
        result = np.empty_like(masks)
        for mask, (down, right), out in zip(masks, field, result, strict=True):
            at = np.rint([rows + amplitude * down, columns + amplitude * right]).astype(int)
            out[:] = mask[at[0].clip(0, shape[1] - 1), at[1].clip(0, shape[2] - 1)]
        return np.where((masks == VOID) | (result == VOID), masks, result)

    low, high = 0.0, 200.0
    for _ in range(12):  # the amplitude, in pixels, that gives the share
        middle = (low + high) / 2
        low, high = (middle, high) if share_wrong(displaced(middle), masks) < rate else (low, middle)
    return displaced(high)


def random(masks: np.ndarray, rate: float, rng: np.random.Generator, num_classes: int) -> np.ndarray:
    """Half of it single pixels, half of it blobs, of any class."""
    corrupted = masks.copy()
    noise = rng.integers(0, num_classes, masks.shape, dtype=np.uint8)
    single = rng.random(masks.shape) < rate / 2 * num_classes / (num_classes - 1)
    corrupted[single] = noise[single]
    rows, columns = np.mgrid[: masks.shape[1], : masks.shape[2]]
    for image, truth in zip(corrupted, masks, strict=True):
        labeled = max(1, (truth != VOID).sum())
        before = ((image != truth) & (truth != VOID)).sum() / labeled
        for _ in range(10_000):
            if ((image != truth) & (truth != VOID)).sum() / labeled >= before + rate / 2:
                break
            row, column, radii = rng.integers(masks.shape[1]), rng.integers(masks.shape[2]), rng.uniform(2, 12, 2)
            inside = ((rows - row) / radii[0]) ** 2 + ((columns - column) / radii[1]) ** 2 <= 1
            image[inside] = rng.integers(num_classes)
    corrupted[masks == VOID] = VOID
    return corrupted


KINDS: dict[str, Callable[[np.ndarray, float, np.random.Generator, int], np.ndarray]] = {
    "swapped": swapped,
    "shifted": shifted,
    "dropped": dropped,
    "random": random,
}


def share_wrong(labels: np.ndarray, truth: np.ndarray) -> float:
    """Of the labeled pixels, those that differ."""
    return float((labels != truth)[truth != VOID].mean())


def _drawn_regions(
    masks: np.ndarray, rate: float, rng: np.random.Generator, largest: float = 1.0
) -> Iterator[tuple[tuple[np.ndarray, ...], int]]:
    """Connected regions of one class in random order, (indices, class), until they make up the share."""
    regions = []
    for number, mask in enumerate(masks):
        for label in np.unique(mask[mask != VOID]):
            components, count = ndimage.label(mask == label)
            boxes = ndimage.find_objects(components)
            for component in range(1, count + 1):
                box = boxes[component - 1]
                inside = np.nonzero(components[box] == component)
                if len(inside[0]) <= largest * mask.size:
                    rows, columns = inside[0] + box[0].start, inside[1] + box[1].start
                    regions.append(((np.full(len(rows), number), rows, columns), int(label)))
    left = rate * (masks != VOID).sum()
    for place in rng.permutation(len(regions)):
        size = len(regions[place][0][0])
        if size <= left + size / 2:
            left -= size
            yield regions[place]
        if left <= 0:
            return
