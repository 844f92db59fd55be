"""Rows in 8 or 16 bits, for a fast product, and how far each score of that product can be from the true one."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 512  # rows quantized at a time, so that what is written stays in the cache
MULTIPLE = 64  # the number of keys is padded to a multiple of this
MAX_NORM = 2.0**40  # norms between its inverse and it have products far from overflow and from zero


class Bounds(NamedTuple):
    """How the quantized scores of N queries stand to their inner products with keys; all (N,), float64.

    For every key, summed in float32: ``|score - (product - shift) / unit| <= error``.

    Attributes:
        unit: what a score of 1 stands for.
        shift: what every product has more than its score says, since the mean of the keys is subtracted first.
        error: the bound; infinite where none is known.
    """

    unit: Tensor
    shift: Tensor
    error: Tensor

    def of(self, rows: slice | Tensor) -> Bounds:
        """Those of some of the queries."""
        return Bounds(*(each[rows] for each in self))


class QuantizedKeys(NamedTuple):
    """Keys (M, D) less their mean, quantized, in another order, and padded to M' rows.

    Attributes:
        rows: (M', D), int8 or bfloat16.
        permutation: (M',), which key each row is; numbers from M on are padding.
        inverse_permutation: (M',), at which row each key is.
        mean: (D,) float32.
        limits: (3,) float64: the step of int8, the largest norm of a row, the largest norm of what rounding took from
            one.
    """

    rows: Tensor
    permutation: Tensor
    inverse_permutation: Tensor
    mean: Tensor
    limits: Tensor


def quantize_keys(keys: Tensor, dtype: torch.dtype, numba_quantize: ModuleType | None) -> QuantizedKeys | None:
    """Keys (M, D) quantized; None for keys too large or too small for it, or not finite.

    Less their mean, which changes all scores of a query by the same number and no order: rows that have much in common
    differ by little, and the smaller the differences, the smaller the error.
    """
    mean = keys.mean(0)
    step = _largest_entry(keys, mean, numba_quantize) / 127 if dtype == torch.int8 else 1.0
    permutation, inverse = _permutation(len(keys))
    rows, norm, error, _ = _quantize(keys, dtype, numba_quantize, order=permutation, center=mean, step=step)
    limits = torch.tensor([step, float(norm.amax()), float(error.amax())], dtype=torch.float64, device="cpu")
    return QuantizedKeys(rows, permutation, inverse, mean, limits) if 1 / MAX_NORM < limits[1] < MAX_NORM else None


def quantize_queries(queries: Tensor, keys: QuantizedKeys, numba_quantize: ModuleType | None) -> tuple[Tensor, Bounds]:
    """Queries (N, D) quantized to the dtype of the keys, and the bounds on their scores.

    The error is at most |q - q'| |k| + |q'| |k - k'| for the longest key, and what float32 sums add to that.
    """
    key_step, longest_key, largest_error = keys.limits.tolist()
    rows, norm, error, step = _quantize(queries, keys.rows.dtype, numba_quantize)
    longest, reach, unit = longest_key + largest_error, norm + error, step.double() * key_step
    # A difference of float32 numbers and a sum of D products round by D 2**-23 of what they are made of, at the most
    rounding = 2 * (queries.shape[-1] + 4) * 2.0**-23
    bound = 1.005 * (error * longest + reach * (largest_error + rounding * longest)) / unit
    # A whole key is longer than its difference from the mean, by the mean at the most, and the shift rounds too
    whole = longest + 2 * float(torch.linalg.vector_norm(keys.mean.double()))
    bound += rounding * whole * norm / unit
    usable = (norm == 0) | ((norm > 1 / MAX_NORM) & (norm < MAX_NORM))
    return rows, Bounds(unit, (queries @ keys.mean).double(), torch.where(usable, bound, torch.inf))


def _largest_entry(rows: Tensor, center: Tensor, numba_quantize: ModuleType | None) -> float:
    """The largest absolute entry of rows less `center`; NaN if any is."""
    if numba_quantize is not None:
        return float(numba_quantize.largest_entry(rows, center))
    return max(float((part - center).abs().amax()) for part in tiles(rows, CHUNK))


def tiles(rows: Tensor, size: int) -> Iterator[Tensor]:
    """Rows, `size` of them at a time."""
    return (rows[start : start + size] for start in range(0, len(rows), size))


@functools.lru_cache(maxsize=4)
def _permutation(num_keys: int) -> tuple[Tensor, Tensor]:
    """An order of the keys in which neighboring pixels fall into different groups, and its inverse.

    A random one, always the same: any rule has some width of an image at which it sends a pixel and the one two rows
    below to one group, where only the nearer of them counts.
    """
    with torch.inference_mode(False):  # outside which they may be of use again
        order = torch.arange(num_keys + -num_keys % MULTIPLE, device="cpu")
        order[:num_keys] = torch.randperm(num_keys, generator=torch.Generator().manual_seed(0), device="cpu")
        return order, order.argsort()


def _quantize(
    rows: Tensor,
    dtype: torch.dtype,
    numba_quantize: ModuleType | None,
    *,
    order: Tensor | None = None,
    center: Tensor | None = None,
    step: float | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows in an order, less `center`, quantized; their norms, those of what rounding took, and the step of int8."""
    order = torch.arange(len(rows), device=rows.device) if order is None else order.clamp_max(len(rows) - 1)
    center = rows.new_zeros(rows.shape[1]) if center is None else center
    quantized = torch.empty(len(order), rows.shape[1], dtype=dtype, device=rows.device)
    norm, error = (rows.new_empty(len(order), dtype=torch.float64) for _ in range(2))
    steps = rows.new_full((len(order),), 1.0 if dtype != torch.int8 else step or 0.0)
    if numba_quantize is not None:
        numba_quantize.quantize(rows, order, center, quantized, steps, norm, error)
        return quantized, norm, error, steps
    for start in range(0, len(order), CHUNK):
        part = slice(start, start + CHUNK)
        exact = rows.index_select(0, order[part]) - center
        if dtype == torch.int8:
            if step is None:
                largest = exact.abs().amax(1)
                steps[part] = torch.where(largest > 0, largest / 127, 1.0)
            back = (exact * steps[part, None].reciprocal()).round_()
            quantized[part] = back
            back *= steps[part, None]
        else:
            quantized[part] = exact
            back = quantized[part].float()
        norm[part] = torch.linalg.vector_norm(exact, dim=1)
        error[part] = torch.linalg.vector_norm(back.sub_(exact), dim=1)
    return quantized, norm, error, steps
