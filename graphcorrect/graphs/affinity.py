"""KNNAffinity: the semantic-level graph, which joins nodes with similar features."""

from typing import get_args

import torch
from torch import Tensor, nn

from graphcorrect import _checks
from graphcorrect._settings import printed
from graphcorrect.graphs.neighbor import NeighborOperator
from graphcorrect.graphs.operator import GraphOperator
from graphcorrect.ops.edge_weights import keep_edges
from graphcorrect.ops.knn import knn
from graphcorrect.ops.typing import Backend
from graphcorrect.ops.unit_rows import unit_rows
from graphcorrect.ops.values import full_precision, widen


class KNNAffinity(nn.Module):
    r"""Connects each node to its most similar nodes: the semantic-level graph, Eqs. (4), (5).

    .. math::
        \hat A_{ij} = \max(0, \cos(x_i, x_j))^\gamma \text{ for } j \in N_k(i), \quad
        S = D^{-1/2} (\hat A + \hat A^\top) D^{-1/2}

    N_k(i) is the `num_neighbors` nodes most similar to i, itself apart; the weight is 0 elsewhere, and D holds the row
    sums. Indices carry no gradient; weights carry one only with `differentiable=True`.

    Args:
        num_neighbors: k; in a graph of fewer nodes all others, which the graph's `num_neighbors` says.
        gamma: the power of the cosine; above 0.
        self_loops: True lets a node be its own neighbor, as the authors' code does.
        backend: of :func:`graphcorrect.knn`.
        differentiable: True lets gradients reach the features through the edge weights.

    Raises:
        ValueError, TypeError: an argument is out of range or of the wrong type.

    Cost: O(N² D) time; O(N k) memory kept, plus the search's tiles.

    Example:
        >>> features, probabilities = torch.randn(100, 16), torch.rand(100, 4).softmax(-1)
        >>> graph = KNNAffinity(num_neighbors=20)(features)
        >>> (graph @ probabilities).shape
        torch.Size([100, 4])
    """

    def __init__(
        self,
        num_neighbors: int = 20,
        *,
        gamma: float = 1.0,
        self_loops: bool = False,
        backend: Backend = "auto",
        differentiable: bool = False,
    ) -> None:
        super().__init__()
        _checks.integer_at_least("num_neighbors", num_neighbors, 1)
        _checks.in_interval("gamma", gamma, 0.0, float("inf"), open_low=True, open_high=True)
        _checks.one_of("backend", backend, get_args(Backend))
        self.num_neighbors = num_neighbors
        self.gamma = gamma
        self.self_loops = self_loops
        self.backend: Backend = backend
        self.differentiable = differentiable

    def forward(self, features: Tensor, *, mask: Tensor | None = None, normalize: bool = True) -> GraphOperator:
        """Builds the normalized graph of each set of nodes.

        Args:
            features: (..., N, D) floating point, any scale; a zero row gets no edges. Leading dimensions are separate
                graphs: (B, N, D) links within images, (1, B * N, D) across them too.
            mask: (..., N) bool, True where a node takes part; the others get no edges, in or out.
            normalize: False takes rows as they are, for features of unit length.

        Returns:
            NeighborOperator (..., N, N): symmetric, eigenvalues in [-1, 1], in the dtype of `features` (float32 for
            half precision). A graph of one node or none has no edges.

        Raises:
            ValueError: shapes do not fit, or `features` are images.
            TypeError: `features` is not floating point, or `mask` is not bool.
            ImportError: the chosen backend is not installed.
        """
        _checks.floating("features", features)
        _checks.nodes("features", features, "(..., N, D)")
        _checks.mask("mask", mask, features.shape[:-1], "(one entry for each node)", "`features`", features)
        num_nodes = features.shape[-2]
        if num_nodes <= 1:  # nobody to be joined to
            index = torch.zeros((*features.shape[:-1], 0), dtype=torch.int64, device=features.device)
            return NeighborOperator(index, widen(features).new_zeros(index.shape)).normalized()
        wide = widen(features)
        similarity, index = knn(
            wide,
            None,
            min(self.num_neighbors, num_nodes - (not self.self_loops)),
            backend=self.backend,
            exclude_self=not self.self_loops,
            key_mask=mask,
            normalize=normalize,
        )
        weight, index, edges = keep_edges(similarity, index, mask)
        if self.differentiable:
            cosine = _cosine_of_edges(wide, index, mask)
            weight = torch.where((weight > 0) & (cosine > 0), cosine, 0.0)  # the search may have rounded a 0 up
        if self.gamma != 1.0:
            is_edge = weight > 0
            # 0 ** gamma has an infinite slope below gamma = 1
            weight = torch.where(is_edge, torch.where(is_edge, weight, 1.0) ** self.gamma, 0.0)
        return NeighborOperator(index, weight, _edges=edges).normalized()

    extra_repr = printed("num_neighbors gamma self_loops backend differentiable")


def _cosine_of_edges(features: Tensor, index: Tensor, mask: Tensor | None) -> Tensor:
    """cos(x_i, x_j) over the edges (..., N, k), with gradient; a neighbor at a time, so that no (N, k, D) is kept."""
    with full_precision(features):
        rows = unit_rows(features, mask)
        columns = [(rows * rows.gather(-2, column[..., None].expand_as(rows))).sum(-1) for column in index.unbind(-1)]
        return torch.stack(columns, -1)
