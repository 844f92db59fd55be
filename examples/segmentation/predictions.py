"""Saved predictions: which files belong together, what they hold, and every fault of them at once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segmentation.datasets import IGNORE_INDEX, IMAGE_ENDINGS, read_image, read_mask
from segmentation.faults import check_archive, looks_like, reading
from segmentation.folders import Folder

ARRAY_ENDINGS = (".npy", ".npz")
MASK_ENDINGS = (".png",)
LAST = "--channels last reads such files"


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


def find_items(
    labels: Path, label_endings: tuple[str, ...], images: Path | None, features: Path | None
) -> tuple[list[Item], list[str]]:
    """The items of a folder of predictions or masks, by name, and what is missing or there twice."""
    found = Folder(labels, label_endings)
    partners = {
        "image": None if images is None else Folder(images, IMAGE_ENDINGS),
        "features": None if features is None else Folder(features, ARRAY_ENDINGS),
    }
    found.say_what_is_left_out()
    faults = found.faults_of()
    if not found.files and not faults:
        faults.append(f"{labels}: no file that ends in {', '.join(label_endings)}")
    for folder in partners.values():
        faults += [] if folder is None else folder.faults_of(found.files)
    items = []
    for name, path in found.files.items():
        files = {kind: None if folder is None else folder.files.get(name) for kind, folder in partners.items()}
        missing = [kind for kind, folder in partners.items() if folder is not None and files[kind] is None]
        for kind in missing:
            faults.append(f"{path}: no {kind} of that name in {partners[kind].folder}")
        if not missing:
            items.append(Item(name, path, **files))
    return items, faults


def read_array(path: Path) -> np.ndarray:
    """The array of a `.npy`, or the only one of a `.npz`; code hidden in it (pickle) is refused, not run."""
    if fault := looks_like(path):
        raise ValueError(fault)
    check_archive(path)
    with path.open("rb") as file:
        if not file.read(6).startswith((b"\x93NUMPY", b"PK")):
            raise ValueError("is no .npy or .npz of numpy")
        file.seek(0)
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            if len(loaded.files) != 1:
                raise ValueError(f"expected one array, got {len(loaded.files)}: {', '.join(loaded.files)}")
            return loaded[loaded.files[0]]


def read_maps(path: Path, channels: str | None = None) -> Tensor:
    """(D, h, w) float32: a feature map or class probabilities; with `channels` "last" saved as (h, w, D)."""
    array = read_array(path)
    if array.ndim != 3 or not np.issubdtype(array.dtype, np.floating) or array.size == 0:
        hint = "; save one image a file" if array.ndim == 4 else ""
        hint = "; of a sigmoid save both classes, np.stack([1 - p, p])" if array.ndim == 2 else hint
        raise ValueError(
            f"expected floating point of shape (channels, height, width), got {array.dtype} {array.shape}{hint}"
        )
    if not np.isfinite(array).all():
        raise ValueError(f"expected finite values, got {int((~np.isfinite(array)).sum())} NaN or Inf")
    if channels == "last":
        array = np.moveaxis(array, -1, 0)
    return torch.from_numpy(array.astype(np.float32))


def read_probabilities(
    path: Path, num_classes: int | None, mask_confidence: float, channels: str | None = None
) -> tuple[Tensor, Tensor]:
    """Class probabilities (C, H, W) float32 and where there is a prediction at all, (H, W) bool.

    A mask becomes probabilities: `mask_confidence` for its class, the rest shared by the others, and none where it
    holds 255.
    """
    if path.suffix.lower() in ARRAY_ENDINGS:
        probabilities = read_maps(path, channels)
        if channels is None and not _sum_to_one(probabilities, 0) and _sum_to_one(probabilities, -1):
            raise ValueError(
                f"expected (classes, height, width), got classes last, {tuple(probabilities.shape)}; {LAST}"
            )
        if len(probabilities) == 1 or (channels is None and probabilities.shape[-1] == 1):
            raise ValueError(
                "expected probabilities of each class, got one channel; of a sigmoid save both classes, "
                "np.concatenate([1 - p, p])"
            )
        if num_classes is not None and len(probabilities) != num_classes:
            raise ValueError(f"expected {num_classes} classes, got shape {tuple(probabilities.shape)}")
        total = probabilities.sum(0)
        if not _sum_to_one(probabilities, 0):
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


def _sum_to_one(maps: Tensor, dim: int) -> bool:
    """Whether these are probabilities along a dimension. Half precision rounds each of C numbers by up to 5e-4."""
    return bool(maps.amin() >= 0 and (maps.sum(dim) - 1).abs().amax() <= 0.02)


def read_labels(path: Path, num_classes: int) -> Tensor:
    """(H, W) int64 class ids of a palette or grey mask, 255 for none."""
    labels = read_mask(path).long()
    strange = [label for label in labels.unique().tolist() if label >= num_classes and label != IGNORE_INDEX]
    if strange:
        shown = strange if len(strange) <= 10 else f"{len(strange)} others such as {strange[:3]}"
        raise ValueError(f"expected ids 0 to {num_classes - 1} or {IGNORE_INDEX}, got {shown}")
    return labels


def read_features(item: Item, position_weight: float, channels: str | None = None) -> Tensor:
    """The feature map (D, h, w) of an item, or what its image's pixels give."""
    if item.features is not None:
        with reading(item.features):
            return read_maps(item.features, channels)
    assert item.image is not None
    with reading(item.image):
        return pixel_features(read_image(item.image), position_weight)


def is_channels_last(shape: tuple[int, ...], size: tuple[int, ...]) -> bool:
    """Whether a feature map has the proportions of its image (H, W) as (h, w, D), and not as (D, h, w)."""

    def fits(height: int, width: int) -> bool:
        rounding = math.log1p(1 / height) + math.log1p(1 / width)  # a cell more or less a side
        return abs(math.log(height * size[1] / (width * size[0]))) <= rounding + 0.02

    return fits(shape[0], shape[1]) and not fits(shape[1], shape[2])


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
