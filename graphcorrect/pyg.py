"""torch-geometric's `Data` and `Batch` through a refiner, and our graphs as PyG's.

torch-geometric is imported when a function here is called, not with graphcorrect.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from graphcorrect import _checks
from graphcorrect.graphs.operator import GraphOperator
from graphcorrect.refine import DualGraphRefiner

if TYPE_CHECKING:
    from torch_geometric.data import Data


def refine(
    refiner: DualGraphRefiner, data: Data, *, features: str = "x", logits: str = "logits", mask: str | None = None
) -> Data:
    """Corrects the labels of a graph's nodes; each graph of a batch is refined by itself.

    The refiner builds its own edges from the features; those of `data` are left as they are and not used.

    Args:
        refiner: with C classes and features of D entries.
        data: `Data`, or a `Batch` of graphs of unequal size.
        features: name of the node features (N, D) in `data`.
        logits: name of the node logits (N, C).
        mask: name of a bool (N,) entry, True where a node takes part; None takes all.

    Returns:
        A shallow copy of `data` with `soft_labels` (N, C), `pseudo_labels` (N,) int64, `confidence` (N,) and
        `refined_features` (N, D), of the last round. PyG's `to_data_list` of a `Batch` leaves out what came after it
        was joined: read them here.

    Raises:
        ValueError: `data` has no entry of that name, shapes do not fit, or a node that takes part has NaN or Inf.
        TypeError: dtypes do not fit, or an entry is sparse.

    Example:
        >>> from torch_geometric.data import Data
        >>> data = Data(x=torch.randn(10, 8), logits=torch.randn(10, 3))
        >>> refine(DualGraphRefiner(3, 8, num_neighbors=4), data).pseudo_labels.shape
        torch.Size([10])
    """
    from torch_geometric.utils import to_dense_batch

    x, scores = _entry(data, "features", features), _entry(data, "logits", logits)
    _checks.ndim(features, x, (2,), "(N, D)")
    _checks.shape(logits, scores, (x.shape[0], refiner.num_classes), "(one row for each node)")
    takes_part = torch.ones(len(x), dtype=torch.bool, device=x.device)
    if mask is not None:
        takes_part = _entry(data, "mask", mask)
        _checks.boolean(mask, takes_part)
        _checks.shape(mask, takes_part, (len(x),), "(one entry for each node)")
    for name, rows in ((features, x), (logits, scores)):
        _checks.floating(name, rows)
        _check_finite(name, rows, takes_part)
    graph, order = _graphs(data, x)
    (padded, is_node), *others = (to_dense_batch(rows[order], graph) for rows in (x, scores, takes_part))
    out = refiner(padded, others[0][0], mask=others[1][0])  # (B, N_max, ...): unequal graphs are padded
    place = order.argsort()
    refined = copy.copy(data)
    refined.soft_labels = out.soft_labels[is_node][place]
    refined.pseudo_labels = out.pseudo_labels[is_node][place]
    refined.confidence = out.confidence[is_node][place]
    refined.refined_features = out.features[-1][is_node][place]
    return refined


def to_data(operator: GraphOperator, **entries: Tensor) -> Data:
    """One of our graphs as PyG's `Data`, a batch of graphs as one graph of B * N nodes.

    Args:
        operator: (..., N, N).
        **entries: further entries of the result, such as `x=features.flatten(0, -2)`.

    Returns:
        `Data` with `edge_index` (2, E), `edge_weight` (E,) and `num_nodes`.

    Example:
        >>> graph = KNNAffinity(num_neighbors=3)(torch.randn(10, 8))
        >>> to_data(graph, x=torch.randn(10, 8)).num_nodes
        10
    """
    from torch_geometric.data import Data

    edge_index, edge_weight = operator.to_edge_index()
    num_nodes = torch.Size(operator.shape[:-1]).numel()
    return Data(edge_index=edge_index, edge_weight=edge_weight, num_nodes=num_nodes, **entries)


def _graphs(data: Data, x: Tensor) -> tuple[Tensor | None, Tensor]:
    """The graph of each node (N,), sorted, and the nodes in that order; None for no nodes, which nothing can count.

    torch-geometric's `to_dense_batch` loses nodes whose graphs do not stand one after the other.
    """
    batch = getattr(data, "batch", None)
    if batch is None:
        batch = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    _checks.integral("batch", batch)
    _checks.shape("batch", batch, (len(x),), "(the graph of each node)")
    _checks.same_device("batch", batch, "the features", x)
    graph, order = batch.unique(return_inverse=True)[1].sort(stable=True)
    return graph if len(x) else None, order


def _check_finite(name: str, rows: Tensor, takes_part: Tensor) -> None:
    """One missing value would spread over its whole graph."""
    _checks.has_values(name, rows)
    spoiled = takes_part & ~torch.isfinite(rows).all(-1)
    if bool(spoiled.any()):
        raise ValueError(
            f"expected `{name}` finite where nodes take part, got NaN or Inf in {int(spoiled.sum())} of {len(rows)} "
            "rows; leave them out with `mask`"
        )


def _entry(data: Data, argument: str, name: str) -> Tensor:
    value = getattr(data, name, None)
    if value is None:
        raise ValueError(f"expected `{argument}` to name an entry of `data`, got {name!r}; it has {list(data.keys())}")
    return _checks.is_tensor(name, value)
