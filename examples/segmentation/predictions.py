"""Folders of saved predictions: which files belong together, what they hold, and every fault of them at once.

A file's name is its path below its folder without the ending, so that `city/frame_7.npy` of the predictions belongs to
`city/frame_7.png` of the images.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segmentation.datasets import IGNORE_INDEX, IMAGE_ENDINGS, read_image, read_mask

ARRAY_ENDINGS = (".npy", ".npz")
MASK_ENDINGS = (".png",)
# What numpy and PIL raise on a file that is cut off, empty or something else
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)


class Item(NamedTuple):
    """The files of one image: its prediction or true mask, its image and its feature map, where asked for."""

    name: str
    labels: Path
    image: Path | None
    features: Path | None

    def fingerprint(self) -> dict[str, list[int]]:
        """Size and time of change of every file: another fingerprint means that the work is to be done again."""
        paths = [path for path in (self.labels, self.image, self.features) if path is not None]
        return {str(path): [path.stat().st_size, path.stat().st_mtime_ns] for path in paths}


class Folder:
    """The files of a folder by name, hidden ones left out; a name that two files share is a fault."""

    def __init__(self, folder: Path, endings: Iterable[str]) -> None:
        self.folder, self.files, self.faults = folder, {}, []
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in endings and not path.name.startswith(".") and path.is_file():
                name = path.relative_to(folder).with_suffix("").as_posix()
                if name in self.files:
                    self.faults.append(f"{path}: {self.files[name].name} has the same name")
                self.files.setdefault(name, path)


def find_items(
    labels: Path, label_endings: tuple[str, ...], images: Path | None, features: Path | None
) -> tuple[list[Item], list[str]]:
    """The items of a folder of predictions or masks, by name, and what is missing or there twice."""
    found = Folder(labels, label_endings)
    partners = {
        "image": None if images is None else Folder(images, IMAGE_ENDINGS),
        "features": None if features is None else Folder(features, ARRAY_ENDINGS),
    }
    faults = list(found.faults) if found.files else [f"{labels}: no file that ends in {', '.join(label_endings)}"]
    items = []
    for name, path in found.files.items():
        files = {kind: None if folder is None else folder.files.get(name) for kind, folder in partners.items()}
        missing = [kind for kind, folder in partners.items() if folder is not None and files[kind] is None]
        faults += [f"{path}: no {kind} of that name in {partners[kind].folder}" for kind in missing]
        if not missing:
            items.append(Item(name, path, **files))
    return items, faults


def read_array(path: Path) -> np.ndarray:
    """The array of a `.npy`, or the only one of a `.npz`; code hidden in it (pickle) is refused, not run."""
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return loaded
    with loaded:
        if len(loaded.files) != 1:
            raise ValueError(f"expected one array, got {len(loaded.files)}: {', '.join(loaded.files)}")
        return loaded[loaded.files[0]]


def read_maps(path: Path) -> Tensor:
    """(D, h, w) float32: a feature map or class probabilities."""
    array = read_array(path)
    if array.ndim != 3 or not np.issubdtype(array.dtype, np.floating) or array.size == 0:
        raise ValueError(f"expected floating point of shape (channels, height, width), got {array.dtype} {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"expected finite values, got {int((~np.isfinite(array)).sum())} NaN or Inf")
    return torch.from_numpy(array.astype(np.float32))


def read_probabilities(path: Path, num_classes: int | None, mask_confidence: float) -> tuple[Tensor, Tensor]:
    """Class probabilities (C, H, W) float32 and where there is a prediction at all, (H, W) bool.

    A mask becomes probabilities: `mask_confidence` for its class, the rest shared by the others, and none where it
    holds 255.
    """
    if path.suffix.lower() in ARRAY_ENDINGS:
        probabilities = read_maps(path)
        if num_classes is not None and len(probabilities) != num_classes:
            raise ValueError(f"expected {num_classes} classes, got shape {tuple(probabilities.shape)}")
        total = probabilities.sum(0)
        # Half precision on disk rounds each of C numbers by up to 5e-4.
        if probabilities.amin() < 0 or (total - 1).abs().amax() > 0.02:
            raise ValueError(
                f"expected probabilities, at least 0 and with the sum 1, got {probabilities.amin():.3g} at least and "
                f"sums from {total.amin():.3g} to {total.amax():.3g}; save the softmax of logits"
            )
        return probabilities / total, torch.ones_like(total, dtype=torch.bool)
    if num_classes is None:
        raise ValueError("expected `--classes` where predictions are masks, got none")
    labels = read_labels(path, num_classes)
    known = labels != IGNORE_INDEX
    rest = (1 - mask_confidence) / max(1, num_classes - 1)
    probabilities = torch.full((num_classes, *labels.shape), rest)
    probabilities.scatter_(0, torch.where(known, labels, 0)[None], mask_confidence)
    return torch.where(known, probabilities, 1 / num_classes), known


def read_labels(path: Path, num_classes: int) -> Tensor:
    """(H, W) int64 class ids of a palette or grey mask, 255 for none."""
    labels = read_mask(path).long()
    strange = [label for label in labels.unique().tolist() if label >= num_classes and label != IGNORE_INDEX]
    if strange:
        raise ValueError(f"expected ids 0 to {num_classes - 1} or {IGNORE_INDEX}, got {strange}")
    return labels


def read_features(item: Item, position_weight: float) -> Tensor:
    """The feature map (D, h, w) of an item, or what its image's pixels give."""
    if item.features is not None:
        return read_maps(item.features)
    assert item.image is not None
    return pixel_features(read_image(item.image), position_weight)


