"""Rounding rows to few bits, and what it took of them, in one loop that numba compiles.

Importing this file imports numba; :mod:`graphcorrect.knn._rounded` does so where
:func:`graphcorrect._eager.may_loop` allows.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from graphcorrect.ops.kernels.cpu._compile import inner, loop
from graphcorrect.ops.kernels.cpu.rows import dot

_CHUNK = 64  # rows of one thread at a time, with room of their own


def largest_of(rows: Tensor, center: Tensor) -> float:
    """The largest entry of rows (N, D) less `center` (D,), by amount; NaN if any is."""
    largest = rows.new_empty(len(rows))
    _largest(rows, center, largest)
    return float(largest.amax())


def round_to(
    rounded: Tensor, rows: Tensor, order: Tensor, center: Tensor, steps: Tensor, *, size: Tensor, off: Tensor
) -> None:
    """Writes rows (M, D) in an order (N,), less `center`, to `rounded` (N, D); norms (N,), and those of what was lost.

    To the nearest bfloat16 numbers, or to int8 multiples of `steps` (N,): where a step is 0 it becomes what takes the
    largest entry of its row to 127, or 1 for a row of zeros.
    """
    if rounded.dtype == torch.bfloat16:
        _round_bits(rows, order, center, rounded.view(torch.int16), size, off)
    else:
        _round_steps(rows, order, center, rounded, steps, size, off)


@inner
def _largest_amount(values, number):  # type: ignore[no-untyped-def]
    """The largest of float32 numbers by amount, and NaN if any is; `number` is room for one.

    By their bits: those of amounts are in the same order, those of NaN above all, and integers are compared at once.
    """
    bits, most = values.view(np.uint32), np.uint32(0)
    for entry in range(len(bits)):
        amount = bits[entry] & np.uint32(0x7FFFFFFF)
        most = amount if amount > most else most
    number.view(np.uint32)[0] = most
    return number[0]


@inner
def _less_center(row, center, exact):  # type: ignore[no-untyped-def]
    """Writes the difference, and gives its norm."""
    square = row.dtype.type(0)
    for entry in range(len(row)):
        exact[entry] = row[entry] - center[entry]
        square += exact[entry] * exact[entry]
    return np.sqrt(square)


@loop
def _largest(rows, center, largest):  # type: ignore[no-untyped-def]
    for chunk in numba.prange(-(-len(rows) // _CHUNK)):
        exact, number = np.empty(rows.shape[1], np.float32), np.empty(1, np.float32)
        for place in range(chunk * _CHUNK, min(chunk * _CHUNK + _CHUNK, len(rows))):
            _less_center(rows[place], center, exact)
            largest[place] = _largest_amount(exact, number)


@inner
def bfloat16_bits(word):  # type: ignore[no-untyped-def]
    """Those of the bfloat16 number nearest to the float32 number of bits `word`: to an even one from halfway."""
    return (word + np.uint32(0x7FFF) + ((word >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)


@loop
def _round_bits(rows, order, center, rounded, size, off):  # type: ignore[no-untyped-def]
    width = rows.shape[1]
    for chunk in numba.prange(-(-len(order) // _CHUNK)):
        exact, back = np.empty(width, np.float32), np.empty(width, np.float32)
        bits, kept = exact.view(np.uint32), back.view(np.uint32)
        for place in range(chunk * _CHUNK, min(chunk * _CHUNK + _CHUNK, len(order))):
            size[place] = _less_center(rows[order[place]], center, exact)
            target, square = rounded[place], np.float32(0)
            for entry in range(width):
                kept[entry] = bfloat16_bits(bits[entry]) << np.uint32(16)
            for entry in range(width):
                lost = back[entry] - exact[entry]
                square += lost * lost
            off[place] = np.sqrt(square)
            for entry in range(width):
                target[entry] = np.int16(kept[entry] >> np.uint32(16))


@loop
def _round_steps(rows, order, center, rounded, steps, size, off):  # type: ignore[no-untyped-def]
    width = rows.shape[1]
    for chunk in numba.prange(-(-len(order) // _CHUNK)):
        exact, number = np.empty(width, np.float32), np.empty(1, np.float32)
        for place in range(chunk * _CHUNK, min(chunk * _CHUNK + _CHUNK, len(order))):
            size[place] = _less_center(rows[order[place]], center, exact)
            step = steps[place]
            if step == 0:
                largest = _largest_amount(exact, number)
                step = largest / np.float32(127) if largest > 0 else np.float32(1)
                steps[place] = step
            target, inverse = rounded[place], np.float32(1) / step
            for entry in range(width):
                level = np.rint(exact[entry] * inverse)
                target[entry] = np.int8(level)
                exact[entry] = level * step - exact[entry]
            off[place] = np.sqrt(dot(exact, exact))
