"""Saved predictions or masks: which files belong together."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from graphcorrect.files.arrays import ARRAY_ENDINGS, read_maps
from graphcorrect.files.faults import reading
from graphcorrect.files.folders import Folder
from graphcorrect.files.images import IMAGE_ENDINGS, read_image
from graphcorrect.pixel_features import pixel_features

MASK_ENDINGS = (".png",)


class Item(NamedTuple):
    """The files of one image: its prediction or mask, its image, feature map and true mask, where asked for."""

    name: str
    labels: Path
    image: Path | None
    features: Path | None
    truth: Path | None = None

    def fingerprint(self) -> dict[str, list[int]]:
        """Size and time of change of every file: another fingerprint means that the work is to be done again."""
        paths = [path for path in (self.labels, self.image, self.features, self.truth) if path is not None]
        return {str(path): [path.stat().st_size, path.stat().st_mtime_ns] for path in paths}


def find_items(
    labels: Path, label_endings: tuple[str, ...], images: Path | None, features: Path | None
) -> tuple[list[Item], list[str]]:
    """The items of a folder of predictions or masks, by name, and what is missing or there twice."""
    found = Folder(labels, label_endings)
    found.say_what_is_left_out()
    faults = found.faults_of()
    if not found.files and not faults:
        faults.append(f"{labels}: no file that ends in {', '.join(label_endings)}")
    partners = {"image": (images, IMAGE_ENDINGS), "features": (features, ARRAY_ENDINGS)}
    there = {kind: Folder(path, endings) for kind, (path, endings) in partners.items() if path is not None}
    for folder in there.values():
        faults += folder.faults_of(found.files)
    items = []
    for name, path in found.files.items():
        files = {kind: folder.files.get(name) for kind, folder in there.items()}
        missing = [kind for kind, file in files.items() if file is None]
        faults += [f"{path}: no {kind} of that name in {there[kind].folder}" for kind in missing]
        if not missing:
            items.append(Item(name, path, files.get("image"), files.get("features")))
    return items, faults


def read_features(item: Item, position_weight: float, channels: str | None = None) -> Tensor:
    """The feature map (D, h, w) of an item, or what its image's pixels give."""
    if item.features is not None:
        with reading(item.features):
            return read_maps(item.features, channels)
    assert item.image is not None
    with reading(item.image):
        return pixel_features(read_image(item.image), position_weight)
