"""PrototypeBank: a running mean feature for each class and round."""

import torch
from torch import Tensor

from graphcorrect import _checks
from graphcorrect._buffers import LastingBuffers
from graphcorrect._settings import printed
from graphcorrect.distributed import sum_over_ranks
from graphcorrect.labels import IGNORE_INDEX, labeled_nodes
from graphcorrect.ops.values import full_precision, widen


class PrototypeBank(LastingBuffers):
    r"""A slow-moving mean feature for each class, one set for each round of refinement, Eqs. (13), (14).

    .. math:: P_c \leftarrow m P_c + (1 - m) \frac{\sum_{i : y_i = c} x_i}{|\{ i : y_i = c \}|}

    with sums and counts over all ranks. The first sight of a class sets its prototype; an absent class keeps its own.
    Differs from the paper, whose print puts 0.99 on the new value but calls the prototypes slow-moving: m = 0.99 is
    the share of the old one.

    Args:
        num_classes: C.
        feature_dim: D.
        num_rounds: R, the refiner's number of rounds.
        momentum: m, in [0, 1].
        ignore_index: label left out.

    Attributes:
        prototypes: (R, C, D) float32, a persistent buffer.
        is_initialized: (R, C) bool, persistent: whether the class has been seen in that round.

    Example:
        >>> bank = PrototypeBank(num_classes=3, feature_dim=8)
        >>> bank.update(torch.randn(10, 8), torch.tensor([0, 1] * 5))
        >>> bank.prototypes.shape
        torch.Size([2, 3, 8])
        >>> bank.is_initialized[0]
        tensor([ True,  True, False])
    """

    prototypes: Tensor
    is_initialized: Tensor

    def __init__(
        self,
        num_classes: int,
        feature_dim: int,
        *,
        num_rounds: int = 2,
        momentum: float = 0.99,
        ignore_index: int = IGNORE_INDEX,
    ) -> None:
        super().__init__()
        _checks.integer_at_least("num_classes", num_classes, 1)
        _checks.integer_at_least("feature_dim", feature_dim, 1)
        _checks.integer_at_least("num_rounds", num_rounds, 1)
        _checks.in_interval("momentum", momentum, 0.0, 1.0)
        _checks.ignored_label(ignore_index, num_classes)
        self.num_classes = num_classes
        self.feature_dim = feature_dim
        self.num_rounds = num_rounds
        self.momentum = momentum
        self.ignore_index = ignore_index
        self.register_buffer("prototypes", torch.zeros(num_rounds, num_classes, feature_dim))
        self.register_buffer("is_initialized", torch.zeros(num_rounds, num_classes, dtype=torch.bool))

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor, *, round: int = 0) -> None:
        """Moves the prototypes of one round towards the class means of a batch; every rank must call it.

        Nodes with a NaN or Inf among their features are left out, and so are classes whose mean is too large a number
        for the bank: one bad image must not spoil a bank that outlives it.

        Args:
            features: (..., N, D) nodes or (B, D, H, W) images, floating point, as given (not normalized here).
            labels: (..., N), or (B, H', W') of any resolution (pooled to that of the features by majority vote);
                integers in [0, C) or `ignore_index`.
            round: which set to move, in [0, num_rounds).

        Raises:
            ValueError: shapes do not fit, a label is outside the classes, or `round` is out of range.
            TypeError: dtypes do not fit.
        """
        _checks.integer_at_least("round", round, 0)
        if round >= self.num_rounds:
            raise ValueError(f"expected `round` in [0, {self.num_rounds}), got {round}")
        nodes, node_labels = labeled_nodes(features, labels, self.num_classes, ignore_index=self.ignore_index)
        _checks.size("features", features, 1 if features.ndim == 4 else -1, self.feature_dim, "entries a node")
        _checks.same_device("features", features, "the bank", self.prototypes)
        with full_precision(nodes):
            rows = widen(nodes).reshape(-1, self.feature_dim)
            is_finite = torch.linalg.vector_norm(rows, ord=torch.inf, dim=-1, keepdim=True) < torch.inf
            classes = torch.arange(self.num_classes, device=rows.device)
            is_of_class = (node_labels.reshape(-1, 1) == classes) & is_finite
            if 0 <= self.ignore_index < self.num_classes:
                is_of_class &= classes != self.ignore_index
            rows = torch.where(is_finite, rows, 0.0)
            # A product rather than a scatter: on a GPU it adds in the same order every time
            sums, counts = sum_over_ranks(is_of_class.to(rows.dtype).mT @ rows), sum_over_ranks(is_of_class.sum(0))
        mean = (sums / counts.clamp_min(1)[:, None]).to(self.prototypes.dtype)
        is_finite = torch.linalg.vector_norm(mean, ord=torch.inf, dim=-1) < torch.inf  # rows of size 1e38 add up to Inf
        is_present = ((counts > 0) & is_finite)[:, None]
        old, was_initialized = self.prototypes[round], self.is_initialized[round][:, None]
        moved = torch.where(was_initialized, torch.lerp(mean, old, self.momentum), mean)
        torch.where(is_present, moved, old, out=old)
        was_initialized.logical_or_(is_present)

    def forward(self, round: int = 0) -> tuple[Tensor, Tensor]:
        """The prototypes (C, D) of one round and whether each class has one, (C,) bool."""
        return self.prototypes[round], self.is_initialized[round]

    extra_repr = printed("num_classes feature_dim num_rounds momentum ignore_index")
