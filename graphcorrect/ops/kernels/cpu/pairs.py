"""Moments of unit rows a tile at a time, which a CPU's cache holds; and half of a symmetric product."""

from __future__ import annotations

from torch import Tensor

_ROWS = 2048  # of a tile
_COLUMNS = 64  # of the symmetric product made at a time


def moments(unit: Tensor, is_of_class: Tensor) -> tuple[Tensor, Tensor]:
    """V^T V (B, D, D) and the sums of each class's rows (B, C, D).

    Tiles also keep rounding in bounds: one float32 sum of 160,000 nearly equal products is a hundredth of it off.
    """
    batch, num_nodes, width = unit.shape
    gram, sums = unit.new_zeros(batch, width, width), unit.new_zeros(batch, is_of_class.shape[2], width)
    for image in range(batch):
        for first in range(0, num_nodes, _ROWS):
            rows = unit[image, first : first + _ROWS]
            sums[image].addmm_(is_of_class[image, first : first + _ROWS].mT, rows)
            for start in range(0, width, _COLUMNS):
                block = slice(start, start + _COLUMNS)
                gram[image, block, start:].addmm_(rows[:, block].mT, rows[:, start:])
    return gram.triu() + gram.triu(1).mT, sums
