"""Edges from nodes to their neighbors sorted by their targets, by counting, in two loops that numba compiles.

Importing this file imports numba; :mod:`graphcorrect.graphs.neighbor` does so where
:func:`graphcorrect._eager.may_loop` allows.
"""

from __future__ import annotations

import numba
import torch
from torch import Tensor

from graphcorrect._numba_loops import inner, loop


def sorted_by_target(index: Tensor, num_nodes: int, *, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor] | None:
    """Edges from each node to its neighbors (B N, k): order and source (B N k,), and offsets (B N,).

    As :class:`graphcorrect.graphs.neighbor.Edges` has them, in an integer `dtype`. None where an edge leads out of its
    graph of `num_nodes` nodes.
    """
    counts = torch.zeros(len(index), dtype=dtype)
    # Each thread looks at all edges of a graph for those that lead to its part of the nodes
    parts = -(-torch.get_num_threads() * num_nodes // len(index))
    _count(index, num_nodes, parts, counts)
    ends = counts.cumsum(0, dtype=dtype)
    if ends[-1] != index.numel():
        return None
    order, source = (torch.empty(index.numel(), dtype=dtype) for _ in range(2))
    offsets = ends - counts
    _fill(index, num_nodes, parts, offsets.clone(), order, source)
    return order, source, offsets


@inner
def _nodes_of(part, parts, num_nodes):  # type: ignore[no-untyped-def]
    """The first node of a part's graph, and from which node to which other the part is."""
    graph, number = part // parts, part % parts
    first = graph * num_nodes
    return first, first + number * num_nodes // parts, first + (number + 1) * num_nodes // parts


@loop
def _count(index, num_nodes, parts, counts):  # type: ignore[no-untyped-def]
    for part in numba.prange(len(index) // num_nodes * parts):
        first, low, high = _nodes_of(part, parts, num_nodes)
        for node in range(first, first + num_nodes):
            for place in range(index.shape[1]):
                target = index[node, place]
                if low <= target < high:
                    counts[target] += 1


@loop
def _fill(index, num_nodes, parts, places, order, source):  # type: ignore[no-untyped-def]
    for part in numba.prange(len(index) // num_nodes * parts):
        first, low, high = _nodes_of(part, parts, num_nodes)
        for node in range(first, first + num_nodes):
            for place in range(index.shape[1]):
                target = index[node, place]
                if low <= target < high:
                    order[places[target]], source[places[target]] = node * index.shape[1] + place, node
                    places[target] += 1
