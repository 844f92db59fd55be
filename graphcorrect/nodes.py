"""Images as sets of nodes: reshaping, pooling to a node budget, and unit rows.

An image is a map (B, D, H, W); its nodes are the same numbers as (B, N, D) with N = H * W, pixels in reading order.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from graphcorrect import _checks
from graphcorrect._eager import is_seen_full, may_fuse, may_look, may_loop

SAFE_NORMS = (1e-15, 1e15)  # no square of an entry that counts overflows or vanishes in float32


def image_to_nodes(maps: Tensor) -> Tensor:
    """Lists the pixels of maps (B, D, H, W) as nodes (B, H * W, D), in reading order.

    On a CPU, which reads columns slowly, nodes are rows in memory: a copy, unless `maps` are in torch's channels-last
    format.

    Raises:
        ValueError: `maps` is not of four dimensions.
    """
    _checks.ndim("maps", maps, (4,), "(B, D, H, W)")
    nodes = maps.flatten(2).mT
    return in_rows(nodes) if may_look(maps) else nodes


def in_rows(nodes: Tensor) -> Tensor:
    """Nodes (..., N, D) row by row in memory: a copy where they are not, as pixels are not, which are columns.

    Where a loop makes it, the gradient lies as the nodes did.
    """
    columns = nodes.mT
    if nodes.is_contiguous() or not (columns.is_contiguous() and may_loop(nodes)):
        return nodes.contiguous()
    copy: Tensor = _Transposed.apply(columns)
    return copy


class _Transposed(torch.autograd.Function):
    """Contiguous matrices (..., A, B) as (..., B, A), contiguous too."""

    @staticmethod
    def forward(ctx: Any, matrices: Tensor) -> Tensor:
        return _loops().transposed(matrices)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return in_rows(grad.mT)


def nodes_to_image(nodes: Tensor, size: tuple[int, int]) -> Tensor:
    """Lays nodes (B, H * W, D) out as maps (B, D, H, W): the inverse of :func:`image_to_nodes`.

    Raises:
        ValueError: `nodes` is not of three dimensions, or N is not H * W.
    """
    _checks.ndim("nodes", nodes, (3,), "(B, N, D)")
    height, width = size
    _checks.size("nodes", nodes, 1, height * width, f"nodes (one for each pixel of a {height}x{width} image)")
    return nodes.transpose(1, 2).reshape(nodes.shape[0], nodes.shape[2], height, width)


def unit_rows(rows: Tensor, mask: Tensor | None = None) -> Tensor:
    """Divides each row (..., D) by its Euclidean norm; a zero row stays zero and gets no gradient.

    Rows are scaled by their largest entry first, so that squares neither overflow nor vanish in float32. Rows outside
    `mask` (...) are zero too, and get no gradient, whatever they hold.
    """
    if rows.shape[-1] == 0:
        return rows
    unit: Tensor = _UnitRows.apply(rows, mask)
    return unit


class _UnitRows(torch.autograd.Function):
    """x / |x| with the gradient (g - u (u·g)) / |x|: few passes over memory, and nothing kept but x, u and 1 / |x|."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, mask: Tensor | None) -> Tensor:
        unit, inverse = unit_and_inverse(rows, mask)
        ctx.save_for_backward(rows, unit, *([] if inverse is None else [inverse]))
        return unit

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        rows, unit, *inverse = ctx.saved_tensors
        return unit_rows_gradient(rows, unit, inverse[0] if inverse else None, grad), None


