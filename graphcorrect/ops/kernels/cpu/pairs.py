"""Moments of unit rows a tile at a time, which a CPU's cache holds; and half of a symmetric product."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_ROWS = 2048  # of a tile
_COLUMNS = 64  # of the symmetric product made at a time


def moments(unit: Tensor, labels: Tensor, is_of_class: Tensor) -> tuple[Tensor, Tensor]:
    """V^T V (B, D, D) and the sums of each class's rows (B, C, D).

    Tiles also keep rounding in bounds: one float32 sum of 160,000 nearly equal products is a hundredth of it off.
    """
    batch, _, width = unit.shape
    gram, sums = unit.new_zeros(batch, width, width), unit.new_zeros(batch, is_of_class.shape[2], width)
    for image, tile in _tiles(unit):
        rows = unit[image, tile]
        of_tile = torch.zeros_like(sums[image])
        sums[image] += of_tile.index_add_(0, labels[image, tile].clamp_min(0), rows)  # a row without a class is zero
        for start in range(0, width, _COLUMNS):
            block = slice(start, start + _COLUMNS)
            gram[image, block, start:].addmm_(rows[:, block].mT, rows[:, start:])
    return gram.triu() + gram.triu(1).mT, sums


def gradient(unit: Tensor, labels: Tensor, is_of_class: Tensor, of_gram: Tensor, of_sums: Tensor) -> Tensor:
    """V G - Y S for the gradients G (B, D, D) of V^T V, both sides of it, and -S (B, C, D) of the sums."""
    result = torch.empty_like(unit)
    for image, tile in _tiles(unit):
        rows = torch.index_select(of_sums[image], 0, labels[image, tile].clamp_min(0), out=result[image, tile])
        rows.addmm_(unit[image, tile], of_gram[image], beta=-1.0)
    return result


def _tiles(unit: Tensor) -> Iterator[tuple[int, slice]]:
    batch, num_nodes, _ = unit.shape
    return ((image, slice(first, first + _ROWS)) for image in range(batch) for first in range(0, num_nodes, _ROWS))
