"""Unit rows and their gradient, each in one loop that numba compiles."""

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


@loop
def _unit_loop(rows, unit, norm):  # type: ignore[no-untyped-def]
    for place in numba.prange(len(rows)):
        inverse = unit_row(rows[place], unit[place])
        norm[place] = 1 / inverse if inverse > 0 else np.inf


@loop
def _gradient_loop(unit, norm, grad, result):  # type: ignore[no-untyped-def]
    for place in numba.prange(len(unit)):
        row, known, target = unit[place], grad[place], result[place]
        along, inverse = dot(row, known), 1 / norm[place]
        for entry in range(len(row)):
            target[entry] = (known[entry] - row[entry] * along) * inverse


def unit(rows: Tensor, mask: Tensor | None, any_scale: bool) -> tuple[Tensor, Tensor]:
    """Unit rows (..., D) of contiguous rows of any scale, and norms (..., 1), infinite where there is no gradient."""
    unit, norm = torch.empty_like(rows), rows.new_empty((*rows.shape[:-1], 1))
    _unit_loop(_flat(rows), _flat(unit), norm.view(-1))
    if mask is not None and not mask.all():
        outside = ~mask[..., None]
        unit.masked_fill_(outside, 0.0)
        norm.masked_fill_(outside, torch.inf)
    return unit, norm


def gradient(unit: Tensor, norm: Tensor, grad: Tensor) -> Tensor:
    """(g - u (u · g)) / |x| for unit rows u and gradients g (..., D), and norms |x| (..., 1)."""
    result = torch.empty_like(unit)
    _gradient_loop(_flat(unit), norm.reshape(-1), _flat(grad), _flat(result))
    return result


def _flat(rows: Tensor) -> Tensor:
    return rows.contiguous().view(rows.shape[:-1].numel(), rows.shape[-1])
