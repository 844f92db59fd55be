"""ClassBlocks: where the nodes of each class lie, so that sums over classes are matrix products."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from graphcorrect.graphs.operator import Tile


class ClassBlocks:
    """A batch of nodes sorted into blocks of T rows, each block of one class of one graph.

    A class that fills no whole number of blocks leaves rows of zeros in its last one, so that B N nodes of C + 1
    classes take at most B N / T + B (C + 1) blocks: a number known without looking at the labels.

    Attributes:
        slot: (B N,), the row of each node among the blocks' rows.
        order: (B N,), the nodes by graph and class, in which their slots ascend.
        segment: (blocks,), the (graph, class) pair of each block, graph * (C + 1) + class.
        place: (blocks * T,), the place in `order` of the node on each row.
        node: (blocks * T,), that node.
    """

    def __init__(self, labels: Tensor, num_classes: int, by_loops: bool) -> None:
        num_nodes = labels.shape[-1]
        num_graphs = labels.shape[:-1].numel()
        classes = num_classes + 1  # one for the nodes outside every class
        device = labels.device
        self.num_segments = num_graphs * classes
        self.num_graphs, self.num_nodes = num_graphs, num_nodes
        # Long blocks make efficient products, short ones waste fewer rows: about a quarter of a class of even size.
        self.block_rows = min(128, max(8, 2 ** ((num_nodes // (4 * classes)).bit_length())))
        self.num_blocks = (num_graphs * num_nodes) // self.block_rows + self.num_segments

        if labels.numel() == 0:
            self.num_blocks = 0
            nothing = torch.zeros(0, dtype=torch.int64, device=device)
            self.slot = self.segment = self.node = self.place = self.order = self._ends = nothing
            return
        labels = labels.reshape(num_graphs, num_nodes)
        if by_loops:
            self._lay_out_by_loops(labels, num_classes)
        else:
            self._lay_out(labels + classes * torch.arange(num_graphs, device=device)[:, None], classes)

    def _lay_out(self, segment_of_node: Tensor, classes: int) -> None:
        device = segment_of_node.device
        sorted_segments, self.order = segment_of_node.reshape(-1).sort(stable=True)
        edges = torch.searchsorted(sorted_segments, torch.arange(self.num_segments + 1, device=device))
        blocks_of_segment = (edges.diff() + self.block_rows - 1) // self.block_rows
        last_block = blocks_of_segment.cumsum(0)  # one past the last block of each segment
        offset = (last_block - blocks_of_segment) * self.block_rows - edges[:-1]  # from a place to its row
        slot = torch.arange(len(self.order), device=device) + offset[sorted_segments]
        self.slot = torch.empty_like(slot).scatter_(0, self.order, slot)
        # Blocks behind the last used one hold zeros, and so count as more of the last class in use.
        blocks = torch.arange(self.num_blocks, device=device)
        self.segment = torch.searchsorted(last_block, blocks, right=True)
        self.segment = torch.minimum(self.segment, sorted_segments[-1:].expand_as(self.segment))
        # A row that stands for no node repeats the last one of its class: see `gather`.
        row = torch.arange(self.num_blocks * self.block_rows, device=device).view(-1, self.block_rows)
        last = edges[1:] - 1
        self.place = torch.minimum(row - offset[self.segment, None], last[self.segment, None]).flatten()
        self.node = self.order[self.place]
        self._ends = last_block[classes - 1 :: classes]  # (graphs,), one past the last block of each

    def _lay_out_by_loops(self, labels: Tensor, num_classes: int) -> None:
        from graphcorrect.graphs import _numba_blocks  # not above: it imports numba

        num_rows = self.num_blocks * self.block_rows
        self.slot, self.order = labels.new_empty(labels.numel()), labels.new_empty(labels.numel())
        self.segment, self._ends = labels.new_empty(self.num_blocks), labels.new_empty(self.num_graphs)
        self.place, self.node = labels.new_empty(num_rows), labels.new_empty(num_rows)
        known = labels.contiguous(), num_classes, self.block_rows
        _numba_blocks.lay_out(*known, self.slot, self.order, self.segment, self.place, self.node, self._ends)

    def num_used(self) -> int:
        """How many blocks hold nodes: the first ones. Waits for the device."""
        return int(self._ends[-1])

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

    def tiles(self, rows: int) -> Iterator[tuple[slice, list[Tile]]]:
        """Graphs and the tiles of their blocks: one graph at a time, or as many as have `rows` nodes; on a CPU.

        A tile has about `rows` rows, as many as the others but for what is left, and at least one block. The only one
        has its nodes in turn.
        """
        slots = self.slot.index_select(0, self.order)
        ends = [0, *self._ends.tolist()]
        step = max(1, rows // self.block_rows)
        for first in range(0, self.num_graphs, graphs := max(1, rows // self.num_nodes)):
            last = min(first + graphs, self.num_graphs)
            count = ends[last] - ends[first]
            even = -(-count // max(1, round(count / step)))
            starts = range(ends[first], ends[last], even)
            blocks = [slice(start, min(start + even, ends[last])) for start in starts]
            if len(blocks) == 1:
                yield slice(first, last), [self._whole(blocks[0], slice(first * self.num_nodes, last * self.num_nodes))]
                continue
            edges = torch.tensor([blocks[0].start, *(each.stop for each in blocks)]) * self.block_rows
            nodes = torch.searchsorted(slots, edges).tolist()
            yield slice(first, last), [self._tile(*part, slots) for part in zip(blocks, nodes, nodes[1:], strict=False)]

    def _whole(self, blocks: slice, run: slice) -> Tile:
        """The tile of whole graphs."""
        first, last = blocks.start * self.block_rows, blocks.stop * self.block_rows
        nodes = torch.arange(run.start, run.stop)
        return Tile(blocks, nodes, self.slot[run] - first, self.node[first:last] - run.start, run)

    def _tile(self, blocks: slice, begin: int, end: int, slots: Tensor) -> Tile:
        """The tile of the nodes `begin` to `end` of `order`."""
        first, last = blocks.start * self.block_rows, blocks.stop * self.block_rows
        return Tile(blocks, self.order[begin:end], slots[begin:end] - first, self.place[first:last] - begin)
