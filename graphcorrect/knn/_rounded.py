"""Rows in few bits, for a coarse product, and how far each of its scores can be from the true one."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from graphcorrect._eager import may_loop

CHUNK = 512  # rows rounded at a time
WHOLE = 64  # keys, to a multiple of which there are columns
ORDINARY = 2.0**40  # norms between its inverse and it have products far from overflow and from zero


class Errors(NamedTuple):
    """How coarse scores of N queries stand to their inner products with keys; all (N,), float64.

    Attributes:
        slack: 2 b, twice the bound on the error, in units of a coarse score; infinite where a query has none.
        unit: what a coarse score of 1 stands for.
        shift: what every inner product has more than that, since keys are taken from their mean.
        bound: b and what rounding adds to it: how far a score is from (product - shift) / unit, summed in float32.
    """

    slack: Tensor
    unit: Tensor
    shift: Tensor
    bound: Tensor

    def of(self, start: int, stop: int) -> Errors:
        """Those of some of the queries."""
        return Errors(*(each[start:stop] for each in self))


class Coarse(NamedTuple):
    """Rows of one image rounded for a coarse product.

    Attributes:
        queries: (N, D), int8 or bfloat16.
        keys: (M', D) likewise, taken from their mean, in another order.
        order: (M',), which key each of them is: the first M columns, and no key behind them.
        place: (M',), the inverse of `order`.
        errors: of the scores of these queries with these keys.
    """

    queries: Tensor
    keys: Tensor
    order: Tensor
    place: Tensor
    errors: Errors


def round_rows(queries: Tensor, keys: Tensor, dtype: torch.dtype) -> Coarse | None:
    """Queries (N, D) and keys (M, D) rounded to a dtype; None for keys too large or too small for it.

    Keys are taken from their mean first, which adds the same number to all scores of a query and changes no order: rows
    that have much in common differ by little, and the less they differ the smaller is the error. It is, at most,
    |q - q'| |k| + |q'| |k - k'| for the longest key, and what float32 sums add to that.
    """
    center = keys.mean(0)
    step = _largest(keys, center) / 127 if dtype == torch.int8 else 1.0
    order, place = _scattered(len(keys))
    rounded_keys, key_size, key_off, _ = _round(keys, dtype, order=order, center=center, step=step)
    longest_key, farthest = float(key_size.amax()), float(key_off.amax())
    if not 1 / ORDINARY < longest_key < ORDINARY:  # nor NaN
        return None
    rounded, size, off, query_step = _round(queries, dtype)
    longest, reach, unit = longest_key + farthest, size + off, query_step.double() * step
    # A difference of float32 numbers and a sum of D products round by D 2**-23 of what they are made of, at the most
    rounding = 2 * (queries.shape[-1] + 4) * 2.0**-23
    slack = 2.01 * (off * longest + reach * (farthest + rounding * longest)) / unit
    # Whole keys are longer than what is rounded of them, by the center at the most, and the shift rounds too
    whole = longest + 2 * float(torch.linalg.vector_norm(center.double()))
    usable = (size == 0) | ((size > 1 / ORDINARY) & (size < ORDINARY))
    errors = Errors(
        slack=torch.where(usable, slack, torch.inf),
        unit=unit,
        shift=(queries @ center).double(),
        bound=slack / 2 + rounding * whole * size / unit,
    )
    return Coarse(rounded, rounded_keys, order, place, errors)


def _largest(rows: Tensor, center: Tensor) -> float:
    """The largest entry of rows less `center`, by amount; NaN if any is."""
    if may_loop(rows):
        from graphcorrect.knn import _numba_round  # not above: it imports numba

        return _numba_round.largest_of(rows, center)
    return max(float((part - center).abs().amax()) for part in tiles(rows, CHUNK))


def tiles(rows: Tensor, size: int) -> Iterator[Tensor]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


@functools.lru_cache(maxsize=4)
def _scattered(num_keys: int) -> tuple[Tensor, Tensor]:
    """An order of the keys in which neighboring pixels fall into different groups, and its inverse.

    A random one, always the same: any rule has some width of an image at which it sends a pixel and the one two rows
    below to one group, where only the nearer of them counts. Numbers that are no key's fill up the last groups.
    """
    with torch.inference_mode(mode=False):  # outside which they may be of use again
        order = torch.arange(num_keys + -num_keys % WHOLE, device="cpu")
        order[:num_keys] = torch.randperm(num_keys, generator=torch.Generator().manual_seed(0), device="cpu")
        return order, order.argsort()


def _round(
    rows: Tensor,
    dtype: torch.dtype,
    *,
    order: Tensor | None = None,
    center: Tensor | None = None,
    step: float | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows in an order, less `center`, rounded; their norms, those of what rounding took, and the step of integers.

    A few rows at a time, so that what is written stays in the cache and no second copy of the rows is made.
    """
    count = len(rows) if order is None else len(order)
    rounded = torch.empty(count, rows.shape[1], dtype=dtype)
    size, off = (rows.new_empty(count, dtype=torch.float64) for _ in range(2))
    steps = rows.new_full((count,), 1.0 if dtype != torch.int8 else step or 0.0)
    if may_loop(rows):
        from graphcorrect.knn import _numba_round  # not above: it imports numba

        places = torch.arange(count) if order is None else order.clamp_max(len(rows) - 1)
        center = rows.new_zeros(rows.shape[1]) if center is None else center
        _numba_round.round_to(rounded, rows, places, center, steps, size=size, off=off)
        return rounded, size, off, steps
    for start in range(0, count, CHUNK):
        part = slice(start, start + CHUNK)
        exact = rows[part] if order is None else rows.index_select(0, order[part].clamp_max(len(rows) - 1))
        exact = exact if center is None else exact - center
        if dtype == torch.int8:
            if step is None:
                largest = exact.abs().amax(1)
                steps[part] = torch.where(largest > 0, largest / 127, 1.0)
            back = (exact * steps[part, None].reciprocal()).round_()
            rounded[part] = back
            back *= steps[part, None]
        else:
            rounded[part] = exact
            back = rounded[part].float()
        size[part] = torch.linalg.vector_norm(exact, dim=1)
        off[part] = torch.linalg.vector_norm(back.sub_(exact), dim=1)
    return rounded, size, off, steps
