"""ClassBlockOperator: all pairs of nodes of one class joined, exactly, without ever forming a pair."""

from __future__ import annotations

import torch
from torch import Tensor

from graphcorrect.graphs.operator import GraphOperator
from graphcorrect.ops.class_layout import ClassLayout, class_layout
from graphcorrect.ops.class_product import class_product
from graphcorrect.ops.class_weights import normalize_classes


class ClassBlockOperator(GraphOperator):
    r"""The class-level graph of Eq. (6): :math:`W_{ij} = u_i \cdot u_j` for i ≠ j of one class, :math:`W_{ii} = 1`.

    Each class is a block of rank m at most, u having m entries, so that with :math:`q_i = |u_i|^2`

    .. math::
        (W y)_i = u_i^\top M_{c(i)} + (1 - q_i) y_i, \quad M_c = \sum_{j \in c} u_j y_j^\top; \quad
        D_{ii} = u_i \cdot \sum_{j \in c(i)} u_j - q_i + 1

    which is exact. No loop over classes, no shape that depends on the labels, no wait for the device:
    :mod:`graphcorrect.ops.class_layout` says how.

    Cost: `@` takes O(N m F) time and O(N F + C m F) memory, m = C for probabilities.

    Args:
        vectors: (..., N, m) floating point; the rows of a class must have non-negative inner products.
        labels: (..., N) int64, the class of each node; a label outside [0, C) joins its node to nobody but itself.
        num_classes: C.
        scale: (..., N), applied on both sides of the product; None leaves the graph as it is.

    Example:
        >>> probabilities = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])
        >>> graph = ClassConsistencyGraph()(probabilities)
        >>> graph.to_dense()  # the first two nodes are of one class
        tensor([[0.5747, 0.4253, 0.0000],
                [0.4253, 0.5747, 0.0000],
                [0.0000, 0.0000, 1.0000]])
    """

    def __init__(
        self,
        vectors: Tensor,
        labels: Tensor,
        num_classes: int,
        *,
        scale: Tensor | None = None,
        degree: Tensor | None = None,
        _outside: Tensor | None = None,  # (..., N) bool, nodes of no class whose values may be NaN
        _layout: ClassLayout | None = None,
        _scaled: ClassLayout | None = None,
    ) -> None:
        super().__init__(torch.Size((*labels.shape, labels.shape[-1])), vectors, scale=scale, degree=degree)
        self.vectors = vectors
        self.labels = labels
        self.num_classes = num_classes
        self._outside = _outside
        if _layout is None:
            _layout = class_layout(self._by_graph(vectors), self._by_graph(labels[..., None])[..., 0], num_classes)
        self._plain_layout = _layout
        # On the factors, m entries a node, rather than on values at every product
        if _scaled is None:
            _scaled = _layout if scale is None else _layout.scaled(self._by_graph(scale[..., None])[..., 0])
        self._layout = _scaled

    def _by_graph(self, rows: Tensor) -> Tensor:
        """Rows (..., N, F) as (B, N, F)."""
        return rows.reshape(self.shape[:-2].numel(), *rows.shape[-2:])

    def _normalized(self) -> ClassBlockOperator:
        degree, scale, scaled = normalize_classes(self._plain_layout)
        return ClassBlockOperator(
            self.vectors,
            self.labels,
            self.num_classes,
            scale=scale.view(self.labels.shape),
            degree=degree.view(self.labels.shape),
            _outside=self._outside,
            _layout=self._plain_layout,
            _scaled=scaled,
        )

    def _product(self, values: Tensor) -> Tensor:
        layout, rows = self._layout.to(values.dtype), self._by_graph(values)
        if self._outside is None:
            return class_product(layout, rows).reshape(values.shape)
        outside = self._by_graph(self._outside[..., None])
        product = class_product(layout, rows.masked_fill(outside, 0.0))  # not even 0 * NaN may enter
        return torch.where(outside, layout.self_weight * rows, product).reshape(values.shape)

    def _row_sums(self) -> Tensor:
        ones = torch.ones((*self._plain_layout.self_weight.shape[:2], 1), dtype=self.dtype, device=self.device)
        return class_product(self._plain_layout, ones).reshape(self.labels.shape)

    def isolated(self) -> Tensor | None:
        """None: each node has a loop."""
        return None

    def _edges(self) -> tuple[Tensor, Tensor, Tensor]:
        # Quadratic in the size of a class, as the edges themselves are.
        flat_labels = self.labels.reshape(self.shape[:-2].numel(), self.shape[-1])
        is_member = (flat_labels >= 0) & (flat_labels < self.num_classes)
        same = (flat_labels[:, :, None] == flat_labels[:, None, :]) & is_member[:, :, None]
        same = same | torch.eye(self.shape[-1], dtype=torch.bool, device=self.device)
        graph, target, source = same.nonzero(as_tuple=True)
        target, source = graph * self.shape[-1] + target, graph * self.shape[-1] + source
        vectors = self.vectors.reshape(-1, self.vectors.shape[-1])
        weight = (vectors[target] * vectors[source]).sum(-1)
        return target, source, torch.where(target == source, torch.ones_like(weight), weight)
