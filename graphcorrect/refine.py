"""DualGraphRefiner: the two graphs in turn, each repairing what the other is built from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from graphcorrect import _checks
from graphcorrect._settings import printed
from graphcorrect.banks.anchors import AnchorBank
from graphcorrect.graphs.affinity import KNNAffinity
from graphcorrect.graphs.consistency import ClassConsistencyGraph, ClassSimilarity
from graphcorrect.graphs.operator import GraphOperator
from graphcorrect.maps import FeaturePropagation, GraphPropagation, LabelPropagation, LinearPropagation
from graphcorrect.ops.typing import Backend, Order
from graphcorrect.ops.values import full_precision, widen
from graphcorrect.refined_labels import LabelRounds, RefinedLabels
from graphcorrect.refiner_grid import to_grid
from graphcorrect.refiner_input import check_input, check_values
from graphcorrect.threshold import DynamicThreshold

Propagation = Literal["residual", "linear"]

_PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    # For labels of which many are wrong: a node believes its neighbors far more than its own label, and features are
    # drawn to a class less and, within a round, only by the labels of the round before.
    "cautious": {"order": "simultaneous", "alpha": 0.05, "feature_share": 0.3, "label_rounds": "last"},
    # What the authors' code does, where it differs from the paper.
    "released": {
        "propagation": "linear",
        "self_loops": True,
        "class_similarity": "cosine",
        "accumulate_threshold": True,
        "label_rounds": "last",
    },
}


class DualGraphRefiner(nn.Module):
    r"""Corrects class probabilities and tightens features with two graphs that teach each other, Algorithm 1.

    Each of `num_rounds` rounds builds the semantic-level graph A from the features and the class-level graph W from the
    probabilities, and computes

    .. math::
        & \hat V = f_C([p, A p]), \quad
        p \leftarrow a \hat V + (1 - a) p, \\
        & x \leftarrow f_S([x, W x]), \quad
        a_i = \begin{cases} \alpha & \max p^0_i \ge \eta_{\arg\max p^0_i} \\ 1 - \alpha & \text{otherwise} \end{cases}

    (Eqs. 4-11), eta being the class thresholds of :class:`DynamicThreshold`. It corrects labels as soon as it is built:
    the learned maps f_C and f_S start as plain propagation, and training can only add to them.

    Args:
        num_classes: C.
        feature_dim: D.
        num_rounds: K of the paper; 0 leaves out the graphs, so that anchors alone correct.
        num_neighbors: neighbors of a node in the semantic-level graph, k.
        gamma: the power of the cosine in its edge weights.
        alpha: in [0, 1]; the share of the correction that confident nodes take. Others take 1 - alpha. Differs from the
            paper's text, which says 0.8: its Table X peaks at 0.2, and the authors' code uses 0.2.
        sigma: base confidence of the class thresholds.
        order: "class_first" corrects the labels, then the features with the corrected labels' graph; "semantic_first"
            the other way round; "simultaneous" builds both graphs from the round before (Table VI).
        max_nodes: node budget for images. Above it both maps are averaged over a grid of at most so many cells,
            corrected there, and the correction is upsampled and added to the input, whose fine detail survives.
        propagation: "residual" is f_C and f_S as above; "linear" is the authors' code: logits instead of probabilities
            as node values, and a linear map after the mix.
        self_loops: True lets a node be its own neighbor in the semantic-level graph.
        class_similarity: edge weights of the class-level graph, "dot" or "cosine".
        accumulate_threshold: True counts confident nodes over all of training rather than over the batch.
        label_rounds: "all" or "last": which rounds make the labels.
        feature_share: in [0, 1]; what a node's features take from its class in a round, before anything is learned;
            None is 0.5. "linear" maps know neither this nor the next three.
        hidden_dim: width of the learned maps; None is 64.
        depth: hidden layers of the learned maps; None is 1.
        norm: True normalizes their hidden layers, as None does.
        recompute: True keeps nothing of a learned map for the gradient but its input, and computes it again
            (`torch.utils.checkpoint`, which keeps random states): less memory for about a third more time.
        differentiable: True lets gradients flow through the edge weights too.
        backend: of :func:`graphcorrect.knn`.
        validate_args: True refuses NaN and Inf, which reads the values and so waits for a GPU. Without it they stay
            within their own image. Probabilities in the place of `logits` are refused on a CPU anyway, and on a GPU
            with True.

    Raises:
        ValueError, TypeError: an argument is out of range or of the wrong type.

    Cost of a round, for N nodes an image: O(N² D) time for the neighbors, O(N (k + C) (C + D)) for the rest; memory
    O(N (C + D + k)) and one tile of scores.

    Example:
        >>> features, logits = torch.randn(2, 16, 24, 40), torch.randn(2, 5, 24, 40)
        >>> refiner = DualGraphRefiner(num_classes=5, feature_dim=16)
        >>> out = refiner(features, logits)
        >>> out.pseudo_labels.shape
        torch.Size([2, 24, 40])
    """

    def __init__(
        self,
        num_classes: int,
        feature_dim: int,
        *,
        num_rounds: int = 2,
        num_neighbors: int = 20,
        gamma: float = 1.0,
        alpha: float = 0.2,
        sigma: float = 0.95,
        order: Order = "class_first",
        max_nodes: int = 4096,
        propagation: Propagation = "residual",
        self_loops: bool = False,
        class_similarity: ClassSimilarity = "dot",
        accumulate_threshold: bool = False,
        label_rounds: LabelRounds = "all",
        feature_share: float | None = None,
        hidden_dim: int | None = None,
        depth: int | None = None,
        norm: bool | None = None,
        recompute: bool = False,
        differentiable: bool = False,
        backend: Backend = "auto",
        validate_args: bool = False,
    ) -> None:
        super().__init__()
        _checks.integer_at_least("num_classes", num_classes, 1)
        _checks.integer_at_least("feature_dim", feature_dim, 1)
        _checks.integer_at_least("num_rounds", num_rounds, 0)
        _checks.in_interval("alpha", alpha, 0.0, 1.0)
        _checks.one_of("order", order, get_args(Order))
        _checks.integer_at_least("max_nodes", max_nodes, 1)
        _checks.one_of("propagation", propagation, get_args(Propagation))
        _checks.one_of("label_rounds", label_rounds, get_args(LabelRounds))
        settings = {"feature_share": feature_share, "hidden_dim": hidden_dim, "depth": depth, "norm": norm}
        if propagation == "linear":
            _checks.without_effect('propagation="linear"', **settings)
        feature_share = 0.5 if feature_share is None else feature_share
        _checks.in_interval("feature_share", feature_share, 0.0, 1.0)
        self.num_classes = num_classes
        self.feature_dim = feature_dim
        self.num_rounds = num_rounds
        self.alpha = alpha
        self.order: Order = order
        self.max_nodes = max_nodes
        self.propagation: Propagation = propagation
        self.label_rounds: LabelRounds = label_rounds
        self.feature_share = feature_share
        self.recompute = recompute
        self.validate_args = validate_args
        self.affinity = KNNAffinity(
            num_neighbors, gamma=gamma, self_loops=self_loops, backend=backend, differentiable=differentiable
        )
        self.consistency = ClassConsistencyGraph(similarity=class_similarity, differentiable=differentiable)
        self.threshold = DynamicThreshold(num_classes, sigma, accumulate=accumulate_threshold)
        self.label_maps = nn.ModuleList()
        self.feature_maps = nn.ModuleList()
        network: dict[str, Any] = {"hidden_dim": hidden_dim, "depth": depth, "norm": norm}
        network = {name: value for name, value in network.items() if value is not None}
        for _ in range(num_rounds):
            if propagation == "residual":
                self.label_maps.append(LabelPropagation(num_classes, **network))
                self.feature_maps.append(FeaturePropagation(feature_dim, share=feature_share, **network))
            else:
                self.label_maps.append(LinearPropagation(num_classes))
                self.feature_maps.append(LinearPropagation(feature_dim))

    @classmethod
    def from_preset(cls, preset: str, num_classes: int, feature_dim: int, **overrides: Any) -> DualGraphRefiner:
        """Builds a refiner as the paper describes it, as its authors' code runs it, or for labels often wrong.

        Args:
            preset: "paper"; "released"; or "cautious", which believes neighbors more than a node's own label and mends
                more where a third of the labels or more are wrong.
            num_classes: C.
            feature_dim: D.
            **overrides: any other argument of the class.

        Raises:
            ValueError: there is no such preset.
        """
        _checks.one_of("preset", preset, tuple(_PRESETS))
        return cls(num_classes, feature_dim, **{**_PRESETS[preset], **overrides})

    def forward(
        self,
        features: Tensor,
        logits: Tensor,
        *,
        mask: Tensor | None = None,
        anchors: AnchorBank | None = None,
        anchor_features: Tensor | None = None,
    ) -> RefinedLabels:
        """Corrects the labels that `logits` stand for.

        Args:
            features: (B, D, H, W) images or (..., N, D) nodes, floating point, any scale.
            logits: (B, C, H', W') images, of any resolution, or (..., N, C) nodes: class scores before the softmax.
            mask: (B, H', W') or (..., N) bool, True where a node takes part. The others keep their input and reach
                nobody.
            anchors: labeled nodes whose posterior moves the probabilities before round 1.
            anchor_features: keys to look up in `anchors`, (B, E, h, w) of any resolution or (..., N, E); None takes
                `features`.

        Returns:
            RefinedLabels; results in the dtype of the logits and of the features.

        Raises:
            ValueError: shapes or devices do not fit, `logits` are probabilities, or (`validate_args`) a value is not
                finite.
            TypeError: dtypes do not fit.
        """
        check_input(
            features, logits, mask, anchors, anchor_features, num_classes=self.num_classes, feature_dim=self.feature_dim
        )
        check_values(features, logits, validate_args=self.validate_args)
        with full_precision(logits):
            if features.ndim == 4:
                return self._refine_images(features, logits, mask, anchors, anchor_features)
            probabilities = widen(logits).softmax(-1)
            keys = features if anchor_features is None else anchor_features
            start = None if anchors is None else anchors.correct(probabilities, keys)
            rounds, feature_rounds = self._refine_nodes(widen(features), probabilities, start, mask)
            return RefinedLabels(
                tuple(values.to(logits.dtype) for values in (probabilities, *rounds)),
                (features, *(values.to(features.dtype) for values in feature_rounds)),
                self.label_rounds,
            )

    def _refine_images(
        self,
        features: Tensor,
        logits: Tensor,
        mask: Tensor | None,
        anchors: AnchorBank | None,
        anchor_features: Tensor | None,
    ) -> RefinedLabels:
        """Images: to a grid within the node budget, corrected there, and the correction back to full resolution."""
        probabilities = widen(logits).softmax(1)
        keys = features if anchor_features is None else anchor_features
        grid = to_grid(widen(features), probabilities, mask, anchors, keys, self.max_nodes)
        rounds, feature_rounds = self._refine_nodes(*grid.nodes())
        corrected = [grid.full_size(refined) for refined in rounds]
        maps = (grid.features, *(grid.maps(values) for values in feature_rounds))
        return RefinedLabels(
            tuple(values.to(logits.dtype) for values in (probabilities, *corrected)),
            tuple(values.to(features.dtype) for values in maps),
            self.label_rounds,
        )

    def _refine_nodes(
        self, features: Tensor, probabilities: Tensor, start: Tensor | None, mask: Tensor | None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Algorithm 1 on nodes: the probabilities and the features of rounds 1..K.

        `probabilities` are the input head's, which decide who is confident; `start` is what round 1 sets out from,
        None the same. Without rounds it is all that was corrected.
        """
        if not self.num_rounds and start is not None:
            return [start if mask is None else torch.where(mask[..., None], start, probabilities)], [features]
        start = probabilities if start is None else start
        input_features, input_probabilities = features, probabilities
        if mask is not None:
            # Nothing of a masked-out node may enter a product, not even 0 * NaN.
            features = torch.where(mask[..., None], features, 0.0)
            probabilities = torch.where(mask[..., None], probabilities, 1.0 / self.num_classes)
            start = torch.where(mask[..., None], start, 1.0 / self.num_classes)
        share = self._share_of_correction(probabilities, mask)
        # The authors' code moves logits. Log-probabilities are those logits up to a constant a node, which averaging
        # over neighbors leaves a constant a node and the softmax removes.
        uses_logits = self.propagation == "linear"
        values = start.clamp_min(torch.finfo(start.dtype).tiny).log() if uses_logits else start

        def class_graph(values: Tensor) -> GraphOperator:
            return self.consistency(values.softmax(-1) if uses_logits else values, mask=mask)  # type: ignore[no-any-return]

        rounds, feature_rounds = [], []
        for label_map, feature_map in zip(self.label_maps, self.feature_maps, strict=True):
            assert isinstance(label_map, GraphPropagation)
            assert isinstance(feature_map, GraphPropagation)
            if self.order == "semantic_first":
                features = self._run(feature_map, class_graph(values), features)
                values = self._run(label_map.mix, self.affinity(features, mask=mask), values, share)
            else:
                features = feature_map.prepare(features)  # once, for the search and for the map
                affinity = self.affinity(features, mask=mask, normalize=self.propagation == "linear")
                before, values = values, self._run(label_map.mix, affinity, values, share)
                labels_of_graph = values if self.order == "class_first" else before
                features = self._run(feature_map.step, class_graph(labels_of_graph), features)
            refined = values.softmax(-1) if uses_logits else values
            rounds.append(refined if mask is None else torch.where(mask[..., None], refined, input_probabilities))
            feature_rounds.append(features if mask is None else torch.where(mask[..., None], features, input_features))
        return rounds, feature_rounds

    def _run(self, learned_map: Callable[..., Tensor], *inputs: Any) -> Tensor:
        if not self.recompute:
            return learned_map(*inputs)
        result: Tensor = checkpoint(learned_map, *inputs, use_reentrant=False)
        return result

    def _share_of_correction(self, probabilities: Tensor, mask: Tensor | None) -> Tensor:
        """Eq. (10): alpha for confident nodes, 1 - alpha for the others, (..., N, 1)."""
        if self.threshold.accumulate and self.training:
            self.threshold.update(probabilities, mask=mask)
        # A graph of one dimension of nodes, whatever the leading ones: the threshold is over the whole batch.
        flat = probabilities.detach().reshape(-1, self.num_classes)
        is_confident = self.threshold.is_confident(flat, mask=None if mask is None else mask.reshape(-1))
        alpha = probabilities.new_full((), self.alpha)  # a where of two numbers would be float32, whatever p is
        share = torch.where(is_confident, alpha, 1.0 - self.alpha)
        return share.reshape(probabilities.shape[:-1])[..., None]

    extra_repr = printed("num_classes feature_dim num_rounds alpha order max_nodes propagation label_rounds")
