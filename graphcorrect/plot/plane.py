"""Nodes in the plane, by t-SNE or UMAP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from graphcorrect import _checks
from graphcorrect.labels import IGNORE_INDEX, labeled_nodes
from graphcorrect.ops.knn import knn
from graphcorrect.ops.unit_rows import unit_rows
from graphcorrect.plot._drawing import COLORS, axes_row_or_new, names_of, needs, style_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Method = Literal["tsne", "umap"]


def embedding(
    features: Tensor,
    labels: Tensor,
    after: Tensor | None = None,
    *,
    method: Method = "tsne",
    class_names: Sequence[str] | None = None,
    ignore_index: int = IGNORE_INDEX,
    max_nodes: int = 2000,
    seed: int = 0,
    axes: Sequence[Axes] | None = None,
) -> tuple[Axes, ...]:
    """Draws nodes in the plane, colored by class: before refinement and, with `after`, after it, the same nodes.

    Above each picture stands what can be said in numbers: for how many nodes the most similar other node (by cosine,
    among those drawn, in all D entries and not in the plane) has the same label.

    Args:
        features: (..., N, D) nodes or (B, D, H, W) images, floating point.
        labels: (..., N), or (B, H', W') of any resolution (pooled by majority vote); `ignore_index` is left out.
        after: the features of the same nodes after refinement, of any width; None draws one picture.
        method: "tsne" (scikit-learn) or "umap" (umap-learn), both by cosine.
        class_names: C names; None numbers them.
        ignore_index: label left out.
        max_nodes: a random sample of so many nodes is drawn.
        seed: of the sample and of the method.
        axes: one, or two with `after`; None makes a figure.

    Returns:
        The axes, one or two; a collection for each class that is present, in order.

    Raises:
        ValueError: shapes do not fit, or fewer than 4 nodes are labeled.
        TypeError: dtypes do not fit.
        ImportError: matplotlib, scikit-learn or umap-learn is not installed; the message gives the install line.

    Example:
        >>> features, labels = torch.randn(60, 16), torch.randint(3, (60,))
        >>> axes = graphcorrect.plot.embedding(features, labels)  # t-SNE, by scikit-learn
    """
    _checks.one_of("method", method, get_args(Method))
    _checks.integer_at_least("max_nodes", max_nodes, 4)
    labels = _checks.class_labels("labels", labels)
    if after is not None:
        _checks.floating("after", after)
        _checks.ndim("after", after, (features.ndim,), "of as many dimensions as `features`")
    known = labels[labels != ignore_index]
    names = names_of(None, int(known.max()) + 1 if len(known) else 0) if class_names is None else list(class_names)
    sets, found = [], labels
    for part in (features,) if after is None else (features, after):
        nodes, node_labels = labeled_nodes(part, labels, len(names), ignore_index=ignore_index)
        sets.append(unit_rows(nodes.detach().float().reshape(-1, nodes.shape[-1])).cpu())
        if part is features:
            found = node_labels.reshape(-1).cpu()
        elif node_labels.numel() != found.numel():
            raise ValueError(
                f"expected `after` with as many nodes as `features`, {found.numel()}, got {node_labels.numel()}"
            )
    chosen = (found != ignore_index).nonzero()[:, 0]
    if len(chosen) < 4:
        raise ValueError(f"expected `labels` of at least 4 nodes to draw, got {len(chosen)}")
    order = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(seed))
    chosen = chosen[order[:max_nodes]]
    found = found[chosen]

    panels = axes_row_or_new(axes, len(sets), (5.6 * len(sets), 5.2))
    titles = ("",) if after is None else ("before: ", "after: ")
    for axis, title, rows in zip(panels, titles, sets, strict=True):
        drawn = rows[chosen]
        plane = _in_the_plane(drawn, method, seed)
        for label in sorted(set(found.tolist())):
            spots, color = plane[(found == label).numpy()], style_of(label)[0]
            axis.scatter(spots[:, 0], spots[:, 1], s=9, color=color, marker="o^sD"[label // len(COLORS) % 4])
            box = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": color, "alpha": 0.85}
            axis.annotate(names[label], np.median(spots, 0), size=9, weight="bold", ha="center", va="center", bbox=box)
        nearest = knn(drawn, None, 1, exclude_self=True).index[:, 0]
        share = float((found[nearest] == found).float().mean())
        axis.set_title(f"{title}{100 * share:.1f} % of nearest neighbors share the label", fontsize=10)
        axis.set(xticks=[], yticks=[])
    return panels


def _in_the_plane(rows: Tensor, method: Method, seed: int) -> np.ndarray:
    """Positions (N, 2) by t-SNE or UMAP; few nodes get fewer neighbors than the methods' own defaults."""
    if method == "tsne":
        tsne = needs("sklearn.manifold", "scikit-learn").TSNE
        init = "pca" if rows.shape[1] > 1 else "random"
        perplexity = min(30.0, (len(rows) - 1) / 3)
        plane = tsne(metric="cosine", init=init, perplexity=perplexity, random_state=seed).fit_transform(rows.numpy())
    else:
        umap = needs("umap", "umap-learn").UMAP
        count = min(15, len(rows) - 1)
        plane = umap(metric="cosine", n_neighbors=count, random_state=seed, n_jobs=1).fit_transform(rows.numpy())
    return np.asarray(plane)
