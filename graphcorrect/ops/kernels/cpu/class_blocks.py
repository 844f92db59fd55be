"""The product of the class-level graph, in blocks, with values, in loops that numba compiles.

It needs no layout of the values: nodes are read and written where they are. Eight nodes are added to the sums of a
class at a time, and seven sums to what a node gets, written out: so many products for each entry that is read and
written again.
"""

from __future__ import annotations

import numba
import torch
from torch import Tensor

from graphcorrect.ops.kernels.cpu._compile import inner, loop

PARTS = 16  # of the blocks, summed up apart: for as many threads, and the same whatever their number


def product(
    factors: Tensor, self_weight: Tensor, slot: Tensor, node: Tensor, segment: Tensor, used: Tensor, values: Tensor
) -> Tensor:
    """The graph times values (B, N, F)."""
    block_rows = factors.shape[1]
    num_segments = len(segment) - values.shape[:2].numel() // block_rows
    values, rows, segment = values.contiguous(), factors.contiguous().flatten(0, 1), segment[: int(used)]
    sums = values.new_zeros(num_segments + PARTS, rows.shape[1], values.shape[2])
    result = torch.empty_like(values)
    flat, self_weight = values.flatten(0, 1), self_weight.reshape(-1).contiguous()
    _add_up(flat, node, slot, rows, segment, block_rows, PARTS, sums)
    _bring(flat, node, slot, rows, segment, block_rows, self_weight, sums, result.flatten(0, 1))
    return result


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
def _bring(values, node, slot, rows, segment, block_rows, self_weight, sums, result):  # type: ignore[no-untyped-def]
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
                        result[other, e] = self_weight[other] * values[other, e] + _mixed(sums, s, c, v, e)
                        result[one, e] = self_weight[one] * values[one, e] + _mixed(sums, s, c, u, e)
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
