"""ClassBlockOperator: all pairs of nodes of one class joined, exactly, without ever forming a pair."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from graphcorrect._eager import is_seen_full, may_look, may_loop
from graphcorrect.graphs._blocks import ClassBlocks
from graphcorrect.graphs.operator import GraphOperator, Tile, TiledGraph

COLUMNS = 64  # of the values, multiplied at a time on a CPU: what lies between stays in its cache
LARGE = 2**22  # entries of values that do not fit it themselves: on from here it is rows
TILE = 2**17  # entries multiplied at a time then
LOOPED = 64  # columns from which on loops that numba compiles are faster than either


class ClassBlockOperator(GraphOperator):
    r"""The class-level graph of Eq. (6): :math:`W_{ij} = u_i \cdot u_j` for i ≠ j of one class, :math:`W_{ii} = 1`.

    Each class is a block of rank m at most, u having m entries, so that with :math:`q_i = |u_i|^2`

    .. math::
        (W y)_i = u_i^\top M_{c(i)} + (1 - q_i) y_i, \quad M_c = \sum_{j \in c} u_j y_j^\top; \quad
        D_{ii} = u_i \cdot \sum_{j \in c(i)} u_j - q_i + 1

    which is exact. Nodes are laid out class by class in blocks of a fixed number of rows, and every sum is a batched
    matrix product over blocks: no loop over classes, no shape that depends on the labels, no wait for the device.

    Cost: `@` takes O(N m F) time and O(N F + C m F) memory, m = C for probabilities.

    Args:
        vectors: (..., N, m) floating point; the rows of a class must have non-negative inner products.
        labels: (..., N) int64 in [0, num_classes], the class of each node; `num_classes` marks a node that is joined
            to nobody but itself.
        num_classes: C.
        scale: (..., N), applied on both sides of the product; None leaves the graph as it is.
    """

    def __init__(
        self,
        vectors: Tensor,
        labels: Tensor,
        num_classes: int,
        *,
        scale: Tensor | None = None,
        degree: Tensor | None = None,
        _unscaled: ClassBlockOperator | None = None,
    ) -> None:
        super().__init__(torch.Size((*labels.shape, labels.shape[-1])), vectors, scale=scale, degree=degree)
        self.vectors = vectors
        self.labels = labels
        self.num_classes = num_classes
        if _unscaled is None:
            self._blocks = ClassBlocks(labels, num_classes, may_loop(vectors, labels))
            rows, loops = self._lay_out()
        else:
            self._blocks, rows, loops = _unscaled._blocks, _unscaled._rows, _unscaled._loops
        if scale is not None:  # on the vectors, C entries a node, rather than on values at every product
            rows, loops = self._scaled(rows, loops, scale)
        self._rows: Tensor = rows  # (blocks, T, m)
        self._loops: Tensor = loops  # (B N, 1), 1 - q_i

    def _lay_out(self) -> tuple[Tensor, Tensor]:
        if self.labels.numel() and _may_loop_without_grad(self.vectors, self.labels):
            from graphcorrect.graphs import _numba_class_block  # not above: it imports numba

            vectors = self.vectors.reshape(self.labels.numel(), self.vectors.shape[-1]).contiguous()
            known = vectors, self.labels.reshape(-1).contiguous(), self.num_classes
            rows, loops, degree = _numba_class_block.lay_out(self._blocks, *known)
            if self._known_degree is None:
                self._known_degree = degree.view(self.labels.shape)
            return rows, loops
        members = self._members()
        return self._blocks.split(members), 1.0 - members.square().sum(-1, keepdim=True)

    def _members(self) -> Tensor:
        """The vectors (B N, m), but zero for a node outside every class: that leaves it the loop W_ii = 1 alone."""
        is_member = (self.labels < self.num_classes)[..., None]
        return torch.where(is_member, self.vectors, 0.0).reshape(self.labels.numel(), self.vectors.shape[-1])

    def _scaled(self, rows: Tensor, loops: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        if _may_loop_without_grad(rows, scale):
            from graphcorrect.graphs import _numba_class_block  # not above: it imports numba

            return _numba_class_block.scaled(self._blocks, rows, loops, scale.reshape(-1).contiguous())
        by_node = scale.reshape(-1, 1)
        return self._blocks.split(by_node) * rows, by_node.square() * loops

    def _normalized_by(self, scale: Tensor, degree: Tensor) -> ClassBlockOperator:
        return ClassBlockOperator(
            self.vectors, self.labels, self.num_classes, scale=scale, degree=degree, _unscaled=self
        )

    def _product(self, values: Tensor) -> Tensor:
        flat = values.reshape(self.shape[:-1].numel(), values.shape[-1])
        rows, blocks, loops = self._rows.to(values.dtype), self._blocks, self._loops.to(values.dtype)
        is_tiled = may_look(values) and not torch.is_grad_enabled()
        if is_tiled and flat.dtype == self.dtype:
            if flat.shape[1] >= LOOPED and flat.numel() and rows.numel() and may_loop(flat):
                from graphcorrect.graphs import _numba_class_block  # not above: it imports numba

                return _numba_class_block.product(blocks, rows, loops, flat).reshape(values.shape)
            if flat.numel() > LARGE:
                return self._product_in_tiles(flat).reshape(values.shape)

        def of_others(columns: Tensor) -> Tensor:
            moments = blocks.sum_by_class(rows.mT @ blocks.gather(columns))  # (blocks, m, F), M_c of each block's class
            return blocks.join(rows @ moments)

        if not is_tiled or flat.shape[1] <= COLUMNS:
            return of_others(flat).addcmul_(loops, flat).reshape(values.shape)
        product = torch.empty_like(flat)
        for start in range(0, flat.shape[1], COLUMNS):
            columns = flat[:, start : start + COLUMNS]
            torch.addcmul(of_others(columns), loops, columns, out=product[:, start : start + COLUMNS])
        return product.reshape(values.shape)

    def _product_in_tiles(self, values: Tensor) -> Tensor:
        """The product with values (B N, F)."""
        tiles = [tile for _, group in self.tiles(max(1, TILE // values.shape[1])) for tile in group]
        sums = self.new_sums(values)
        for tile in tiles:
            self.add_to_sums(sums, tile, values.index_select(0, tile.nodes))
        product = torch.empty_like(values)
        for tile in tiles:
            product.index_copy_(0, tile.nodes, self.tile_product(sums, tile, values.index_select(0, tile.nodes)))
        return product

    def _tiled(self, values: Tensor) -> TiledGraph | None:
        """Itself, for values of its own precision on a CPU.

        As `propagate` has it, a node without edges keeps its own values: one whose degree is NaN, in an image that must
        not change the way in which the others are multiplied.
        """
        if values.dtype != self.dtype or values.numel() == 0 or not may_look(values):
            return None
        has_edges = (self.degree() > 0).reshape(-1, 1)
        if is_seen_full(has_edges):
            return self
        kept = copy.copy(self)
        kept._loops = torch.where(has_edges, self._loops, 1.0)
        kept._rows = torch.where(self._blocks.split(has_edges.to(self.dtype)) > 0, self._rows, 0.0)
        return kept

    def tiles(self, rows: int) -> Iterator[tuple[slice, list[Tile]]]:
        """Tiles of about so many rows: some graphs of the batch, and the tiles of their nodes."""
        return self._blocks.tiles(rows)

    def new_sums(self, values: Tensor) -> Tensor:
        """M of no values yet, (graphs * (C + 1), m, F), in the dtype of values (..., F)."""
        return values.new_zeros(self._blocks.num_segments, self._rows.shape[-1], values.shape[-1])

    def add_to_sums(self, sums: Tensor, tile: Tile, values: Tensor) -> None:
        """Adds what a tile's values (R, F) add to M."""
        self.add_laid_out(sums, tile, values.index_select(0, tile.node_of_row))

    def add_laid_out(self, sums: Tensor, tile: Tile, values: Tensor) -> None:
        """The same for values on their rows, (L, F)."""
        rows = self._rows[tile.blocks]
        moments = torch.bmm(rows.mT, values.view(*rows.shape[:2], -1))
        sums.index_add_(0, self._blocks.segment[tile.blocks], moments)

    def tile_product(self, sums: Tensor, tile: Tile, values: Tensor) -> Tensor:
        """The rows (R, F) of the product that belong to a tile, whose values are (R, F)."""
        return self.from_sums(sums, tile).addcmul_(self.loops(tile), values)

    def from_sums(self, sums: Tensor, tile: Tile) -> Tensor:
        """What a tile's nodes get of M, (R, F): those rows but for what they take of themselves."""
        return self.from_sums_laid_out(sums, tile).index_select(0, tile.row)

    def from_sums_laid_out(self, sums: Tensor, tile: Tile, out: Tensor | None = None) -> Tensor:
        """The same on the rows of the layout, (L, F)."""
        sums, rows = sums.index_select(0, self._blocks.segment[tile.blocks]), self._rows[tile.blocks]
        result = None if out is None else out.view(*rows.shape[:2], -1)
        return torch.bmm(rows, sums, out=result).flatten(0, 1)

    def loops(self, tile: Tile) -> Tensor:
        """And that: the share (R, 1) of their own values."""
        return self._loops.index_select(0, tile.nodes)

    def _row_sums(self) -> Tensor:
        if self.is_normalized:
            return ClassBlockOperator(self.vectors, self.labels, self.num_classes)._row_sums()
        total = self._blocks.sum_by_class(self._rows.sum(1, keepdim=True))  # (blocks, 1, m), S_c of each block's class
        return (self._blocks.join(self._rows @ total.mT) + self._loops)[:, 0].reshape(self.labels.shape)

    def _edges(self) -> tuple[Tensor, Tensor, Tensor]:
        # Quadratic in the size of a class, as the edges themselves are.
        flat_labels = self.labels.reshape(self.shape[:-2].numel(), self.shape[-1])
        same = (flat_labels[:, :, None] == flat_labels[:, None, :]) & (flat_labels < self.num_classes)[:, :, None]
        same = same | torch.eye(self.shape[-1], dtype=torch.bool, device=self.device)
        graph, target, source = same.nonzero(as_tuple=True)
        target, source = graph * self.shape[-1] + target, graph * self.shape[-1] + source
        members = self._members()
        weight = (members[target] * members[source]).sum(-1)
        return target, source, torch.where(target == source, torch.ones_like(weight), weight)


def _may_loop_without_grad(*tensors: Tensor) -> bool:
    needs_grad = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    return may_loop(*tensors) and not needs_grad
