"""Edges in Triton: those that are kept, their order by target, normalized weights, and products with A + A^T.

What arrives at a node is gathered from its sorted edges, so that sums have the same order every time.
"""

from typing import Any

import torch
import triton  # type: ignore[import-untyped,import-not-found,unused-ignore]
import triton.language as tl  # type: ignore[import-untyped,import-not-found,unused-ignore]
from torch import Tensor

from graphcorrect.ops.kernels.cuda.launching import launch

_BLOCK, _NODES, _EDGES = 512, 16, 32  # of a program: edges in a row; nodes; edges of a node at a time


@triton.jit  # type: ignore[untyped-decorator]
def _keep_kernel(  # type: ignore[no-untyped-def]
    similarity, index, mask, weight, kept, targets, keys, num_edges, num_nodes, num_neighbors, BLOCK: tl.constexpr
):
    """Writes `weight`, `kept`, and their nodes numbered over the batch: int64, and int32, which is sorted faster.

    All (B, N, k) but the mask, None or (B, N) uint8.
    """
    edge = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = edge < num_edges
    source = edge // num_neighbors
    value = tl.load(similarity + edge, mask=inside, other=0.0)
    is_edge = value > 0
    if mask is not None:
        is_edge = is_edge & (tl.load(mask + source, mask=inside, other=0) != 0)
    node = source % num_nodes
    target = tl.where(is_edge, tl.load(index + edge, mask=inside, other=0), node)
    tl.store(weight + edge, tl.where(is_edge, value, 0.0), mask=inside)
    tl.store(kept + edge, target, mask=inside)
    target += source - node
    tl.store(targets + edge, target, mask=inside)
    tl.store(keys + edge, target.to(tl.int32), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _find_kernel(  # type: ignore[no-untyped-def]
    keys, order, source, offsets, num_edges, num_nodes, num_neighbors, bits, BLOCK: tl.constexpr
):
    """Writes the source of each of the sorted edges, and offsets (2, M); `bits` are those of `num_edges`."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < num_edges
    tl.store(source + place, tl.load(order + place, mask=inside, other=0) // num_neighbors, mask=inside)
    # The first edge that arrives at each node, of which there are no more than edges, by bisection
    is_node = place < num_nodes
    low = tl.zeros((BLOCK,), tl.int64)
    high = low + num_edges
    for _ in range(bits):
        is_open = is_node & (low < high)
        middle = (low + high) // 2
        is_before = tl.load(keys + middle, mask=is_open, other=0) < place
        low = tl.where(is_open & is_before, middle + 1, low)
        high = tl.where(is_open & (is_before == 0), middle, high)
    tl.store(offsets + place, place * num_neighbors, mask=is_node)
    tl.store(offsets + num_nodes + place, low, mask=is_node)


def keep(similarity: Tensor, index: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
    """Weight, index (B, N, k), targets (M, k), order, source (M k,) and offsets (2, M) of the edges that are kept.

    What has no similarity above zero, or starts outside `mask` (B, N), is a loop of weight zero.
    """
    num_edges, total, num_neighbors = index.numel(), index.shape[:2].numel(), index.shape[2]
    weight, kept = torch.empty_like(similarity), torch.empty_like(index)
    targets, keys = index.new_empty(total, num_neighbors), index.new_empty(num_edges, dtype=torch.int32)
    flags = None if mask is None else mask.contiguous().view(torch.uint8)
    _launch_edges(_keep_kernel, similarity, index, flags, weight, kept, targets, keys, num_edges, *index.shape[1:])
    keys, order = keys.sort(stable=True)
    source, offsets = torch.empty_like(order), order.new_empty(2, total)
    _launch_edges(_find_kernel, keys, order, source, offsets, num_edges, total, num_neighbors, num_edges.bit_length())
    return weight, kept, targets, order, source, offsets


@triton.jit  # type: ignore[untyped-decorator]
def _degree_kernel(  # type: ignore[no-untyped-def]
    weight,
    order,
    arriving,
    degree,
    scale,
    num_edges,
    num_nodes,
    num_neighbors,
    tiny,
    NODES: tl.constexpr,
    EDGES: tl.constexpr,
):
    """Writes degree and scale (M,); `arriving` (M,) is where the edges that arrive start in `order`."""
    node = tl.program_id(0).to(tl.int64) * NODES + tl.arange(0, NODES)
    is_node = node < num_nodes
    slot = tl.arange(0, EDGES)[None, :]
    outgoing = tl.zeros((NODES,), tl.float32)
    for start in range(0, num_neighbors, EDGES):
        inside = is_node[:, None] & (start + slot < num_neighbors)
        outgoing += tl.sum(tl.load(weight + node[:, None] * num_neighbors + start + slot, mask=inside, other=0.0), 1)
    first = tl.load(arriving + node, mask=is_node, other=0)
    last = tl.load(arriving + node + 1, mask=node + 1 < num_nodes, other=num_edges)
    count = tl.where(is_node, last - first, 0)
    incoming = tl.zeros((NODES,), tl.float32)
    for start in range(0, tl.max(count, 0).to(tl.int32), EDGES):
        inside = start + slot < count[:, None]
        edge = tl.load(order + first[:, None] + start + slot, mask=inside, other=0)
        incoming += tl.sum(tl.load(weight + edge, mask=inside, other=0.0), 1)
    total = outgoing + incoming
    tl.store(degree + node, total, mask=is_node)
    tl.store(scale + node, 1.0 / tl.sqrt(tl.maximum(total, tiny)), mask=is_node)


@triton.jit  # type: ignore[untyped-decorator]
def _scale_kernel(  # type: ignore[no-untyped-def]
    weight, scale, targets, order, outgoing, incoming, num_edges, num_neighbors, BLOCK: tl.constexpr
):
    """Writes `outgoing` and `incoming`: the weights (M, k), and in the order of `order`."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < num_edges
    edge = tl.load(order + place, mask=inside, other=0)
    for is_incoming in tl.static_range(2):
        which = edge if is_incoming else place
        own = tl.load(scale + which // num_neighbors, mask=inside, other=0.0)
        of_target = tl.load(scale + tl.load(targets + which, mask=inside, other=0), mask=inside, other=0.0)
        value = own * tl.load(weight + which, mask=inside, other=0.0) * of_target
        tl.store((incoming if is_incoming else outgoing) + place, value, mask=inside)


def normalize(
    weight: Tensor, index: Tensor, order: Tensor, source: Tensor, offsets: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Degree and its inverse root (M,), and the normalized weights (M, k) and, in the order of `order`, (M k,)."""
    num_nodes, num_neighbors = weight.shape
    degree, scale = weight.new_empty(num_nodes), weight.new_empty(num_nodes)
    outgoing, incoming = torch.empty_like(weight), weight.new_empty(weight.numel())
    sizes, tiny = (weight.numel(), num_nodes, num_neighbors), torch.finfo(weight.dtype).tiny
    tensors, block = (weight, order, offsets[1], degree, scale), {"NODES": _NODES, "EDGES": _EDGES}
    launch(_degree_kernel, (triton.cdiv(num_nodes, _NODES),), *tensors, *sizes, tiny, **block)
    _launch_edges(_scale_kernel, weight, scale, index, order, outgoing, incoming, weight.numel(), num_neighbors)
    return degree, scale, outgoing, incoming


@triton.jit  # type: ignore[untyped-decorator]
def _sum_edges(weight, nodes, first, count, entry, row_stride, is_column, EDGES: tl.constexpr):  # type: ignore[no-untyped-def]
    """The rows that `count` edges from `first` on come from, weighted and summed; `entry` points to row 0."""
    total = tl.zeros_like(is_column).to(tl.float32)
    for start in range(0, count, EDGES):
        place = start + tl.arange(0, EDGES)
        is_edge = place < count
        node = tl.load(nodes + first + place, mask=is_edge, other=0)
        share = tl.load(weight + first + place, mask=is_edge, other=0.0)
        row = entry[None, :] + node[:, None] * row_stride
        total += tl.sum(share[:, None] * tl.load(row, mask=is_edge[:, None] & is_column[None, :], other=0.0), 0)
    return total


@triton.jit  # type: ignore[untyped-decorator]
def _product_kernel(  # type: ignore[no-untyped-def]
    weight,
    incoming_weight,
    values,
    targets,
    source,
    arriving,
    degree,
    product,
    num_edges,
    num_nodes,
    num_neighbors,
    width,
    row_stride,
    column_stride,
    BLOCK_F: tl.constexpr,
    EDGES: tl.constexpr,
):
    """Writes the product (M, F) of values of any layout; `degree` is None or (M,)."""
    node = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1).to(tl.int64) * BLOCK_F + tl.arange(0, BLOCK_F)
    is_column = column < width
    first = tl.load(arriving + node)
    count = (tl.load(arriving + node + 1, mask=node + 1 < num_nodes, other=num_edges) - first).to(tl.int32)
    entry = values + column * column_stride
    total = _sum_edges(
        weight, targets, node * num_neighbors, num_neighbors, entry, row_stride, is_column, EDGES=EDGES
    ) + _sum_edges(incoming_weight, source, first, count, entry, row_stride, is_column, EDGES=EDGES)
    if degree is not None:
        own = tl.load(entry + node * row_stride, mask=is_column, other=0.0)
        total = tl.where(tl.load(degree + node) == 0, own, total)
    tl.store(product + node * width + column, total, mask=is_column)


def product(
    weight: Tensor,
    incoming_weight: Tensor,
    values: Tensor,
    index: Tensor,
    source: Tensor,
    offsets: Tensor,
    degree: Tensor | None,
) -> Tensor:
    """(A + A^T) @ values (M, F), where nodes of degree zero keep theirs if a degree (M,) is given."""
    (num_nodes, num_neighbors), width = weight.shape, values.shape[1]
    result = values.new_empty(values.shape)
    block = min(64, triton.next_power_of_2(width))
    launch(
        _product_kernel,
        (num_nodes, triton.cdiv(width, block)),
        *(weight.contiguous(), incoming_weight.contiguous(), values, index.contiguous(), source.contiguous()),
        *(offsets.contiguous()[1], None if degree is None else degree.contiguous(), result),
        *(weight.numel(), num_nodes, num_neighbors, width, *values.stride()),
        BLOCK_F=block,
        EDGES=_EDGES,
        num_warps=2,
    )
    return result


def _launch_edges(kernel: triton.JITFunction, like: Tensor, *arguments: Any) -> None:
    launch(kernel, (triton.cdiv(like.numel(), _BLOCK),), like, *arguments, BLOCK=_BLOCK)
