"""The learned maps: what a round does with the values that a graph brings, f_C and f_S."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphcorrect import _checks
from graphcorrect.functional import propagate
from graphcorrect.graphs.operator import GraphOperator
from graphcorrect.ops.label_mix import label_mix
from graphcorrect.ops.unit_rows import unit_rows
from graphcorrect.ops.values import full_precision, widen


class PairLinear(nn.Module):
    """One linear layer on two sets of values (..., F), which are never copied side by side.

    Args:
        num_channels: F, entries of a node in either set.
        width: entries of a node in the result.

    Example:
        >>> PairLinear(num_channels=4, width=3)(torch.randn(10, 4), torch.randn(10, 4)).shape
        torch.Size([10, 3])
    """

    def __init__(self, num_channels: int, width: int) -> None:
        super().__init__()
        joined = nn.Linear(2 * num_channels, width)  # drawn as one, so that both have its scale
        halves = joined.weight.detach().chunk(2, 1)
        self.own, self.propagated = (nn.Parameter(half.clone()) for half in halves)
        self.bias = joined.bias

    def forward(self, own: Tensor, propagated: Tensor) -> Tensor:
        """Maps both to (..., width), in the dtype of the weights."""
        dtype, (width, num_channels) = self.bias.dtype, self.own.shape
        rows, others = (each.to(dtype).reshape(own.shape[:-1].numel(), num_channels) for each in (own, propagated))
        mapped = torch.addmm(F.linear(rows, self.own, self.bias), others, self.propagated.mT)
        return mapped.view(*own.shape[:-1], width)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if (joined := state_dict.pop(f"{prefix}weight", None)) is not None:  # of version 0.1
            state_dict[f"{prefix}own"], state_dict[f"{prefix}propagated"] = joined.chunk(2, 1)
        super()._load_from_state_dict(state_dict, prefix, *args)


class ZeroStartMLP(nn.Module):
    """A small network on two sets of values (..., F), zero when it is built: a map starts as its fixed part.

    Args:
        num_channels: F.
        hidden_dim: width of the hidden layers.
        depth: number of hidden layers; 0 is one linear map.
        norm: True puts a LayerNorm before each activation. (Not a BatchNorm: nodes of one image are no sample.)

    Raises:
        ValueError: a number is out of range.

    Example:
        >>> residual = ZeroStartMLP(num_channels=4)(torch.randn(10, 4), torch.randn(10, 4))
        >>> bool((residual == 0).all())
        True
    """

    def __init__(self, num_channels: int, *, hidden_dim: int = 64, depth: int = 1, norm: bool = True) -> None:
        super().__init__()
        _checks.integer_at_least("num_channels", num_channels, 1)
        _checks.integer_at_least("hidden_dim", hidden_dim, 1)
        _checks.integer_at_least("depth", depth, 0)
        self.hidden = nn.ModuleList()
        for layer in range(depth):
            self.hidden.append(nn.Linear(hidden_dim, hidden_dim) if layer else PairLinear(num_channels, hidden_dim))
            self.hidden.extend([nn.LayerNorm(hidden_dim) if norm else nn.Identity(), nn.GELU()])
        self.last = nn.Linear(hidden_dim, num_channels) if depth else PairLinear(num_channels, num_channels)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, own: Tensor, propagated: Tensor) -> Tensor:
        """The residual (..., F) in the dtype of the values; the network itself may live in another one."""
        first, *rest = (*self.hidden, self.last)
        residual: Tensor = first(own, propagated)
        for layer in rest:
            residual = layer(residual)
        return residual.to(own.dtype)


class GraphPropagation(nn.Module):
    """What a round does with one graph: a map of a node's own and its propagated values.

    Subclasses define `step(operator, values)`; `mix` is how a round takes a share of it.
    """

    def forward(self, operator: GraphOperator, values: Tensor) -> Tensor:
        """Maps values (..., N, F) over a graph (..., N, N); the shape stays."""
        return self.step(operator, self.prepare(values))

    def prepare(self, values: Tensor) -> Tensor:
        """What can be done with values before there is a graph."""
        return values

    def step(self, operator: GraphOperator, values: Tensor) -> Tensor:
        """Maps prepared values over a graph."""
        raise NotImplementedError

    def mix(self, operator: GraphOperator, values: Tensor, share: Tensor) -> Tensor:
        """Takes `share` (..., N, 1) of what the map says and keeps the rest of the values, Eq. (10)."""
        return torch.lerp(values, self(operator, values), share)


class LabelPropagation(GraphPropagation):
    r"""f_C of Eq. (8): class probabilities over the semantic-level graph, ending on the simplex.

    .. math:: \hat V \propto \bar{Ap} \cdot \exp(r), \quad r = 10 \tanh(\mathrm{MLP}([p, \bar{Ap}]) / 10)

    with the bar for rows scaled to sum to one. At initialization r = 0: the propagated probabilities themselves. The
    bound on r keeps a learned correction within e^±10 of what the neighbors say, so that no row can vanish.

    Args: as in :class:`ZeroStartMLP`, with C channels.

    Example:
        >>> graph = KNNAffinity(num_neighbors=3)(torch.randn(10, 8))
        >>> LabelPropagation(num_classes=4)(graph, torch.randn(10, 4).softmax(-1)).shape
        torch.Size([10, 4])
    """

    bound = 10.0

    def __init__(self, num_classes: int, *, hidden_dim: int = 64, depth: int = 1, norm: bool = True) -> None:
        super().__init__()
        self.residual = ZeroStartMLP(num_classes, hidden_dim=hidden_dim, depth=depth, norm=norm)

    def step(self, operator: GraphOperator, values: Tensor) -> Tensor:
        """Corrects the probabilities (..., N, C) of each node by its neighbors'."""
        return self._corrected(operator, values, None)

    def mix(self, operator: GraphOperator, values: Tensor, share: Tensor) -> Tensor:
        """Takes `share` (..., N, 1) of the correction and keeps the rest of the probabilities, Eq. (10)."""
        return self._corrected(operator, values, share)

    def _corrected(self, operator: GraphOperator, values: Tensor, share: Tensor | None) -> Tensor:
        with full_precision(values):
            own = widen(values)
            # The softmax of a logarithm is the row divided by its sum. What is added makes the logarithm of a zero
            # finite, and its gradient right; of what is larger it changes no digit.
            log = (propagate(operator, own) + torch.finfo(own.dtype).tiny ** 0.75).log()
            residual = self.residual(own, log.softmax(-1))
            share = None if share is None else share.to(own.dtype)
            return label_mix(own, log, residual, share, self.bound).to(values.dtype)


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

    Example:
        >>> graph = ClassConsistencyGraph()(torch.randn(10, 4).softmax(-1))
        >>> FeaturePropagation(feature_dim=8)(graph, torch.randn(10, 8)).shape
        torch.Size([10, 8])
    """

    def __init__(
        self, feature_dim: int, *, share: float = 0.5, hidden_dim: int = 64, depth: int = 1, norm: bool = True
    ) -> None:
        super().__init__()
        _checks.in_interval("share", share, 0.0, 1.0)
        self.share = share
        self.residual = ZeroStartMLP(feature_dim, hidden_dim=hidden_dim, depth=depth, norm=norm)

    def prepare(self, values: Tensor) -> Tensor:
        """Unit rows."""
        with full_precision(values):
            return unit_rows(widen(values)).to(values.dtype)

    def step(self, operator: GraphOperator, values: Tensor) -> Tensor:
        """Moves the unit features (..., N, D) of each node towards those of its class."""
        with full_precision(values):
            own = widen(values)
            propagated = unit_rows(propagate(operator, own), any_scale=False)
            # Scale is no matter to unit rows: a sum, whose gradient is no copy of its own for either of the two
            share, rest = self.share, 1.0 - self.share
            if share <= 0.5:
                mixed = torch.add(own, propagated, alpha=share / rest)
            else:
                mixed = torch.add(propagated, own, alpha=rest / share)
            mixed = unit_rows(mixed, any_scale=False)
            moved: Tensor = (mixed + self.residual(own, propagated)).to(values.dtype)
            return moved


class LinearPropagation(GraphPropagation):
    """The map of the authors' code: one linear layer after the mix, the identity when it is built.

    Args:
        num_channels: F, entries of a node's values.

    Example:
        >>> graph = KNNAffinity(num_neighbors=3)(torch.randn(10, 8))
        >>> LinearPropagation(8)(graph, torch.randn(10, 8)).shape
        torch.Size([10, 8])
    """

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        _checks.integer_at_least("num_channels", num_channels, 1)
        self.linear = nn.Linear(num_channels, num_channels)
        nn.init.eye_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def step(self, operator: GraphOperator, values: Tensor) -> Tensor:
        """Propagates values (..., N, F), then maps them."""
        return self.mix(operator, values, 1.0)

    def mix(self, operator: GraphOperator, values: Tensor, share: Tensor | float) -> Tensor:
        """Mixes first, then maps."""
        mixed = propagate(operator, values, share)
        # In the precision of the values, which is never the lower one
        return F.linear(mixed, self.linear.weight.to(mixed.dtype), self.linear.bias.to(mixed.dtype))
