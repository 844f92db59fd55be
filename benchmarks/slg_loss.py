"""The pair loss of Eq. (12) against the dense matrix of similarities: value and gradient.

python benchmarks/slg_loss.py                    # the committed run, a few minutes
python benchmarks/slg_loss.py --smoke            # seconds
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from _compare import Problem, main
from torch import Tensor

from graphcorrect import slg_loss


def inputs(num_nodes: int, num_classes: int, feature_dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(num_classes, (num_nodes,), generator=generator)
    features = torch.randn(num_nodes, feature_dim, generator=generator)
    return labels.to(device), features.to(device)


def exact(labels: Tensor) -> Callable[[Tensor], Tensor]:
    """The library's loss: no pair is formed."""
    num_classes = int(labels.max()) + 1
    return lambda features: slg_loss(features, labels, balance=1.0, num_classes=num_classes, validate_args=False)


def dense(labels: Tensor, features: Tensor) -> Tensor:
    """Eq. (12), first term, over all ordered pairs."""
    rows = F.normalize(features, dim=-1)
    same = (labels[:, None] == labels[None, :]).to(rows.dtype)
    return (rows @ rows.T - same).square().mean()


if __name__ == "__main__":
    main(
        Problem(
            name="slg_loss",
            title="pair loss: value and gradient",
            inputs=inputs,
            sides={"graphcorrect": exact, "dense": partial(partial, dense)},
        ),
        __doc__,
    )
