"""Images as sets of nodes: reshaping, and pooling to a node budget.

An image is a map (B, D, H, W); its nodes are the same numbers as (B, N, D) with N = H * W, pixels in reading order.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from graphcorrect import _checks


def image_to_nodes(maps: Tensor) -> Tensor:
    """Lists the pixels of maps (B, D, H, W) as nodes (B, H * W, D), in reading order.

    Nodes are rows in memory: a copy, unless `maps` are in torch's channels-last format.

    Raises:
        ValueError: `maps` is not of four dimensions.

    Example:
        >>> image_to_nodes(torch.zeros(2, 8, 6, 9)).shape
        torch.Size([2, 54, 8])
    """
    _checks.ndim("maps", maps, (4,), "(B, D, H, W)")
    return maps.flatten(2).mT.contiguous()


def nodes_to_image(nodes: Tensor, size: tuple[int, int]) -> Tensor:
    """Lays nodes (B, H * W, D) out as maps (B, D, H, W): the inverse of :func:`image_to_nodes`.

    Raises:
        ValueError: `nodes` is not of three dimensions, or N is not H * W.

    Example:
        >>> nodes_to_image(torch.zeros(2, 54, 8), (6, 9)).shape
        torch.Size([2, 8, 6, 9])
    """
    _checks.ndim("nodes", nodes, (3,), "(B, N, D)")
    height, width = size
    _checks.size("nodes", nodes, 1, height * width, f"nodes (one for each pixel of a {height}x{width} image)")
    return nodes.transpose(1, 2).reshape(nodes.shape[0], nodes.shape[2], height, width)


def grid_size(height: int, width: int, max_nodes: int) -> tuple[int, int]:
    """The largest grid (h, w) of at most `max_nodes` cells that keeps the aspect ratio of height x width.

    An image that fits the budget keeps its own size; neither side falls below one cell.

    Example:
        >>> grid_size(200, 300, max_nodes=4096)
        (52, 78)
    """
    if height * width <= max_nodes:
        return height, width
    shrink = math.sqrt(max_nodes / (height * width))
    # A side clipped to one cell leaves the whole budget to the other one.
    rows = min(height, max(1, math.floor(height * shrink)))
    columns = min(width, max(1, math.floor(width * shrink)), max(1, max_nodes // rows))
    return min(rows, max(1, max_nodes // columns)), columns


def pool_maps(maps: Tensor, size: tuple[int, int], mask: Tensor | None = None) -> Tensor:
    """Averages maps (B, D, H, W) over the cells of a grid (h, w); only pixels under `mask` (B, H, W) count.

    Cells are those of `torch.nn.functional.adaptive_avg_pool2d`: they overlap by a pixel where the sizes do not divide.
    A cell with no pixel under the mask is zero.

    Example:
        >>> pool_maps(torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]]]), (1, 2))
        tensor([[[[3., 5.]]]])
    """
    _checks.floating("maps", maps)
    _checks.ndim("maps", maps, (4,), "(B, D, H, W)")
    if mask is None:
        return _averages(maps, size)
    share = _averages(mask[:, None].to(maps.dtype), size)
    # where, not a product: a masked-out NaN must not reach its cell
    total = _averages(torch.where(mask[:, None], maps, torch.zeros((), dtype=maps.dtype, device=maps.device)), size)
    return total / torch.where(share > 0, share, torch.ones_like(share))


def _averages(maps: Tensor, size: tuple[int, int]) -> Tensor:
    if not torch.are_deterministic_algorithms_enabled():
        return F.adaptive_avg_pool2d(maps, size)
    # Whose gradient is refused on a GPU in torch's deterministic mode; that of products is not
    down, across = (_cells(*pair, maps) for pair in zip(maps.shape[-2:], size, strict=True))
    return down @ maps @ across.mT


def _cells(length: int, count: int, like: Tensor) -> Tensor:
    """The matrix (count, length) that averages over the cells of adaptive pooling."""
    cell = torch.arange(count, device=like.device)[:, None] * length
    place = torch.arange(length, device=like.device)
    inside = (place >= cell // count) & (place < -(-(cell + length) // count))
    return inside.to(like.dtype) / inside.sum(1, keepdim=True)


def pool_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Pools a mask (B, H, W) to a grid (h, w): a cell takes part if any of its pixels does.

    Example:
        >>> pool_mask(torch.tensor([[[True, False], [False, False]]]), (1, 2))
        tensor([[[ True, False]]])
    """
    return F.adaptive_max_pool2d(mask[:, None].float(), size)[:, 0] > 0


def resize_maps(maps: Tensor, size: tuple[int, int], mask: Tensor | None) -> Tensor:
    """Maps (B, D, H, W) on a grid (h, w): averaged over its cells, or interpolated where the grid is the finer one.

    Only what lies under `mask` (B, H', W'), of any resolution, counts; a cell without any of it is zero.

    Example:
        >>> resize_maps(torch.zeros(2, 8, 6, 9), (12, 18), None).shape
        torch.Size([2, 8, 12, 18])
    """
    height, width = maps.shape[-2:]
    if (height, width) == size:
        return maps
    inside = None if mask is None else pool_mask(mask, (height, width))
    if height >= size[0] and width >= size[1]:
        return pool_maps(maps, size, inside)
    if inside is None:
        return F.interpolate(maps, size=size, mode="bilinear")
    share = F.interpolate(inside[:, None].to(maps.dtype), size=size, mode="bilinear")
    total = F.interpolate(torch.where(inside[:, None], maps, 0.0), size=size, mode="bilinear")
    return total / torch.where(share > 0, share, 1.0)
