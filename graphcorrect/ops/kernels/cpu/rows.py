"""Unit rows and their gradient, largest entries and transposes, each in one loop that numba compiles.

Importing this file imports numba; :mod:`graphcorrect.nodes` does so where :func:`graphcorrect._eager.may_loop` allows.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from graphcorrect.ops.kernels.cpu._compile import inner, loop

_LEAST, _MOST = 1e-30, 1e30  # squares of norms between which no square of an entry that counts overflows or vanishes


@inner
def dot(left, right):  # type: ignore[no-untyped-def]
    """The inner product, in the dtype of both."""
    total = left.dtype.type(0)
    for place in range(len(left)):
        total += left[place] * right[place]
    return total


@inner
def unit_row(row, unit):  # type: ignore[no-untyped-def]
    """Writes x / |x| beside x and gives 1 / |x|; both 0 for a zero row, and NaN and 0 for one that is not finite."""
    square = dot(row, row)
    if _LEAST < square < _MOST:
        inverse = row.dtype.type(1) / np.sqrt(square)
        for place in range(len(row)):
            unit[place] = row[place] * inverse
        return inverse
    for place in range(len(row)):
        unit[place] = row[place]
    return make_unit(unit, square)


@inner
def make_unit(row, square):  # type: ignore[no-untyped-def]
    """The same in place, for |x|² as it was summed up. (A loop over one array, or over two apart, is vectorized.)"""
    one, zero = row.dtype.type(1), row.dtype.type(0)
    if _LEAST < square < _MOST:
        inverse = one / np.sqrt(square)
        for place in range(len(row)):
            row[place] *= inverse
        return inverse
    largest = zero
    for place in range(len(row)):
        largest = max(largest, abs(row[place]))
    if square != square or largest == np.inf:
        row[:] = np.nan
        return zero
    if largest == 0:
        return zero
    for place in range(len(row)):
        row[place] /= largest
    norm = np.sqrt(dot(row, row))
    for place in range(len(row)):
        row[place] /= norm
    norm *= largest
    return min(one / norm, np.finfo(row.dtype).max) if norm > 0 else zero


@inner
def make_unit_slope(unit, inverse, slope):  # type: ignore[no-untyped-def]
    """Makes g, the gradient of u = x / |x|, that of x in place: (g - u (u·g)) / |x|."""
    along = dot(unit, slope)
    for place in range(len(unit)):
        slope[place] = (slope[place] - unit[place] * along) * inverse


@loop
def _unit_loop(rows, unit, inverse):  # type: ignore[no-untyped-def]
    for place in numba.prange(len(rows)):
        inverse[place] = unit_row(rows[place], unit[place])


@loop
def _slope_loop(unit, inverse, slope, result):  # type: ignore[no-untyped-def]
    for place in numba.prange(len(unit)):
        row, known, target = unit[place], slope[place], result[place]
        along = dot(row, known)
        for entry in range(len(row)):
            target[entry] = (known[entry] - row[entry] * along) * inverse[place]


def unit(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Divides rows (..., D) by their norms, and gives the inverse norms (..., 1); both are zero for a zero row."""
    rows = rows.contiguous()
    unit, inverse = torch.empty_like(rows), rows.new_empty(rows.shape[:-1])
    _unit_loop(_flat(rows), _flat(unit), inverse.reshape(-1))
    return unit, inverse[..., None]


def gradient(unit: Tensor, inverse: Tensor, grad: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Gives (g - u (u·g)) / |x| for unit rows u and gradients g (..., D), and 1 / |x| (..., 1)."""
    result = out if out is not None and out.is_contiguous() else unit.new_empty(unit.shape)
    _slope_loop(_flat(unit), inverse.reshape(-1).contiguous(), _flat(grad), _flat(result))
    return result if out is None or result is out else out.copy_(result)


def largest(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The largest entry of each row (..., C), the first NaN where there is one, and its place: both (...)."""
    rows = rows.contiguous()
    value, place = rows.new_empty(rows.shape[:-1]), torch.empty(rows.shape[:-1], dtype=torch.int64)
    _largest_loop(_flat(rows), value.view(-1), place.view(-1))
    return value, place


@loop
def _largest_loop(rows, value, place):  # type: ignore[no-untyped-def]
    for number in numba.prange(len(rows)):
        row, most, found, wrong = rows[number], rows[number, 0], len(rows), np.int32(0)
        for entry in range(len(row)):  # (no branch, since a processor cannot foresee which entry it is)
            most = row[entry] if row[entry] > most else most
            wrong += np.int32(row[entry] != row[entry])
        for entry in range(len(row) - 1, -1, -1):
            is_it = row[entry] != row[entry] if wrong else row[entry] == most
            found = entry if is_it else found
        value[number], place[number] = row[found], found


def transposed(matrices: Tensor) -> Tensor:
    """Contiguous matrices (..., A, B) as (..., B, A), contiguous too."""
    result = matrices.new_empty(*matrices.shape[:-2], *matrices.mT.shape[-2:])
    _transpose(matrices.reshape(-1, *matrices.shape[-2:]), result.view(-1, *result.shape[-2:]))
    return result


@loop
def _transpose(source, target):  # type: ignore[no-untyped-def]
    """Sixteen columns at a time, which are a few cache lines of every row: each line is read once and written once."""
    batch, num_rows, num_columns = source.shape
    strips = -(-num_columns // 16)
    for job in numba.prange(batch * strips):
        matrix, first = job // strips, job % strips * 16
        if first + 16 <= num_columns:
            for row in range(num_rows):
                for column in range(16):
                    target[matrix, first + column, row] = source[matrix, row, first + column]
        else:
            for row in range(num_rows):
                for column in range(first, num_columns):
                    target[matrix, column, row] = source[matrix, row, column]


def _flat(rows: Tensor) -> Tensor:
    return rows.contiguous().view(rows.shape[:-1].numel(), rows.shape[-1])
