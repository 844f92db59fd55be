"""Class probabilities out of a file, or out of a mask."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from graphcorrect import _checks
from graphcorrect.files.arrays import ARRAY_ENDINGS, read_maps, write_array
from graphcorrect.files.faults import reading
from graphcorrect.files.label_maps import LabelMap
from graphcorrect.files.masks import read_mask
from graphcorrect.labels import IGNORE_INDEX

LAST = "--channels last reads such files"


def read_prediction(
    path: Path, classes: LabelMap | int | None, mask_confidence: float, channels: str | None = None
) -> tuple[Tensor, Tensor]:
    """Class probabilities (C, H, W) float32 and where there is a prediction at all, (H, W) bool.

    A mask, of which the classes must be known, becomes probabilities: `mask_confidence` for its class, the rest shared
    by the others, and none where it holds 255.
    """
    num_classes = classes.num_classes if isinstance(classes, LabelMap) else classes
    if path.suffix.lower() in ARRAY_ENDINGS:
        probabilities = read_probabilities(path, num_classes, channels)
        return probabilities, torch.ones_like(probabilities[0], dtype=torch.bool)
    assert classes is not None
    assert num_classes is not None
    labels = read_mask(path, classes)
    known = labels != IGNORE_INDEX
    rest = (1 - mask_confidence) / max(1, num_classes - 1)
    probabilities = torch.full((num_classes, *labels.shape), rest)
    probabilities.scatter_(0, torch.where(known, labels, 0)[None], mask_confidence)
    return torch.where(known, probabilities, 1 / num_classes), known


def read_probabilities(path: Path | str, num_classes: int | None = None, channels: str | None = None) -> Tensor:
    """Class probabilities (C, H, W) float32, of sum 1 along C.

    Args:
        path: saved as (C, H, W), or (H, W, C) with `channels="last"`.
        num_classes: C, if it is known.
        channels: "first" or "last"; None: first, and what is plainly last is refused.

    Raises:
        FileFault: the file cannot be read, or holds something else; the message names it.
        ValueError: `channels` is another.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_probabilities(folder / "a.npz", torch.full((2, 4, 6), 0.5))
        >>> read_probabilities(folder / "a.npz").shape
        torch.Size([2, 4, 6])
    """
    if channels is not None:
        _checks.one_of("channels", channels, ("first", "last"))
    with reading(path):
        return _probabilities_of(read_maps(path, channels), num_classes, channels)


def _probabilities_of(probabilities: Tensor, num_classes: int | None, channels: str | None) -> Tensor:
    """The same of what a file holds."""
    first, last = (_checks.are_probabilities(probabilities, dim) for dim in (0, -1))
    if channels is None and last and not first:
        raise ValueError(f"expected (classes, height, width), got classes last, {tuple(probabilities.shape)}; {LAST}")
    if len(probabilities) == 1 or (channels is None and probabilities.shape[-1] == 1):
        raise ValueError(
            "expected probabilities of each class, got one channel; of a sigmoid save both classes, "
            "np.concatenate([1 - p, p])"
        )
    if num_classes is not None and len(probabilities) != num_classes:
        raise ValueError(f"expected {num_classes} classes, got shape {tuple(probabilities.shape)}")
    total = probabilities.sum(0)
    if not first:
        raise ValueError(
            f"expected probabilities, at least 0 and with the sum 1, got {probabilities.amin():.3g} at least and "
            f"sums from {total.amin():.3g} to {total.amax():.3g}; save the softmax of logits"
        )
    return probabilities.clamp_min(0) / total


def write_probabilities(path: Path | str, probabilities: Tensor, *, dtype: torch.dtype = torch.float32) -> None:
    """Writes class probabilities (C, H, W) as `.npy`, `.npz` or `.safetensors`, by the ending.

    Args:
        path: where; :func:`read_probabilities` reads it.
        probabilities: at least 0, of sum 1 along C.
        dtype: `torch.float16` halves the file and keeps each number to 5e-4.

    Raises:
        ValueError: these are no probabilities, or `dtype` or the ending is another.
        TypeError: `probabilities` is not floating point.
        OSError: it cannot be written.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_probabilities(folder / "a.npy", torch.full((2, 4, 6), 0.5), dtype=torch.float16)
        >>> read_probabilities(folder / "a.npy").dtype
        torch.float32
    """
    _checks.floating("probabilities", probabilities)
    _checks.ndim("probabilities", probabilities, (3,), "(C, H, W)")
    if dtype not in (torch.float16, torch.float32, torch.float64):
        raise ValueError(f"expected `dtype` to be torch.float16, float32 or float64, got {dtype}")
    _checks.on_simplex("probabilities", probabilities, 0)
    write_array(path, probabilities.to(dtype), "probabilities")
