"""Grids of an image in cells of whole pixels, of which the last may hang over its edge, as a network's maps do."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]


def size_of(maps: Tensor) -> Size:
    """The last two sides."""
    return maps.shape[-2], maps.shape[-1]


def cell_of(grid: Size, size: Size) -> int | None:
    """How many pixels wide the cells of a grid (h, w) of an image (H, W) are; None for no whole number.

    Where several are possible, the one that divides the image, else a power of two, as most strides are.

    Example:
        >>> cell_of((84, 125), (333, 500)), cell_of((7, 8), (49, 64))
        (4, 8)
    """
    sides = list(zip(size, grid, strict=True))
    least = max(-(-side // cells) for side, cells in sides)
    power = 1 << (least - 1).bit_length()
    candidates = (least, power) if size == (grid[0] * least, grid[1] * least) else (power, least)
    return next((cell for cell in candidates if all(-(-side // cell) == cells for side, cells in sides)), None)


def pad_to_cells(labels: Tensor, grid: Size, void: int) -> Tensor:
    """Labels (B, H, W), beyond the image `void`, so that an even division makes the cells of the grid.

    Example:
        >>> pad_to_cells(torch.tensor([[[1, 2, 3]]]), (1, 2), 255)
        tensor([[[  1,   2,   3, 255],
                 [255, 255, 255, 255]]])
    """
    height, width = size_of(labels)
    cell = cell_of(grid, (height, width))
    if cell is None:
        return labels
    return F.pad(labels, (0, grid[1] * cell - width, 0, grid[0] * cell - height), value=void)


def aligned(maps: Tensor, mask: Tensor | None, grid: Size, size: Size) -> tuple[Tensor, Tensor | None, int | None]:
    """Maps of an image (H, W) so that the cells of a grid lie on theirs, their mask, and how wide their cells are now.

    Finer ones are padded by what they have at the edge, coarser ones are enlarged to the grid.

    Args:
        maps: (B, C, h, w), of any resolution.
        mask: (B, h, w) bool, or None.
        grid: (h', w').
        size: (H, W).
    """
    own, wanted = cell_of(size_of(maps), size), cell_of(grid, size)
    if own is None or wanted is None or max(own, wanted) % min(own, wanted):
        if maps.shape[-2:].numel() >= grid[0] * grid[1]:
            return maps, mask, own
        return *enlarged(maps, mask, None, grid), wanted
    if own > wanted:
        return *enlarged(maps, mask, own // wanted, grid), wanted
    rows, columns = (side * wanted // own for side in grid)
    padding = (0, columns - maps.shape[-1], 0, rows - maps.shape[-2])
    return F.pad(maps, padding, mode="replicate"), None if mask is None else F.pad(mask, padding), own


def enlarged(maps: Tensor, mask: Tensor | None, cell: int | None, size: Size) -> tuple[Tensor, Tensor | None]:
    """Maps at (H, W), and their mask; what lies outside it takes no part inside.

    Args:
        maps: (B, C, h, w).
        mask: (B, h, w) bool, or None.
        cell: how many pixels wide their cells are; None where they end with the image.
        size: (H, W).
    """

    def resized(values: Tensor, mode: str = "bilinear") -> Tensor:
        if cell is None:
            return F.interpolate(values, size=size, mode=mode)
        if cell > 1:
            values = F.interpolate(values, scale_factor=float(cell), mode=mode)
        return values[..., : size[0], : size[1]]

    if mask is None:
        return resized(maps), None
    part = mask[:, None].to(maps.dtype)
    total = resized(part).clamp_min(torch.finfo(maps.dtype).tiny)
    inside = resized(torch.where(mask[:, None], maps, 0.0)) / total
    known = resized(part, "nearest") > 0.5
    return torch.where(known, inside, resized(maps)), known[:, 0]


def full_size(maps: Tensor, height: int, width: int) -> Tensor:
    """Maps (B, C, h, w) at (H, W)."""
    return enlarged(maps, None, cell_of(size_of(maps), (height, width)), (height, width))[0]
