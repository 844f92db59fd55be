"""The neighbors of one pixel over its image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from graphcorrect.graphs.operator import GraphOperator
from graphcorrect.nodes import grid_size
from graphcorrect.ops.knn import Neighbors
from graphcorrect.plot._drawing import axes_or_new, pixels_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def neighbors(
    image: Tensor,
    graph: GraphOperator | Neighbors,
    pixel: tuple[int, int],
    *,
    grid: tuple[int, int] | None = None,
    batch_index: int = 0,
    num_edges: int = 50,
    legend: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draws the neighbors of one pixel over its image, colored by similarity.

    Args:
        image: (3, H, W) or (1, H, W), uint8 or floating point in [0, 1].
        graph: what :class:`graphcorrect.KNNAffinity` or :func:`graphcorrect.knn` returned: the neighbors that the pixel
            chose, colored by edge weight or similarity. Any other graph: the heaviest edges of the pixel.
        pixel: (row, column) in the image; its node is that of the grid cell it lies in.
        grid: (h, w) of the nodes; None takes the image's own size, or the grid that a refiner's budget makes of it.
        batch_index: which graph of a batch.
        num_edges: most edges drawn of a graph that does not list its neighbors.
        legend: False leaves out the color bar.
        ax: where to draw; None makes a figure.

    Returns:
        The axes. Its one collection holds the neighbors: offsets are positions (x, y) in image pixels, the array the
        similarities.

    Raises:
        ValueError: shapes do not fit, `pixel` or `batch_index` is out of range, or `grid` is not that of the nodes.
        ImportError: matplotlib is not installed.

    Example:
        >>> image = torch.rand(3, 12, 20)
        >>> graph = KNNAffinity(num_neighbors=5)(image.flatten(1).T)
        >>> axes = graphcorrect.plot.neighbors(image, graph, pixel=(4, 7))
    """
    picture = pixels_of("image", image)
    height, width = picture.shape[:2]
    row, column = pixel
    if not (0 <= row < height and 0 <= column < width):
        raise ValueError(f"expected `pixel` as (row, column) inside the image, ({height}, {width}), got {pixel}")
    shape = graph.shape[:-1] if isinstance(graph, GraphOperator) else graph.index.shape[:-1]
    num_nodes, num_graphs = shape[-1], shape[:-1].numel()
    if not 0 <= batch_index < num_graphs:
        raise ValueError(f"expected `batch_index` in [0, {num_graphs}), got {batch_index}")
    rows, columns = _grid_of(num_nodes, height, width, grid)
    node = (row * rows // height) * columns + column * columns // width
    index, similarity, name = _edges_of(graph, batch_index, node, num_edges)
    x, y = _cell_centers(index, (rows, columns), (height, width))
    own_x, own_y = _cell_centers(torch.tensor([node]), (rows, columns), (height, width))

    ax = axes_or_new(ax)
    ax.imshow(picture, interpolation="nearest")
    spokes = [np.stack([np.full_like(each, own), each]) for own, each in ((own_x, x), (own_y, y))]
    ax.plot(*spokes, color="white", lw=0.8, alpha=0.7, solid_capstyle="round")
    points = ax.scatter(x, y, c=similarity, cmap="viridis", s=46, edgecolors="white", linewidths=1.0, zorder=3)
    ax.plot(own_x, own_y, marker="P", ms=13, mfc="#D55E00", mec="white", mew=1.3, ls="none", zorder=4)
    if legend:
        ax.figure.colorbar(points, ax=ax, label=name, shrink=0.85, pad=0.02)
    ax.set_title(f"{len(index)} neighbors of pixel ({row}, {column})", fontsize=10)
    ax.set_axis_off()
    return ax


def _edges_of(
    graph: GraphOperator | Neighbors, batch_index: int, node: int, num_edges: int
) -> tuple[Tensor, Tensor, str]:
    """The neighbors of a node, (k,) int64, their similarity, and what that is called."""
    index = getattr(graph, "index", None)  # of the kinds of graph, KNNAffinity's alone lists neighbors
    if isinstance(index, Tensor):
        listed = graph.similarity if isinstance(graph, Neighbors) else graph.weight  # type: ignore[attr-defined]
        index, similarity = (
            part.detach().cpu().reshape(-1, *part.shape[-2:])[batch_index, node] for part in (index, listed)
        )
        name = "cosine similarity" if isinstance(graph, Neighbors) else "edge weight (similarity)"
    else:
        assert isinstance(graph, GraphOperator)
        one = torch.zeros((*graph.shape[:-1], 1), dtype=graph.dtype, device=graph.device)
        one[..., node, 0] = 1.0
        row = (graph @ one)[..., 0].detach().cpu().reshape(-1, graph.shape[-1])[batch_index]
        row[node] = 0.0  # a loop is no neighbor
        similarity, index = row.topk(min(num_edges, len(row)))
        name = "edge weight"
    # A search returns what it found, however unlike; -inf where there was no key. In a graph, no weight is no edge.
    is_edge = similarity > (-torch.inf if isinstance(graph, Neighbors) else 0)
    return index[is_edge], similarity[is_edge].float(), name


def _grid_of(num_nodes: int, height: int, width: int, grid: tuple[int, int] | None) -> tuple[int, int]:
    """The grid of the nodes, given or found."""
    if grid is None:
        rows, columns = grid_size(height, width, num_nodes)
        way_out = "; give `grid=(h, w)` of the feature map"
    else:
        (rows, columns), way_out = grid, ""
    if rows * columns != num_nodes:
        raise ValueError(f"expected `grid` of {num_nodes} cells, one for each node, got {rows}x{columns}{way_out}")
    return rows, columns


def _cell_centers(index: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Positions x, y of nodes in image pixels; pixel 0 has its center at 0, its edge at -0.5."""
    y = (index // grid[1] + 0.5) * size[0] / grid[0] - 0.5
    x = (index % grid[1] + 0.5) * size[1] / grid[1] - 0.5
    return x.numpy(), y.numpy()
