"""Rows quantized to 8 or 16 bits, and what that took from them, by numba."""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from graphcorrect.ops.kernels.cpu._compile import inner, loop
from graphcorrect.ops.kernels.cpu.rows import dot

_CHUNK = 64  # rows of one thread at a time, which share a workspace


def largest_entry(rows: Tensor, center: Tensor) -> float:
    """The largest absolute entry of rows (N, D) less `center` (D,); NaN if any is."""
    largest = rows.new_empty(len(rows))
    _largest(rows, center, largest)
    return float(largest.amax())


def quantize(
    rows: Tensor, order: Tensor, center: Tensor, quantized: Tensor, step: Tensor, norm: Tensor, error: Tensor
) -> None:
    """Writes rows (M, D) in an order (N,), less `center`, to `quantized` (N, D), and their norms and errors (N,).

    To the nearest bfloat16 numbers, or to int8 multiples of `step` (N,): a step of 0 becomes the one that takes the
    largest entry of its row to 127, or 1 for a row of zeros. An error is the norm of what rounding took from a row.
    """
    if quantized.dtype == torch.bfloat16:
        _to_bfloat16(rows, order, center, quantized.view(torch.int16), norm, error)
    else:
        _to_int8(rows, order, center, quantized, step, norm, error)


@inner
def _largest_absolute(values, word):  # type: ignore[no-untyped-def]
    """The largest absolute value of float32 numbers, NaN if any is; `word` is a workspace for one number.

    The bits of positive numbers, compared as integers, are in the order of the numbers, and NaN is above them all.
    """
    bits, largest = values.view(np.uint32), np.uint32(0)
    for entry in range(len(bits)):
        absolute = bits[entry] & np.uint32(0x7FFFFFFF)
        largest = absolute if absolute > largest else largest
    word.view(np.uint32)[0] = largest
    return word[0]


@inner
def _subtract(row, center, result):  # type: ignore[no-untyped-def]
    """Writes the difference, and gives its norm."""
    square = row.dtype.type(0)
    for entry in range(len(row)):
        result[entry] = row[entry] - center[entry]
        square += result[entry] * result[entry]
    return np.sqrt(square)


@loop
def _largest(rows, center, largest):  # type: ignore[no-untyped-def]
    for chunk in numba.prange(-(-len(rows) // _CHUNK)):
        exact, word = np.empty(rows.shape[1], np.float32), np.empty(1, np.float32)
        for place in range(chunk * _CHUNK, min(chunk * _CHUNK + _CHUNK, len(rows))):
            _subtract(rows[place], center, exact)
            largest[place] = _largest_absolute(exact, word)


@inner
def bfloat16_bits(word):  # type: ignore[no-untyped-def]
    """The bits of the bfloat16 number nearest to the float32 number of bits `word`; halfway, of the even one."""
    return (word + np.uint32(0x7FFF) + ((word >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)


@loop
def _to_bfloat16(rows, order, center, quantized, norm, error):  # type: ignore[no-untyped-def]
    width = rows.shape[1]
    for chunk in numba.prange(-(-len(order) // _CHUNK)):
        exact, back = np.empty(width, np.float32), np.empty(width, np.float32)
        bits, kept = exact.view(np.uint32), back.view(np.uint32)
        for place in range(chunk * _CHUNK, min(chunk * _CHUNK + _CHUNK, len(order))):
            norm[place] = _subtract(rows[order[place]], center, exact)
            target, square = quantized[place], np.float32(0)
            for entry in range(width):
                kept[entry] = bfloat16_bits(bits[entry]) << np.uint32(16)
            for entry in range(width):
                lost = back[entry] - exact[entry]
                square += lost * lost
            error[place] = np.sqrt(square)
            for entry in range(width):
                target[entry] = np.int16(kept[entry] >> np.uint32(16))


@loop
def _to_int8(rows, order, center, quantized, steps, norm, error):  # type: ignore[no-untyped-def]
    width = rows.shape[1]
    for chunk in numba.prange(-(-len(order) // _CHUNK)):
        exact, word = np.empty(width, np.float32), np.empty(1, np.float32)
        for place in range(chunk * _CHUNK, min(chunk * _CHUNK + _CHUNK, len(order))):
            norm[place] = _subtract(rows[order[place]], center, exact)
            step = steps[place]
            if step == 0:
                largest = _largest_absolute(exact, word)
                step = largest / np.float32(127) if largest > 0 else np.float32(1)
                steps[place] = step
            target, inverse = quantized[place], np.float32(1) / step
            for entry in range(width):
                level = np.rint(exact[entry] * inverse)
                target[entry] = np.int8(level)
                exact[entry] = level * step - exact[entry]
            error[place] = np.sqrt(dot(exact, exact))
