"""Tensors as images that matplotlib shows."""

import numpy as np
import torch
from torch import Tensor

from graphcorrect import _checks


def pixels_of(name: str, image: Tensor) -> np.ndarray:
    """(3, H, W) or (1, H, W) as (H, W, 3) uint8."""
    _checks.is_tensor(name, image)
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ValueError(f"expected `{name}` of shape (3, H, W) or (1, H, W), got {_checks.shape_of(image)}")
    if image.is_floating_point():
        image = (255 * image.detach()).round().clamp(0, 255)
    elif image.dtype != torch.uint8:
        raise TypeError(f"expected `{name}` to be torch.uint8 or floating point in [0, 1], got {image.dtype}")
    return image.to(torch.uint8).expand(3, -1, -1).permute(1, 2, 0).cpu().numpy()


def faint(image: Tensor | None, size: torch.Size) -> np.ndarray:
    """The image in light grey, so that colors stand out on it: (H, W, 3) uint8."""
    if image is None:
        return np.full((*size, 3), 255, dtype=np.uint8)
    picture = pixels_of("image", image)
    if picture.shape[:2] != tuple(size):
        raise ValueError(f"expected `image` of the labels' size, {tuple(size)}, got {_checks.shape_of(image)}")
    light = 190 + picture.mean(2, keepdims=True) * (255 - 190) / 255
    return np.repeat(light.astype(np.uint8), 3, 2)
