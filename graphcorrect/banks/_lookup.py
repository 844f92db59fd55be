"""What a bank keeps for look-ups until its next update: its anchors packed, as rows of unit length."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from graphcorrect.ops.kernels.faiss import InvertedLists
from graphcorrect.ops.knn import knn
from graphcorrect.ops.neighbors import PreparedKeys, prepare
from graphcorrect.ops.typing import Backend
from graphcorrect.ops.unit_rows import unit_rows
from graphcorrect.ops.values import reading_is_free, widen

MAX_PCA_ROWS = 16_384  # which tell the directions of a bank of any size


class PackedAnchors:
    """The anchors of a bank, one row each, and what a vote needs to know of them; of the bank as it is now.

    Args:
        features: (C, S, D), the slots of a bank.
        priority: (C, S), -inf in empty slots.
        counts: how many slots each class fills, from the first one on.
        key_dim: entries of a key after the projection; None for all.
        num_lists: of an approximate index, 0 for about 4 √M; None for an exact search.

    Attributes:
        keys: (M, D) or (M, key_dim) unit rows.
        label: (M,) int64.
        share: (M,), one by the number of anchors of the class.
        projection: (D, key_dim) of queries, or None.
        index: holds the keys in lists, or None.
    """

    def __init__(
        self, features: Tensor, priority: Tensor, counts: list[int], key_dim: int | None, num_lists: int | None
    ) -> None:
        self._buffers = features, priority
        self._writes = _writes(self._buffers)
        self._seen = priority.clone()  # random numbers: other anchors have others
        is_full = min(counts) == features.shape[1]
        held = features if is_full else torch.cat([rows[:count] for rows, count in zip(features, counts, strict=True)])
        keys = widen(held.reshape(-1, features.shape[-1]))  # of a full bank: no copy
        self._settings = key_dim, num_lists
        self.projection = None if key_dim is None else principal_directions(keys, key_dim)
        self.keys = keys if self.projection is None else unit_rows(keys @ self.projection)
        of_class = torch.tensor(counts, device=keys.device)
        label = torch.arange(len(counts), device=keys.device)
        self.label = label.repeat_interleave(of_class, output_size=len(keys))
        self.share = of_class.to(keys.dtype).reciprocal()[self.label]
        self.index = None if num_lists is None else InvertedLists(self.keys, num_lists)
        self._prepared: PreparedKeys | None = None

    def is_of(self, features: Tensor, priority: Tensor, key_dim: int | None, num_lists: int | None) -> bool:
        """Whether these are the same buffers and settings, and nothing was written to the buffers since."""
        same = features is self._buffers[0] and priority is self._buffers[1]
        same = same and (key_dim, num_lists) == self._settings
        same = same and self._writes is not None and self._writes == _writes(self._buffers)
        # Torch counts no writes through `.data` or by collectives
        return same and (not reading_is_free(priority) or torch.equal(self._seen, priority))

    def nearest(
        self, queries: Tensor, num_neighbors: int, *, backend: Backend, num_probes: int
    ) -> tuple[Tensor, Tensor]:
        """Cosine and position of the most similar anchors of each query (N, D): (N, k) both, the nearest first.

        An approximate index looks through `num_probes` of its lists; where they hold fewer, the cosine is -inf.
        """
        rows = unit_rows(queries if self.projection is None else queries @ self.projection.to(queries.dtype))
        count = min(num_neighbors, len(self.keys))
        if self.index is not None:
            return self.index.search(rows, count, num_probes)
        if self._prepared is None or self._prepared.rows.dtype != rows.dtype:
            self._prepared = prepare(self.keys.to(rows.dtype), normalize=False)
        return knn(rows, self._prepared, count, normalize=False, backend=backend)

    def votes(self, similarity: Tensor, index: Tensor, num_classes: int, temperature: float) -> Tensor:
        """The posterior (N, C) of what :meth:`nearest` found; uniform for a query that is like nothing."""
        weight = (similarity / temperature).softmax(-1) * self.share.to(similarity.dtype)[index]
        votes = weight.new_zeros(len(weight), num_classes).scatter_add_(1, self.label[index], weight)
        total = votes.sum(-1, keepdim=True)
        # Nearest at a cosine of exactly 0, as of a row of zeros, are whichever came first
        is_like = (total > 0) & (similarity[:, :1] != 0)
        return torch.where(is_like, votes / total, 1 / num_classes)


def undecided(probabilities: Tensor, eps: float, strength: float) -> Tensor:
    """Which rows (N, C) have a label that a posterior could change: their places, which are read."""
    best = probabilities.topk(min(2, probabilities.shape[1])).values
    most = ((1 + eps) / eps) ** strength  # by which a posterior moves the odds of two classes
    places: Tensor = (best[:, 0] <= most * best[:, -1]).nonzero()[:, 0]
    return places


def with_prior(posterior: Tensor, num_seen: Tensor, balance: float | None) -> Tensor:
    """A posterior (N, C) of equal priors with the frequency of each class put back, as far as `balance` says.

    None stands for the entropy of these frequencies by that of equal ones.
    """
    if balance == 1.0 or len(num_seen) == 1:
        return posterior
    seen = num_seen.to(posterior.dtype)
    share = seen / seen.sum()
    evenness = torch.special.entr(share).sum() / math.log(len(share)) if balance is None else balance
    weighted = posterior * share ** (1.0 - evenness)
    return weighted / weighted.sum(-1, keepdim=True)


def _writes(buffers: tuple[Tensor, ...]) -> list[int] | None:
    """How often each tensor was written to; None where torch does not count."""
    return None if any(each.is_inference() for each in buffers) else [each._version for each in buffers]


def principal_directions(rows: Tensor, count: int) -> Tensor:
    """The (D, `count`) orthonormal directions in which products of rows (M, D) are best kept.

    Not of the centered rows, since what a look-up compares are products.
    """
    some = rows[:: -(-len(rows) // MAX_PCA_ROWS)]
    directions: Tensor = torch.linalg.eigh(some.mT @ some).eigenvectors
    return directions[:, -count:]
