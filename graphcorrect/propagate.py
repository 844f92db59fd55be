"""One step over a graph: `propagate`, and the learned maps f_C and f_S that refine what it brings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphcorrect import _checks
from graphcorrect._eager import is_seen_full
from graphcorrect._precision import full_precision, widen
from graphcorrect.graphs.operator import GraphOperator
from graphcorrect.nodes import unit_rows, unit_rows_gradient

# Entries of values mapped at a time: what lies between stays in a CPU's cache; launches of a GPU are worth their while
TILE = {"cpu": 2**17, "cuda": 2**23}


def propagate(operator: GraphOperator, values: Tensor, alpha: float | Tensor = 1.0) -> Tensor:
    r"""Mixes each node's values with those of its neighbors: :math:`(1 - \alpha) v + \alpha S v`.

    A node without edges keeps its values, whatever alpha.

    Args:
        operator: the graph S (..., N, N).
        values: (..., N, F) floating point.
        alpha: the share taken from the neighbors, in [0, 1]; a number, or a tensor (..., N, 1).

    Returns:
        (..., N, F), in the dtype of `values`.

    Raises:
        ValueError: `alpha` is a number outside [0, 1], or shapes do not fit.
    """
    if not isinstance(alpha, Tensor):
        _checks.in_interval("alpha", alpha, 0.0, 1.0)
    has_edges = (operator.degree() > 0)[..., None]
    # Called by name: torch.compile splits its graph at `@` of a class that is not torch's.
    mixed = operator.__matmul__(values)
    if isinstance(alpha, Tensor) or alpha != 1.0:
        mixed = (1.0 - alpha) * values + alpha * mixed
    return mixed if is_seen_full(has_edges) else torch.where(has_edges, mixed, values)


class GraphPropagation(nn.Module):
    """What a round does with one graph: a map of a node's own and its propagated values.

    Subclasses define `forward(operator, values)`; `mix` is how a round takes a share of it.
    """

    def forward(self, operator: GraphOperator, values: Tensor) -> Tensor:
        """Maps values (..., N, F) over a graph (..., N, N); the shape stays."""
        raise NotImplementedError

    def mix(self, operator: GraphOperator, values: Tensor, share: Tensor) -> Tensor:
        """Takes `share` (..., N, 1) of what the map says and keeps the rest of the values, Eq. (10)."""
        mixed: Tensor = share * self(operator, values) + (1.0 - share) * values
        return mixed


class ZeroStartMLP(nn.Module):
    """A small network on two sets of values (..., F), zero when it is built: a map starts as its fixed part.

    Args:
        num_channels: F.
        hidden_dim: width of the hidden layers.
        depth: number of hidden layers; 0 is one linear map.
        norm: True puts a LayerNorm before each activation. (Not a BatchNorm: nodes of one image are no sample.)

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(self, num_channels: int, *, hidden_dim: int = 64, depth: int = 1, norm: bool = True) -> None:
        super().__init__()
        _checks.integer_at_least("num_channels", num_channels, 1)
        _checks.integer_at_least("hidden_dim", hidden_dim, 1)
        _checks.integer_at_least("depth", depth, 0)
        layers: list[nn.Module] = []
        width = 2 * num_channels
        for _ in range(depth):
            layers += [nn.Linear(width, hidden_dim), nn.LayerNorm(hidden_dim) if norm else nn.Identity(), nn.GELU()]
            width = hidden_dim
        self.last = nn.Linear(width, num_channels)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        self.hidden = nn.Sequential(*layers)

    def forward(self, own: Tensor, propagated: Tensor) -> Tensor:
        """The residual (..., F), in the dtype of `own`; the network itself may live in another one."""
        joined = torch.cat([own, propagated], -1).to(self.last.weight.dtype)
        residual: Tensor = self.last(self.hidden(joined)).to(own.dtype)
        return residual


class LabelPropagation(GraphPropagation):
    r"""f_C of Eq. (8): class probabilities over the semantic-level graph, ending on the simplex.

    .. math:: \hat V \propto \bar{Ap} \cdot \exp(r), \quad r = 10 \tanh(\mathrm{MLP}([p, \bar{Ap}]) / 10)

    with the bar for rows scaled to sum to one. At initialization r = 0: the propagated probabilities themselves. The
    bound on r keeps a learned correction within e^±10 of what the neighbors say, so that no row can vanish.

    Args: as in :class:`ZeroStartMLP`, with C channels.
    """

    bound = 10.0

    def __init__(self, num_classes: int, *, hidden_dim: int = 64, depth: int = 1, norm: bool = True) -> None:
        super().__init__()
        self.residual = ZeroStartMLP(num_classes, hidden_dim=hidden_dim, depth=depth, norm=norm)

    def forward(self, operator: GraphOperator, values: Tensor) -> Tensor:
        """Corrects the probabilities (..., N, C) of each node by its neighbors'."""
        with full_precision(values):
            wide = widen(values)
            propagated = to_simplex(propagate(operator, wide), otherwise=wide)
            bounded = self.bound * torch.tanh(self.residual(wide, propagated) / self.bound)
            corrected = propagated * (bounded - bounded.amax(-1, keepdim=True)).exp()
            return to_simplex(corrected, otherwise=wide).to(values.dtype)


