"""GraphOperator: a weighted graph over N nodes, used as a matrix that nobody needs to form."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from graphcorrect import _checks
from graphcorrect.ops.values import full_precision, widen


class GraphOperator(ABC):
    r"""A symmetric weighted graph W over N nodes, or its normalized form :math:`D^{-1/2} W D^{-1/2}`, as a value.

    Holds one batch's data and no parameters. Code that uses a graph needs `@`, `degree` and `normalized`; a new kind of
    graph is a subclass with `_product`, `_row_sums`, `_edges` and `_normalized`.

    Args:
        shape: (..., N, N); leading dimensions are separate graphs.
        weight: what carries the edge weights: gives dtype and device.
        scale: (..., N), :math:`D^{-1/2}`; None for a graph that is not normalized.
        degree: (..., N), D, where it is known already.

    Example:
        >>> graph = KNNAffinity(num_neighbors=3)(torch.randn(10, 8))
        >>> (graph @ torch.randn(10, 4)).shape
        torch.Size([10, 4])
        >>> graph.degree().shape
        torch.Size([10])
        >>> edge_index, edge_weight = graph.to_edge_index()  # for torch-geometric
    """

    def __init__(
        self, shape: torch.Size, weight: Tensor, *, scale: Tensor | None = None, degree: Tensor | None = None
    ) -> None:
        self.shape = shape
        self.dtype = weight.dtype
        self.device = weight.device
        self._scale = scale
        self._known_degree = degree

    @abstractmethod
    def _product(self, values: Tensor) -> Tensor:
        """The graph, scale included, times values (..., N, F) in the graph's precision or better; differentiable."""

    @abstractmethod
    def _row_sums(self) -> Tensor:
        """Row sums (..., N) of W, the graph without its scale."""

    @abstractmethod
    def _edges(self) -> tuple[Tensor, Tensor, Tensor]:
        """Target, source and weight of each edge of W, nodes numbered over the flattened batch: three (E,)."""

    @abstractmethod
    def _normalized(self) -> GraphOperator:
        r"""The same graph W with :math:`D^{-1/2}` on both sides."""

    def _propagated(self, values: Tensor) -> Tensor:
        """The product, in which nodes without edges keep their values."""
        isolated, product = self.isolated(), self._product(values)
        return product if isolated is None else torch.where(isolated[..., None], values, product)

    @property
    def is_normalized(self) -> bool:
        """Whether the degree has been divided out."""
        return self._scale is not None

    @property
    def ndim(self) -> int:
        """Number of dimensions, leading ones included."""
        return len(self.shape)

    def degree(self) -> Tensor:
        """Row sums (..., N) of the graph before normalization; 0 for a node without edges."""
        if self._known_degree is None:
            self._known_degree = self._row_sums()
        return self._known_degree

    def isolated(self) -> Tensor | None:
        """Which nodes (..., N) have no edges; None where the kind of the graph gives each node a loop."""
        return self.degree() == 0

    def normalized(self) -> GraphOperator:
        r"""The graph :math:`D^{-1/2} W D^{-1/2}`; rows and columns of nodes without edges are zero."""
        return self if self.is_normalized else self._normalized()

    def transpose(self) -> GraphOperator:
        """The transposed graph: the graph itself, since all of this library's graphs are symmetric."""
        return self

    def __matmul__(self, values: Tensor) -> Tensor:
        """Multiplies values (..., N, F); gradients reach the values, and the weights where they carry one.

        Half-precision values are multiplied in float32 and cast back.

        Raises:
            TypeError: `values` is not a floating point tensor.
            ValueError: the leading dimensions, N or the device differ from the graph's.
        """
        return self._applied(self._product, values)

    def propagated(self, values: Tensor) -> Tensor:
        """The product with values (..., N, F), in which a node without edges keeps its values; raises as `@` does."""
        return self._applied(self._propagated, values)

    def _applied(self, product: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
        _checks.floating("values", values)
        _checks.at_least_2d("values", values, "(..., N, F)")
        _checks.shape("values", values, (*self.shape[:-1], values.shape[-1]), "to match the graph")
        if values.device != self.device:
            raise ValueError(f"expected `values` on the graph's device, {self.device}, got {values.device}")
        with full_precision(values):
            wide = values.to(torch.promote_types(widen(values).dtype, self.dtype))
            return product(wide).to(values.dtype)

    def to_dense(self) -> Tensor:
        """The matrix (..., N, N) itself: for tests and for looking at small graphs, O(N²) memory."""
        identity = torch.eye(self.shape[-1], dtype=self.dtype, device=self.device)
        return self @ identity.expand(self.shape)

    def to_edge_index(self) -> tuple[Tensor, Tensor]:
        """PyG's form: edge_index (2, E) int64 with rows source and target, and edge_weight (E,).

        The graphs of a batch become one, node i of graph b being b * N + i. Edges are sorted by target, each pair
        appears once, and edges of weight zero are left out, so that E depends on the values.
        """
        target, source, weight = self._edges()
        if self._scale is not None:
            flat = self._scale.reshape(-1)
            weight = weight * flat[target] * flat[source]
        total = max(1, self.shape[:-1].numel())
        pairs, place = torch.unique(target * total + source, return_inverse=True)  # in ascending order
        weight = weight.new_zeros(len(pairs)).index_add(0, place, weight)
        kept = weight != 0
        return torch.stack([pairs[kept] % total, pairs[kept] // total]), weight[kept]

    def __repr__(self) -> str:
        state = "normalized" if self.is_normalized else "unnormalized"
        edges = f", num_neighbors={self.num_neighbors}" if hasattr(self, "num_neighbors") else ""
        form = f"shape={tuple(self.shape)}{edges}, dtype={self.dtype}, device='{self.device}'"
        return f"{type(self).__name__}({form}, {state})"
