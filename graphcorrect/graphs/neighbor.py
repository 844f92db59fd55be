"""NeighborOperator: k weighted edges a node, and the same edges backwards."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from graphcorrect._eager import may_loop
from graphcorrect.graphs.operator import GraphOperator


class NeighborOperator(GraphOperator):
    r"""The graph :math:`W = \hat A + \hat A^\top` with :math:`\hat A` given by k neighbors a node, Eqs. (4), (5).

    An edge of :math:`\hat A` leads from node i to `index[i, j]` with `weight[i, j]`; W holds it in both directions, and
    adds the two where nodes have each other as neighbors.

    Cost: `@` takes O(N k F) time and no (N, k, F) temporary; building sorts the N k edges once.

    Attributes:
        index: (..., N, k) int64.
        weight: (..., N, k), at least zero.
    """

    def __init__(
        self,
        index: Tensor,
        weight: Tensor,
        *,
        scale: Tensor | None = None,
        degree: Tensor | None = None,
        _sorted_edges: Edges | None = None,
    ) -> None:
        shape = torch.Size((*index.shape[:-1], index.shape[-2]))
        super().__init__(shape, weight, scale=scale, degree=degree)
        self.index = index
        self.weight = weight
        self._sorted_edges = Edges.between(index, may_loop(weight)) if _sorted_edges is None else _sorted_edges
        flat = weight.reshape(self._sorted_edges.index.shape)
        if scale is not None:  # on the weights, N k of them, rather than on values at every product
            by_node = scale.reshape(-1)
            of_targets = by_node.index_select(0, self._sorted_edges.index.flatten())
            flat = by_node[:, None] * flat * of_targets.view_as(flat)
        self._flat_weight = flat

    def _normalized_by(self, scale: Tensor, degree: Tensor) -> NeighborOperator:
        return NeighborOperator(self.index, self.weight, scale=scale, degree=degree, _sorted_edges=self._sorted_edges)

    def _product(self, values: Tensor) -> Tensor:
        flat = values.reshape(self.shape[:-1].numel(), values.shape[-1])
        product: Tensor = _EdgeProduct.apply(self._flat_weight.to(values.dtype), flat, *self._sorted_edges)
        return product.reshape(values.shape)

    def _row_sums(self) -> Tensor:
        ones = torch.ones((*self.shape[:-1], 1), dtype=self.dtype, device=self.device)
        return NeighborOperator(self.index, self.weight, _sorted_edges=self._sorted_edges)._product(ones)[..., 0]

    def _edges(self) -> tuple[Tensor, Tensor, Tensor]:
        target = torch.arange(self._sorted_edges.index.shape[0], device=self.device)
        target = target[:, None].expand_as(self._sorted_edges.index).reshape(-1)
        source, weight = self._sorted_edges.index.reshape(-1), self.weight.reshape(-1)
        return torch.cat([target, source]), torch.cat([source, target]), torch.cat([weight, weight])


class Edges(NamedTuple):
    """The edges of a batch of graphs in both directions, nodes numbered over the whole batch; int64 or int32.

    Attributes:
        index: (B N, k), the target of each edge, by its source.
        order: (B N k,), the edges sorted by target, each as its place in the flattened `index`.
        source: (B N k,), the source of each of them, in that order.
        offsets: (B N,), where the incoming edges of each node start in `order`.
    """

    index: Tensor  # type: ignore[assignment]  # hides tuple.index
    order: Tensor
    source: Tensor
    offsets: Tensor

    @classmethod
    def between(cls, index: Tensor, by_loops: bool) -> Edges:
        """Those from each node to its neighbors (..., N, k); `by_loops` says that numba may sort them."""
        num_nodes, num_neighbors = index.shape[-2:]
        num_graphs = index.shape[:-2].numel()
        first = torch.arange(num_graphs, device=index.device)[:, None, None] * num_nodes
        index = (index.reshape(num_graphs, num_nodes, num_neighbors) + first).flatten(0, 1)
        # As narrow as they can be, since sorting reads every bit
        narrow = torch.int32 if index.numel() < 2**31 else torch.int64
        if by_loops and index.numel():
            from graphcorrect.graphs import _numba_sort  # not above: it imports numba

            if (found := _numba_sort.sorted_by_counting(index, num_graphs, num_nodes, dtype=narrow)) is not None:
                return cls(index.to(narrow), *found)
        targets, order = index.reshape(-1).to(narrow).sort(stable=True)
        nodes = torch.arange(num_graphs * num_nodes, device=index.device, dtype=narrow)
        return cls(index, order, order // num_neighbors, torch.searchsorted(targets, nodes))

    def product(self, weight: Tensor, values: Tensor) -> Tensor:
        """(Â + Âᵀ) @ values for weights (M, k) and values (M, F), summed edge by edge as they are read."""
        if self.index.numel() == 0 or values.shape[1] == 0:
            return torch.zeros_like(values)
        values = values.contiguous()  # the gradient of a sum is one number expanded, which embedding_bag reads slowly
        outgoing = F.embedding_bag(self.index, values, per_sample_weights=weight, mode="sum")
        incoming = F.embedding_bag(
            self.source,
            values,
            self.offsets,
            per_sample_weights=weight.reshape(-1).index_select(0, self.order),
            mode="sum",
        )
        return outgoing + incoming

    def pairwise_dot(self, left: Tensor, right: Tensor) -> Tensor:
        """left_i · right_j over the edges (i, j), (M, k), a neighbor at a time."""
        columns = [(left * right[column]).sum(-1) for column in self.index.unbind(1)]
        return torch.stack(columns, 1) if columns else left.new_zeros(self.index.shape)


class _EdgeProduct(torch.autograd.Function):
    """(Â + Âᵀ) v with gradients for both: that of v is the same product, that of Â_ij is g_i·v_j + g_j·v_i."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, values: Tensor, *edges: Tensor) -> Tensor:
        # The values are kept only for the weights' gradient, which by default nobody asks for.
        ctx.save_for_backward(weight, values if ctx.needs_input_grad[0] else None, *edges)
        return Edges(*edges).product(weight, values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, values, *parts = ctx.saved_tensors
        edges = Edges(*parts)
        grad_weight = grad_values = None
        if ctx.needs_input_grad[0]:
            grad_weight = edges.pairwise_dot(grad, values) + edges.pairwise_dot(values, grad)
        if ctx.needs_input_grad[1]:
            grad_values = _EdgeProduct.apply(weight, grad, *edges)  # through apply: second derivatives exist too
        return grad_weight, grad_values, None, None, None, None
