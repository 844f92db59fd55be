"""f_S of Eq. (11) over a graph that multiplies in tiles: all of a tile but its products in a few compiled loops.

Importing this file imports numba; :mod:`graphcorrect.propagate` does so where :func:`graphcorrect._eager.may_loop`
allows. What the loops compute is `FeaturePropagation.tighten`, and its gradient by hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numba
import torch
from torch import Tensor, nn

from graphcorrect import _mlp
from graphcorrect.ops.kernels.cpu._compile import inner, loop
from graphcorrect.ops.kernels.cpu.rows import dot, make_unit, make_unit_slope, unit_row
from graphcorrect._row_maps import ParameterSlopes
from graphcorrect.graphs.operator import Tile, TiledGraph

TILE = 2**20  # entries that the graph multiplies at a time
PART = 2**19  # of these, mapped at a time
NARROW = 2  # times as wide as a layer are the values beside which its result is kept rather than made again


class _Part(NamedTuple):
    """Some nodes of a tile, R of them.

    Attributes:
        nodes, row: (R,), as in the tile.
        loops: (R, 1), the share that each takes of its own values.
        run: the nodes, where they follow each other; or None.
        places: those of their rows among what is kept of all nodes.
    """

    nodes: Tensor
    row: Tensor
    loops: Tensor
    run: slice | None
    places: slice


class LoopedTighten:
    """The mix of unit rows and what a graph brings to them, with share s, and the residual of a network on top."""

    def __init__(self, graph: TiledGraph, share: float) -> None:
        self.graph = graph
        self.share = share

    def map(self, values: Tensor, network: nn.Module) -> tuple[Tensor, list[Tensor]]:
        """What becomes of values (..., N, D); the graph's sums, and what a narrow first layer makes of each row."""
        sums = self.graph.new_sums(values)
        room = _Room(values)
        result = torch.empty_like(room.values)
        plain = network if _mlp.is_plain(network, [*network.parameters()], values) else None
        width = _mlp.first_width(plain) if plain is not None else 0
        firsts = values.new_empty(len(result), width if NARROW * width <= values.shape[-1] else 0)
        for tiles in self._tiles(values):
            for tile, _ in tiles:
                _unit_rows_of(room.values, tile.nodes, tile.node_of_row, rows := room.laid_out(tile))
                self.graph.add_laid_out(sums, tile, rows)
            for tile, parts in tiles:
                brought = self.graph.from_sums_laid_out(sums, tile, out=room.laid_out(tile))
                for part in parts:
                    joined, _ = _join(room, part, brought)
                    residual, first = (network(joined), None) if plain is None else _mlp.forward(plain, joined)
                    if first is not None and firsts.numel():
                        firsts[part.places] = first
                    _mix_and_add(joined, self.share, residual, part.nodes, result)
        return result.reshape(values.shape), [sums, firsts]

    def slopes(self, values: Tensor, kept: Sequence[Tensor], grad: Tensor, network: ParameterSlopes) -> Tensor:
        """The gradient of the values for that of the result."""
        sums, firsts = kept
        slope_sums = self.graph.new_sums(values)
        room = _Room(values)
        grad = grad.reshape(room.values.shape)
        result = torch.empty_like(room.values)
        for tiles in self._tiles(values):
            for tile, parts in tiles:
                brought = self.graph.from_sums_laid_out(sums, tile, out=room.laid_out(tile, "brought"))
                rows = room.laid_out(tile)
                _clear_strays(tile.row, tile.node_of_row, rows)
                for part in parts:
                    joined, inverse = _join(room, part, brought)
                    of_result = grad.index_select(0, part.nodes) if part.run is None else grad[part.run].contiguous()
                    slope = network.of_network(joined, of_result, firsts[part.places] if firsts.numel() else None)
                    known = joined, inverse, self.share, of_result, slope
                    _slopes_of_mix(*known, part.loops, part.nodes, part.row, rows, result)
                self.graph.add_laid_out(slope_sums, tile, rows)
            for tile, _ in tiles:
                brought = self.graph.from_sums_laid_out(slope_sums, tile, out=room.laid_out(tile))
                _slopes_of_unit_rows(room.values, tile.nodes, tile.row, brought, result)
        return result.reshape(values.shape)

    def _tiles(self, values: Tensor) -> Iterator[list[tuple[Tile, list[_Part]]]]:
        """The graph's tiles, each with the parts that are mapped one after the other."""
        width, done = values.shape[-1], 0
        for _, tiles in self.graph.tiles(max(1, TILE // width)):
            found = []
            for tile in tiles:
                found.append((tile, _parts(tile, self.graph.loops(tile), width, done)))
                done += len(tile.nodes)
            yield found


def _parts(tile: Tile, loops: Tensor, width: int, done: int) -> list[_Part]:
    count = len(tile.nodes)
    size = -(-count // max(1, round(count * width / PART)))
    parts = []
    for start in range(0, count, size):
        part, stop = slice(start, start + size), min(start + size, count)
        run = None if tile.run is None else slice(tile.run.start + start, tile.run.start + stop)
        parts.append(_Part(tile.nodes[part], tile.row[part], loops[part], run, slice(done + start, done + stop)))
    return parts


def _join(room: _Room, part: _Part, brought: Tensor) -> tuple[Tensor, Tensor]:
    """Unit rows of a part and, of unit length too, what the graph brought to them: (R, 2 D).

    And the inverse norms (R,) of the latter before.
    """
    joined, inverse = room.of_nodes(len(part.nodes))
    _join_rows(room.values, part.nodes, part.row, brought, part.loops, joined, inverse)
    return joined, inverse


class _Room:
    """Memory for what lies between, the same for all tiles: the first touch of new memory is slow."""

    def __init__(self, values: Tensor) -> None:
        self.values = values.reshape(-1, values.shape[-1]).contiguous()
        self._held: dict[str, Tensor] = {}

    def of_nodes(self, count: int) -> tuple[Tensor, Tensor]:
        """(R, 2 D) and (R,) for so many nodes, whatever they hold."""
        return self._get("joined", count, 2 * self.values.shape[1]), self._get("inverse", count, 1)[:, 0]

    def laid_out(self, tile: Tile, name: str = "rows") -> Tensor:
        """(L, D), whatever they hold."""
        return self._get(name, len(tile.node_of_row), self.values.shape[1])

    def _get(self, name: str, count: int, width: int) -> Tensor:
        held = self._held.get(name)
        if held is None or len(held) < count:
            held = self._held[name] = self.values.new_empty(count, width)
        return held[:count]


@loop
def _unit_rows_of(values, nodes, node_of_row, rows):  # type: ignore[no-untyped-def]
    for row in numba.prange(len(rows)):
        unit_row(values[nodes[node_of_row[row]]], rows[row])


@loop
def _join_rows(values, nodes, row, brought, loops, joined, inverse):  # type: ignore[no-untyped-def]
    width = values.shape[1]
    for place in numba.prange(len(nodes)):
        own, other = joined[place, :width], joined[place, width:]
        unit_row(values[nodes[place]], own)
        arriving, loop_weight = brought[row[place]], loops[place, 0]
        for entry in range(width):
            other[entry] = arriving[entry] + loop_weight * own[entry]
        inverse[place] = make_unit(other, dot(other, other))


@inner
def _mix(joined, share, mixed):  # type: ignore[no-untyped-def]
    """Writes the unit row in between the two that are joined; its inverse norm before."""
    width = len(mixed)
    own, other = joined[:width], joined[width:]
    for entry in range(width):
        mixed[entry] = own[entry] + share * (other[entry] - own[entry])
    return make_unit(mixed, dot(mixed, mixed))


@loop
def _mix_and_add(joined, share, residual, nodes, result):  # type: ignore[no-untyped-def]
    share = joined.dtype.type(share)
    for place in numba.prange(len(nodes)):
        target, added = result[nodes[place]], residual[place]
        _mix(joined[place], share, target)
        for entry in range(len(target)):
            target[entry] += added[entry]


@loop
def _clear_strays(row, node_of_row, rows):  # type: ignore[no-untyped-def]
    """Makes rows zero that are no node's."""
    for laid in numba.prange(len(rows)):
        if row[node_of_row[laid]] != laid:
            rows[laid] = 0


@loop
def _slopes_of_mix(  # type: ignore[no-untyped-def]
    joined, inverse, share, of_result, slope, loops, nodes, row, rows, result
):
    width, share = rows.shape[1], joined.dtype.type(share)
    for place in numba.prange(len(nodes)):
        own_slope, other, loop_weight = result[nodes[place]], joined[place, width:], loops[place, 0]
        mixed, known, brought = own_slope, of_result[place], rows[row[place]]
        inverse_of_mix = _mix(joined[place], share, mixed)
        for entry in range(width):
            brought[entry] = known[entry]
        make_unit_slope(mixed, inverse_of_mix, brought)
        of_own, of_other = slope[place, :width], slope[place, width:]
        for entry in range(width):
            own_slope[entry] = of_own[entry] + (1 - share) * brought[entry]
            brought[entry] = of_other[entry] + share * brought[entry]
        make_unit_slope(other, inverse[place], brought)
        for entry in range(width):
            own_slope[entry] += loop_weight * brought[entry]


@loop
def _slopes_of_unit_rows(values, nodes, row, brought, slopes):  # type: ignore[no-untyped-def]
    for place in numba.prange(len(nodes)):
        slope, unit = slopes[nodes[place]], brought[row[place]]
        for entry in range(len(slope)):
            slope[entry] += unit[entry]
        make_unit_slope(unit, unit_row(values[nodes[place]], unit), slope)
