"""f_S of Eq. (11) over a graph that multiplies in tiles: all of a tile but its products in a few compiled loops.

Importing this file imports numba; :mod:`graphcorrect.propagate` does so where :func:`graphcorrect._eager.may_loop`
allows. What the loops compute is `FeaturePropagation.tighten`, and its gradient by hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numba
import torch
from torch import Tensor, nn

from graphcorrect import _mlp
from graphcorrect._numba_loops import inner, loop
from graphcorrect._numba_rows import dot, make_unit, make_unit_slope, unit_row
from graphcorrect._row_maps import ParameterSlopes
from graphcorrect.graphs.operator import Tile, TiledGraph

TILE = 2**19  # entries mapped at a time
NARROW = 2  # times as wide as a layer are the values beside which its result is kept rather than made again


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
        groups = self._tiles(values)
        first_of_tile = _by_tile(firsts, groups)
        for tiles in groups:
            for tile in tiles:
                _unit_rows_of(room.values, tile.nodes, tile.node_of_row, rows := room.laid_out(tile))
                self.graph.add_laid_out(sums, tile, rows)
            for tile, kept in zip(tiles, first_of_tile, strict=False):
                joined, _ = self._join(room, sums, tile)
                residual, first = (network(joined), None) if plain is None else _mlp.forward(plain, joined)
                if first is not None and kept.numel():
                    kept.copy_(first)
                _mix_and_add(joined, self.share, residual, tile.nodes, result)
        return result.reshape(values.shape), [sums, firsts]

    def slopes(self, values: Tensor, kept: Sequence[Tensor], grad: Tensor, network: ParameterSlopes) -> Tensor:
        """The gradient of the values for that of the result."""
        sums, firsts = kept
        slope_sums = self.graph.new_sums(values)
        room = _Room(values)
        grad = grad.reshape(room.values.shape).contiguous()
        result = torch.empty_like(room.values)
        groups = self._tiles(values)
        first_of_tile = _by_tile(firsts, groups)
        for tiles in groups:
            for tile, first in zip(tiles, first_of_tile, strict=False):
                joined, inverse = self._join(room, sums, tile)
                of_result = grad.index_select(0, tile.nodes) if tile.run is None else grad[tile.run]
                slope = network.of_network(joined, of_result, first if first.numel() else None)
                loops, rows = self.graph.loops(tile), room.laid_out(tile)
                of_tile = tile.nodes, tile.row, tile.node_of_row
                _slopes_of_mix(joined, inverse, self.share, of_result, slope, loops, *of_tile, rows, result)
                self.graph.add_laid_out(slope_sums, tile, rows)
            for tile in tiles:
                brought = self.graph.from_sums_laid_out(slope_sums, tile)
                _slopes_of_unit_rows(room.values, tile.nodes, tile.row, brought, result)
        return result.reshape(values.shape)

    def _tiles(self, values: Tensor) -> list[list[Tile]]:
        return [tiles for _, tiles in self.graph.tiles(max(1, TILE // values.shape[-1]))]

    def _join(self, room: _Room, sums: Tensor, tile: Tile) -> tuple[Tensor, Tensor]:
        """Unit rows of a tile and, of unit length too, what the graph brings to them: (R, 2 D).

        And the inverse norms (R,) of the latter before.
        """
        brought = self.graph.from_sums_laid_out(sums, tile)
        joined, inverse = room.of_nodes(tile)
        _join_rows(room.values, tile.nodes, tile.row, brought, self.graph.loops(tile), joined, inverse)
        return joined, inverse


def _by_tile(rows: Tensor, groups: list[list[Tile]]) -> Iterator[Tensor]:
    """Rows in the order of the tiles, a view for each tile."""
    return iter(torch.split_with_sizes(rows, [len(tile.nodes) for tiles in groups for tile in tiles]))


class _Room:
    """Memory for what lies between, the same for all tiles: the first touch of new memory is slow."""

    def __init__(self, values: Tensor) -> None:
        self.values = values.reshape(-1, values.shape[-1]).contiguous()
        self._held: dict[str, Tensor] = {}

    def of_nodes(self, tile: Tile) -> tuple[Tensor, Tensor]:
        """(R, 2 D) and (R,), whatever they hold."""
        count = len(tile.nodes)
        return self._get("joined", count, 2 * self.values.shape[1]), self._get("inverse", count, 1)[:, 0]

    def laid_out(self, tile: Tile) -> Tensor:
        """(L, D), whatever they hold."""
        return self._get("rows", len(tile.node_of_row), self.values.shape[1])

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
def _slopes_of_mix(  # type: ignore[no-untyped-def]
    joined, inverse, share, of_result, slope, loops, nodes, row, node_of_row, rows, result
):
    width, share = rows.shape[1], joined.dtype.type(share)
    for laid in numba.prange(len(rows)):
        place, brought = node_of_row[laid], rows[laid]
        if row[place] != laid:  # no node's
            brought[:] = 0
            continue
        own_slope, other, loop_weight = result[nodes[place]], joined[place, width:], loops[place, 0]
        mixed, known = own_slope, of_result[place]
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
