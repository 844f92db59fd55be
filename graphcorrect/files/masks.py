"""Masks as the ids that stand in the file, of a palette image the indices.

A file that cannot be read ends in `UnreadableFile`, whose message begins with the file's name.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphcorrect.files._pictures import DEEP, Image, named, refuse_frames, upright
from graphcorrect.labels import IGNORE_INDEX


class StoredMask(NamedTuple):
    """Ids (H, W) uint8, and of a palette image the color of every id that occurs, 255 left out."""

    ids: NDArray[np.uint8]
    colors: dict[int, tuple[int, ...]]


def read_mask(path: Path, num_classes: int) -> Tensor:
    """(H, W) int64 class ids of a palette or grey mask, 255 for none.

    Raises:
        UnreadableFile: it cannot be read; the message names it.
        ValueError: an id is neither below `num_classes` nor 255.
    """
    ids = read_stored_mask(path).ids
    strange = [label for label in np.unique(ids).tolist() if label >= num_classes and label != IGNORE_INDEX]
    if strange:
        shown = strange if len(strange) <= 10 else f"{len(strange)} others such as {strange[:3]}"
        raise ValueError(f"expected ids 0 to {num_classes - 1} or {IGNORE_INDEX}, got {shown}")
    return torch.from_numpy(ids).long()


def read_stored_mask(path: Path) -> StoredMask:
    """A mask of ids: grey or palette image of up to 8 bits (or 16, if all ids fit in 8), or SBD's .mat."""
    with named(path):
        if path.suffix.lower() == ".mat":
            return StoredMask(_read_mat(path), {})
        with Image.open(path) as file:
            if file.format in ("JPEG", "MPO"):
                raise ValueError("expected a format that keeps ids as they are, such as PNG; JPEG changes them")
            step = _step_of_grey(file)
            file.load()
            refuse_frames(file)
            picture, _ = upright(file)
            return StoredMask(_ids(picture, step), _colors(picture))


def _step_of_grey(picture: Image.Image) -> int:
    """What PIL multiplies the values of a grey file of 2 or 4 bits by, to fill 8; 1 for all others."""
    arguments = tile[0][3] if (tile := getattr(picture, "tile", [])) else ""
    raw = arguments if isinstance(arguments, str) else next(iter(arguments or ("",)))
    found = re.match(r"L;([24])", str(raw))
    return {None: 1, "2": 85, "4": 17}[found and found[1]]


def _ids(picture: Image.Image, step: int) -> NDArray[np.uint8]:
    if picture.mode not in ("1", "L", "P", *DEEP):
        raise ValueError(
            f"expected a mask of one 8-bit channel (palette or grey), got mode {picture.mode!r}: "
            "save the ids of the classes, not their colors"
        )
    values = np.asarray(picture)
    if picture.mode in DEEP and (values.min() < 0 or values.max() > 255):
        raise ValueError(f"expected ids from 0 to 255, got {values.min()} to {values.max()} in 16 bits")
    return np.ascontiguousarray(values.astype(np.uint8) // step)


def _colors(picture: Image.Image) -> dict[int, tuple[int, ...]]:
    palette = picture.getpalette("RGB") if picture.mode == "P" else None
    if palette is None:
        return {}
    used = [number for number, count in enumerate(picture.histogram()) if count and number != 255]
    return {number: tuple(palette[3 * number : 3 * number + 3]) for number in used if 3 * number < len(palette)}


def _read_mat(path: Path) -> NDArray[np.uint8]:
    from scipy.io import loadmat

    found = loadmat(path)
    if "GTcls" not in found:
        names = ", ".join(name for name in found if not name.startswith("_"))
        raise ValueError(f"expected the variable GTcls, as SBD has it, got {names or 'none'}")
    ids = np.asarray(found["GTcls"]["Segmentation"][0, 0])
    if ids.ndim != 2 or ids.dtype.kind not in "uif" or ids.size == 0:
        raise ValueError(f"expected GTcls.Segmentation as a matrix of ids, got {ids.dtype} of shape {ids.shape}")
    if ids.min() < 0 or ids.max() > 255 or (ids != np.floor(ids)).any():
        raise ValueError(f"expected ids from 0 to 255, got {ids.min()} to {ids.max()}")
    return ids.astype(np.uint8)
