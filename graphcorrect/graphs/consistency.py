"""ClassConsistencyGraph: the class-level graph, which joins nodes that are predicted alike."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from graphcorrect import _checks
from graphcorrect._settings import printed
from graphcorrect.graphs.class_block import ClassBlockOperator
from graphcorrect.graphs.operator import GraphOperator
from graphcorrect.ops.unit_rows import unit_rows
from graphcorrect.ops.values import full_precision, widen

ClassSimilarity = Literal["dot", "cosine"]


class ClassConsistencyGraph(nn.Module):
    r"""Connects all nodes of one predicted class: the class-level graph, Eqs. (6), (7).

    .. math::
        \hat W_{ij} = p_i \cdot p_j \text{ if } \arg\max p_i = \arg\max p_j,\; i \ne j; \quad \hat W_{ii} = 1; \quad
        W = \hat D^{-1/2} \hat W \hat D^{-1/2}

    Exact in O(N C F) time and O(N F + C² F) memory for a product with (N, F) values: no pair is ever formed.

    Args:
        similarity: "dot" is the paper's p_i · p_j; "cosine" divides by the norms, as the authors' code does.
        differentiable: True lets gradients reach the probabilities through the edge weights.

    Raises:
        ValueError: `similarity` is neither.

    Example:
        >>> graph = ClassConsistencyGraph()(torch.rand(2, 100, 4).softmax(-1))  # two graphs of 100 nodes
        >>> (graph @ torch.randn(2, 100, 16)).shape
        torch.Size([2, 100, 16])
    """

    def __init__(self, *, similarity: ClassSimilarity = "dot", differentiable: bool = False) -> None:
        super().__init__()
        _checks.one_of("similarity", similarity, get_args(ClassSimilarity))
        self.similarity: ClassSimilarity = similarity
        self.differentiable = differentiable

    def forward(
        self, probabilities: Tensor, pseudo_labels: Tensor | None = None, *, mask: Tensor | None = None
    ) -> GraphOperator:
        """Builds the normalized graph of each set of nodes.

        Args:
            probabilities: (..., N, C) floating point, rows on the simplex. Leading dimensions are separate graphs.
            pseudo_labels: (..., N) integers in [0, C); None takes the most probable class.
            mask: (..., N) bool, True where a node takes part; the others keep only the loop to themselves.

        Returns:
            ClassBlockOperator (..., N, N): symmetric, eigenvalues in [-1, 1], in the dtype of `probabilities` (float32
            for half precision).

        Raises:
            ValueError: shapes or devices do not fit, or `probabilities` are images.
            TypeError: dtypes do not fit.
        """
        _checks.floating("probabilities", probabilities)
        _checks.nodes("probabilities", probabilities, "(..., N, C)")
        num_classes = probabilities.shape[-1]
        if num_classes == 0:
            raise ValueError(f"expected `probabilities` with at least one class, got {_checks.shape_of(probabilities)}")
        vectors = widen(probabilities)
        if not self.differentiable:
            vectors = vectors.detach()
        if pseudo_labels is None:
            labels = vectors.detach().argmax(-1)
        else:
            _checks.integral("pseudo_labels", pseudo_labels)
            _checks.shape("pseudo_labels", pseudo_labels, probabilities.shape[:-1], "(one for each node)")
            _checks.same_device("pseudo_labels", pseudo_labels, "`probabilities`", probabilities)
            labels = pseudo_labels.long()  # one that is no class (an ignored one) joins nobody
        of_node = probabilities.shape[:-1], "(one entry for each node)"
        _checks.mask("mask", mask, *of_node, "`probabilities`", probabilities)
        if mask is not None:
            labels = torch.where(mask, labels, num_classes)
        with full_precision(vectors):
            may_stand_alone = mask is not None or pseudo_labels is not None
            outside = (labels < 0) | (labels >= num_classes) if may_stand_alone else None
            if self.similarity == "cosine":
                vectors = unit_rows(vectors, None if outside is None else ~outside)
            return ClassBlockOperator(vectors, labels, num_classes, _outside=outside).normalized()

    extra_repr = printed("similarity differentiable")
