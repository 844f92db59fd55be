"""Pictures of what the graphs do: neighbors, corrections, thresholds and prototypes over training, embeddings.

matplotlib is imported when a function here is called, not with graphcorrect; `pip install "graphcorrect[plot]"` brings
it. Every function draws into the axes that it is given, or into a new figure, and returns the axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from graphcorrect import _checks
from graphcorrect.graphs.operator import GraphOperator
from graphcorrect.knn.search import Neighbors, knn
from graphcorrect.labels import IGNORE_INDEX, labeled_nodes
from graphcorrect.nodes import grid_size, unit_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Method = Literal["tsne", "umap"]

# Okabe and Ito's green and a red that people who confuse the two tell apart from it by lightness; stripes mark it too.
FIXED = (0, 158, 115)
BROKEN = (213, 60, 20)
CHANGED = (0, 114, 178)
WRONG = (150, 150, 150)
_STRIPE = (90, 10, 0)
# Ten lines that can be told apart, then the same ten in another style.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C564B", "#7F3C8D", "#7A8B00")
_STYLES = ("-", "--", ":", "-.")


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
    """
    picture = _picture("image", image)
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

    ax = _axes(ax)
    ax.imshow(picture, interpolation="nearest")
    ax.plot(*_spokes(float(own_x[0]), float(own_y[0]), x, y), color="white", lw=0.8, alpha=0.7, solid_capstyle="round")
    points = ax.scatter(x, y, c=similarity, cmap="viridis", s=46, edgecolors="white", linewidths=1.0, zorder=3)
    ax.plot(own_x, own_y, marker="P", ms=13, mfc="#D55E00", mec="white", mew=1.3, ls="none", zorder=4)
    if legend:
        ax.figure.colorbar(points, ax=ax, label=name, shrink=0.85, pad=0.02)
    ax.set_title(f"{len(index)} neighbors of pixel ({row}, {column})", fontsize=10)
    ax.set_axis_off()
    return ax


