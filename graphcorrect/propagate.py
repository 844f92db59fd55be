"""One step over a graph: `propagate`, and the learned maps f_C and f_S that refine what it brings."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphcorrect import _checks
from graphcorrect._eager import is_seen_full, may_look, may_loop
from graphcorrect._mlp import ZeroStartMLP
from graphcorrect._precision import full_precision, widen
from graphcorrect._row_maps import GraphTiles, Learned, LoopedMap, MapRows, MoveUnitRows, TiledMap
from graphcorrect.graphs.operator import GraphOperator
from graphcorrect.nodes import unit_rows


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
            propagated = propagate(operator, wide)
            if may_look(wide) and wide.numel():
                rows = wide, propagated, self.correct, self.residual, self._by_loops(wide)
                corrected: Tensor = MapRows.apply(*rows, *self.parameters())
            else:
                corrected = self.correct(wide, propagated, self.residual)
            return corrected.to(values.dtype)

    def _by_loops(self, values: Tensor) -> LoopedMap | None:
        """The map in compiled loops, where they serve."""
        if not may_loop(values) or type(self).correct is not LabelPropagation.correct:
            return None
        from graphcorrect._numba_correct import LoopedCorrect  # not above: it imports numba

        return LoopedCorrect(self.bound)

    def correct(self, own: Tensor, propagated: Tensor, learned: Learned) -> Tensor:
        """The map of probabilities and their propagated values, row by row, with a network for the residual."""
        propagated = to_simplex(propagated, otherwise=own)
        bounded = self.bound * torch.tanh(learned(own, propagated) / self.bound)
        corrected = propagated * (bounded - bounded.amax(-1, keepdim=True)).exp()
        return to_simplex(corrected, otherwise=own)


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
            if operator.requires_grad or torch.compiler.is_compiling() or wide.numel() == 0:
                own = unit_rows(wide)
                return self.tighten(own, propagate(operator, own), self.residual).to(values.dtype)
            spread, tiled = partial(propagate, operator), self._by_tiles(operator, wide)
            moved: Tensor = MoveUnitRows.apply(wide, self.tighten, self.residual, spread, tiled, *self.parameters())
            return moved.to(values.dtype)

    def _by_tiles(self, operator: GraphOperator, values: Tensor) -> TiledMap | None:
        """The map in tiles, where the graph multiplies such values so."""
        graph = operator._tiled(values)
        if graph is None:
            return None
        if may_loop(values) and type(self).tighten is FeaturePropagation.tighten:
            from graphcorrect._numba_tighten import LoopedTighten  # not above: it imports numba

            return LoopedTighten(graph, self.share)
        return GraphTiles(graph, self.tighten)

    def tighten(self, own: Tensor, propagated: Tensor, learned: Learned) -> Tensor:
        """The map of unit rows and their propagated values, row by row, with a network for the residual."""
        propagated = unit_rows(propagated)
        moved: Tensor = unit_rows(torch.lerp(own, propagated, self.share)) + learned(own, propagated)
        return moved


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
