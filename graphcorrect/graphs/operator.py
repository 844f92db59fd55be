"""GraphOperator: a weighted graph over N nodes, used as a matrix that nobody needs to form."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from graphcorrect import _checks
from graphcorrect._precision import full_precision, widen


class Tile(NamedTuple):
    """A few nodes of a batch of graphs, R of them, laid out on L rows.

    Attributes:
        blocks: which parts of the layout.
        nodes: (R,), counted over the batch.
        row: (R,), the row of each.
        node_of_row: (L,), the place in `nodes` of the node on each row.
        run: the nodes, where they are those of whole graphs in turn; or None.
    """

    blocks: slice
    nodes: Tensor
    row: Tensor
    node_of_row: Tensor
    run: slice | None = None


class TiledGraph(Protocol):
    """A graph whose product goes through the nodes in tiles: once for sums M over them, and again for what M brings."""

    def tiles(self, rows: int) -> Iterator[tuple[slice, list[Tile]]]:
        """Tiles of about so many rows: some graphs of the batch, and the tiles of their nodes."""

    def new_sums(self, values: Tensor) -> Tensor:
        """M before any values, for values (..., F)."""

    def add_to_sums(self, sums: Tensor, tile: Tile, values: Tensor) -> None:
        """Adds a tile's values (R, F) to M."""

    def add_laid_out(self, sums: Tensor, tile: Tile, values: Tensor) -> None:
        """The same for values on their rows, (L, F), finite where a row is no node's own."""

    def tile_product(self, sums: Tensor, tile: Tile, values: Tensor) -> Tensor:
        """The rows (R, F) of the product that belong to a tile, whose values are (R, F)."""

    def from_sums(self, sums: Tensor, tile: Tile) -> Tensor:
        """What a tile's nodes get of M, (R, F): those rows but for what they take of themselves."""

    def from_sums_laid_out(self, sums: Tensor, tile: Tile, out: Tensor | None = None) -> Tensor:
        """The same on the rows of the layout, (L, F); written to `out`, if there is one."""

    def loops(self, tile: Tile) -> Tensor:
        """And that: the share (R, 1) of their own values."""


class GraphOperator(ABC):
    r"""A symmetric weighted graph W over N nodes, or its normalized form :math:`D^{-1/2} W D^{-1/2}`, as a value.

    Holds one batch's data and no parameters. Code that uses a graph needs `@`, `degree` and `normalized`; a new kind of
    graph is a subclass with `_product`, `_row_sums`, `_edges` and `_normalized_by`.

    Args:
        shape: (..., N, N); leading dimensions are separate graphs.
        weight: what carries the edge weights: gives dtype and device, and says whether weights take gradients.
        scale: (..., N), :math:`D^{-1/2}`; None for a graph that is not normalized.
        degree: (..., N), D, where it is known already.
    """

    def __init__(
        self, shape: torch.Size, weight: Tensor, *, scale: Tensor | None = None, degree: Tensor | None = None
    ) -> None:
        self.shape = shape
        self.dtype = weight.dtype
        self.device = weight.device
        self._needs_grad = weight.requires_grad
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
    def _normalized_by(self, scale: Tensor, degree: Tensor) -> GraphOperator:
        """The same graph W with `scale` on both sides."""

    def _tiled(self, values: Tensor) -> TiledGraph | None:
        """The graph as one that multiplies such values (..., N, F) in tiles; None where that is not done."""
        return None

    @property
    def is_normalized(self) -> bool:
        """Whether the degree has been divided out."""
        return self._scale is not None

    @property
    def requires_grad(self) -> bool:
        """Whether gradients reach the edge weights."""
        return self._needs_grad

    @property
    def ndim(self) -> int:
        """Number of dimensions, leading ones included."""
        return len(self.shape)

    def degree(self) -> Tensor:
        """Row sums (..., N) of the graph before normalization; 0 for a node without edges."""
        if self._known_degree is None:
            self._known_degree = self._row_sums()
        return self._known_degree

    def normalized(self) -> GraphOperator:
        r"""The graph :math:`D^{-1/2} W D^{-1/2}`; rows and columns of nodes without edges are zero."""
        if self.is_normalized:
            return self
        degree = self.degree()
        has_edges = degree > 0
        scale = torch.where(has_edges, torch.where(has_edges, degree, 1.0).rsqrt(), 0.0)
        return self._normalized_by(scale, degree)

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
        _checks.floating("values", values)
        _checks.at_least_2d("values", values, "(..., N, F)")
        _checks.shape("values", values, (*self.shape[:-1], values.shape[-1]), "to match the graph")
        if values.device != self.device:
            raise ValueError(f"expected `values` on the graph's device, {self.device}, got {values.device}")
        with full_precision(values):
            wide = values.to(torch.promote_types(widen(values).dtype, self.dtype))
            # A compiler derives the backward itself, and takes no graph as an argument.
            if self._needs_grad or torch.compiler.is_compiling():
                return self._product(wide).to(values.dtype)
            product: Tensor = _SymmetricProduct.apply(wide, self)
            return product.to(values.dtype)

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
        return f"{type(self).__name__}(shape={tuple(self.shape)}, dtype={self.dtype}, device='{self.device}', {state})"


class _SymmetricProduct(torch.autograd.Function):
    """A graph times values, where only the values take gradients: by symmetry theirs is the same product.

    Nothing of the values is kept for it, and no intermediate of the product.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, operator: GraphOperator) -> Tensor:
        ctx.operator = operator
        return operator._product(values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _SymmetricProduct.apply(grad, ctx.operator), None  # through apply: second derivatives exist too
