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
        `refined_features` (N, D), of the last round.

    Raises:
        ValueError: `data` has no entry of that name, or shapes do not fit.
        TypeError: dtypes do not fit.
    """
    from torch_geometric.utils import to_dense_batch

    x, scores = _entry(data, "features", features), _entry(data, "logits", logits)
    _checks.ndim(features, x, (2,), "(N, D)")
    _checks.shape(logits, scores, (x.shape[0], refiner.num_classes), "(one row for each node)")
    batch = getattr(data, "batch", None)
    dense, is_node = to_dense_batch(x, batch)  # (B, N_max, D): unequal graphs are padded
    dense_scores, _ = to_dense_batch(scores, batch)
    takes_part = is_node
    if mask is not None:
        chosen = _entry(data, "mask", mask)
        _checks.boolean(mask, chosen)
        takes_part = is_node & to_dense_batch(chosen, batch)[0]
    out = refiner(dense, dense_scores, mask=takes_part)
    refined = copy.copy(data)
    refined.soft_labels = out.soft_labels[is_node]
    refined.pseudo_labels = out.pseudo_labels[is_node]
    refined.confidence = out.confidence[is_node]
    refined.refined_features = out.features[-1][is_node]
    return refined


def to_data(operator: GraphOperator, **entries: Tensor) -> Data:
    """One of our graphs as PyG's `Data`, a batch of graphs as one graph of B * N nodes.

    Args:
        operator: (..., N, N).
        **entries: further entries of the result, such as `x=features.flatten(0, -2)`.

    Returns:
        `Data` with `edge_index` (2, E), `edge_weight` (E,) and `num_nodes`.
    """
    from torch_geometric.data import Data

    edge_index, edge_weight = operator.to_edge_index()
    num_nodes = torch.Size(operator.shape[:-1]).numel()
    return Data(edge_index=edge_index, edge_weight=edge_weight, num_nodes=num_nodes, **entries)


def _entry(data: Data, argument: str, name: str) -> Tensor:
    value = getattr(data, name, None)
    if value is None:
        raise ValueError(f"expected `{argument}` to name an entry of `data`, got {name!r}; it has {list(data.keys())}")
    _checks.is_tensor(name, value)
    assert isinstance(value, Tensor)
    return value
