"""Maps of single nodes with nothing kept for the gradient but their input: the rest is computed again, in tiles.

A map here is a function of rows and of what a graph brought to them. Its gradient is autograd's, of a tile of rows at a
time, so that what lies between never leaves a CPU's cache and is no memory to speak of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from graphcorrect import _mlp
from graphcorrect._precision import full_precision
from graphcorrect.graphs.operator import Tile, TiledGraph
from graphcorrect.nodes import unit_and_inverse, unit_rows, unit_rows_gradient

# Entries mapped at a time: what lies between stays in a CPU's cache; launches of a GPU are worth their while
TILE = {"cpu": 2**17, "cuda": 2**23}

Learned = Callable[..., Tensor]  # the network in a map, of rows (R, F) and what was propagated to them, or both in one
RowMap = Callable[[Tensor, Tensor, Learned], Tensor]  # the same and that network -> (R, F)


class LoopedMap(Protocol):
    """A map of rows and of what was propagated to them that goes through them in compiled loops, both ways."""

    def map(self, own: Tensor, propagated: Tensor, network: Learned) -> Tensor:
        """What becomes of a tile of rows (R, F)."""

    def slopes(self, own: Tensor, propagated: Tensor, grad: Tensor, network: ParameterSlopes) -> Sequence[Tensor]:
        """The gradients of both for that of the result; those of the parameters are added up."""


class MapRows(torch.autograd.Function):
    """A map of rows (..., F) and propagated values (..., F), a tile at a time; by `looped`, where there is such."""

    @staticmethod
    def forward(
        ctx: Any,
        own: Tensor,
        propagated: Tensor,
        function: RowMap,
        network: nn.Module,
        looped: LoopedMap | None,
        *parameters: Tensor,
    ) -> Tensor:
        ctx.function, ctx.network, ctx.looped = function, network, looped
        ctx.save_for_backward(own, propagated, *parameters)
        return _mapped(function if looped is None else looped.map, network, own, propagated)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        own, propagated, *parameters = ctx.saved_tensors
        with full_precision(own):
            if torch.is_grad_enabled():
                result = ctx.function(own, propagated, _with(ctx.network, parameters))
                own_slope, slope, *rest = _differentiable_slopes(result, [own, propagated], parameters, grad)
                return own_slope, slope, None, None, None, *rest
            total = ParameterSlopes(ctx.function, ctx.network, parameters)
            of_tile = total.of_tile if ctx.looped is None else partial(ctx.looped.slopes, network=total)
            own_slope, slope = _by_tiles(of_tile, own, propagated, grad)
            return own_slope, slope, None, None, None, *total.found()


class TiledMap(Protocol):
    """A map of unit rows and of what a graph brings to them that goes through graph and rows in tiles, both ways."""

    def map(self, values: Tensor, network: nn.Module) -> tuple[Tensor, list[Tensor]]:
        """What becomes of values (..., N, F), and what the gradient needs again."""

    def slopes(self, values: Tensor, kept: Sequence[Tensor], grad: Tensor, network: ParameterSlopes) -> Tensor:
        """The gradient of the values for that of the result; those of the parameters are added up."""


class MoveUnitRows(torch.autograd.Function):
    """A map of unit rows (..., F) and of what a symmetric graph brings to them, `spread`.

    For the gradient one more product with the graph is needed, and all else concerns single rows. A graph that
    multiplies in tiles is gone through with the map, `tiled`: then no unit row and no product is kept.
    """

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        function: RowMap,
        network: nn.Module,
        spread: Callable[[Tensor], Tensor],
        tiled: TiledMap | None,
        *parameters: Tensor,
    ) -> Tensor:
        ctx.function, ctx.network, ctx.spread, ctx.tiled = function, network, spread, tiled
        ctx.num_parameters = len(parameters)
        if tiled is not None:
            result, kept = tiled.map(values, network)
            ctx.save_for_backward(values, *parameters, *kept)
            return result
        ctx.save_for_backward(values, *parameters)
        own = unit_rows(values.contiguous())
        return _mapped(function, network, own, spread(own))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        values, *saved = ctx.saved_tensors
        parameters, kept = saved[: ctx.num_parameters], saved[ctx.num_parameters :]
        with full_precision(values):
            if torch.is_grad_enabled():
                own = unit_rows(values)
                moved = ctx.function(own, ctx.spread(own), _with(ctx.network, parameters))
                slope, *rest = _differentiable_slopes(moved, [values], parameters, grad)
                return slope, None, None, None, None, *rest
            total = ParameterSlopes(ctx.function, ctx.network, parameters)
            if ctx.tiled is not None:
                result = ctx.tiled.slopes(values, kept, grad, total)
            else:
                result = _slopes(ctx.spread, values, grad, total)
            return result, None, None, None, None, *total.found()


def _mapped(function: RowMap, network: nn.Module, own: Tensor, propagated: Tensor) -> Tensor:
    (result,) = _by_tiles(lambda rows, products: [function(rows, products, network)], own, propagated)
    return result


def _slopes(spread: Callable[[Tensor], Tensor], values: Tensor, grad: Tensor, total: ParameterSlopes) -> Tensor:
    """The gradient of `MoveUnitRows` for its values."""
    own = unit_rows(values.contiguous())
    own_slope, slope = _by_tiles(total.of_tile, own, spread(own), grad)
    (result,) = _by_tiles(
        lambda exact, unit, slope: [unit_rows_gradient(exact, unit, None, slope)],
        values,
        own,
        own_slope + spread(slope),
    )
    return result


class GraphTiles:
    """The map by a tiled graph, for any function of rows.

    Nodes are gone through twice, for the sums and for what is made of them, one image after the other, and each tile is
    mapped while it is in the cache.
    """

    def __init__(self, graph: TiledGraph, function: RowMap) -> None:
        self.graph = graph
        self.function = function

    def map(self, values: Tensor, network: nn.Module) -> tuple[Tensor, list[Tensor]]:
        """What becomes of values (..., N, F), and the graph's sums."""
        graph = self.graph
        result, sums = values.new_empty(values.shape), graph.new_sums(values)
        for graphs, tiles in _tiles_by_graph(graph, values):
            nodes, moved = _rows_of(values, graphs), _rows_of(result, graphs)
            for tile, place in tiles:
                graph.add_to_sums(sums, tile, unit_rows(nodes.index_select(0, place)))
            for tile, place in tiles:
                own = unit_rows(nodes.index_select(0, place))
                moved.index_copy_(0, place, self.function(own, graph.tile_product(sums, tile, own), network))
        return result, [sums]

    def slopes(self, values: Tensor, kept: Sequence[Tensor], grad: Tensor, network: ParameterSlopes) -> Tensor:
        """The gradient of the values, by sums of its own."""
        graph, (sums,) = self.graph, kept
        result, slope_sums = values.new_empty(values.shape), graph.new_sums(values)
        for graphs, tiles in _tiles_by_graph(graph, values):
            nodes, grads, slopes = (_rows_of(each, graphs) for each in (values, grad, result))
            for tile, place in tiles:
                own = unit_rows(nodes.index_select(0, place))
                product = graph.tile_product(sums, tile, own)
                own_slope, slope = network.of_tile(own, product, grads.index_select(0, place))
                graph.add_to_sums(slope_sums, tile, slope)
                slopes.index_copy_(0, place, own_slope.addcmul(graph.loops(tile), slope))
            for tile, place in tiles:
                exact, slope = nodes.index_select(0, place), slopes.index_select(0, place)
                slope += graph.from_sums(slope_sums, tile)
                slopes.index_copy_(0, place, unit_rows_gradient(exact, *unit_and_inverse(exact), slope))
        return result


