"""What a correction did to the labels of one image: fixed, broken, left wrong, or changed where no truth is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from graphcorrect import _checks
from graphcorrect.labels import IGNORE_INDEX
from graphcorrect.plot._drawing import axes_or_new, faint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Patch

# Okabe and Ito's green and a red that people who confuse the two tell apart from it by lightness; stripes mark it too.
FIXED = (0, 158, 115)
BROKEN = (213, 60, 20)
CHANGED = (0, 114, 178)
WRONG = (150, 150, 150)
_STRIPE = (90, 10, 0)


def corrections(
    image: Tensor | None,
    before: Tensor,
    after: Tensor,
    truth: Tensor | None = None,
    *,
    ignore_index: int = IGNORE_INDEX,
    legend: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draws what a correction did to the labels of one image: fixed in green, broken in red with stripes.

    Wrong labels that it left wrong are grey. Where no truth is known a changed label is blue.

    Args:
        image: (3, H, W) or (1, H, W), uint8 or floating point in [0, 1], shown faintly below; None shows white.
        before: (H, W) integers, the labels before correction.
        after: (H, W) integers, after it.
        truth: (H, W) integers; `ignore_index` where unknown. None: unknown everywhere.
        ignore_index: label of the truth that stands for none.
        legend: False leaves out the counts below the picture.
        ax: where to draw; None makes a figure.

    Returns:
        The axes; the array of its one image is (H, W, 3) uint8.

    Raises:
        ValueError: shapes do not fit.
        TypeError: labels are not integers.
        ImportError: matplotlib is not installed.

    Example:
        >>> before, after, truth = (torch.randint(3, (12, 20)) for _ in range(3))
        >>> axes = graphcorrect.plot.corrections(None, before, after, truth)
    """
    before, after = (_checks.class_labels(name, each) for name, each in (("before", before), ("after", after)))
    _checks.ndim("before", before, (2,), "(H, W)")
    truth = None if truth is None else _checks.class_labels("truth", truth)
    for name, labels in (("after", after), ("truth", truth)):
        if labels is not None:
            _checks.shape(name, labels, before.shape, "(that of `before`)")
    before, after = before.cpu(), after.cpu()
    truth = torch.full_like(before, ignore_index) if truth is None else truth.cpu()
    known = truth != ignore_index
    was_right, is_right = before == truth, after == truth
    outcomes = {
        "fixed": (known & ~was_right & is_right, FIXED),
        "broken": (known & was_right & ~is_right, BROKEN),
        "left wrong": (known & ~was_right & ~is_right, WRONG),
        "changed, truth unknown": (~known & (before != after), CHANGED),
    }
    picture = faint(image, before.shape)
    for pixels, color in outcomes.values():
        picture[pixels.numpy()] = color
    picture[(outcomes["broken"][0] & _stripes(before.shape)).numpy()] = _STRIPE

    ax = axes_or_new(ax)
    ax.imshow(picture, interpolation="nearest")
    ax.set_axis_off()
    if legend:
        shown = ["fixed", "broken", "left wrong"] if bool(known.any()) else []
        shown += ["changed, truth unknown"] if bool(outcomes["changed, truth unknown"][0].any()) or not shown else []
        handles = [_legend_patch(name, *outcomes[name]) for name in shown]
        below, columns = (0.5, -0.01), min(2, len(handles))
        ax.legend(handles=handles, loc="upper center", bbox_to_anchor=below, ncols=columns, frameon=False, fontsize=9)
    return ax


def _stripes(size: torch.Size) -> Tensor:
    """Diagonal stripes over a quarter of the pixels, broader in larger images: bool (H, W)."""
    rows, columns = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    return (rows + columns) // max(1, max(size) // 250) % 4 == 0


def _legend_patch(name: str, pixels: Tensor, color: tuple[int, int, int]) -> Patch:
    from matplotlib.patches import Patch

    label = f"{name} ({int(pixels.sum()):,} px)"
    face, stripe = ("#{:02x}{:02x}{:02x}".format(*each) for each in (color, _STRIPE))
    stripes: dict[str, Any] = {"edgecolor": stripe, "hatch": "////", "lw": 0} if name == "broken" else {}
    return Patch(facecolor=face, label=label, **stripes)