def unit_and_inverse(rows: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """:func:`unit_rows` without a gradient, and the inverse norms (..., 1) that its gradient needs, if they are known.

    They are 0 for a row that gets no gradient.
    """
    unit, inverse = _unit(rows)
    if mask is not None and not is_seen_full(mask):
        outside = ~mask[..., None]
        # Changed in place and compiled by torch 2.11, what is returned would have a gradient of zero
        fill = unit.masked_fill if torch.compiler.is_compiling() else unit.masked_fill_
        unit = fill(outside, 0.0)
        inverse = None if inverse is None else inverse.masked_fill(outside, 0.0)
    return unit, inverse


def _unit(rows: Tensor) -> tuple[Tensor, Tensor | None]:
    if (fused := _fused(rows)) is not None:
        return fused.unit(rows), None
    if may_loop(rows):
        return _loops().unit(rows)  # type: ignore[no-any-return]
    if not may_look(rows):
        return _scaled_unit(rows)
    norm = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    inverse = norm.reciprocal()
    unit = rows * inverse
    least, largest = norm.aminmax() if norm.numel() else (1.0, 1.0)
    if not (least > SAFE_NORMS[0] and largest < SAFE_NORMS[1]):  # a NaN is neither
        is_safe = ((norm > SAFE_NORMS[0]) & (norm < SAFE_NORMS[1]))[..., 0]
        unit[~is_safe], inverse[~is_safe] = _scaled_unit(rows[~is_safe])
    return unit, inverse


def _fused(rows: Tensor) -> Any:
    """The file of fused kernels where they serve such rows, or None."""
    if not may_fuse(rows):
        return None
    from graphcorrect.ops.kernels.cuda import rows as _triton_rows  # not above: it imports triton

    return _triton_rows if rows.shape[-1] <= _triton_rows.MOST_ENTRIES else None


def _loops() -> Any:
    """The file of compiled loops, where :func:`may_loop` says that they serve."""
    from graphcorrect.ops.kernels.cpu import rows as _numba_rows  # not above: it imports numba

    return _numba_rows


def _scaled_unit(rows: Tensor) -> tuple[Tensor, Tensor]:
    largest = rows.abs().amax(-1, keepdim=True)
    scaled = rows / torch.where(largest == 0, 1.0, largest)
    norm = _dot(scaled, scaled).sqrt()  # at least 1, save for a zero row
    return scaled / torch.where(largest == 0, 1.0, norm), _inverse(norm * largest)


def unit_rows_gradient(
    rows: Tensor, unit: Tensor, inverse: Tensor | None, grad: Tensor, *, out: Tensor | None = None
) -> Tensor:
    """The gradient of :func:`unit_rows`, for rows and what :func:`unit_and_inverse` says of them; written to `out`."""
    is_last = not torch.is_grad_enabled()  # second derivatives need torch's own steps, from the rows on
    if is_last and (fused := _fused(grad)) is not None:
        slope: Tensor = fused.gradient(rows, unit, grad, out=out)
        return slope
    if inverse is None or not is_last:
        inverse = _inverse(_dot(unit, rows))
    if is_last and may_loop(grad):
        return _loops().gradient(unit, inverse, grad, out=out)  # type: ignore[no-any-return]
    return torch.mul(torch.addcmul(grad, unit, _dot(unit, grad), value=-1), inverse, out=out)


def largest_entry(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The largest entry of each row (..., C), NaN where there is one, and its place: both (...). No gradient."""
    rows = rows.detach()
    if rows.shape[-1] and may_loop(rows):
        return _loops().largest(rows)  # type: ignore[no-any-return]
    return rows.max(-1)


def _inverse(norm: Tensor) -> Tensor:
    """1 / norm; 0 for no norm, be it zero or NaN."""
    return torch.where(norm > 0, norm, torch.inf).reciprocal().clamp_max(torch.finfo(norm.dtype).max)


def _dot(left: Tensor, right: Tensor) -> Tensor:
    """Inner products of rows, (..., 1)."""
    return (left * right).sum(-1, keepdim=True)


def grid_size(height: int, width: int, max_nodes: int) -> tuple[int, int]:
    """The largest grid (h, w) of at most `max_nodes` cells that keeps the aspect ratio of height x width.

    An image that fits the budget keeps its own size; neither side falls below one cell.
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
    """
    if mask is None:
        return _averages(maps, size)
    share = _averages(mask[:, None].to(maps.dtype), size)
    # where, not a product: a masked-out NaN must not reach its cell
    total = _averages(torch.where(mask[:, None], maps, torch.zeros((), dtype=maps.dtype, device=maps.device)), size)
    return total / torch.where(share > 0, share, torch.ones_like(share))


def _averages(maps: Tensor, size: tuple[int, int]) -> Tensor:
    if not (maps.is_cuda and torch.are_deterministic_algorithms_enabled()):
        return F.adaptive_avg_pool2d(maps, size)
    # Its gradient is refused on a GPU in torch's deterministic mode, that of products is not
    down, across = (_cells(*pair, maps) for pair in zip(maps.shape[-2:], size, strict=True))
    return down @ maps @ across.mT


def _cells(length: int, count: int, like: Tensor) -> Tensor:
    """The matrix (count, length) that averages over the cells of adaptive pooling."""
    cell = torch.arange(count, device=like.device)[:, None] * length
    place = torch.arange(length, device=like.device)
    inside = (place >= cell // count) & (place < -(-(cell + length) // count))
    return inside.to(like.dtype) / inside.sum(1, keepdim=True)


def pool_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Pools a mask (B, H, W) to a grid (h, w): a cell takes part if any of its pixels does."""
    return F.adaptive_max_pool2d(mask[:, None].float(), size)[:, 0] > 0


def resize_maps(maps: Tensor, size: tuple[int, int], mask: Tensor | None) -> Tensor:
    """Maps (B, D, H, W) on a grid (h, w): averaged over its cells under `mask` (B, H', W'), of any resolution, or
    interpolated where the grid is the finer one.
    """
    height, width = maps.shape[-2:]
    if (height, width) == size:
        return maps
    if height < size[0] or width < size[1]:
        return F.interpolate(maps, size=size, mode="bilinear")
    return pool_maps(maps, size, None if mask is None else pool_mask(mask, (height, width)))