class ParameterSlopes:
    """The gradients of a map's parameters, added up over tiles."""

    def __init__(self, function: RowMap, network: nn.Module, parameters: Sequence[Tensor]) -> None:
        self.function, self.network = function, _with(network, parameters)
        self.module = network
        self.parameters = parameters
        self.trained = [each for each in parameters if each.requires_grad]
        self.totals: list[Tensor] = []

    def of_tile(self, own: Tensor, propagated: Tensor, grad: Tensor) -> Sequence[Tensor]:
        """Adds those of one tile of the map; returned are the gradients of its rows."""

        def of_rows(own: Tensor, propagated: Tensor) -> Tensor:
            return self.function(own, propagated, self.network)

        return self._add(of_rows, (own, propagated), lambda _: grad)

    def of_network(
        self, joined: Tensor, grad: Tensor | Callable[[Tensor], Tensor], first: Tensor | None = None
    ) -> Tensor:
        """Adds those of one tile of the network alone, whose result has the gradient `grad`, or `grad(result)`.

        Returned is the gradient of what the network was given. `first` is as in `_mlp.slopes`.
        """
        if _mlp.is_plain(self.module, self.parameters, joined):
            slope, parts = _mlp.slopes(self.module, self.parameters, joined, grad, first)
            self._sum(parts)
            return slope
        of_result = (lambda _: grad) if isinstance(grad, Tensor) else grad
        return self._add(self.network, (joined,), of_result)[0]

    def _add(
        self, function: Callable[..., Tensor], rows: Sequence[Tensor], grad: Callable[[Tensor], Tensor]
    ) -> Sequence[Tensor]:
        leaves = [each.detach().requires_grad_() for each in rows]
        with torch.enable_grad():
            result = function(*leaves)
        slopes = torch.autograd.grad(result, [*leaves, *self.trained], grad(result.detach()))
        self._sum(slopes[len(leaves) :])
        return slopes[: len(leaves)]

    def _sum(self, parts: Sequence[Tensor]) -> None:
        if self.totals:
            for total, part in zip(self.totals, parts, strict=True):
                total += part
        else:
            self.totals = list(parts)

    def found(self) -> list[Tensor | None]:
        """One for each parameter, None for those that take none."""
        return _where_trained(self.parameters, self.totals or [torch.zeros_like(each) for each in self.trained])


