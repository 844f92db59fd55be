"""ClassBlockOperator: all pairs of nodes of one class joined, exactly, without ever forming a pair."""

from __future__ import annotations

import torch
from torch import Tensor

from graphcorrect._eager import may_look
from graphcorrect.graphs.operator import GraphOperator

COLUMNS = 64  # of the values, multiplied at a time on a CPU: what lies between stays in its cache
LARGE = 2**22  # entries of values that do not fit it themselves: on from here it is rows
TILE = 2**17  # entries multiplied at a time then


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
        _blocks: ClassBlocks | None = None,
    ) -> None:
        super().__init__(torch.Size((*labels.shape, labels.shape[-1])), vectors, scale=scale, degree=degree)
        self.vectors = vectors
        self.labels = labels
        self.num_classes = num_classes
        self._blocks = ClassBlocks(labels, num_classes) if _blocks is None else _blocks
        # A node outside every class has no partners: a zero vector leaves it the loop W_ii = 1 alone.
        is_member = (labels < num_classes)[..., None]
        members = torch.where(is_member, vectors, 0.0).reshape(labels.numel(), vectors.shape[-1])
        self._members = members
        self._loops = 1.0 - members.square().sum(-1, keepdim=True)  # 1 - q_i
        if scale is not None:  # on the vectors, C entries a node, rather than on values at every product
            by_node = scale.reshape(-1, 1)
            members, self._loops = by_node * members, by_node.square() * self._loops
        self._rows = self._blocks.split(members)  # (blocks, T, m)

    def _normalized_by(self, scale: Tensor, degree: Tensor) -> ClassBlockOperator:
        return ClassBlockOperator(
            self.vectors, self.labels, self.num_classes, scale=scale, degree=degree, _blocks=self._blocks
        )

    def _product(self, values: Tensor) -> Tensor:
        flat = values.reshape(self.shape[:-1].numel(), values.shape[-1])
        rows, blocks, loops = self._rows.to(values.dtype), self._blocks, self._loops.to(values.dtype)
        is_tiled = may_look(values) and not torch.is_grad_enabled()
        if is_tiled and flat.numel() > LARGE:
            return _product_in_tiles(blocks, rows, loops, flat).reshape(values.shape)

        def product_of(columns: Tensor) -> Tensor:
            moments = blocks.sum_by_class(rows.mT @ blocks.gather(columns))  # (blocks, m, F), M_c of each block's class
            return blocks.join(rows @ moments).addcmul_(loops, columns)

        if not is_tiled or flat.shape[1] <= COLUMNS:
            return product_of(flat).reshape(values.shape)
        product = torch.empty_like(flat)
        for start in range(0, flat.shape[1], COLUMNS):
            columns = slice(start, start + COLUMNS)
            product[:, columns] = product_of(flat[:, columns])
        return product.reshape(values.shape)

    def _row_sums(self) -> Tensor:
        rows = self._blocks.split(self._members)
        total = self._blocks.sum_by_class(rows.sum(1, keepdim=True))  # (blocks, 1, m), S_c of each block's class
        own = self._members.square().sum(-1)
        return (self._blocks.join(rows @ total.mT)[:, 0] - own + 1.0).reshape(self.labels.shape)

    def _edges(self) -> tuple[Tensor, Tensor, Tensor]:
        # Quadratic in the size of a class, as the edges themselves are.
        flat_labels = self.labels.reshape(self.shape[:-2].numel(), self.shape[-1])
        same = (flat_labels[:, :, None] == flat_labels[:, None, :]) & (flat_labels < self.num_classes)[:, :, None]
        same = same | torch.eye(self.shape[-1], dtype=torch.bool, device=self.device)
        graph, target, source = same.nonzero(as_tuple=True)
        target, source = graph * self.shape[-1] + target, graph * self.shape[-1] + source
        weight = (self._members[target] * self._members[source]).sum(-1)
        return target, source, torch.where(target == source, torch.ones_like(weight), weight)


