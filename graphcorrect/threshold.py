"""DynamicThreshold: the confidence that a class's pseudo-labels must reach."""

import torch
from torch import Tensor

from graphcorrect import _checks
from graphcorrect._buffers import LastingBuffers
from graphcorrect._settings import printed
from graphcorrect.distributed import sum_over_ranks
from graphcorrect.ops.values import widen


class DynamicThreshold(LastingBuffers):
    r"""A confidence threshold for each class, lower for classes that are rarely predicted with confidence, Eq. (9).

    .. math::
        \eta_c = \sigma \frac{\delta_c}{\max_{c'} \delta_{c'}}, \quad
        \delta_c = |\{ i : \max p_i > \sigma, \arg\max p_i = c \}|

    counted over the whole batch, on all ranks together. Nobody above sigma: every class gets sigma.

    Args:
        num_classes: C.
        sigma: in [0, 1].
        accumulate: True counts over everything that `update` has seen, as the authors' code does, rather than over the
            batch at hand; the counts are a persistent buffer.
        synchronize: True counts over all ranks while the module is in training mode, so that every rank must take part
            in every call. In evaluation mode, where ranks hold unequal numbers of batches, each counts its own.

    Attributes:
        counts: (C,) int64, what `update` has counted.

    Example:
        >>> threshold = DynamicThreshold(num_classes=2, sigma=0.9)
        >>> probabilities = torch.tensor([[0.95, 0.05], [0.97, 0.03], [0.05, 0.95], [0.4, 0.6]])
        >>> threshold(probabilities)  # two confident nodes of class 0, one of class 1
        tensor([0.9000, 0.4500])
        >>> threshold.is_confident(probabilities)
        tensor([True, True, True, True])
    """

    counts: Tensor

    def __init__(
        self, num_classes: int, sigma: float = 0.95, *, accumulate: bool = False, synchronize: bool = True
    ) -> None:
        super().__init__()
        _checks.integer_at_least("num_classes", num_classes, 1)
        _checks.in_interval("sigma", sigma, 0.0, 1.0)
        self.num_classes = num_classes
        self.sigma = sigma
        self.accumulate = accumulate
        self.synchronize = synchronize
        # int64: float32 stops counting at 2**24, which is some hundred images
        self.register_buffer("counts", torch.zeros(num_classes, dtype=torch.int64))

    @torch.no_grad()
    def count(self, probabilities: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Counts the confident nodes of each class, (C,) int64; shapes as in :meth:`forward`."""
        confidence, labels = self._confidence(probabilities, mask)
        counted = confidence > self.sigma
        if mask is not None:
            counted = counted & mask
        counts = torch.zeros(self.num_classes, dtype=torch.int64, device=labels.device)
        counts.scatter_add_(0, labels.reshape(-1), counted.reshape(-1).long())
        return sum_over_ranks(counts) if self.synchronize and self.training else counts

    @torch.no_grad()
    def update(self, probabilities: Tensor, *, mask: Tensor | None = None) -> None:
        """Adds a batch to `counts`; only thresholds with `accumulate=True` read them."""
        self.counts.add_(self.count(probabilities, mask=mask))

    def forward(self, probabilities: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """The thresholds for this batch.

        Args:
            probabilities: (..., N, C) nodes or (B, C, H, W) images, floating point.
            mask: (..., N) or (B, H, W) bool, True where a node counts.

        Returns:
            (C,) in [0, sigma], float32 or better.

        Raises:
            ValueError: shapes do not fit, or (`accumulate`) devices.
            TypeError: dtypes do not fit.
        """
        if self.accumulate:
            self._class_dim(probabilities, mask)  # checked also where the batch is not counted
        counts = self.counts if self.accumulate else self.count(probabilities, mask=mask)
        share = counts.to(widen(probabilities).dtype) / counts.max()
        return self.sigma * share.nan_to_num_(nan=1.0)  # 0 / 0: nobody is above sigma

    def is_confident(self, probabilities: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Whether each node reaches the threshold of its class: bool, (..., N) or (B, H, W); False outside `mask`."""
        threshold = self(probabilities, mask=mask)
        confidence, labels = self._confidence(probabilities, mask)
        reached: Tensor = confidence >= threshold[labels]
        return reached if mask is None else reached & mask

    def _confidence(self, probabilities: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The largest probability of each node, and its class."""
        class_dim = self._class_dim(probabilities, mask)
        found = widen(probabilities.detach()).max(class_dim)
        return found.values, found.indices

    def _class_dim(self, probabilities: Tensor, mask: Tensor | None) -> int:
        """The dimension of the classes, of what is checked to have as many."""
        _checks.floating("probabilities", probabilities)
        _checks.at_least_2d("probabilities", probabilities, "(..., N, C) or (B, C, H, W)")
        if self.accumulate:
            _checks.same_device("probabilities", probabilities, "`counts`", self.counts)
        class_dim = 1 if probabilities.ndim == 4 else probabilities.ndim - 1
        _checks.size("probabilities", probabilities, class_dim, self.num_classes, "classes")
        shape = (*probabilities.shape[:class_dim], *probabilities.shape[class_dim + 1 :])
        _checks.mask("mask", mask, shape, "(one entry for each node)", "`probabilities`", probabilities)
        return class_dim

    extra_repr = printed("num_classes sigma accumulate synchronize")
