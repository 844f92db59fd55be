"""AnchorBank: labeled nodes to look up, balanced by class, and what they say about a query."""

from typing import get_args

import torch
from torch import Tensor, nn

from graphcorrect import _checks
from graphcorrect._precision import full_precision, widen
from graphcorrect._typing import Backend
from graphcorrect.distributed import gather_rows, rank
from graphcorrect.functional import to_simplex
from graphcorrect.labels import IGNORE_INDEX, labeled_nodes
from graphcorrect.neighbors import knn
from graphcorrect.nodes import image_to_nodes
from graphcorrect.ops.unit_rows import unit_rows


class AnchorBank(nn.Module):
    r"""A class-balanced sample of nodes whose labels are known, searched for the neighbors of unlabeled ones.

    Beyond the paper, whose graph joins the pixels of one image only and so can do no more than average the teacher's
    own opinions: an anchor brings evidence. From its k nearest anchors j with similarities s_j a node gets

    .. math:: r_c \propto \sum_{j : y_j = c} \frac{\mathrm{softmax}(s / \tau)_j}{n_c}, \quad
        p \leftarrow \text{normalize}\left( p \cdot (r + \varepsilon)^b \right)

    where n_c, the number of anchors of class c, undoes what is left of the imbalance.

    Each class holds a uniform sample of all its nodes that `update` has seen, or, with `decay` below 1, of the recent
    ones: every node draws a random key, and the class keeps the `capacity_per_class` largest. Samples drawn so can be
    merged, which makes the bank the same on every rank.

    Args:
        num_classes: C.
        feature_dim: D of the keys; any features that tell classes apart. Those of a pretrained backbone's middle levels
            before it was fine-tuned are the most honest: a network that has memorized the labels tells less of others.
        capacity_per_class: most anchors of one class.
        num_neighbors: k, anchors looked up for a query.
        temperature: tau, divides the cosine.
        strength: b, how far the anchors move the probabilities; 0 not at all.
        eps: floor of the anchors' posterior, in (0, 1]: no class is ruled out.
        decay: in (0, 1]; each `update` multiplies the odds of older anchors to stay by it. Below 1 the bank follows a
            network that is being trained.
        backend: of :func:`graphcorrect.knn`.
        ignore_index: label left out.
        seed: of the random keys.

    Attributes:
        features: (C, capacity, D) float32 unit rows, persistent.
        priority: (C, capacity) float32, the log of the random keys, -inf in empty slots; persistent.
        num_updates: () int64, persistent.
    """

    features: Tensor
    priority: Tensor
    num_updates: Tensor

    def __init__(
        self,
        num_classes: int,
        feature_dim: int,
        *,
        capacity_per_class: int = 3000,
        num_neighbors: int = 20,
        temperature: float = 0.05,
        strength: float = 1.0,
        eps: float = 0.1,
        decay: float = 1.0,
        backend: Backend = "auto",
        ignore_index: int = IGNORE_INDEX,
        seed: int = 0,
    ) -> None:
        super().__init__()
        _checks.integer_at_least("num_classes", num_classes, 1)
        _checks.integer_at_least("feature_dim", feature_dim, 1)
        _checks.integer_at_least("capacity_per_class", capacity_per_class, 1)
        _checks.integer_at_least("num_neighbors", num_neighbors, 1)
        _checks.in_interval("temperature", temperature, 0.0, float("inf"), open_low=True, open_high=True)
        _checks.in_interval("strength", strength, 0.0, float("inf"), open_high=True)
        _checks.in_interval("eps", eps, 0.0, 1.0, open_low=True)
        _checks.in_interval("decay", decay, 0.0, 1.0, open_low=True)
        _checks.one_of("backend", backend, get_args(Backend))
        self.num_classes = num_classes
        self.feature_dim = feature_dim
        self.capacity_per_class = capacity_per_class
        self.num_neighbors = num_neighbors
        self.temperature = temperature
        self.strength = strength
        self.eps = eps
        self.decay = decay
        self.backend: Backend = backend
        self.ignore_index = ignore_index
        self.seed = seed
        self.register_buffer("features", torch.zeros(num_classes, capacity_per_class, feature_dim))
        self.register_buffer("priority", torch.full((num_classes, capacity_per_class), -torch.inf))
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))

    @property
    def counts(self) -> Tensor:
        """Number of anchors of each class, (C,) int64."""
        return (self.priority > -torch.inf).sum(1)

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor) -> None:
        """Offers labeled nodes to the bank; every rank must call it.

        Nodes with a NaN or Inf among their features are left out.

        Args:
            features: (..., N, D) nodes or (B, D, H, W) images, floating point, any scale.
            labels: (..., N), or (B, H', W') of any resolution (pooled to that of the features by majority vote);
                integers in [0, C) or `ignore_index`.

        Raises:
            ValueError: shapes do not fit, or a label is outside the classes.
            TypeError: dtypes do not fit.
        """
        nodes, node_labels = labeled_nodes(features, labels, self.num_classes, ignore_index=self.ignore_index)
        _checks.size("features", features, 1 if features.ndim == 4 else -1, self.feature_dim, "entries a node")
        rows = unit_rows(widen(nodes).reshape(-1, self.feature_dim)).to(self.features.dtype)
        row_labels = node_labels.reshape(-1)
        usable = (row_labels != self.ignore_index) & torch.isfinite(rows).all(-1)
        rows, row_labels = rows[usable], row_labels[usable]
        priority = self._draw_priority(len(rows)).to(rows.device)
        # More than `capacity` of one class from one rank can't stay: leave them out before anything is sent.
        kept = _largest_of_each_class(priority, row_labels, self.capacity_per_class)
        rows, row_labels, priority = (gather_rows(part[kept]) for part in (rows, row_labels, priority))
        self._merge(rows, row_labels, priority)
        self.num_updates += 1

    def _draw_priority(self, count: int) -> Tensor:
        """Logs of uniform random numbers, from a stream of its own for each update and rank."""
        generator = torch.Generator().manual_seed(hash((self.seed, int(self.num_updates), rank())) % 2**63)
        # 1 - u lies in (0, 1]; float64 first, so that ties among millions of keys stay rare
        return (-torch.rand(count, generator=generator, dtype=torch.float64)).log1p().float()

    def _merge(self, rows: Tensor, labels: Tensor, priority: Tensor) -> None:
        """Keeps, of each class, the rows of largest priority among the bank's and the new ones."""
        # A key u falls to u ** (1 / weight): with weights falling by `decay` an update, older keys sink.
        # Only in classes with new nodes: the others have nothing to make room for. And never down to an empty slot's.
        is_offered = torch.zeros(self.num_classes, dtype=torch.bool, device=labels.device)
        is_offered[labels] = True
        aged = (self.priority / self.decay).clamp_min(torch.finfo(self.priority.dtype).min)
        is_aging = is_offered[:, None] & (self.priority > -torch.inf)
        old_priority = torch.where(is_aging, aged, self.priority)
        old_labels = torch.arange(self.num_classes, device=labels.device).repeat_interleave(self.capacity_per_class)
        held = old_priority.reshape(-1) > -torch.inf
        rows = torch.cat([self.features.reshape(-1, self.feature_dim)[held], rows])
        labels = torch.cat([old_labels[held], labels])
        priority = torch.cat([old_priority.reshape(-1)[held], priority])
        kept = _largest_of_each_class(priority, labels, self.capacity_per_class)
        rows, labels, priority = rows[kept], labels[kept], priority[kept]
        slot = labels * self.capacity_per_class + _place_in_class(labels)
        self.features.zero_().view(-1, self.feature_dim).index_copy_(0, slot, rows)
        self.priority.fill_(-torch.inf).view(-1).index_copy_(0, slot, priority)

    @torch.no_grad()
    def forward(self, features: Tensor) -> Tensor:
        """The posterior r of the anchors, without gradient.

        Args:
            features: (..., N, D) nodes or (B, D, H, W) images, floating point, any scale.

        Returns:
            (..., N, C) or (B, C, H, W) on the simplex, in the dtype of `features`.

        Raises:
            RuntimeError: the bank is empty.
            ValueError: shapes do not fit.
            TypeError: `features` is not floating point.
        """
        _checks.floating("features", features)
        _checks.at_least_2d("features", features, "(..., N, D) or (B, D, H, W)")
        _checks.size("features", features, 1 if features.ndim == 4 else -1, self.feature_dim, "entries a node")
        _checks.same_device("features", features, "the bank", self.features)
        nodes = widen(image_to_nodes(features) if features.ndim == 4 else features)
        with full_precision(nodes):
            posterior = self._posterior(nodes.reshape(-1, self.feature_dim)).to(features.dtype)
        posterior = posterior.reshape(*nodes.shape[:-1], self.num_classes)
        if features.ndim == 4:
            return posterior.transpose(1, 2).reshape(-1, self.num_classes, *features.shape[-2:])
        return posterior

    def _posterior(self, queries: Tensor) -> Tensor:
        is_held = self.priority.reshape(-1) > -torch.inf
        anchors = self.features.reshape(-1, self.feature_dim)[is_held].to(queries.dtype)
        if len(anchors) == 0:
            raise RuntimeError(
                "expected an AnchorBank with anchors, got an empty one; call update(features, labels) first"
            )
        classes = torch.arange(self.num_classes, device=queries.device).repeat_interleave(self.capacity_per_class)[
            is_held
        ]
        count = min(self.num_neighbors, len(anchors))
        similarity, index = knn(queries, anchors, count, backend=self.backend)
        weight = (similarity / self.temperature).softmax(-1)
        found = classes[index]  # (M, k)
        weight = weight / self.counts.to(weight.dtype)[found]
        votes = queries.new_zeros(len(queries), self.num_classes).scatter_add_(1, found, weight)
        uniform = torch.full_like(votes, 1 / self.num_classes)
        return to_simplex(votes, otherwise=uniform)

    def correct(self, probabilities: Tensor, features: Tensor) -> Tensor:
        """Moves probabilities towards the anchors' posterior: p · (r + eps)^strength, renormalized.

        Args:
            probabilities: (..., N, C) nodes or (B, C, H, W) images, on the simplex; gradients pass.
            features: (..., N, D) or (B, D, H, W): the keys of the same nodes.

        Returns:
            As `probabilities`, on the simplex.
        """
        _checks.floating("probabilities", probabilities)
        posterior = self(features)
        _checks.shape("probabilities", probabilities, posterior.shape, "(those of the anchors' posterior)")
        class_dim = 1 if probabilities.ndim == 4 else -1
        weighted = widen(probabilities) * (posterior.to(widen(probabilities).dtype) + self.eps) ** self.strength
        # eps keeps every factor positive, so that the sum is that of no empty row
        corrected: Tensor = weighted / weighted.sum(class_dim, keepdim=True)
        return corrected.to(probabilities.dtype)

    def extra_repr(self) -> str:
        """The settings that `repr` prints."""
        return (
            f"num_classes={self.num_classes}, feature_dim={self.feature_dim}, "
            f"capacity_per_class={self.capacity_per_class}, num_neighbors={self.num_neighbors}, "
            f"temperature={self.temperature}, strength={self.strength}, eps={self.eps}, decay={self.decay}, "
            f"backend={self.backend!r}"
        )


def _place_in_class(sorted_labels: Tensor) -> Tensor:
    """For labels in ascending order: how many of the same label stand before each."""
    return torch.arange(len(sorted_labels), device=sorted_labels.device) - torch.searchsorted(
        sorted_labels, sorted_labels
    )


def _largest_of_each_class(priority: Tensor, labels: Tensor, count: int) -> Tensor:
    """Positions of the `count` largest priorities of each class, by class, largest first."""
    order = priority.argsort(descending=True, stable=True)
    order = order[labels[order].argsort(stable=True)]
    return order[_place_in_class(labels[order]) < count]