def pixel_features(image: Tensor, position_weight: float = 1.0) -> Tensor:
    r"""Features of an image's pixels (18, H, W) for whoever has no network's: color, position, and what is around.

    Nine numbers a pixel, each in [0, 1]: its color; the color around it (5x5 and 3x3 means one after the other); the
    strength of the edge there; row and column. Graphs compare by cosine, to which dark and bright grey are the same. So
    each number u becomes the pair (cos pi u, sin pi u), and the cosine of two pixels is
    :math:`\sum_n w_n \cos \pi (u_n - v_n)` over the weights' sum: 1 where they are alike, less the more they differ.

    Args:
        image: (3, H, W) uint8.
        position_weight: w of row and column, where the three colors, those around, and the edge weigh 1 each.
    """
    color = image.float() / 255
    around = _box_mean(_box_mean(color[None], 5), 3)[0]
    grey = around.mean(0)
    down, right = F.pad(grey.diff(dim=0), (0, 0, 0, 1)), F.pad(grey.diff(dim=1), (0, 1))
    edge = (4 * (down.square() + right.square()).sqrt()).clamp(max=1)
    height, width = grey.shape
    # One scale for both sides, so that a step down is worth a step to the right.
    row = (torch.arange(height) / max(height, width))[:, None].expand(height, width)
    column = (torch.arange(width) / max(height, width)).expand(height, width)
    numbers = torch.cat([color, around, edge[None], row[None], column[None]])
    weight = torch.tensor([1.0] * 7 + [position_weight] * 2).sqrt()[:, None, None]
    return torch.cat([weight * (math.pi * numbers).cos(), weight * (math.pi * numbers).sin()])


def _box_mean(maps: Tensor, size: int) -> Tensor:
    """Mean over size x size pixels, over those within the image along its border."""
    return F.avg_pool2d(maps, size, stride=1, padding=size // 2, count_include_pad=False)


class Checker:
    """Reads every file once and lists its faults; what must be the same in all files is what the first one holds."""

    def __init__(self, num_classes: int | None, num_neighbors: int) -> None:
        self.num_classes, self.num_neighbors = num_classes, num_neighbors
        self.feature_dim: int | None = None

    def faults_of_prediction(self, item: Item, mask_confidence: float) -> list[str]:
        """Faults of a prediction and its image and features."""
        probabilities, faults = _try(
            item.labels, lambda: read_probabilities(item.labels, self.num_classes, mask_confidence)[0]
        )
        size = None
        if probabilities is not None:
            self.num_classes = len(probabilities)
            size = tuple(probabilities.shape[1:])
        return faults + self._faults_of_keys(item, size)

    def faults_of_labeled(self, item: Item) -> list[str]:
        """Faults of a true mask and its image and features."""
        assert self.num_classes is not None
        labels, faults = _try(item.labels, lambda: read_labels(item.labels, self.num_classes))
        return faults + self._faults_of_keys(item, None if labels is None else tuple(labels.shape))

    def _faults_of_keys(self, item: Item, size: tuple[int, ...] | None) -> list[str]:
        faults = []
        cells = [] if size is None else [math.prod(size)]
        if item.image is not None:
            image, faults = _try(item.image, lambda: read_image(item.image))
            if image is not None and size is not None and tuple(image.shape[1:]) != size:
                faults.append(
                    f"{item.image}: is {tuple(image.shape[1:])}, {item.labels.name} is {size} (height, width)"
                )
        if item.features is not None:
            features, found = _try(item.features, lambda: read_maps(item.features))
            faults += found
            if features is not None:
                self.feature_dim = len(features) if self.feature_dim is None else self.feature_dim
                cells.append(features[0].numel())
                if len(features) != self.feature_dim:
                    faults.append(
                        f"{item.features}: has {len(features)} channels, the first feature map {self.feature_dim}"
                    )
        if cells and 1 < min(cells) <= self.num_neighbors:
            faults.append(f"{item.labels}: {min(cells)} cells, too few for {self.num_neighbors} neighbors each")
        return faults


def _try(path: Path, read: Callable[[], Tensor]) -> tuple[Tensor | None, list[str]]:
    """What `read` returns, or the fault that it found."""
    try:
        return read(), []
    except UNREADABLE as error:
        return None, [f"{path}: {getattr(error, 'reason', error) or type(error).__name__}"]
