"""Edges sorted by their targets, by counting, in two loops that numba compiles."""

from __future__ import annotations

import numba
import torch
from torch import Tensor

from graphcorrect.ops.kernels.cpu._compile import loop


def sort_edges(index: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Targets (M, k), order, source (M k,) and offsets (2, M) of the edges from each node to its neighbors (B, N, k).

    Raises:
        ValueError: an edge leads to no node of its graph.
    """
    num_graphs, num_nodes, num_neighbors = index.shape
    index = index.contiguous()
    targets = torch.empty_like(index)
    counts = torch.zeros(num_graphs, num_nodes, dtype=torch.int64)
    _count(index, targets, counts)
    ends = counts.view(-1).cumsum(0)
    if index.numel() and ends[-1] != index.numel():
        raise ValueError(f"expected `index` in [0, {num_nodes}), got {int(index.min())} to {int(index.max())}")
    order, source = (torch.empty(index.numel(), dtype=torch.int64) for _ in range(2))
    arriving = ends - counts.view(-1)
    offsets = torch.stack([max(1, num_neighbors) * torch.arange(len(arriving)), arriving])
    _fill(targets.flatten(0, 1), num_graphs, arriving, order, source)
    return targets.flatten(0, 1), order, source, offsets


@loop
def _count(index, targets, counts):  # type: ignore[no-untyped-def]
    num_graphs, num_nodes, num_neighbors = index.shape
    for graph in numba.prange(num_graphs):
        for node in range(num_nodes):
            for place in range(num_neighbors):
                target = index[graph, node, place]
                if 0 <= target < num_nodes:
                    counts[graph, target] += 1
                    targets[graph, node, place] = graph * num_nodes + target


@loop
def _fill(targets, num_graphs, places, order, source):  # type: ignore[no-untyped-def]
    """Writes each graph's edges behind where those of their targets start, in turn."""
    rows, num_neighbors = len(targets) // num_graphs, targets.shape[1]
    for graph in numba.prange(num_graphs):
        for node in range(graph * rows, graph * rows + rows):
            for place in range(num_neighbors):
                edge = places[targets[node, place]]
                order[edge], source[edge] = node * num_neighbors + place, node
                places[targets[node, place]] = edge + 1
