"""Functions beside the layers: one step over a graph, unit rows, labels on a grid, labels at full resolution."""

import torch
from torch import Tensor

from graphcorrect import _checks
from graphcorrect.graphs.operator import GraphOperator
from graphcorrect.guided import guided_upsample
from graphcorrect.labels import pool_labels
from graphcorrect.ops.unit_rows import unit_rows

__all__ = ["guided_upsample", "pool_labels", "propagate", "unit_rows"]


def propagate(operator: GraphOperator, values: Tensor, alpha: float | Tensor = 1.0) -> Tensor:
    r"""Mixes each node's values with those of its neighbors: :math:`(1 - \alpha) v + \alpha S v`.

    A node without edges keeps its values, whatever alpha.

    Args:
        operator: the graph S (..., N, N).
        values: (..., N, F) floating point.
        alpha: the share taken from the neighbors, in [0, 1]; a number, or a tensor () or (..., N, 1).

    Returns:
        (..., N, F), in the dtype of `values`.

    Raises:
        ValueError: `alpha` is a number outside [0, 1], or shapes do not fit.
        TypeError: `operator` is no graph, or dtypes do not fit.

    Example:
        >>> graph = KNNAffinity(num_neighbors=1)(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]]))
        >>> propagate(graph, torch.tensor([[1.0], [0.0], [0.0], [0.0]]), alpha=0.5)
        tensor([[0.5000],
                [0.5000],
                [0.0000],
                [0.0000]])
    """
    if not isinstance(operator, GraphOperator):
        raise TypeError(f"expected `operator` to be a graph of this library, got {type(operator).__name__}")
    if not isinstance(alpha, Tensor):
        _checks.in_interval("alpha", alpha, 0.0, 1.0)
    else:
        _checks.floating("alpha", alpha)
        if alpha.ndim:
            _checks.shape("alpha", alpha, (*values.shape[:-1], 1), "(one share for each node of `values`)")
    # Called by name: torch.compile splits its graph at `@` of a class that is not torch's.
    if not isinstance(alpha, Tensor) and alpha == 1.0:
        return operator.propagated(values)
    mixed = ((1.0 - alpha) * values + alpha * operator.__matmul__(values)).to(values.dtype)
    isolated = operator.isolated()
    return mixed if isolated is None else torch.where(isolated[..., None], values, mixed)
