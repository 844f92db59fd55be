"""The weights of a neighbor graph: which of the edges that a search found are kept, and what normalizes them."""

from __future__ import annotations

import torch
from torch import Tensor

from graphcorrect.ops._dispatch import Kernel, Operation, triton_refuses
from graphcorrect.ops.neighbor_product import Edges, _sort_edges, neighbor_product, sorted_edges


def keep_edges(similarity: Tensor, index: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Edges]:
    """Weight and index (..., N, k) of the edges of positive similarity whose source is in `mask` (..., N), and sorted.

    What is no edge becomes a loop of weight zero: a NaN at its other end would survive the zero. NaN similarities
    are not positive. The weight carries no gradient.
    """
    shape = index.shape
    by_graph = (shape[:-2].numel(), *shape[-2:])
    mask = None if mask is None else mask.reshape(by_graph[:2])
    weight, kept, *edges = _keep_edges(similarity.reshape(by_graph), index.reshape(by_graph), mask)
    return weight.view(shape), kept.view(shape), Edges(*edges)


def normalize_edges(weight: Tensor, edges: Edges) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Row sums D (M,) of A + A^T, D^-1/2, and the weights of its normalized form, as `neighbor_product` takes them.

    Args:
        weight: (M, k), of the edges as they leave.
        edges: as :func:`graphcorrect.ops.neighbor_product.sort_edges` gives them.
    """
    if weight.requires_grad:  # autograd follows the definition
        return _normalize_definition(weight, *edges)
    degree, scale, outgoing, incoming = _normalize_edges(weight, *edges)
    return degree, scale, outgoing, incoming


def scale_edges(weight: Tensor, scale: Tensor | None, edges: Edges) -> tuple[Tensor, Tensor]:
    """The weights as they leave (M, k), and as they arrive (M k,), times `scale` (M,) of both ends."""
    if scale is not None:  # on the weights, N k of them, rather than on values at every product
        of_targets = scale.index_select(0, edges.index.flatten()).view_as(weight)
        weight = scale[:, None] * weight * of_targets
    return weight, weight.flatten().index_select(0, edges.order)


def _keep_definition(
    similarity: Tensor, index: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    is_edge = similarity > 0
    if mask is not None:
        is_edge = is_edge & mask[..., None]
    itself = torch.arange(index.shape[-2], device=index.device)[:, None]
    kept = torch.where(is_edge, index, itself)
    return torch.where(is_edge, similarity, 0.0), kept, *sorted_edges(kept)


def _normalize_definition(
    weight: Tensor, index: Tensor, order: Tensor, source: Tensor, offsets: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    edges = Edges(index, order, source, offsets)
    degree = neighbor_product(*scale_edges(weight, None, edges), weight.new_ones(len(weight), 1), edges)[:, 0]
    # The weights of a node without edges are zeros, whatever they are multiplied by
    scale = degree.clamp_min(torch.finfo(degree.dtype).tiny).rsqrt()
    outgoing, incoming = scale_edges(weight, scale, edges)
    return degree, scale, outgoing, incoming


_CUDA = "graphcorrect.ops.kernels.cuda.edges"
KEEP = Operation("keeping of edges", _keep_definition, Kernel("triton", triton_refuses, _CUDA, "keep"))
NORMALIZE = Operation(
    "normalizing of edges", _normalize_definition, Kernel("triton", triton_refuses, _CUDA, "normalize")
)


@torch.library.custom_op("graphcorrect::keep_edges", mutates_args=())
def _keep_edges(
    similarity: Tensor, index: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    return KEEP(similarity.contiguous(), index.contiguous(), mask)


@_keep_edges.register_fake
def _(similarity: Tensor, index: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
    return similarity.new_empty(similarity.shape), index.new_empty(index.shape), *_sort_edges(index)


@torch.library.custom_op("graphcorrect::normalize_edges", mutates_args=())
def _normalize_edges(
    weight: Tensor, index: Tensor, order: Tensor, source: Tensor, offsets: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return NORMALIZE(weight.contiguous(), index, order, source, offsets)


@_normalize_edges.register_fake
def _(weight: Tensor, *edges: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    sizes = (len(weight),), (len(weight),), weight.shape, (weight.numel(),)
    degree, scale, outgoing, incoming = (weight.new_empty(size) for size in sizes)
    return degree, scale, outgoing, incoming
