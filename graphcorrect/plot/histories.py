"""How thresholds and prototypes went over training, a line for each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from graphcorrect import _checks
from graphcorrect.ops.unit_rows import unit_rows
from graphcorrect.plot._drawing import axes_or_new, axes_row_or_new, names_of, style_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def threshold_history(
    history: Sequence[Tensor] | Tensor,
    *,
    steps: Sequence[int] | None = None,
    class_names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draws how each class's confidence threshold went over training.

    Args:
        history: T tensors (C,), or one (T, C): what :class:`graphcorrect.DynamicThreshold` returned, kept now and then.
        steps: the T steps they were kept at; None counts them.
        class_names: C names; None numbers them.
        ax: where to draw; None makes a figure.

    Returns:
        The axes, with a line for each class in order.

    Raises:
        ValueError: shapes do not fit, or the history is empty.
        ImportError: matplotlib is not installed.

    Example:
        >>> history = [torch.full((3,), 0.5), torch.full((3,), 0.8)]
        >>> axes = graphcorrect.plot.threshold_history(history, steps=[0, 100])
    """
    values = _history("history", history, 2, "(T, C)")
    x, names = _steps(steps, len(values)), names_of(class_names, values.shape[1])
    ax = axes_or_new(ax, (7.0, max(4.0, 0.17 * len(names) + 0.8)))
    ax.set_ylim(-0.03, 1.03)
    _class_lines(ax, x, values, names)
    ax.set(xlabel="step", ylabel="confidence threshold")
    return ax


def prototype_history(
    history: Sequence[Tensor] | Tensor,
    *,
    steps: Sequence[int] | None = None,
    class_names: Sequence[str] | None = None,
    axes: Sequence[Axes] | None = None,
) -> tuple[Axes, Axes]:
    """Draws how the prototypes of one round went over training: the way they took, and how far apart they keep.

    Left, the paths in the plane that holds most of their variance (principal components of all unit prototypes
    together), a dot where they are now. Right, for each class, the cosine to the most similar prototype of another
    class: falling lines are classes that drift apart.

    Args:
        history: T tensors (C, D), or one (T, C, D): `bank.prototypes[round].clone()` of a
            :class:`graphcorrect.PrototypeBank`, kept now and then. A row of zeros, which is what a bank holds before
            the first sight of a class, is left out.
        steps: the T steps they were kept at; None counts them.
        class_names: C names; None numbers them.
        axes: two, where to draw; None makes a figure.

    Returns:
        Both axes, each with a line for each class in order.

    Raises:
        ValueError: shapes do not fit, or no class was ever seen.
        ImportError: matplotlib is not installed.

    Example:
        >>> history = torch.randn(5, 3, 16)  # three classes at five steps
        >>> axes = graphcorrect.plot.prototype_history(history)
    """
    values = unit_rows(_history("history", history, 3, "(T, C, D)"))  # (T, C, D)
    x, names = _steps(steps, len(values)), names_of(class_names, values.shape[1])
    seen = values.abs().amax(-1) > 0  # (T, C)
    if not bool(seen.any()):
        raise ValueError("expected `history` with a class that has been seen, got zeros only")
    center = values[seen].mean(0)
    # Rows of the right factor: the directions of most variance, as few as there are entries.
    directions = torch.linalg.svd(values[seen] - center, full_matrices=False)[2][:2]
    paths = torch.where(seen[..., None], (values - center) @ directions.T, torch.nan)
    if paths.shape[-1] == 1:
        paths = torch.cat([paths, torch.zeros_like(paths)], -1)
    cosine = values @ values.transpose(1, 2)  # (T, C, C)
    is_pair = seen[:, :, None] & seen[:, None, :] & ~torch.eye(len(names), dtype=torch.bool)
    nearest = torch.where(is_pair, cosine, -torch.inf).amax(-1)
    nearest = torch.where(nearest == -torch.inf, torch.nan, nearest)

    left, right = axes_row_or_new(axes, 2, (11.0, max(4.4, 0.17 * len(names) + 0.8)))
    for number, name in enumerate(names):
        color, style = style_of(number)
        way = paths[:, number].numpy()
        left.plot(way[:, 0], way[:, 1], color=color, ls=style, lw=1.4, alpha=0.85, label=name)
        last = way[np.isfinite(way[:, 0])][-1:]
        left.scatter(last[:, 0], last[:, 1], color=color, s=34, zorder=3)
        for spot in last:
            left.annotate(name, spot, xytext=(5, 4), textcoords="offset points", fontsize=8, color=color)
    left.set(title="paths of the unit prototypes", xlabel="first component", ylabel="second component")
    left.set_aspect("equal", adjustable="datalim")
    left.margins(0.12)
    _bare(left)
    _class_lines(right, x, nearest, names)
    right.set(title="similarity to the nearest other class", xlabel="step", ylabel="cosine")
    return left, right


