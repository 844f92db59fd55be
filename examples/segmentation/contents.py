"""What only all files of a data set together show: classes that nobody labeled, palettes that disagree, odd images."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from graphcorrect.files.images import dark_images
from graphcorrect.files.text import few
from segmentation import cityscapes
from segmentation.datasets import IGNORE_INDEX, Sample, SegmentationData

if TYPE_CHECKING:
    from segmentation.checking import Found

Seen = dict[str, "list[tuple[Sample, Found]]"]  # by role


def faults_of_all(seen: Seen, data: SegmentationData) -> list[str]:
    """A line for each fault of the masks as a whole."""
    labeled = _one_class(seen["labeled"], data, "labeled")
    return (
        _palettes(seen) + _train_ids(seen) + labeled + (_one_class(seen["test"], data, "test") if not labeled else [])
    )


def notes_on(seen: Seen, data: SegmentationData) -> list[str]:
    """What is no fault and should be known."""
    every = [pair for role in seen for pair in seen[role]]
    return _classes(seen, data) + _void(seen["labeled"]) + _images(every)


def pixels_of(found: list[tuple[Sample, Found]]) -> np.ndarray:
    """(256,) pixels by class id, over all masks."""
    counts = [each.counts for _, each in found if each.counts is not None]
    return np.sum(counts, axis=0) if counts else np.zeros(256, np.int64)


def _one_class(found: list[tuple[Sample, Found]], data: SegmentationData, role: str) -> list[str]:
    """Masks of which all pixels are ignored, or of one class: nothing is learned or measured with them."""
    masks = [sample.mask for sample, each in found if each.counts is not None]
    counts = pixels_of(found)
    known, ignored = np.flatnonzero(counts[:IGNORE_INDEX]), counts[IGNORE_INDEX]
    if not masks or len(known) > 1:
        return []
    hint = f"; where {IGNORE_INDEX} stands for a class rather than for ignored pixels, write its id instead, say 1"
    if len(known) == 0:
        files = few([str(mask) for mask in masks], 3)
        return [f"no labeled pixel in the {len(masks)} {role} masks, all are void ({IGNORE_INDEX}): {files}{hint}"]
    if ignored == 0 and role == "test":
        return []
    name = data.class_names[known[0]] if known[0] < len(data.class_names) else str(known[0])
    others = few([repr(other) for other in data.class_names if other != name], 4)
    share = f"{100 * ignored / counts.sum():.1f} % of the pixels are {IGNORE_INDEX}, which is ignored"
    return [
        f"all labeled pixels of the {len(masks)} {role} masks are {name!r}, and none is {others}; {share}"
        + (hint if ignored else "")
    ]


def _palettes(seen: Seen) -> list[str]:
    """Masks whose palette gives an id another color than most do: an id then says nothing."""
    masks = {sample.mask: each.colors for role in seen for sample, each in seen[role] if each.colors}
    votes: dict[int, Counter] = {}
    for colors in masks.values():
        for label, color in colors.items():
            votes.setdefault(label, Counter())[color] += 1
    usual = {label: counter.most_common(1)[0][0] for label, counter in votes.items()}
    faults = []
    for mask, colors in masks.items():
        other = next((label for label, color in colors.items() if color != usual[label]), None)
        if other is not None:
            faults.append(
                f"{mask}: its palette has color {colors[other]} for id {other}, most masks have {usual[other]}; save "
                "all masks with one palette, or as grey images of ids"
            )
    return faults


def _train_ids(seen: Seen) -> list[str]:
    """Files of Cityscapes' train ids under the name of its label ids: road would be read as nothing, car as wall."""
    found = [(sample, each.highest_label_id) for role in seen for sample, each in seen[role]]
    highest = [label for _, label in found if label is not None]
    if not highest or max(highest) >= len(cityscapes.CLASSES):
        return []
    name = next(sample.mask for sample, label in found if label is not None)
    return [
        f"{name}: like all {len(highest)} masks of that kind has no label id above {max(highest)}, as train ids have; "
        "call files of train ids *_labelTrainIds.png"
    ]


def _classes(seen: Seen, data: SegmentationData) -> list[str]:
    """Classes that nobody has labeled; class names that no mask uses."""
    labeled = pixels_of(seen["labeled"])
    anywhere = sum((pixels_of(found) for found in seen.values()), np.zeros(256, np.int64))
    names = list(enumerate(data.class_names))
    nowhere = [repr(name) for number, name in names if anywhere[number] == 0]
    lacking = [repr(name) for number, name in names if labeled[number] == 0 and anywhere[number] > 0]
    notes = []
    if lacking:
        notes.append(f"no labeled pixel of {len(lacking)} class(es), which cannot be learned: {few(lacking)}")
    if nowhere:
        notes.append(
            f"{len(nowhere)} of the {len(names)} class names occur in no mask: {few(nowhere)}; "
            f"they are those of {data.names_from}: do they belong to these masks (--classes)?"
        )
    return notes


def _void(labeled: list[tuple[Sample, Found]]) -> list[str]:
    void = [str(sample.mask) for sample, each in labeled if each.counts is not None and not each.counts[:255].any()]
    return [f"{len(void)} labeled mask(s) without a labeled pixel: {few(void, 4)}"] if void else []


def _images(found: list[tuple[Sample, Found]]) -> list[str]:
    turned = [str(sample.image) for sample, each in found if each.turned]
    notes = []
    if turned:
        notes.append(
            f"{len(turned)} image(s) are turned upright as their EXIF orientation says; their masks must lie on them "
            f"as viewers show them: {few(turned, 4)}"
        )
    return notes + dark_images(each.brightest for _, each in found)