def corrections(
    image: Tensor | None,
    before: Tensor,
    after: Tensor,
    truth: Tensor | None = None,
    *,
    ignore_index: int = IGNORE_INDEX,
    legend: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draws what a correction did to the labels of one image: fixed in green, broken in red with stripes.

    Wrong labels that it left wrong are grey. Where no truth is known a changed label is blue.

    Args:
        image: (3, H, W) or (1, H, W), uint8 or floating point in [0, 1], shown faintly below; None shows white.
        before: (H, W) integers, the labels before correction.
        after: (H, W) integers, after it.
        truth: (H, W) integers; `ignore_index` where unknown. None: unknown everywhere.
        ignore_index: label of the truth that stands for none.
        legend: False leaves out the counts below the picture.
        ax: where to draw; None makes a figure.

    Returns:
        The axes; the array of its one image is (H, W, 3) uint8.

    Raises:
        ValueError: shapes do not fit.
        TypeError: labels are not integers.
        ImportError: matplotlib is not installed.
    """
    _checks.integral("before", before)
    _checks.ndim("before", before, (2,), "(H, W)")
    for name, labels in (("after", after), ("truth", truth)):
        if labels is not None:
            _checks.integral(name, labels)
            _checks.shape(name, labels, before.shape, "(that of `before`)")
    before, after = before.cpu(), after.cpu()
    truth = torch.full_like(before, ignore_index, dtype=torch.int64) if truth is None else truth.cpu()
    known = truth != ignore_index
    was_right, is_right = before == truth, after == truth
    outcomes = {
        "fixed": (known & ~was_right & is_right, FIXED),
        "broken": (known & was_right & ~is_right, BROKEN),
        "left wrong": (known & ~was_right & ~is_right, WRONG),
        "changed, truth unknown": (~known & (before != after), CHANGED),
    }
    picture = _faint(image, before.shape)
    for pixels, color in outcomes.values():
        picture[pixels.numpy()] = color
    picture[(outcomes["broken"][0] & _stripes(before.shape)).numpy()] = _STRIPE

    ax = _axes(ax)
    ax.imshow(picture, interpolation="nearest")
    ax.set_axis_off()
    if legend:
        shown = ["fixed", "broken", "left wrong"] if bool(known.any()) else []
        shown += ["changed, truth unknown"] if bool(outcomes["changed, truth unknown"][0].any()) or not shown else []
        patch = import_module("matplotlib.patches").Patch
        handles = [_legend_patch(patch, name, *outcomes[name]) for name in shown]
        ax.legend(
            handles=handles,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.01),
            ncols=2 if len(handles) > 2 else len(handles),
            frameon=False,
            fontsize=9,
        )
    return ax


def threshold_history(
    history: Sequence[Tensor] | Tensor,
    *,
    steps: Sequence[int] | None = None,
    class_names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draws how each class's confidence threshold went over training.

    Args:
        history: T tensors (C,), or one (T, C): what :class:`graphcorrect.DynamicThreshold` returned, kept now and then.
        steps: the T steps they were kept at; None counts them.
        class_names: C names; None numbers them.
        ax: where to draw; None makes a figure.

    Returns:
        The axes, with a line for each class in order.

    Raises:
        ValueError: shapes do not fit, or the history is empty.
        ImportError: matplotlib is not installed.
    """
    values = _history("history", history, 2, "(T, C)")
    x, names = _steps(steps, len(values)), _names(class_names, values.shape[1])
    ax = _axes(ax, (7.0, max(4.0, 0.17 * len(names) + 0.8)))
    ax.set_ylim(-0.03, 1.03)
    _class_lines(ax, x, values, names)
    ax.set(xlabel="step", ylabel="confidence threshold")
    return ax


def prototype_history(
    history: Sequence[Tensor] | Tensor,
    *,
    steps: Sequence[int] | None = None,
    class_names: Sequence[str] | None = None,
    axes: Sequence[Axes] | None = None,
) -> tuple[Axes, Axes]:
    """Draws how the prototypes of one round went over training: the way they took, and how far apart they keep.

    Left, the paths in the plane that holds most of their variance (principal components of all unit prototypes
    together), a dot where they are now. Right, for each class, the cosine to the most similar prototype of another
    class: falling lines are classes that drift apart.

    Args:
        history: T tensors (C, D), or one (T, C, D): `bank.prototypes[round].clone()` of a
            :class:`graphcorrect.PrototypeBank`, kept now and then. A row of zeros, which is what a bank holds before
            the first sight of a class, is left out.
        steps: the T steps they were kept at; None counts them.
        class_names: C names; None numbers them.
        axes: two, where to draw; None makes a figure.

    Returns:
        Both axes, each with a line for each class in order.

    Raises:
        ValueError: shapes do not fit, or no class was ever seen.
        ImportError: matplotlib is not installed.
    """
    values = unit_rows(_history("history", history, 3, "(T, C, D)"))  # (T, C, D)
    x, names = _steps(steps, len(values)), _names(class_names, values.shape[1])
    seen = values.abs().amax(-1) > 0  # (T, C)
    if not bool(seen.any()):
        raise ValueError("expected `history` with a class that has been seen, got zeros only")
    center = values[seen].mean(0)
    # Rows of the right factor: the directions of most variance, as few as there are entries.
    directions = torch.linalg.svd(values[seen] - center, full_matrices=False)[2][:2]
    paths = torch.where(seen[..., None], (values - center) @ directions.T, torch.nan)
    if paths.shape[-1] == 1:
        paths = torch.cat([paths, torch.zeros_like(paths)], -1)
    cosine = values @ values.transpose(1, 2)  # (T, C, C)
    is_pair = seen[:, :, None] & seen[:, None, :] & ~torch.eye(len(names), dtype=torch.bool)
    nearest = torch.where(is_pair, cosine, -torch.inf).amax(-1)
    nearest = torch.where(nearest == -torch.inf, torch.nan, nearest)

    left, right = _axes_row(axes, 2, (11.0, max(4.4, 0.17 * len(names) + 0.8)))
    for number, name in enumerate(names):
        color, style = _style(number)
        way = paths[:, number].numpy()
        left.plot(way[:, 0], way[:, 1], color=color, ls=style, lw=1.4, alpha=0.85, label=name)
        last = way[np.isfinite(way[:, 0])][-1:]
        left.scatter(last[:, 0], last[:, 1], color=color, s=34, zorder=3)
        for spot in last:
            left.annotate(name, spot, xytext=(5, 4), textcoords="offset points", fontsize=8, color=color)
    left.set(title="paths of the unit prototypes", xlabel="first component", ylabel="second component")
    left.set_aspect("equal", adjustable="datalim")
    left.margins(0.12)
    _bare(left)
    _class_lines(right, x, nearest, names)
    right.set(title="similarity to the nearest other class", xlabel="step", ylabel="cosine")
    return left, right


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
    """
    _checks.one_of("method", method, get_args(Method))
    _checks.integer_at_least("max_nodes", max_nodes, 4)
    _checks.integral("labels", labels)
    known = labels[labels != ignore_index]
    names = _names(None, int(known.max()) + 1 if len(known) else 0) if class_names is None else list(class_names)
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

    panels = _axes_row(axes, len(sets), (5.6 * len(sets), 5.2))
    titles = ("",) if after is None else ("before: ", "after: ")
    for axis, title, rows in zip(panels, titles, sets, strict=True):
        drawn = rows[chosen]
        plane = _in_the_plane(drawn, method, seed)
        for label in sorted(set(found.tolist())):
            members = (found == label).numpy()
            axis.scatter(
                plane[members, 0],
                plane[members, 1],
                s=9,
                color=_style(label)[0],
                marker="o^sD"[label // len(_COLORS) % 4],
            )
            axis.annotate(
                names[label],
                np.median(plane[members], 0),
                fontsize=9,
                fontweight="bold",
                ha="center",
                va="center",
                bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": _style(label)[0], "alpha": 0.85},
            )
        nearest = knn(drawn, None, 1, exclude_self=True).index[:, 0]
        share = float((found[nearest] == found).float().mean())
        axis.set_title(f"{title}{100 * share:.1f} % of nearest neighbors share the label", fontsize=10)
        axis.set(xticks=[], yticks=[])
    return panels


def _in_the_plane(rows: Tensor, method: Method, seed: int) -> np.ndarray:
    """Positions (N, 2) by t-SNE or UMAP; few nodes get fewer neighbors than the methods' own defaults."""
    if method == "tsne":
        tsne = _needs("sklearn.manifold", "scikit-learn", 'pip install "graphcorrect[plot]"').TSNE
        init = "pca" if rows.shape[1] > 1 else "random"
        perplexity = min(30.0, (len(rows) - 1) / 3)
        plane = tsne(metric="cosine", init=init, perplexity=perplexity, random_state=seed).fit_transform(rows.numpy())
    else:
        umap = _needs("umap", "umap-learn", "pip install umap-learn").UMAP
        count = min(15, len(rows) - 1)
        plane = umap(metric="cosine", n_neighbors=count, random_state=seed, n_jobs=1).fit_transform(rows.numpy())
    return np.asarray(plane)


def _edges_of(
    graph: GraphOperator | Neighbors, batch_index: int, node: int, num_edges: int
) -> tuple[Tensor, Tensor, str]:
    """The neighbors of a node, (k,) int64, their similarity, and what that is called."""
    index = getattr(graph, "index", None)  # of the kinds of graph, KNNAffinity's alone lists neighbors
    if isinstance(index, Tensor):
        listed = graph.similarity if isinstance(graph, Neighbors) else graph.weight  # type: ignore[attr-defined]
        index, similarity = (
            part.detach().cpu().flatten(0, -3)[batch_index, node] for part in (_3d(index), _3d(listed))
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


def _3d(tensor: Tensor) -> Tensor:
    return tensor if tensor.ndim > 2 else tensor[None]


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


def _spokes(own_x: float, own_y: float, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lines from one point to many as one line with gaps (NaN)."""
    gap = np.full_like(x, np.nan)
    return (
        np.stack([np.full_like(x, own_x), x, gap], 1).ravel(),
        np.stack([np.full_like(y, own_y), y, gap], 1).ravel(),
    )


def _picture(name: str, image: Tensor) -> np.ndarray:
    """(3, H, W) or (1, H, W) as (H, W, 3) uint8."""
    _checks.is_tensor(name, image)
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ValueError(f"expected `{name}` of shape (3, H, W) or (1, H, W), got {_checks.shape_of(image)}")
    if image.is_floating_point():
        image = (255 * image.detach()).round().clamp(0, 255)
    elif image.dtype != torch.uint8:
        raise TypeError(f"expected `{name}` to be torch.uint8 or floating point in [0, 1], got {image.dtype}")
    return image.to(torch.uint8).expand(3, -1, -1).permute(1, 2, 0).cpu().numpy()


def _faint(image: Tensor | None, size: torch.Size) -> np.ndarray:
    """The image in light grey, so that colors stand out on it: (H, W, 3) uint8."""
    if image is None:
        return np.full((*size, 3), 255, dtype=np.uint8)
    picture = _picture("image", image)
    if picture.shape[:2] != tuple(size):
        raise ValueError(f"expected `image` of the labels' size, {tuple(size)}, got {_checks.shape_of(image)}")
    light = 190 + picture.mean(2, keepdims=True) * (255 - 190) / 255
    return np.repeat(light.astype(np.uint8), 3, 2)


def _stripes(size: torch.Size) -> Tensor:
    """Diagonal stripes over a quarter of the pixels, broader in larger images: bool (H, W)."""
    rows, columns = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    return (rows + columns) // max(1, max(size) // 250) % 4 == 0


def _legend_patch(patch: Any, name: str, pixels: Tensor, color: tuple[int, int, int]) -> Any:
    label = f"{name} ({int(pixels.sum()):,} px)"
    face = tuple(channel / 255 for channel in color)
    if name == "broken":
        return patch(
            facecolor=face, edgecolor=tuple(channel / 255 for channel in _STRIPE), hatch="////", lw=0, label=label
        )
    return patch(facecolor=face, label=label)


def _history(name: str, history: Sequence[Tensor] | Tensor, ndim: int, form: str) -> Tensor:
    """A sequence of snapshots as one tensor, float32 on the CPU."""
    if not isinstance(history, Tensor):
        if len(history) == 0:
            raise ValueError(f"expected `{name}` with at least one snapshot, got none")
        for snapshot in history:
            _checks.is_tensor(name, snapshot)
            _checks.shape(name, snapshot, history[0].shape, "(that of the first snapshot)")
        history = torch.stack([snapshot.detach().cpu() for snapshot in history])
    _checks.ndim(name, history, (ndim,), form)
    if 0 in history.shape:
        raise ValueError(
            f"expected `{name}` of shape {form} without an empty dimension, got {_checks.shape_of(history)}"
        )
    return history.detach().cpu().float()


def _steps(steps: Sequence[int] | None, count: int) -> list[int]:
    if steps is not None and len(steps) != count:
        raise ValueError(f"expected `steps` with one entry for each of {count} snapshots, got {len(steps)}")
    return list(range(count)) if steps is None else list(steps)


def _names(class_names: Sequence[str] | None, count: int) -> list[str]:
    if class_names is not None and len(class_names) != count:
        raise ValueError(f"expected `class_names` with {count} names, one for each class, got {len(class_names)}")
    return [str(number) for number in range(count)] if class_names is None else list(class_names)


def _style(number: int) -> tuple[str, str]:
    """Color and line style of a class."""
    return _COLORS[number % len(_COLORS)], _STYLES[number // len(_COLORS) % len(_STYLES)]


def _class_lines(ax: Axes, x: list[int], values: Tensor, names: list[str]) -> None:
    """A line for each class over (T, C) values, each named at its end: a legend of 21 colors can't be read."""
    columns = values.T.numpy()
    ends = []
    for number, (name, column) in enumerate(zip(names, columns, strict=True)):
        color, style = _style(number)
        ax.plot(x, column, color=color, ls=style, lw=1.5, marker="o" if len(x) == 1 else "", label=name)
        held = column[np.isfinite(column)]
        if len(held):
            ends.append((float(held[-1]), name, color))
    _bare(ax)
    low, high = ax.get_ylim()
    for place, (value, name, color) in zip(_spread([end[0] for end in ends], low, high), ends, strict=True):
        ax.annotate(
            name,
            (1.0, (value - low) / (high - low)),
            xycoords="axes fraction",
            xytext=(1.045, (place - low) / (high - low)),
            textcoords="axes fraction",
            fontsize=8,
            color=color,
            va="center",
            arrowprops={"arrowstyle": "-", "color": color, "lw": 0.5, "shrinkA": 1, "shrinkB": 0, "relpos": (0, 0.5)},
        )
    ax.set_ylim(low, high)
    ax.set_xlim(x[0] - (0.5 if len(x) == 1 else 0), x[-1] + (0.5 if len(x) == 1 else 0))


def _spread(values: list[float], low: float, high: float) -> list[float]:
    """Heights for labels beside `values`: in their order, evenly far apart at least, as near as that allows."""
    order = np.argsort(values, kind="stable")
    gap = min(0.045 * (high - low), (high - low) / max(1, len(values) - 1))
    places = np.array(values, dtype=float)[order]
    # Labels in order with gaps are, less i gaps, a rising sequence: the nearest one is found by pooling neighbors.
    blocks: list[tuple[float, int]] = []
    for number, value in enumerate(places):
        blocks.append((value - number * gap, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (mean, count), (other, more) = blocks[-2], blocks[-1]
            blocks[-2:] = [((mean * count + other * more) / (count + more), count + more)]
    flat = np.array([mean for mean, count in blocks for _ in range(count)])
    flat = flat.clip(low, high - gap * (len(values) - 1))
    result = np.empty(len(values))
    result[order] = flat + gap * np.arange(len(values))
    return [float(height) for height in result]


def _bare(ax: Axes) -> None:
    """No box around the plot, and a faint grid."""
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    ax.grid(color="0.9", lw=0.7)
    ax.set_axisbelow(True)


def _axes(ax: Axes | None, size: tuple[float, float] = (6.0, 5.0)) -> Axes:
    return _axes_row(None if ax is None else [ax], 1, size)[0]


def _axes_row(axes: Sequence[Axes] | None, count: int, size: tuple[float, float]) -> tuple[Axes, ...]:
    """The caller's axes, or those of a new figure."""
    pyplot = _needs("matplotlib.pyplot", "matplotlib", 'pip install "graphcorrect[plot]"')
    if axes is not None:
        if len(axes) != count:
            raise ValueError(f"expected `axes` to hold {count}, got {len(axes)}")
        return tuple(axes)
    _, row = pyplot.subplots(1, count, figsize=size, squeeze=False, layout="constrained")
    return tuple(row[0])


def _needs(module: str, package: str, install: str) -> Any:
    """An optional module, or how to install it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f"graphcorrect.plot needs {package} here: {install}") from error
