"""The class-level graph against the dense matrix: building it, a product with the features, and its gradient.

python benchmarks/class_graph.py                 # the committed run, a few minutes
python benchmarks/class_graph.py --smoke         # seconds
"""

from __future__ import annotations

from functools import partial

import torch
from _compare import Problem, main
from torch import Tensor

from graphcorrect import ClassConsistencyGraph


def inputs(num_nodes: int, num_classes: int, feature_dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3.0 * torch.randn(num_nodes, num_classes, generator=generator)
    features = torch.randn(num_nodes, feature_dim, generator=generator)
    return logits.softmax(-1).to(device), features.to(device)


def exact(probabilities: Tensor, features: Tensor) -> Tensor:
    """The library's product: no pair is formed."""
    return ClassConsistencyGraph()(probabilities) @ features


def dense(probabilities: Tensor, features: Tensor) -> Tensor:
    """Eqs. (6), (7) as they are printed, with the products with diagonal matrices done as scalings."""
    labels = probabilities.argmax(-1)
    same = labels[:, None] == labels[None, :]
    weight = torch.where(same, probabilities @ probabilities.T, 0.0)
    weight = torch.where(torch.eye(len(labels), dtype=torch.bool, device=labels.device), 1.0, weight)
    scale = weight.sum(1).rsqrt()
    return (scale[:, None] * weight * scale[None, :]) @ features


def dense_in_place(probabilities: Tensor, features: Tensor) -> Tensor:
    """The leanest dense form: one N x N matrix, changed in place, and only vectors scaled."""
    labels = probabilities.argmax(-1)
    weight = probabilities @ probabilities.T
    weight.masked_fill_(labels[:, None] != labels[None, :], 0.0)
    weight.fill_diagonal_(1.0)
    scale = weight.sum(1).rsqrt()
    return scale[:, None] * (weight @ (scale[:, None] * features))


if __name__ == "__main__":
    main(
        Problem(
            name="class_graph",
            title="class-level graph: build, product with the features, gradient",
            inputs=inputs,
            sides={
                name: partial(partial, side)
                for name, side in (("graphcorrect", exact), ("dense", dense), ("dense, in place", dense_in_place))
            },
        ),
        __doc__,
    )
