"""AnchorBank: labeled nodes to look up, balanced by class, and what they say about a query."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from graphcorrect import _checks
from graphcorrect._buffers import LastingBuffers
from graphcorrect._settings import printed
from graphcorrect.banks import _reservoir
from graphcorrect.banks._lookup import PackedAnchors, undecided, with_prior
from graphcorrect.distributed import gather_rows
from graphcorrect.labels import IGNORE_INDEX, labeled_nodes
from graphcorrect.ops.kernels import faiss
from graphcorrect.ops.typing import Backend
from graphcorrect.ops.unit_rows import unit_rows
from graphcorrect.ops.values import full_precision, reading_is_free, widen

Index = Literal["flat", "ivf"]
# Of what says how far anchors move probabilities
LIMITS: dict[str, Any] = {
    "temperature": {"low": 0.0, "high": float("inf"), "open_low": True, "open_high": True},
    "strength": {"low": 0.0, "high": float("inf"), "open_high": True},
    "eps": {"low": 0.0, "high": 1.0, "open_low": True},
    "balance": {"low": 0.0, "high": 1.0},
}


class AnchorBank(LastingBuffers):
    r"""A class-balanced sample of nodes whose labels are known, searched for the neighbors of unlabeled ones.

    Beyond the paper, whose graph joins the pixels of one image only and so can do no more than average the teacher's
    own opinions: an anchor brings evidence. From its k nearest anchors j with similarities s_j a node gets

    .. math:: r_c \propto \frac{\pi_c^{1 - \beta}}{n_c} \sum_{j : y_j = c} \mathrm{softmax}(s / \tau)_j, \quad
        p \leftarrow \text{normalize}\left( p \cdot (r + \varepsilon)^b \right)

    where n_c, the number of anchors of class c, undoes the imbalance of the bank, and pi_c, the share of the class
    among all nodes that `update` has seen, puts that of the images back, as far as `balance` (beta) is below 1.

    Each class holds a uniform sample of all its nodes that `update` has seen, or, with `decay` below 1, of the recent
    ones: every node draws a random priority, and the class keeps the `capacity_per_class` largest. With `synchronize`
    draws are those of the joined batch, which makes the bank the same on every rank, and the same as on one process.

    An `update` costs what its nodes cost, whatever the bank holds. The first look-up after it packs the anchors into
    rows, which those that follow share: on a GPU call :meth:`refresh` after writes through `.data` or by collectives.

    Args:
        num_classes: C.
        feature_dim: D of the keys; any features that tell classes apart. Those of a pretrained backbone's middle levels
            before it was fine-tuned are the most honest: a network that has memorized the labels tells less of others.
        capacity_per_class: most anchors of one class.
        num_neighbors: k, anchors looked up for a query.
        temperature: tau, divides the cosine.
        strength: b, how far the anchors move the probabilities; 0 not at all.
        eps: floor of the anchors' posterior, in (0, 1]: no class is ruled out.
        balance: beta, in [0, 1]. At 1 every class has the same prior, which helps rare classes at the cost of pixels of
            frequent ones; at 0 classes are as frequent as among the nodes seen, which suits images of which nearly all
            is one class; None is the entropy of these frequencies by that of equal ones, between the two.
            :func:`graphcorrect.calibrate` chooses it, strength, eps and temperature.
        decay: in (0, 1]; each `update` multiplies the odds of older anchors to stay by it. Below 1 the bank follows a
            network that is being trained.
        quota_per_image: most nodes of one class that one image of an `update` may offer, drawn at random; None for all.
            Neighboring pixels are near copies: the same capacity then holds nodes of more images.
        key_dim: entries to which keys are narrowed for the search, by their principal directions; None for all.
        skip_certain: True makes `correct` look up those nodes alone whose label a posterior could change: those with
            odds of at most ((1 + eps) / eps)^strength, 11 as it stands, between their two likeliest classes. The others
            keep their probabilities. It gives the same labels in a third of the time; which nodes these are is read,
            and so waits for a GPU.
        index: "flat" compares a query with every anchor: exact. "ivf" sorts the anchors into lists by faiss, and a
            query reads the nearest few: approximate, on a CPU alone, and worth it for a bank that rests, since the
            lists are made anew at the first look-up after an update.
        num_lists: of "ivf"; None for about four times the square root of the number of anchors.
        num_probes: lists that a query reads; more find more of the nearest anchors and take longer.
        backend: of :func:`graphcorrect.knn`, for "flat".
        ignore_index: label left out.
        validate_args: False takes labels outside the classes for ignored ones, and `update` does not wait for a GPU.
        seed: of the random priorities.
        synchronize: True joins the nodes of all ranks, so that every rank must call `update`; False: each rank fills
            its own bank with its own nodes.

    Attributes:
        features: (C, capacity, D) float32 unit rows, persistent; a class fills its slots from the first one on.
        priority: (C, capacity) float32, the log of random numbers, -inf in empty slots; persistent.
        num_seen: (C,) int64, nodes of each class that `update` has been offered; persistent.
        num_updates: () int64, persistent.

    Example:
        >>> anchors = AnchorBank(num_classes=2, feature_dim=3, capacity_per_class=100)
        >>> anchors.update(torch.eye(3), torch.tensor([0, 1, 1]))  # features and labels of labeled nodes
        >>> anchors.counts
        tensor([1, 2])
        >>> anchors.correct(torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0, 0.1, 0.0]])).argmax(-1)
        tensor([0])
    """

    features: Tensor
    priority: Tensor
    num_seen: Tensor
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
        balance: float | None = 1.0,
        decay: float = 1.0,
        quota_per_image: int | None = None,
        key_dim: int | None = None,
        skip_certain: bool = False,
        index: Index = "flat",
        num_lists: int | None = None,
        num_probes: int = 16,
        backend: Backend = "auto",
        ignore_index: int = IGNORE_INDEX,
        validate_args: bool = True,
        seed: int = 0,
        synchronize: bool = True,
    ) -> None:
        super().__init__()
        _checks.integer_at_least("num_classes", num_classes, 1)
        _checks.integer_at_least("feature_dim", feature_dim, 1)
        _checks.integer_at_least("capacity_per_class", capacity_per_class, 1)
        _checks.integer_at_least("num_neighbors", num_neighbors, 1)
        given = {"temperature": temperature, "strength": strength, "eps": eps, "balance": balance}
        for name, value in given.items():
            if name != "balance" or value is not None:
                _checks.in_interval(name, value, **LIMITS[name])
        _checks.in_interval("decay", decay, 0.0, 1.0, open_low=True)
        if quota_per_image is not None:
            _checks.integer_at_least("quota_per_image", quota_per_image, 1)
        if key_dim is not None:
            _checks.integer_at_least("key_dim", key_dim, 1)
            _checks.in_interval("key_dim", key_dim, 1, feature_dim)
        _checks.one_of("index", index, get_args(Index))
        if num_lists is not None:
            _checks.integer_at_least("num_lists", num_lists, 1)
        _checks.integer_at_least("num_probes", num_probes, 1)
        if index == "ivf":
            faiss.require_lists()
        _checks.one_of("backend", backend, get_args(Backend))
        _checks.ignored_label(ignore_index, num_classes)
        _checks.integer_at_least("seed", seed, 0)
        self.num_classes = num_classes
        self.feature_dim = feature_dim
        self.capacity_per_class = capacity_per_class
        self.num_neighbors = num_neighbors
        self.temperature = temperature
        self.strength = strength
        self.eps = eps
        self.balance = balance
        self.decay = decay
        self.quota_per_image = quota_per_image
        self.key_dim = key_dim
        self.skip_certain = skip_certain
        self.index: Index = index
        self.num_lists = num_lists
        self.num_probes = num_probes
        self.backend: Backend = backend
        self.ignore_index = ignore_index
        self.validate_args = validate_args
        self.seed = seed
        self.synchronize = synchronize
        self._cache: PackedAnchors | None = None
        self.register_buffer("features", torch.zeros(num_classes, capacity_per_class, feature_dim))
        self.register_buffer("priority", torch.full((num_classes, capacity_per_class), -torch.inf))
        self.register_buffer("num_seen", torch.zeros(num_classes, dtype=torch.int64))
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))

    @property
    def counts(self) -> Tensor:
        """Number of anchors of each class, (C,) int64."""
        return (self.priority > -torch.inf).sum(1)

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor) -> None:
        """Offers labeled nodes to the bank; with `synchronize` every rank must call it.

        Nodes with a NaN or Inf among their features are left out.

        Args:
            features: (..., N, D) nodes or (B, D, H, W) images, floating point, any scale. For `quota_per_image` the N
                nodes of one leading index are an image.
            labels: (..., N), or (B, H', W') of any resolution (pooled to that of the features by majority vote);
                integers in [0, C) or `ignore_index`.

        Raises:
            ValueError: shapes or devices do not fit, or a label is outside the classes.
            TypeError: dtypes do not fit.
        """
        nodes, node_labels = labeled_nodes(
            features, labels, self.num_classes, ignore_index=self.ignore_index, validate_args=self.validate_args
        )
        _checks.size("features", features, 1 if features.ndim == 4 else -1, self.feature_dim, "entries a node")
        _checks.same_device("features", features, "the bank", self.features)
        with full_precision(nodes):
            rows = unit_rows(widen(nodes).reshape(-1, self.feature_dim)).to(self.features.dtype)
        row_labels = node_labels.reshape(-1)
        total = rows.sum(-1)  # NaN, if anything is not finite
        is_used = (row_labels != self.ignore_index) & (total == total)
        row_labels = torch.where(is_used, row_labels, self.num_classes)
        joined = gather_rows if self.synchronize else torch.detach
        rows, row_labels = joined(rows), joined(row_labels)
        starts = None if self.quota_per_image is None else joined(_reservoir.first_of_images(node_labels))
        seen = row_labels.new_zeros(self.num_classes + 1).scatter_add_(0, row_labels, torch.ones_like(row_labels))
        self.num_seen.add_(seen[:-1])
        if len(rows):
            draws = _reservoir.draw(len(rows), self.seed, self.num_updates)
            if self.quota_per_image is not None and starts is not None:
                image_and_class = (starts.cumsum(0) - 1) * (self.num_classes + 1) + row_labels
                is_within = _reservoir.limit_per_group(image_and_class, draws, self.quota_per_image)
                row_labels = torch.where(is_within, row_labels, self.num_classes)
            _reservoir.offer(self.features, self.priority, rows, row_labels, draws, self.decay)
        self.num_updates.add_(1)

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
        self.check_keys("features", features)
        class_dim = 1 if features.ndim == 4 else -1
        nodes = features.movedim(class_dim, -1)
        posterior = self._posterior(nodes.reshape(-1, self.feature_dim))
        return posterior.reshape(*nodes.shape[:-1], self.num_classes).movedim(-1, class_dim)

    def _posterior(self, rows: Tensor) -> Tensor:
        """The posterior (N, C) for keys (N, D)."""
        votes = self.votes(rows, [self.temperature])[self.temperature]
        return with_prior(votes, self.num_seen, self.balance).to(rows.dtype)

    @torch.no_grad()
    def votes(self, rows: Tensor, temperatures: Iterable[float]) -> dict[float, Tensor]:
        """By temperature, the posterior (N, C) of equal priors for keys (N, D), float32 or better, in one look-up."""
        with full_precision(rows):
            anchors, queries = self._packed(), widen(rows)
            found = anchors.nearest(queries, self.num_neighbors, backend=self.backend, num_probes=self.num_probes)
            return {each: anchors.votes(*found, self.num_classes, each) for each in temperatures}

    def correct(self, probabilities: Tensor, features: Tensor) -> Tensor:
        """Moves probabilities towards the anchors' posterior: p · (r + eps)^strength, renormalized.

        Args:
            probabilities: (..., N, C) nodes or (B, C, H, W) images, on the simplex; gradients pass.
            features: (..., N, D) or (B, D, H, W): the keys of the same nodes.

        Returns:
            As `probabilities`, on the simplex.
        """
        _checks.floating("probabilities", probabilities)
        self.check_keys("features", features)
        shape = list(features.shape)
        shape[1 if features.ndim == 4 else -1] = self.num_classes
        _checks.shape("probabilities", probabilities, shape, "(those of the anchors' posterior)")
        class_dim = 1 if probabilities.ndim == 4 else -1
        _checks.same_device("probabilities", probabilities, "`features`", features)
        if reading_is_free(probabilities):
            _checks.not_logits("probabilities", probabilities, class_dim)
        wide = widen(probabilities)
        posterior = self._where_it_matters(wide, features) if self.skip_certain else self(features)
        weighted = wide * (posterior.to(wide.dtype) + self.eps) ** self.strength
        # A row of zeros, of a cell that a mask leaves empty, stays one: 0 / 0 would spread as soon as it is resized
        total = weighted.sum(class_dim, keepdim=True).clamp_min(torch.finfo(wide.dtype).tiny)
        corrected: Tensor = weighted / total
        return corrected.to(probabilities.dtype)

    @torch.no_grad()
    def _where_it_matters(self, probabilities: Tensor, features: Tensor) -> Tensor:
        """The posterior, uniform for nodes whose label none could change."""
        class_dim = 1 if probabilities.ndim == 4 else -1
        last = probabilities.movedim(class_dim, -1)  # (..., C)
        rows = features.movedim(class_dim, -1).reshape(-1, self.feature_dim)
        asked = undecided(last.reshape(-1, self.num_classes), self.eps, self.strength)
        posterior = rows.new_full((len(rows), self.num_classes), 1 / self.num_classes)
        posterior.index_copy_(0, asked, self._posterior(rows[asked]))
        return posterior.reshape(last.shape).movedim(-1, class_dim)

    def check_keys(self, name: str, features: Tensor) -> None:
        """Refuses what cannot be looked up here; `name` is what messages call `features`.

        Raises:
            ValueError: shape or device do not fit.
            TypeError: `features` is not floating point.
        """
        _checks.floating(name, features)
        _checks.at_least_2d(name, features, "(..., N, D) or (B, D, H, W)")
        _checks.size(name, features, 1 if features.ndim == 4 else -1, self.feature_dim, "entries a node")
        _checks.same_device(name, features, "the bank", self.features)

    def refresh(self) -> None:
        """Packs the anchors anew at the next look-up: on a GPU, for writes through `.data` and by collectives."""
        self._cache = None

    def _packed(self) -> PackedAnchors:
        """The anchors as rows, packed anew if a buffer was written or replaced since."""
        num_lists = (self.num_lists or 0) if self.index == "ivf" else None
        settings = self.key_dim, num_lists
        if self._cache is None or not self._cache.is_of(self.features, self.priority, *settings):
            counts = self.counts.tolist()
            if sum(counts) == 0:
                raise RuntimeError(
                    "expected an AnchorBank with anchors, got an empty one; call update(features, labels) first"
                )
            self._cache = PackedAnchors(self.features, self.priority, counts, *settings)
        return self._cache

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if f"{prefix}num_seen" not in state_dict and f"{prefix}priority" in state_dict:  # of version 0.1
            state_dict[f"{prefix}num_seen"] = (state_dict[f"{prefix}priority"] > -torch.inf).sum(1)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> AnchorBank:
        self.refresh()  # what is packed would keep the buffers of the old device
        super()._apply(fn, recurse)
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": None}

    extra_repr = printed(
        "num_classes feature_dim capacity_per_class num_neighbors temperature strength eps balance decay "
        "quota_per_image key_dim skip_certain index num_lists num_probes backend synchronize"
    )
