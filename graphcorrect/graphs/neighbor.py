"""NeighborOperator: k weighted edges a node, and the same edges backwards."""

from __future__ import annotations

import torch
from torch import Tensor

from graphcorrect.graphs.operator import GraphOperator
from graphcorrect.ops.edge_weights import normalize_edges, scale_edges
from graphcorrect.ops.neighbor_product import Edges, neighbor_product, sort_edges


class NeighborOperator(GraphOperator):
    r"""The graph :math:`W = \hat A + \hat A^\top` with :math:`\hat A` given by k neighbors a node, Eqs. (4), (5).

    An edge of :math:`\hat A` leads from node i to `index[i, j]` with `weight[i, j]`; W holds it in both directions, and
    adds the two where nodes have each other as neighbors.

    Cost: `@` takes O(N k F) time and no (N, k, F) temporary; building sorts the N k edges once.

    Attributes:
        index: (..., N, k) int64.
        weight: (..., N, k), at least zero.

    Example:
        >>> graph = KNNAffinity(num_neighbors=3)(torch.randn(10, 8))
        >>> graph.index.shape, graph.weight.shape
        (torch.Size([10, 3]), torch.Size([10, 3]))
    """

    def __init__(
        self,
        index: Tensor,
        weight: Tensor,
        *,
        scale: Tensor | None = None,
        degree: Tensor | None = None,
        _edges: Edges | None = None,
        _directed: tuple[Tensor, ...] | None = None,
    ) -> None:
        shape = torch.Size((*index.shape[:-1], index.shape[-2]))
        super().__init__(shape, weight, scale=scale, degree=degree)
        self.index = index
        self.weight = weight
        by_graph = index.reshape(shape[:-2].numel(), *index.shape[-2:])
        self._sorted = sort_edges(by_graph) if _edges is None else _edges
        self._directed = _directed

    @property
    def num_neighbors(self) -> int:
        """k, the edges that leave each node."""
        return self.index.shape[-1]

    def _normalized(self) -> NeighborOperator:
        degree, scale, *directed = normalize_edges(self._flat_weight(), self._sorted)
        by_node = {"degree": degree.view(self.shape[:-1]), "scale": scale.view(self.shape[:-1])}
        return NeighborOperator(self.index, self.weight, **by_node, _edges=self._sorted, _directed=tuple(directed))

    def _flat_weight(self) -> Tensor:
        """Weights (M, k)."""
        return self.weight.reshape(self._sorted.index.shape)

    def _product(self, values: Tensor, degree: Tensor | None = None) -> Tensor:
        scale = None if self._scale is None else self._scale.reshape(-1)
        outgoing, incoming = self._directed or scale_edges(self._flat_weight(), scale, self._sorted)
        weights = outgoing.to(values.dtype), incoming.to(values.dtype)
        flat = values.reshape(self.shape[:-1].numel(), values.shape[-1])
        return neighbor_product(*weights, flat, self._sorted, degree).reshape(values.shape)

    def _propagated(self, values: Tensor) -> Tensor:
        return self._product(values, self.degree().reshape(-1))

    def _row_sums(self) -> Tensor:
        if self.is_normalized:
            return NeighborOperator(self.index, self.weight, _edges=self._sorted)._row_sums()
        return self._product(torch.ones((*self.shape[:-1], 1), dtype=self.dtype, device=self.device))[..., 0]

    def _edges(self) -> tuple[Tensor, Tensor, Tensor]:
        index = self._sorted.index.long()
        target = torch.arange(len(index), device=self.device)[:, None].expand_as(index).reshape(-1)
        source, weight = index.reshape(-1), self.weight.reshape(-1)
        return torch.cat([target, source]), torch.cat([source, target]), torch.cat([weight, weight])
