"""Sorting integers of which there are few, by counting, in two loops that numba compiles.

Importing this file imports numba; its callers do so where :func:`graphcorrect._eager.may_loop` allows.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import torch
from torch import Tensor

from graphcorrect.ops.kernels.cpu._compile import loop


class Sorted(NamedTuple):
    """Entries of rows (M, k) sorted by their values, in a stable way.

    Attributes:
        order: (M k,), the place of each in the flattened rows.
        row: (M k,), its row.
        offsets: (V,), where those of each value start.
    """

    order: Tensor
    row: Tensor
    offsets: Tensor


def sorted_by_counting(values: Tensor, num_graphs: int, num_values: int, *, dtype: torch.dtype) -> Sorted | None:
    """Sorts int64 rows (M, k), those of each graph of a batch for itself.

    Args:
        values: M rows of as many for each graph; graph g has V values of its own, from g V on.
        num_graphs: of the batch.
        num_values: V.
        dtype: int64 or int32, of what is returned.

    Returns:
        None where an entry is no value of its graph.
    """
    values = values.contiguous()
    counts = torch.zeros(num_graphs * num_values, dtype=dtype)
    _count(values, num_graphs, counts)
    ends = counts.cumsum(0, dtype=dtype)
    if ends[-1] != values.numel():
        return None
    order, row = (torch.empty(values.numel(), dtype=dtype) for _ in range(2))
    offsets = ends - counts
    _fill(values, num_graphs, offsets.clone(), order, row)
    return Sorted(order, row, offsets)


@loop
def _count(values, num_graphs, counts):  # type: ignore[no-untyped-def]
    rows, own = len(values) // num_graphs, len(counts) // num_graphs
    for graph in numba.prange(num_graphs):
        for row in range(graph * rows, graph * rows + rows):
            for place in range(values.shape[1]):
                value = values[row, place]
                if graph * own <= value < graph * own + own:
                    counts[value] += 1


@loop
def _fill(values, num_graphs, places, order, row_of):  # type: ignore[no-untyped-def]
    rows = len(values) // num_graphs
    for graph in numba.prange(num_graphs):
        for row in range(graph * rows, graph * rows + rows):
            for place in range(values.shape[1]):
                target = places[values[row, place]]
                order[target], row_of[target] = row * values.shape[1] + place, row
                places[values[row, place]] = target + 1