def _product_in_tiles(blocks: ClassBlocks, rows: Tensor, loops: Tensor, values: Tensor) -> Tensor:
    """The product on a CPU, a few blocks at a time in the same room, since the first touch of new memory is slow.

    `rows` are the vectors (blocks, T, m), `loops` (B N, 1) what a node takes of its own `values` (B N, F).
    """
    (_, block_rows, rank), width = rows.shape, values.shape[1]
    slots = blocks.slot.index_select(0, blocks.order)
    last = int(slots[-1]) // block_rows + 1  # blocks behind it are empty
    step = max(1, TILE // (block_rows * width))
    tiles = [slice(start, min(start + step, last)) for start in range(0, last, step)]
    room, other = values.new_empty(2, step * block_rows, width)
    moments = values.new_empty(step, rank, width)
    total = values.new_zeros(blocks.num_segments, rank, width)  # M_c
    for tile in tiles:
        nodes = blocks.node[tile.start * block_rows : tile.stop * block_rows]
        columns = torch.index_select(values, 0, nodes, out=room[: len(nodes)])
        count = tile.stop - tile.start
        torch.bmm(rows[tile].mT, columns.view(count, block_rows, width), out=moments[:count])
        total.index_add_(0, blocks.segment[tile], moments[:count])
    product = torch.empty_like(values)
    # The nodes of a tile, in the order of their slots
    ends = torch.searchsorted(slots, torch.tensor([tile.stop * block_rows for tile in tiles])).tolist()
    for tile, begin, end in zip(tiles, [0, *ends], ends, strict=False):
        nodes, count = blocks.order[begin:end], tile.stop - tile.start
        torch.index_select(total, 0, blocks.segment[tile], out=moments[:count])
        joined = room[: count * block_rows]
        torch.bmm(rows[tile], moments[:count], out=joined.view(count, block_rows, width))
        own = torch.index_select(values, 0, nodes, out=other[: len(nodes)])
        own *= loops.index_select(0, nodes)
        own += joined.index_select(0, slots[begin:end] - tile.start * block_rows)
        product.index_copy_(0, nodes, own)
    return product


class ClassBlocks:
    """A batch of nodes sorted into blocks of T rows, each block of one class of one graph.

    A class that fills no whole number of blocks leaves rows of zeros in its last one, so that B N nodes of C + 1
    classes take at most B N / T + B (C + 1) blocks: a number known without looking at the labels.

    Attributes:
        slot: (B N,), the row of each node among the blocks' rows.
        order: (B N,), the nodes by graph and class, in which their slots ascend.
        segment: (blocks,), the (graph, class) pair of each block, graph * (C + 1) + class.
        node: (blocks * T,), the node of each row.
    """

    def __init__(self, labels: Tensor, num_classes: int) -> None:
        num_nodes = labels.shape[-1]
        num_graphs = labels.shape[:-1].numel()
        classes = num_classes + 1  # one for the nodes outside every class
        device = labels.device
        self.num_segments = num_graphs * classes
        # Long blocks make efficient products, short ones waste fewer rows: about a quarter of a class of even size.
        self.block_rows = min(128, max(8, 2 ** ((num_nodes // (4 * classes)).bit_length())))
        self.num_blocks = (num_graphs * num_nodes) // self.block_rows + self.num_segments

        if labels.numel() == 0:
            self.num_blocks = 0
            nothing = torch.zeros(0, dtype=torch.int64, device=device)
            self.slot = self.segment = self.node = self.order = nothing
            return
        segment_of_node = (
            labels.reshape(num_graphs, num_nodes) + classes * torch.arange(num_graphs, device=device)[:, None]
        )
        sorted_segments, order = segment_of_node.reshape(-1).sort(stable=True)
        segments = torch.arange(self.num_segments, device=device)
        start = torch.searchsorted(sorted_segments, segments)
        count = torch.searchsorted(sorted_segments, segments, right=True) - start
        last_block = (-(-count // self.block_rows)).cumsum(0)  # one past the last block of each segment
        first_block = last_block - (-(-count // self.block_rows))
        place = torch.arange(len(order), device=device) - start[sorted_segments]
        slot = first_block[sorted_segments] * self.block_rows + place
        self.order, self.slot = order, torch.empty_like(slot).scatter_(0, order, slot)
        blocks = torch.arange(self.num_blocks, device=device)
        # Blocks behind the last used one hold zeros, and so count as more of the last class in use.
        self.segment = torch.searchsorted(last_block, blocks, right=True)
        self.segment = torch.minimum(self.segment, sorted_segments[-1:].expand_as(self.segment))
        # A row that stands for no node repeats the last one of its class: see `gather`.
        row = torch.arange(self.num_blocks * self.block_rows, device=device)
        segment_of_row = self.segment.repeat_interleave(self.block_rows)
        place_of_row = row - (first_block * self.block_rows)[segment_of_row]
        self.node = order[start[segment_of_row] + torch.minimum(place_of_row, count[segment_of_row] - 1)]

    def split(self, rows: Tensor) -> Tensor:
        """Rows (B N, F) laid out as (blocks, T, F), zeros where a block is not full."""
        padded = rows.new_zeros(self.num_blocks * self.block_rows, rows.shape[-1])
        return padded.index_copy(0, self.slot, rows).reshape(self.num_blocks, self.block_rows, rows.shape[-1])

    def gather(self, rows: Tensor) -> Tensor:
        """As `split`, but with rows of a node of the same class where a block is not full.

        For products with a `split` matrix, whose zeros leave them out, in one pass over memory instead of two. (Of the
        same class, since 0 * NaN is NaN: what is not finite stays where it would be anyway.)
        """
        return rows.index_select(0, self.node).reshape(self.num_blocks, self.block_rows, rows.shape[-1])

    def join(self, blocks: Tensor) -> Tensor:
        """The inverse of `split`: (blocks, T, F) back to (B N, F)."""
        return blocks.flatten(0, 1).index_select(0, self.slot)

    def sum_by_class(self, blocks: Tensor) -> Tensor:
        """Adds up blocks (blocks, m, F) of one class of one graph and gives the sum back to each of them."""
        total = blocks.new_zeros(self.num_segments, *blocks.shape[1:]).index_add(0, self.segment, blocks)
        return total.index_select(0, self.segment)
