"""A product with a graph that multiplies in tiles, the way to its layout and back in compiled loops.

Importing this file imports numba; :mod:`graphcorrect.graphs.class_block` and the blocks it holds do so where
:func:`graphcorrect._eager.may_loop` allows.
"""

from __future__ import annotations

import numba
import torch
from torch import Tensor

from graphcorrect._numba_loops import loop
from graphcorrect.graphs.operator import TiledGraph

TILE = 2**20  # entries multiplied at a time


def product(graph: TiledGraph, values: Tensor) -> Tensor:
    """The graph times values (B N, F)."""
    values = values.contiguous()
    result, sums = torch.empty_like(values), graph.new_sums(values)
    tiles = [tile for _, group in graph.tiles(max(1, TILE // values.shape[1])) for tile in group]
    room = values.new_empty(max(len(tile.node_of_row) for tile in tiles), values.shape[1])
    for tile in tiles:
        rows = room[: len(tile.node_of_row)]
        _lay_out(values, tile.nodes, tile.node_of_row, rows)
        graph.add_laid_out(sums, tile, rows)
    for tile in tiles:
        brought = graph.from_sums_laid_out(sums, tile, out=room[: len(tile.node_of_row)])
        _collect(values, tile.nodes, tile.row, brought, graph.loops(tile), result)
    return result


@loop
def split(rows, node, slot, laid_out):  # type: ignore[no-untyped-def]
    """Writes rows (B N, F) to those of a layout (L, F), and zeros to what is no node's slot."""
    for place in numba.prange(len(laid_out)):
        source, target = rows[node[place]], laid_out[place]
        is_of_node = slot[node[place]] == place
        for entry in range(len(target)):
            target[entry] = source[entry] if is_of_node else 0


@loop
def _lay_out(values, nodes, node_of_row, rows):  # type: ignore[no-untyped-def]
    for row in numba.prange(len(rows)):
        source, target = values[nodes[node_of_row[row]]], rows[row]
        for entry in range(len(target)):
            target[entry] = source[entry]


@loop
def _collect(values, nodes, row, brought, loops, result):  # type: ignore[no-untyped-def]
    for place in numba.prange(len(nodes)):
        own, target = values[nodes[place]], result[nodes[place]]
        arriving, loop_weight = brought[row[place]], loops[place, 0]
        for entry in range(len(target)):
            target[entry] = arriving[entry] + loop_weight * own[entry]
