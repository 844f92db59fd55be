"""Rows quantized to float16 in Triton, with a measure of what rounding took away."""

from typing import NamedTuple

import torch
import triton  # type: ignore[import-untyped,import-not-found,unused-ignore]
import triton.language as tl  # type: ignore[import-untyped,import-not-found,unused-ignore]
from torch import Tensor

from graphcorrect.ops.kernels.cuda.launching import launch
from graphcorrect.ops.kernels.cuda.packing import INT32_MAX


@triton.jit
def _store_largest(place, values):  # type: ignore[no-untyped-def]
    """Raises the float32 at `place` to the largest of these, none of them negative; NaN is the largest of all."""
    bits = values.to(tl.int32, bitcast=True) & INT32_MAX
    tl.atomic_max(place, tl.max(bits, 0))


@triton.jit  # type: ignore[untyped-decorator]
def _quantize_kernel(  # type: ignore[no-untyped-def]
    rows,  # (B, N, D), of any floating dtype and layout
    top_entry,  # (B,) float32, the largest magnitude in each image; or None, for rows to be made unit rows
    exact,  # (B, N, D) float32, written: the rows that are compared
    rounded,  # (B, padded_rows, WIDTH) float16, written: rows times the image's scale, and zeros
    error,  # (B, N) float32, written: norm of what rounding took away, scaled
    norm_of,  # (B, N) float32, written: norm, scaled
    largest,  # (B, 2) int32, raised to the bits of the largest `error` and `norm_of`
    num_rows,
    padded_rows,
    width,
    image_stride,
    row_stride,
    entry_stride,
    WIDTH: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ROWS: tl.constexpr,
):
    blocks = padded_rows // ROWS
    image = (tl.program_id(0) // blocks).to(tl.int64)
    row = tl.program_id(0) % blocks * ROWS + tl.arange(0, ROWS)
    is_row = row < num_rows
    depth = tl.arange(0, BLOCK_D)
    source = rows + image * image_stride + row.to(tl.int64)[:, None] * row_stride + depth[None, :] * entry_stride
    place = (image * num_rows + row)[:, None] * width + depth[None, :]
    top = tl.full((ROWS,), 1.0, tl.float32)
    norm = tl.full((ROWS,), 1.0, tl.float32)
    if top_entry is None:
        # By the largest entry first, so that no square overflows or vanishes
        top = tl.zeros((ROWS,), tl.float32)
        for done in range(0, WIDTH, BLOCK_D):
            inside = is_row[:, None] & (depth < width - done)[None, :]
            value = tl.load(source + done * entry_stride, mask=inside, other=0.0).to(tl.float32)
            top = tl.maximum(top, tl.max(tl.abs(value), 1))
        top = tl.where(top > 0, top, 1.0)
        squares = tl.zeros((ROWS,), tl.float32)
        for done in range(0, WIDTH, BLOCK_D):
            inside = is_row[:, None] & (depth < width - done)[None, :]
            value = tl.load(source + done * entry_stride, mask=inside, other=0.0).to(tl.float32) / top[:, None]
            squares += tl.sum(value * value, 1)
        norm = tl.where(squares == 0, 1.0, tl.sqrt(squares))
        scale = 8192.0
    else:
        # The power of two that brings the largest magnitude under 2¹⁴: nothing overflows, and little is subnormal
        exponent = (tl.load(top_entry + image).to(tl.int32, bitcast=True) >> 23) & 0xFF
        scale = (tl.minimum(267 - exponent, 254) << 23).to(tl.float32, bitcast=True)
    lost = tl.zeros((ROWS,), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    for done in range(0, WIDTH, BLOCK_D):
        inside = is_row[:, None] & (depth < width - done)[None, :]
        value = tl.load(source + done * entry_stride, mask=inside, other=0.0).to(tl.float32)
        value = value / top[:, None] / norm[:, None]
        tl.store(exact + place + done, value, mask=inside)
        value = value * scale
        short = value.to(tl.float16)
        rest = value - short.to(tl.float32)
        lost += tl.sum(rest * rest, 1)
        total += tl.sum(value * value, 1)
        tl.store(rounded + (image * padded_rows + row)[:, None] * WIDTH + done + depth[None, :], short)
    lost, total = tl.sqrt(lost), tl.sqrt(total)
    tl.store(error + image * num_rows + row, lost, mask=is_row)
    tl.store(norm_of + image * num_rows + row, total, mask=is_row)
    _store_largest(largest + 2 * image, lost)
    _store_largest(largest + 2 * image + 1, total)


class Quantized(NamedTuple):
    """Rows and their quantized copy; `error` and `norm` are scaled as the float16 rows are.

    `error` is the norm of what rounding took away, `norm` that of a row, `largest` the bits of the largest of each.
    """

    exact: Tensor  # (B, N, D) float32
    rows: Tensor  # (B, padded rows, padded width) float16
    error: Tensor  # (B, N) float32
    norm: Tensor  # (B, N) float32
    largest: Tensor  # (B, 2) int32


def quantize_rows(rows: Tensor, block_d: int, normalize: bool) -> Quantized:
    """Quantizes rows (B, N, D) of any floating dtype and layout, made unit rows first where `normalize` says so."""
    batch, num_rows, width = rows.shape
    padded_rows, padded_width = triton.cdiv(num_rows, 128) * 128, max(1, triton.cdiv(width, block_d)) * block_d
    exact = torch.empty(batch, num_rows, width, dtype=torch.float32, device=rows.device)
    rounded = torch.empty(batch, padded_rows, padded_width, dtype=torch.float16, device=rows.device)
    error, norm = exact.new_empty(batch, num_rows), exact.new_empty(batch, num_rows)
    largest = torch.zeros(batch, 2, dtype=torch.int32, device=rows.device)
    top_entry = None
    if not normalize:
        values = rows if width else rows.new_zeros(batch, 1, 1)
        top_entry = torch.linalg.vector_norm(values, torch.inf, dim=(1, 2), dtype=torch.float32)
    # Neighboring entries of memory together, be they of a row or, as pixels of an image, of a column
    rows_each = 32 if rows.stride(-1) > 1 else min(128, max(1, 2048 // block_d))
    launch(
        _quantize_kernel,
        (batch * padded_rows // rows_each,),
        *(rows, top_entry, exact, rounded, error, norm, largest),
        *(num_rows, padded_rows, width, *rows.stride()),
        WIDTH=padded_width,
        BLOCK_D=block_d,
        ROWS=rows_each,
    )
    return Quantized(exact, rounded, error, norm, largest)
