"""Unit rows and their gradient in one Triton kernel each, in place of a dozen launches of torch's.

Importing this file imports triton; :mod:`graphcorrect.nodes` does so where :func:`graphcorrect._eager.may_fuse` allows.
"""

import torch
import triton  # type: ignore[import-untyped,import-not-found,unused-ignore]
import triton.language as tl  # type: ignore[import-untyped,import-not-found,unused-ignore]
from torch import Tensor

MOST_ENTRIES = 4096  # of a row, which a program holds whole
_TILE = 2048  # entries of a program


@triton.jit  # type: ignore[untyped-decorator]
def _unit_kernel(  # type: ignore[no-untyped-def]
    rows,  # (M, D) float32
    unit,  # (M, D) float32, written
    num_rows,
    width,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    depth = tl.arange(0, WIDTH)
    place = row[:, None] * width + depth[None, :]
    inside = (row < num_rows)[:, None] & (depth < width)[None, :]
    value = tl.load(rows + place, mask=inside, other=0.0)
    # By the largest entry first, so that no square overflows or vanishes
    largest = tl.max(tl.abs(value), 1)
    value = value / tl.where(largest == 0, 1.0, largest)[:, None]
    norm = tl.sqrt(tl.sum(value * value, 1))
    tl.store(unit + place, value / tl.where(norm == 0, 1.0, norm)[:, None], mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _gradient_kernel(  # type: ignore[no-untyped-def]
    rows,  # (M, D) float32
    unit,  # (M, D) float32
    grad,  # (M, D) float32
    result,  # (M, D) float32, written; can be `grad`
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
    slope = tl.load(grad + place, mask=inside, other=0.0)
    norm = tl.sum(own * tl.load(rows + place, mask=inside, other=0.0), 1)
    slope = slope - own * tl.sum(own * slope, 1)[:, None]
    # Not "== 0": the norm of a masked-out NaN is NaN, and its gradient zero all the same
    tl.store(result + place, slope / tl.where(norm > 0, norm, float("inf"))[:, None], mask=inside)


def unit(rows: Tensor) -> Tensor:
    """Divides rows x (..., D) by their norms; a zero row stays zero."""
    rows = rows.contiguous()
    result = torch.empty_like(rows)
    _launch(_unit_kernel, rows, result)
    return result


def gradient(rows: Tensor, unit: Tensor, grad: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Gives (g - u (u·g)) / |x| for rows x, unit rows u and gradients g, (..., D); zero where a unit row is."""
    written = out if out is not None and out.is_contiguous() else grad.new_empty(grad.shape)
    _launch(_gradient_kernel, rows.contiguous(), unit.contiguous(), grad.contiguous(), written)
    return written if out is None or written is out else out.copy_(written)


def _launch(kernel: triton.JITFunction, *tensors: Tensor) -> None:
    width = tensors[0].shape[-1]
    num_rows = tensors[0].numel() // width
    padded = triton.next_power_of_2(width)
    rows_each = max(1, _TILE // padded)
    if num_rows == 0:
        return
    with torch.cuda.device_of(tensors[0]):  # type: ignore[no-untyped-call]  # triton launches on the current device
        kernel[(triton.cdiv(num_rows, rows_each),)](
            *tensors, num_rows, width, WIDTH=padded, ROWS=rows_each, enable_fp_fusion=True
        )
