"""Arrays that numpy has saved: feature maps and class probabilities."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphcorrect.files.faults import check_archive, looks_like
from graphcorrect.files.saving import replace, write_atomically

ARRAY_ENDINGS = (".npy", ".npz", ".safetensors")


def read_array(path: Path | str) -> NDArray[Any]:
    """The array of a `.npy`, or the only one of a `.npz` or `.safetensors`; pickled code is refused, not run."""
    path = Path(path)
    if fault := looks_like(path):
        raise ValueError(fault)
    if path.suffix.lower() == ".safetensors":
        return _read_safetensors(path)
    check_archive(path)
    with path.open("rb") as file:
        if not file.read(6).startswith((b"\x93NUMPY", b"PK")):
            raise ValueError("is no .npy or .npz of numpy")
        file.seek(0)
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            array: NDArray[Any] = loaded[_only(loaded.files)]
            return array


def _read_safetensors(path: Path) -> NDArray[Any]:
    with _safetensors().safe_open(path, "pt") as file:
        tensor: Tensor = file.get_tensor(_only(list(file.keys())))
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _only(names: list[str]) -> str:
    if len(names) != 1:
        raise ValueError(f"expected one array, got {len(names)}: {', '.join(names)}")
    return names[0]


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError(".safetensors files need safetensors: pip install safetensors") from error
    return safetensors


def write_array(path: Path | str, array: Tensor, name: str) -> None:
    """Writes a tensor as `.npy`, `.npz` (compressed) or `.safetensors`, by the ending; `name` is its name inside."""
    path = Path(path)
    array, ending = array.detach().cpu().contiguous(), path.suffix.lower()
    if ending == ".safetensors":
        write_atomically(path, _safetensors().torch.save({name: array}))
    elif ending == ".npz":
        arrays: dict[str, Any] = {name: array.numpy()}
        replace(path, lambda file: np.savez_compressed(file, **arrays))
    elif ending == ".npy":
        replace(path, lambda file: np.save(file, array.numpy()))
    else:
        raise ValueError(f"expected `path` to end in {', '.join(ARRAY_ENDINGS)}, got {path.name}")


def read_maps(path: Path | str, channels: str | None = None) -> Tensor:
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


def is_channels_last(shape: tuple[int, ...], size: tuple[int, ...]) -> bool:
    """Whether a feature map has the proportions of its image (H, W) as (h, w, D), and not as (D, h, w)."""

    def fits(height: int, width: int) -> bool:
        rounding = math.log1p(1 / height) + math.log1p(1 / width)  # a cell more or less a side
        return abs(math.log(height * size[1] / (width * size[0]))) <= rounding + 0.02

    return fits(shape[0], shape[1]) and not fits(shape[1], shape[2])
