"""Unit rows and their gradient in one Triton kernel each, in place of a dozen launches of torch's."""

import torch
import triton  # type: ignore[import-untyped,import-not-found,unused-ignore]
import triton.language as tl  # type: ignore[import-untyped,import-not-found,unused-ignore]
from torch import Tensor

from graphcorrect.ops.kernels.cuda.launching import launch_rows


@triton.jit  # type: ignore[untyped-decorator]
def _unit_kernel(  # type: ignore[no-untyped-def]
    rows,  # (M, D) float32
    mask,  # (M,) uint8; not read without HAS_MASK
    unit,  # (M, D) float32, written
    norm,  # (M,) float32, written
    num_rows,
    width,
    HAS_MASK: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    depth = tl.arange(0, WIDTH)
    place = row[:, None] * width + depth[None, :]
    takes_part = row < num_rows
    if HAS_MASK:
        takes_part = takes_part & (tl.load(mask + row, mask=takes_part, other=0) != 0)
    # A row that takes no part is read as zeros, whatever it holds
    value = tl.load(rows + place, mask=takes_part[:, None] & (depth < width)[None, :], other=0.0)
    # Divided by the largest entry first, so that no square overflows or vanishes
    largest = tl.max(tl.abs(value), 1)
    value = value / tl.where(largest == 0, 1.0, largest)[:, None]
    scaled_norm = tl.sqrt(tl.sum(value * value, 1))
    inside = (row < num_rows)[:, None] & (depth < width)[None, :]
    tl.store(unit + place, value / tl.where(scaled_norm == 0, 1.0, scaled_norm)[:, None], mask=inside)
    tl.store(norm + row, tl.where(largest == 0, float("inf"), scaled_norm * largest), mask=row < num_rows)


@triton.jit  # type: ignore[untyped-decorator]
def _gradient_kernel(  # type: ignore[no-untyped-def]
    unit,  # (M, D) float32
    norm,  # (M,) float32
    grad,  # (M, D) float32
    result,  # (M, D) float32, written
    num_rows,
    width,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    depth = tl.arange(0, WIDTH)
    place = row[:, None] * width + depth[None, :]
    inside = (row < num_rows)[:, None] & (depth < width)[None, :]
    own = tl.load(unit + place, mask=inside, other=0.0)
    value = tl.load(grad + place, mask=inside, other=0.0)
    value = value - own * tl.sum(own * value, 1)[:, None]
    tl.store(result + place, value / tl.load(norm + row, mask=row < num_rows, other=1.0)[:, None], mask=inside)


def unit(rows: Tensor, mask: Tensor | None, any_scale: bool) -> tuple[Tensor, Tensor]:
    """Unit rows (..., D) of contiguous rows of any scale, and norms (..., 1), infinite where there is no gradient."""
    result, norm = torch.empty_like(rows), rows.new_empty((*rows.shape[:-1], 1))
    flags = norm if mask is None else mask.view(torch.uint8)
    launch_rows(_unit_kernel, rows, rows, flags, result, norm, HAS_MASK=mask is not None)
    return result, norm


def gradient(unit: Tensor, norm: Tensor, grad: Tensor) -> Tensor:
    """(g - u (u · g)) / |x| for unit rows u and gradients g (..., D), and norms |x| (..., 1)."""
    result = torch.empty_like(grad)
    launch_rows(_gradient_kernel, unit, unit, norm, grad, result)
    return result
