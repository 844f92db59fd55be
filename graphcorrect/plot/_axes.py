"""Where to draw, and the packages that drawing needs, imported when a picture is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
