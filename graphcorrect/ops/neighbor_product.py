"""Sums over the edges to a fixed number of neighbors, in both directions: products with A + A^T."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from graphcorrect.ops._dispatch import Kernel, Operation, triton_refuses


class Edges(NamedTuple):
    """The edges of a batch of graphs in both directions, nodes numbered over the whole batch, M of them; all int64.

    Attributes:
        index: (M, k), the targets of each node's edges.
        order: (M k,), the edges sorted by target, each as its place in the flattened `index`.
        source: (M k,), the node that each of them comes from.
        offsets: (2, M), where the edges that leave a node start in the flattened `index`, and where those that
            arrive start in `order`.
    """

    index: Tensor  # type: ignore[assignment]  # hides tuple.index
    order: Tensor
    source: Tensor
    offsets: Tensor


def sort_edges(index: Tensor) -> Edges:
    """The edges from each node to its neighbors (B, N, k), numbered from 0 in each graph.

    Raises:
        ValueError: on the CPU, where an edge leads to no node of its graph.
    """
    return Edges(*_sort_edges(index))


def neighbor_product(
    weight: Tensor, incoming_weight: Tensor, values: Tensor, edges: Edges, degree: Tensor | None = None
) -> Tensor:
    """(A + A^T) @ values: what each node gets along its own edges, and along those that arrive.

    Args:
        weight: (M, k), of the edges as they leave.
        incoming_weight: (M k,), the same weights in the order of `edges.order`.
        values: (M, F) in the dtype of the weights.
        edges: as :func:`sort_edges` gives them.
        degree: (M,); a node where it is zero, whose weights are zeros, keeps its values. None: it gets zeros.
    """
    product: Tensor = _neighbor_product(weight, incoming_weight, values, *edges, degree)
    return product


def sorted_edges(index: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The attributes of `Edges` for neighbors (B, N, k) that a search found."""
    num_graphs, num_nodes, num_neighbors = index.shape
    total = num_graphs * num_nodes
    first = torch.arange(0, num_graphs * max(1, num_nodes), max(1, num_nodes), device=index.device)
    index = (index + first[:, None, None]).flatten(0, 1)
    targets, order = index.flatten().to(torch.int32).sort(stable=True)  # narrow, since sorting reads every bit
    arriving = torch.searchsorted(targets, torch.arange(total, device=index.device, dtype=torch.int32))
    step = max(1, num_neighbors)
    leaving = torch.arange(0, total * step, step, device=index.device)
    source = torch.div(order, step, rounding_mode="floor")
    return index, order, source, torch.stack([leaving, arriving])


def _product_definition(
    weight: Tensor,
    incoming_weight: Tensor,
    values: Tensor,
    index: Tensor,
    source: Tensor,
    offsets: Tensor,
    degree: Tensor | None,
) -> Tensor:
    values = values.contiguous()  # the gradient of a sum is one number expanded, which embedding_bag reads slowly
    directions = (index.flatten(), weight.flatten(), offsets[0]), (source, incoming_weight, offsets[1])
    outgoing, incoming = (
        F.embedding_bag(nodes, values, starts, per_sample_weights=weights, mode="sum")
        for nodes, weights, starts in directions
    )
    product = outgoing.add_(incoming)
    return product if degree is None else torch.where(degree[:, None] == 0, values, product)


OPERATION = Operation(
    "neighbor product",
    _product_definition,
    Kernel("triton", triton_refuses, "graphcorrect.ops.kernels.cuda.edges", "product"),
)


@torch.library.custom_op("graphcorrect::sort_edges", mutates_args=())
def _sort_edges(index: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if index.device.type == "cpu" and index.numel():  # on a GPU a look at the values would wait for it
        least, most = (int(end) for end in index.aminmax())
        if least < 0 or most >= index.shape[1]:
            raise ValueError(f"expected `index` in [0, {index.shape[1]}), got {least} to {most}")
    return sorted_edges(index)


@_sort_edges.register_fake
def _(index: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    total = index.shape[0] * index.shape[1]
    sizes = (total, index.shape[2]), (total * index.shape[2],), (total * index.shape[2],), (2, total)
    targets, order, source, offsets = (index.new_empty(size) for size in sizes)
    return targets, order, source, offsets


@torch.library.custom_op("graphcorrect::neighbor_product", mutates_args=())
def _neighbor_product(
    weight: Tensor,
    incoming_weight: Tensor,
    values: Tensor,
    index: Tensor,
    order: Tensor,
    source: Tensor,
    offsets: Tensor,
    degree: Tensor | None = None,
) -> Tensor:
    if index.numel() == 0 or values.shape[1] == 0:
        return values.new_zeros(values.shape) if degree is None else values.clone(memory_format=torch.contiguous_format)
    return OPERATION(weight, incoming_weight, values, index, source, offsets, degree)


@_neighbor_product.register_fake
def _(weight: Tensor, incoming_weight: Tensor, values: Tensor, *edges: Tensor | None) -> Tensor:
    return values.new_empty(values.shape)


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    weight, incoming_weight, values, *edges = inputs
    # Values are kept only for the gradient of weights, which by default nobody asks for
    kept = values if ctx.needs_input_grad[0] or ctx.needs_input_grad[1] else None
    ctx.save_for_backward(weight, incoming_weight, kept, *edges)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """The gradient of values is the same product, the graph being symmetric; that of a weight is g · v at its ends."""
    weight, incoming_weight, values, index, order, source, offsets, degree = ctx.saved_tensors
    of_weight = of_incoming = of_values = None
    if ctx.needs_input_grad[2]:
        of_values = _neighbor_product(weight, incoming_weight, grad, index, order, source, offsets, degree)
    if degree is not None and (ctx.needs_input_grad[0] or ctx.needs_input_grad[1]):
        grad = torch.where(degree[:, None] == 0, 0.0, grad)
    if ctx.needs_input_grad[0]:  # a neighbor at a time, so that no (M, k, F) is made
        columns = [(grad * values.index_select(0, column)).sum(-1) for column in index.unbind(1)]
        of_weight = torch.stack(columns, 1) if columns else torch.zeros_like(weight)
    if ctx.needs_input_grad[1]:
        columns = [(values * grad.index_select(0, column)).sum(-1) for column in index.unbind(1)]
        by_edge = torch.stack(columns, 1) if columns else torch.zeros_like(weight)
        of_incoming = by_edge.flatten().index_select(0, order)
    return of_weight, of_incoming, of_values, None, None, None, None, None


_neighbor_product.register_autograd(_backward, setup_context=_keep_inputs)
