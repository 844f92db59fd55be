"""The class-level graph in loops that numba compiles: its vectors laid out, its degree, and the product with values.

Importing this file imports numba; :mod:`graphcorrect.graphs.class_block` does so where
:func:`graphcorrect._eager.may_loop` allows.

The product needs no layout of its values: nodes are read and written where they are, class by class. Eight nodes are
added to the sums of a class at a time, and seven sums to what a node gets, written out: so many products for each entry
that is read and written again.
"""

from __future__ import annotations

import numba
import torch
from torch import Tensor

from graphcorrect.ops.kernels.cpu._compile import inner, loop
from graphcorrect.graphs._blocks import ClassBlocks

PARTS = 16  # of the blocks, summed up apart: for as many threads, and the same whatever their number


def lay_out(blocks: ClassBlocks, vectors: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors (B N, m) on the rows of the blocks, (blocks, T, m), the loops 1 - q (B N, 1), and row sums (B N,)."""
    rows = vectors.new_empty(blocks.num_blocks, blocks.block_rows, vectors.shape[1])
    loops, degree = vectors.new_empty(len(vectors), 1), vectors.new_empty(len(vectors))
    in_blocks, sums = (vectors.new_zeros(count, vectors.shape[1]) for count in (len(rows), blocks.num_segments))
    known = vectors, labels, num_classes, blocks.node, blocks.slot, blocks.segment
    _lay_out(*known, in_blocks, sums, rows, loops, degree)
    return rows, loops, degree


def scaled(blocks: ClassBlocks, rows: Tensor, loops: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Both of them for the graph with `scale` (B N,) on both sides."""
    new_rows, new_loops = torch.empty_like(rows), torch.empty_like(loops)
    _scale(rows.flatten(0, 1), loops, scale, blocks.node, new_rows.flatten(0, 1), new_loops)
    return new_rows, new_loops


def product(blocks: ClassBlocks, rows: Tensor, loops: Tensor, values: Tensor) -> Tensor:
    """The graph of such rows and loops times values (B N, F)."""
    values, rows = values.contiguous(), rows.flatten(0, 1)
    segment = blocks.segment[: blocks.num_used()]
    sums = values.new_zeros(blocks.num_segments + PARTS, rows.shape[1], values.shape[1])
    _add_up(values, blocks.node, blocks.slot, rows, segment, blocks.block_rows, PARTS, sums)
    result = torch.empty_like(values)
    _bring(values, blocks.node, blocks.slot, rows, segment, blocks.block_rows, loops, sums, result)
    return result


@loop
def _lay_out(  # type: ignore[no-untyped-def]
    vectors, labels, num_classes, node, slot, segment, in_blocks, sums, rows, loops, degree
):
    one, zero = vectors.dtype.type(1), vectors.dtype.type(0)
    block_rows, width = rows.shape[1], rows.shape[2]
    for block in numba.prange(len(rows)):
        for row in range(block_rows):
            place = block * block_rows + row
            own = node[place]
            is_member = slot[own] == place and 0 <= labels[own] < num_classes
            square = zero
            for entry in range(width):
                value = vectors[own, entry] if is_member else zero
                rows[block, row, entry] = value
                in_blocks[block, entry] += value
                square += value * value
            if slot[own] == place:
                loops[own, 0] = one - square
    for block in range(len(rows)):
        for entry in range(width):
            sums[segment[block], entry] += in_blocks[block, entry]
    for block in numba.prange(len(rows)):
        for row in range(block_rows):
            own = node[block * block_rows + row]
            if slot[own] == block * block_rows + row:
                total = loops[own, 0]
                for entry in range(width):
                    total += rows[block, row, entry] * sums[segment[block], entry]
                degree[own] = total


@loop
def _scale(rows, loops, scale, node, new_rows, new_loops):  # type: ignore[no-untyped-def]
    for row in numba.prange(len(rows)):
        factor = scale[node[row]]
        for entry in range(rows.shape[1]):
            new_rows[row, entry] = factor * rows[row, entry]
    for own in numba.prange(len(loops)):
        new_loops[own, 0] = scale[own] * scale[own] * loops[own, 0]


@loop
def _add_up(values, node, slot, rows, segment, block_rows, parts, sums):  # type: ignore[no-untyped-def]
    """Adds u_j y_j of every node to the sum of its class.

    Blocks are summed up in so many parts: what belongs to a class that an earlier part has begun goes to one of the
    last `parts` sums first.
    """
    apart = len(sums) - parts
    for part in numba.prange(parts):
        first = part * len(segment) // parts
        for block in range(first, (part + 1) * len(segment) // parts):
            begun = first > 0 and segment[block] == segment[first - 1]
            s = apart + part if begun else segment[block]
            for r in range(block * block_rows, (block + 1) * block_rows, 8):
                if slot[node[r]] != r:
                    break
                n = _eight(node, r)
                for m in range(rows.shape[1]):
                    u = _eight_of(rows, r, m)
                    for e in range(values.shape[1]):
                        sums[s, m, e] += (
                            (u[0] * values[n[0], e] + u[1] * values[n[1], e])
                            + (u[2] * values[n[2], e] + u[3] * values[n[3], e])
                            + (u[4] * values[n[4], e] + u[5] * values[n[5], e])
                            + (u[6] * values[n[6], e] + u[7] * values[n[7], e])
                        )
    for part in range(1, parts):
        first = part * len(segment) // parts
        if first > 0 and segment[first] == segment[first - 1]:
            for m in range(rows.shape[1]):
                for e in range(values.shape[1]):
                    sums[segment[first], m, e] += sums[apart + part, m, e]


@loop
def _bring(values, node, slot, rows, segment, block_rows, loops, sums, result):  # type: ignore[no-untyped-def]
    """Writes what each node gets of the sum of its class, and of itself."""
    last = rows.shape[1] - 1
    for block in numba.prange(len(segment)):
        s = segment[block]
        for row in range(block * block_rows, (block + 1) * block_rows, 2):
            # Of two nodes the other one is written first: a row that is no node's has the same one, for nothing
            one, other = node[row], node[row + 1]
            if slot[one] != row:
                break
            for m in range(0, last + 1, 7):
                u, v, c = _seven_of(rows, row, m), _seven_of(rows, row + 1, m), _next_seven(m, last)
                if m == 0:
                    for e in range(values.shape[1]):
                        result[other, e] = loops[other, 0] * values[other, e] + _mixed(sums, s, c, v, e)
                        result[one, e] = loops[one, 0] * values[one, e] + _mixed(sums, s, c, u, e)
                else:
                    for e in range(values.shape[1]):
                        result[other, e] += _mixed(sums, s, c, v, e)
                        result[one, e] += _mixed(sums, s, c, u, e)


@inner
def _eight(node, r):  # type: ignore[no-untyped-def]
    return node[r], node[r + 1], node[r + 2], node[r + 3], node[r + 4], node[r + 5], node[r + 6], node[r + 7]


@inner
def _eight_of(rows, r, m):  # type: ignore[no-untyped-def]
    """Entry m of eight rows."""
    first = rows[r, m], rows[r + 1, m], rows[r + 2, m], rows[r + 3, m]
    return first + (rows[r + 4, m], rows[r + 5, m], rows[r + 6, m], rows[r + 7, m])


@inner
def _next_seven(m, last):  # type: ignore[no-untyped-def]
    first = m, min(m + 1, last), min(m + 2, last), min(m + 3, last)
    return first + (min(m + 4, last), min(m + 5, last), min(m + 6, last))


@inner
def _seven_of(rows, r, m):  # type: ignore[no-untyped-def]
    """Entries m to m + 6 of a row, 0 behind its last one."""
    first = rows[r, m], _entry(rows, r, m + 1), _entry(rows, r, m + 2), _entry(rows, r, m + 3)
    return first + (_entry(rows, r, m + 4), _entry(rows, r, m + 5), _entry(rows, r, m + 6))


@inner
def _entry(rows, r, m):  # type: ignore[no-untyped-def]
    return rows[r, m] if m < rows.shape[1] else rows.dtype.type(0)


@inner
def _mixed(sums, s, c, u, e):  # type: ignore[no-untyped-def]
    """Entry e of seven sums, c of those of s, times u."""
    return (
        u[0] * sums[s, c[0], e]
        + (u[1] * sums[s, c[1], e] + u[2] * sums[s, c[2], e])
        + (u[3] * sums[s, c[3], e] + u[4] * sums[s, c[4], e])
        + (u[5] * sums[s, c[5], e] + u[6] * sums[s, c[6], e])
    )
