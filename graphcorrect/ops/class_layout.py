"""The factors of the class-level graph: W = Z Z^T + diagonal, where only nodes of one class meet."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from graphcorrect.ops._dispatch import Kernel, Operation, numba_refuses, triton_refuses
from graphcorrect.ops.values import is_traced

# Z is multiplied as it is where it is narrow: more work than in blocks, in a third of the launches. A CPU has few
# launches' worth to save, so that there all of Z has to be small too: of 500,000 entries a refiner's step takes up to a
# quarter more than with numba's loops over blocks. Of torch's blocks it takes a tenth more: less than it is worth that
# a plain install runs, tests and counts what a GPU is sent.
MAX_WIDTH = 1024  # entries of z_i
MAX_ENTRIES_ON_CPU = 2**15  # of Z, where numba serves
WITHOUT_NUMBA = 16  # times as many, also in compiled programs


class ClassLayout(NamedTuple):
    """Factors of the graph W, and where nodes lie among them.

    Low rank: z_i = onehot(class of i) ⊗ u_i, and W = Z Z^T but for the diagonal. Blocks: the nodes of each class of
    each graph lie together, in blocks of T rows, which end in rows of zeros; then Z is never formed.

    Attributes:
        factors: (B, N, C m), z_i; or (blocks, T, m), u_i by class.
        self_weight: (B, N, 1), what makes the diagonal of W one: 1 - |u_i|².
        slot: (B N,), the row of each node among those of the blocks; empty for low rank, as the others are.
        node: (blocks T,), the node on each row; the last one of the class where a row is no node's.
        segment: (blocks,), the class of each block, graph * (C + 1) + class.
        used: (1,), how many blocks hold nodes: the first ones.
    """

    factors: Tensor
    self_weight: Tensor
    slot: Tensor
    node: Tensor
    segment: Tensor
    used: Tensor

    def to(self, dtype: torch.dtype) -> ClassLayout:
        """The factors in another dtype."""
        return self._replace(factors=self.factors.to(dtype), self_weight=self.self_weight.to(dtype))

    def scaled(self, scale: Tensor) -> ClassLayout:
        """The factors of S W S for the diagonal S (B, N)."""
        by_node = scale[..., None]
        by_row = by_node
        if len(self.slot):
            by_row = scale.reshape(-1).index_select(0, self.node).view(*self.factors.shape[:2], 1)
        return self._replace(factors=by_row * self.factors, self_weight=by_node.square() * self.self_weight)


def class_layout(vectors: Tensor, labels: Tensor, num_classes: int) -> ClassLayout:
    """The factors of W_ij = u_i · u_j for nodes i ≠ j of one class of one graph, and W_ii = 1.

    Args:
        vectors: (B, N, m), u.
        labels: (B, N) int64; a label outside [0, C) is no class, and joins its node to nobody.
        num_classes: C.
    """
    width = num_classes * vectors.shape[-1]
    has_loops = not is_traced() and numba_refuses() is None  # a compiler cannot follow the question
    most = MAX_ENTRIES_ON_CPU * (1 if has_loops else WITHOUT_NUMBA)
    is_low_rank = width <= MAX_WIDTH and (vectors.device.type != "cpu" or labels.numel() * width <= most)
    return ClassLayout(*_class_layout(vectors, labels, num_classes, is_low_rank or labels.numel() == 0))


def block_shape(num_graphs: int, num_nodes: int, num_classes: int) -> tuple[int, int]:
    """How many blocks of how many rows hold B N nodes of C + 1 classes, whatever their labels."""
    segments = num_graphs * (num_classes + 1)
    # Long blocks make efficient products, short ones waste fewer rows: about a quarter of a class of even size.
    rows = min(128, max(8, 2 ** (num_nodes // (4 * (num_classes + 1))).bit_length()))
    return num_graphs * num_nodes // rows + segments, rows


def _low_rank(vectors: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """The definition."""
    is_of_class = labels[..., None] == torch.arange(num_classes, device=labels.device)
    factors = torch.where(is_of_class[..., None], vectors[..., None, :], 0.0).flatten(2)
    self_weight = 1.0 - torch.linalg.vector_norm(factors, dim=-1, keepdim=True).square_()
    return factors, self_weight


def _blocks(
    vectors: Tensor, labels: Tensor, num_classes: int, num_blocks: int, rows: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    num_graphs = len(labels)
    device, classes = labels.device, num_classes + 1
    is_member = (labels >= 0) & (labels < num_classes)
    first_class = torch.arange(0, num_graphs * classes, classes, device=device)[:, None]
    segments, order = (torch.where(is_member, labels, num_classes) + first_class).flatten().sort(stable=True)
    edges = torch.searchsorted(segments, torch.arange(num_graphs * classes + 1, device=device))
    first, end = edges[:-1], edges[1:]
    blocks_of_segment = (end - first + (rows - 1)) // rows
    last_block = blocks_of_segment.cumsum(0)  # one past the last block of each segment
    shift = torch.sub(first, last_block - blocks_of_segment, alpha=rows)  # from a row to its place in `order`
    # Blocks behind the last used one hold zeros, and count as more of the last class in use.
    block = torch.arange(num_blocks, device=device)
    segment = torch.minimum(torch.searchsorted(last_block, block, right=True), segments[-1])
    place = torch.arange(num_blocks * rows, device=device).view(num_blocks, rows) + shift[segment][:, None]
    node = order[torch.minimum(place, end[segment][:, None] - 1).flatten()]
    slot = torch.arange(len(order), device=device) - shift[segments]
    slot = torch.empty_like(slot).scatter_(0, order, slot)
    members = torch.where(is_member[..., None], vectors, 0.0)
    factors = vectors.new_zeros(num_blocks * rows, vectors.shape[-1]).index_copy_(0, slot, members.flatten(0, 1))
    self_weight = 1.0 - members.square().sum(-1, keepdim=True)
    return factors.view(num_blocks, rows, -1), self_weight, slot, node, segment, last_block[-1:].clone()


FACTORS = Operation(
    "class factors",
    _low_rank,
    Kernel("triton", triton_refuses, "graphcorrect.ops.kernels.cuda.class_blocks", "factors"),
)


@torch.library.custom_op("graphcorrect::class_layout", mutates_args=())
def _class_layout(
    vectors: Tensor, labels: Tensor, num_classes: int, is_low_rank: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    vectors, labels = vectors.contiguous(), labels.contiguous()
    if is_low_rank:
        slot, node, segment, used = (labels.new_empty(0) for _ in range(4))
        return *FACTORS(vectors, labels, num_classes), slot, node, segment, used
    return _blocks(vectors, labels, num_classes, *block_shape(len(labels), labels.shape[1], num_classes))


@_class_layout.register_fake
def _(
    vectors: Tensor, labels: Tensor, num_classes: int, is_low_rank: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    num_graphs, num_nodes, width = vectors.shape
    self_weight = vectors.new_empty((num_graphs, num_nodes, 1))
    if is_low_rank:
        sizes = [0, 0, 0, 0]
        factors = vectors.new_empty((num_graphs, num_nodes, num_classes * width))
    else:
        num_blocks, rows = block_shape(num_graphs, num_nodes, num_classes)
        sizes = [num_graphs * num_nodes, num_blocks * rows, num_blocks, 1]
        factors = vectors.new_empty((num_blocks, rows, width))
    slot, node, segment, used = (labels.new_empty((size,)) for size in sizes)
    return factors, self_weight, slot, node, segment, used


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    vectors, labels, ctx.num_classes, ctx.is_low_rank = inputs
    ctx.save_for_backward(vectors, labels, output[2])


def _backward(ctx: Any, of_factors: Tensor, of_self_weight: Tensor, *_: Any) -> tuple[Tensor, None, None, None]:
    vectors, labels, slot = ctx.saved_tensors
    if ctx.is_low_rank:
        by_class = of_factors.view(*labels.shape, ctx.num_classes, vectors.shape[-1])
        place = labels.clamp(0, ctx.num_classes - 1)[..., None, None].expand(*labels.shape, 1, vectors.shape[-1])
        grad = by_class.gather(2, place)[:, :, 0]
    else:
        grad = of_factors.flatten(0, 1).index_select(0, slot).view(vectors.shape)
    grad = torch.addcmul(grad, vectors, of_self_weight, value=-2.0)
    is_member = (labels >= 0) & (labels < ctx.num_classes)
    return torch.where(is_member[..., None], grad, 0.0), None, None, None


_class_layout.register_autograd(_backward, setup_context=_keep_inputs)