def _history(name: str, history: Sequence[Tensor] | Tensor, ndim: int, form: str) -> Tensor:
    """A sequence of snapshots as one tensor, float32 on the CPU."""
    if not isinstance(history, Tensor):
        if len(history) == 0:
            raise ValueError(f"expected `{name}` with at least one snapshot, got none")
        for snapshot in history:
            _checks.is_tensor(name, snapshot)
            _checks.shape(name, snapshot, history[0].shape, "(that of the first snapshot)")
        history = torch.stack([snapshot.detach().cpu() for snapshot in history])
    _checks.ndim(name, history, (ndim,), form)
    if 0 in history.shape:
        raise ValueError(
            f"expected `{name}` of shape {form} without an empty dimension, got {_checks.shape_of(history)}"
        )
    return history.detach().cpu().float()


def _steps(steps: Sequence[int] | None, count: int) -> list[int]:
    if steps is not None and len(steps) != count:
        raise ValueError(f"expected `steps` with one entry for each of {count} snapshots, got {len(steps)}")
    return list(range(count)) if steps is None else list(steps)


def _class_lines(ax: Axes, x: list[int], values: Tensor, names: list[str]) -> None:
    """A line for each class over (T, C) values, each named at its end: a legend of 21 colors can't be read."""
    columns = values.T.numpy()
    ends = []
    for number, (name, column) in enumerate(zip(names, columns, strict=True)):
        color, style = style_of(number)
        ax.plot(x, column, color=color, ls=style, lw=1.5, marker="o" if len(x) == 1 else "", label=name)
        held = column[np.isfinite(column)]
        if len(held):
            ends.append((float(held[-1]), name, color))
    _bare(ax)
    low, high = ax.get_ylim()
    for place, (value, name, color) in zip(_spread([end[0] for end in ends], low, high), ends, strict=True):
        end, text = (1.0, (value - low) / (high - low)), (1.045, (place - low) / (high - low))
        arrow = {"arrowstyle": "-", "color": color, "lw": 0.5, "shrinkA": 1, "shrinkB": 0, "relpos": (0, 0.5)}
        ax.annotate(name, end, text, "axes fraction", fontsize=8, color=color, va="center", arrowprops=arrow)
    ax.set_ylim(low, high)
    ax.set_xlim(x[0] - (0.5 if len(x) == 1 else 0), x[-1] + (0.5 if len(x) == 1 else 0))


def _spread(values: list[float], low: float, high: float) -> list[float]:
    """Heights for labels beside `values`: in their order, evenly far apart at least, as near as that allows."""
    order = np.argsort(values, kind="stable")
    gap = min(0.045 * (high - low), (high - low) / max(1, len(values) - 1))
    places = np.array(values, dtype=float)[order]
    # Labels in order with gaps are, less i gaps, a rising sequence: the nearest one is found by pooling neighbors.
    blocks: list[tuple[float, int]] = []
    for number, value in enumerate(places):
        blocks.append((value - number * gap, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (mean, count), (other, more) = blocks[-2], blocks[-1]
            blocks[-2:] = [((mean * count + other * more) / (count + more), count + more)]
    flat = np.array([mean for mean, count in blocks for _ in range(count)])
    flat = flat.clip(low, high - gap * (len(values) - 1))
    result = np.empty(len(values))
    result[order] = flat + gap * np.arange(len(values))
    return [float(height) for height in result]


def _bare(ax: Axes) -> None:
    """No box around the plot, and a faint grid."""
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    ax.grid(color="0.9", lw=0.7)
    ax.set_axisbelow(True)