def _with(network: nn.Module, parameters: Sequence[Tensor]) -> Learned:
    """A network as it was in the forward pass, where `torch.func.functional_call` may have lent it other parameters."""
    if all(mine is given for mine, given in zip(network.parameters(), parameters, strict=True)):
        return network
    lent = dict(zip((name for name, _ in network.named_parameters()), parameters, strict=True))
    return lambda *rows: torch.func.functional_call(network, lent, rows)


def _differentiable_slopes(
    result: Tensor, inputs: Sequence[Tensor], parameters: Sequence[Tensor], grad: Tensor
) -> list[Tensor | None]:
    """The gradients by operations that autograd can follow, for second derivatives."""
    wanted = [each for each in (*inputs, *parameters) if each.requires_grad]
    return _where_trained((*inputs, *parameters), torch.autograd.grad(result, wanted, grad, create_graph=True))


def _where_trained(parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor | None]:
    """The gradients of the parameters that take one, and None for the others."""
    found = iter(gradients)
    return [next(found) if each.requires_grad else None for each in parameters]


def _by_tiles(function: Callable[..., Sequence[Tensor]], *values: Tensor) -> list[Tensor]:
    """What a function gives of rows of values (..., N, F), a tile at a time: each result in the values' shape."""
    found = [function(*tile) for tile in zip(*map(_tiles, values), strict=True)]
    joined = found[0] if len(found) == 1 else map(torch.cat, zip(*found, strict=True))
    return [each.reshape(values[0].shape) for each in joined]


def _tiles(values: Tensor) -> Iterator[Tensor]:
    """Rows of values (..., N, D), as views (n, D): `TILE` entries."""
    flat = values.reshape(-1, values.shape[-1])
    size = _tile_rows(values)
    return (flat[start : start + size] for start in range(0, len(flat) or 1, size))


def _tile_rows(values: Tensor) -> int:
    return max(1, TILE.get(values.device.type, TILE["cpu"]) // values.shape[-1])


def _tiles_by_graph(graph: TiledGraph, values: Tensor) -> Iterator[tuple[slice, list[tuple[Tile, Tensor]]]]:
    """Graphs, and the tiles of their nodes, each with its nodes counted from the first of these graphs on."""
    num_nodes = values.shape[-2]
    for graphs, tiles in graph.tiles(_tile_rows(values)):
        yield graphs, [(tile, tile.nodes - graphs.start * num_nodes) for tile in tiles]


def _rows_of(values: Tensor, graphs: slice) -> Tensor:
    """The rows (n, F) of some graphs of values (..., N, F): a view, or a copy where they do not lie row by row."""
    return values.reshape(-1, *values.shape[-2:])[graphs].flatten(0, 1).contiguous()
