"""What every picture needs: axes to draw into, names and colors of classes, tensors as images.

The packages that drawing needs are imported when a picture is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from graphcorrect import _checks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Ten lines that can be told apart, then the same ten in another style.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C564B", "#7F3C8D", "#7A8B00")
_STYLES = ("-", "--", ":", "-.")


def axes_or_new(ax: Axes | None, size: tuple[float, float] = (6.0, 5.0)) -> Axes:
    return axes_row_or_new(None if ax is None else [ax], 1, size)[0]


def axes_row_or_new(axes: Sequence[Axes] | None, count: int, size: tuple[float, float]) -> tuple[Axes, ...]:
    """The caller's axes, or those of a new figure."""
    pyplot = needs("matplotlib.pyplot", "matplotlib")
    if axes is not None:
        if len(axes) != count:
            raise ValueError(f"expected `axes` to hold {count}, got {len(axes)}")
        return tuple(axes)
    _, row = pyplot.subplots(1, count, figsize=size, squeeze=False, layout="constrained")
    return tuple(row[0])


def needs(module: str, package: str) -> Any:
    """An optional module, or how to install it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f"graphcorrect.plot needs {package} here: pip install {package}") from error


def names_of(class_names: Sequence[str] | None, count: int) -> list[str]:
    if class_names is not None and len(class_names) != count:
        raise ValueError(f"expected `class_names` with {count} names, one for each class, got {len(class_names)}")
    return [str(number) for number in range(count)] if class_names is None else list(class_names)


def style_of(number: int) -> tuple[str, str]:
    """Color and line style of a class."""
    return COLORS[number % len(COLORS)], _STYLES[number // len(COLORS) % len(_STYLES)]


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