class FeaturePropagation(GraphPropagation):
    r"""f_S of Eq. (11): features over the class-level graph.

    .. math:: f_S = \overline{(1 - s)\, \bar x + s\, \overline{W \bar x}} + \mathrm{MLP}([\bar x, \overline{W \bar x}])

    with the bar for unit rows: a mix of a node and its class, on unit scale, then a learned residual that starts at
    zero. Differs from the paper, which leaves f unspecified. A share s of 0.5 is an even mix; a smaller one follows the
    labels with more caution, which pays where many of them are wrong (docs/evidence.md).

    Rows have unit length at initialization; zero rows stay zero.

    Args:
        feature_dim: D.
        share: s, in [0, 1].
        hidden_dim, depth, norm: as in :class:`ZeroStartMLP`.
    """

    def __init__(
        self, feature_dim: int, *, share: float = 0.5, hidden_dim: int = 64, depth: int = 1, norm: bool = True
    ) -> None:
        super().__init__()
        _checks.in_interval("share", share, 0.0, 1.0)
        self.share = share
        self.residual = ZeroStartMLP(feature_dim, hidden_dim=hidden_dim, depth=depth, norm=norm)

    def forward(self, operator: GraphOperator, values: Tensor) -> Tensor:
        """Moves the features (..., N, D) of each node towards those of its class."""
        with full_precision(values):
            wide = widen(values)
            # A compiler derives the backward itself; weights with a gradient need what lies between.
            if operator.requires_grad or torch.compiler.is_compiling() or wide.shape[-1] == 0:
                own = unit_rows(wide)
                return self.tighten(own, propagate(operator, own)).to(values.dtype)
            moved: Tensor = _TightenRows.apply(wide, self, operator, *self.parameters())
            return moved.to(values.dtype)

    def tighten(self, own: Tensor, propagated: Tensor) -> Tensor:
        """The map of unit rows and their propagated values, row by row."""
        propagated = unit_rows(propagated)
        moved: Tensor = unit_rows((1 - self.share) * own + self.share * propagated) + self.residual(own, propagated)
        return moved


class _TightenRows(torch.autograd.Function):
    """f_S with nothing kept but its input: what lies between is computed again, a tile of rows at a time.

    The graph is symmetric, so that the gradient takes one more product with it, and all else concerns single rows.
    """

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, layer: FeaturePropagation, operator: GraphOperator, *parameters: Tensor
    ) -> Tensor:
        ctx.layer, ctx.operator = layer, operator
        ctx.save_for_backward(values, *parameters)
        own = unit_rows(values.contiguous())
        result = propagate(operator, own)
        for rows, moved in zip(_tiles(own), _tiles(result), strict=True):
            moved.copy_(layer.tighten(rows, moved))
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        values, *parameters = ctx.saved_tensors
        layer, operator = ctx.layer, ctx.operator
        with full_precision(values):
            trained = [each for each in parameters if each.requires_grad]
            if torch.is_grad_enabled():  # second derivatives are wanted: by operations that autograd can follow
                own = unit_rows(values)
                moved = layer.tighten(own, propagate(operator, own))
                wanted = [values] * values.requires_grad + trained
                slopes = list(torch.autograd.grad(moved, wanted, grad, create_graph=True))
                result = slopes.pop(0) if values.requires_grad else None
                return result, None, None, *_where_trained(parameters, slopes)
            own = unit_rows(values.contiguous())
            slope = propagate(operator, own)  # and then what its gradient is
            result = torch.empty_like(own)
            totals = [torch.zeros_like(each) for each in trained]
            for rows, products, own_slopes, grads in zip(*map(_tiles, (own, slope, result, grad)), strict=True):
                leaves = [rows.detach().requires_grad_(), products.detach().clone().requires_grad_()]
                with torch.enable_grad():
                    moved = layer.tighten(leaves[0], leaves[1])
                own_slope, product_slope, *slopes = torch.autograd.grad(moved, [*leaves, *trained], grads)
                own_slopes.copy_(own_slope)
                products.copy_(product_slope)
                for total, part in zip(totals, slopes, strict=True):
                    total += part
            result += propagate(operator, slope)
            for exact, rows, tile in zip(*map(_tiles, (values, own, result)), strict=True):
                unit_rows_gradient(exact, rows, tile, out=tile)
            return result, None, None, *_where_trained(parameters, totals)


def _where_trained(parameters: list[Tensor], gradients: list[Tensor]) -> list[Tensor | None]:
    """The gradients of the parameters that take one, and None for the others."""
    found = iter(gradients)
    return [next(found) if each.requires_grad else None for each in parameters]


def _tiles(values: Tensor) -> Iterator[Tensor]:
    """Rows of values (..., N, D), as views (n, D): `TILE` entries."""
    flat = values.reshape(-1, values.shape[-1])
    size = max(1, TILE.get(values.device.type, TILE["cpu"]) // values.shape[-1])
    return (flat[start : start + size] for start in range(0, len(flat), size))


class LinearPropagation(GraphPropagation):
    """The map of the authors' code: one linear layer after the mix, the identity when it is built.

    Args:
        num_channels: F, entries of a node's values.
    """

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        _checks.integer_at_least("num_channels", num_channels, 1)
        self.linear = nn.Linear(num_channels, num_channels)
        nn.init.eye_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, operator: GraphOperator, values: Tensor) -> Tensor:
        """Propagates values (..., N, F), then maps them."""
        return self._map(propagate(operator, values))

    def mix(self, operator: GraphOperator, values: Tensor, share: Tensor) -> Tensor:
        """Mixes first, then maps."""
        return self._map(propagate(operator, values, share))

    def _map(self, values: Tensor) -> Tensor:
        # In the precision of the values, which is never the lower one.
        return F.linear(values, self.linear.weight.to(values.dtype), self.linear.bias.to(values.dtype))


def to_simplex(weights: Tensor, *, otherwise: Tensor) -> Tensor:
    """Divides rows (..., C) of weights by their sum; a row without weight becomes that of `otherwise`."""
    total = weights.sum(-1, keepdim=True)
    has_weight = total > 0
    return torch.where(has_weight, weights / torch.where(has_weight, total, torch.ones_like(total)), otherwise)
