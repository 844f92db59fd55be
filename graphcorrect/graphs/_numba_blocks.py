"""Nodes laid out class by class in blocks, in one loop that numba compiles.

Importing this file imports numba; :mod:`graphcorrect.graphs._blocks` does so where
:func:`graphcorrect._eager.may_loop` allows.
"""

from __future__ import annotations

import numba
import numpy as np

from graphcorrect.ops.kernels.cpu._compile import loop


@loop
def lay_out(  # type: ignore[no-untyped-def]
    labels, num_classes, block_rows, slot, order, segment, place, node, ends
):
    """Writes the attributes of `ClassBlocks` for labels (G, N); a label that is no class counts as `num_classes`.

    `ends` is (G,), one past the last block of each graph. (What numba would make parallel, such as filling an array, is
    written as a loop where it is not worth what it takes to compile.)
    """
    num_graphs, num_nodes = labels.shape
    counts = np.empty((num_graphs, num_classes + 1), np.int64)
    for graph in numba.prange(num_graphs):
        for label in range(num_classes + 1):
            counts[graph, label] = 0
        for own in range(num_nodes):
            label = labels[graph, own]
            counts[graph, label if 0 <= label < num_classes else num_classes] += 1

    next_place, next_row = np.empty(counts.shape, np.int64), np.empty(counts.shape, np.int64)
    places, block = 0, 0
    for graph in range(num_graphs):
        for label in range(num_classes + 1):
            next_place[graph, label], next_row[graph, label] = places, block * block_rows
            places += counts[graph, label]
            for _ in range(0, counts[graph, label], block_rows):
                segment[block] = graph * (num_classes + 1) + label
                block += 1
        ends[graph] = block
    for unused in range(block, len(segment)):
        segment[unused] = segment[block - 1]

    for graph in numba.prange(num_graphs):
        for own in range(num_nodes):
            label = labels[graph, own]
            label = label if 0 <= label < num_classes else num_classes
            one, row = next_place[graph, label], next_row[graph, label]
            next_place[graph, label], next_row[graph, label] = one + 1, row + 1
            flat = graph * num_nodes + own
            order[one], slot[flat], place[row], node[row] = flat, row, one, flat
        for label in range(num_classes + 1):
            row = next_row[graph, label]
            while row % block_rows:  # a row that stands for no node repeats the last one of its class
                place[row], node[row] = place[row - 1], node[row - 1]
                row += 1
    first = block * block_rows
    for row in range(first, len(place)):
        place[row], node[row] = place[first - 1], node[first - 1]
