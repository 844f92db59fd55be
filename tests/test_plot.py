"""Pictures show what the tensors say: positions, colors, lines and labels are read back from the figures."""

import sys

import numpy as np
import pytest
import torch

from graphcorrect import ClassConsistencyGraph, DynamicThreshold, KNNAffinity, PrototypeBank, knn, plot
from graphcorrect.plot.histories import _spread
from graphcorrect.plot.outcomes import _STRIPE

pyplot = pytest.importorskip("matplotlib.pyplot")
pyplot.switch_backend("Agg")

IMAGE = torch.rand(3, 12, 20, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def closed_figures():
    """Draws every figure, which is when bad arguments show, and closes it."""
    yield
    for number in pyplot.get_fignums():
        pyplot.figure(number).canvas.draw()
    pyplot.close("all")


def drawn(axes):
    """Offsets (x, y) and values of the axes' collection."""
    (points,) = axes.collections
    return torch.as_tensor(np.asarray(points.get_offsets())), torch.as_tensor(np.asarray(points.get_array()))


def test_the_neighbors_drawn_are_those_of_the_graph():
    features = torch.rand(2, 240, 5)
    graph = KNNAffinity(num_neighbors=7)(features)
    axes = plot.neighbors(IMAGE, graph, (3, 16), batch_index=1)
    offsets, similarity = drawn(axes)
    index = graph.index[1, 3 * 20 + 16]
    assert torch.equal(offsets, torch.stack([index % 20, index // 20], -1).double())
    torch.testing.assert_close(similarity.float(), graph.weight[1, 3 * 20 + 16])
    assert axes.get_title() == "7 neighbors of pixel (3, 16)"
    marker = axes.lines[-1]
    assert (float(marker.get_xdata()[0]), float(marker.get_ydata()[0])) == (16, 3)


def test_neighbors_of_a_coarse_grid_lie_in_the_centers_of_their_cells():
    found = knn(torch.rand(6 * 10, 4), None, 3, exclude_self=True)
    offsets, similarity = drawn(plot.neighbors(IMAGE, found, (11, 0)))  # cell (5, 0) of 6 x 10
    index = found.index[50]
    expected = torch.stack([2 * (index % 10) + 0.5, 2 * (index // 10) + 0.5], -1)
    assert torch.equal(offsets, expected.double())
    torch.testing.assert_close(similarity.float(), found.similarity[50])


def test_the_class_graph_shows_its_heaviest_edges_and_no_loop():
    probabilities = torch.rand(240, 4).softmax(-1)
    graph = ClassConsistencyGraph()(probabilities)
    offsets, weight = drawn(plot.neighbors(IMAGE, graph, (2, 5), num_edges=9))
    row = graph.to_dense()[45].clone()
    row[45] = 0
    expected = row.topk(9)
    torch.testing.assert_close(weight.float(), expected.values)
    shown = (offsets[:, 1] * 20 + offsets[:, 0]).long()
    torch.testing.assert_close(row[shown], expected.values)


def test_a_node_without_edges_draws_none():
    features = torch.rand(240, 5)
    features[45] = 0
    offsets, _ = drawn(plot.neighbors(IMAGE, KNNAffinity(3)(features), (2, 5)))
    assert len(offsets) == 0


def test_neighbors_found_by_a_search_are_drawn_however_unlike_and_those_not_found_are_not():
    rows = torch.eye(4).repeat(60, 1) * torch.tensor([1.0, -1.0]).repeat_interleave(120)[:, None]
    mask = torch.zeros(240, dtype=torch.bool)
    mask[[4, 120]] = True  # one like node 0, one opposite
    offsets, similarity = drawn(plot.neighbors(IMAGE, knn(rows, None, 3, exclude_self=True, key_mask=mask), (0, 0)))
    assert offsets.tolist() == [[4, 0], [0, 6]]
    torch.testing.assert_close(similarity.float(), torch.tensor([1.0, -1.0]))


def test_neighbors_refuses_a_graph_that_the_batch_does_not_hold():
    with pytest.raises(ValueError, match=r"`batch_index` in \[0, 2\), got 2"):
        plot.neighbors(IMAGE, KNNAffinity(3)(torch.rand(2, 240, 4)), (0, 0), batch_index=2)


@pytest.mark.parametrize(
    ("pixel", "grid", "message"),
    [
        ((12, 0), None, r"`pixel` as \(row, column\) inside the image, \(12, 20\), got \(12, 0\)"),
        ((0, 0), (7, 9), "`grid` of 64 cells, one for each node, got 7x9"),
        ((0, 0), None, r"got 6x10; give `grid=\(h, w\)`"),
    ],
)
def test_neighbors_refuses_what_does_not_fit(pixel, grid, message):
    graph = KNNAffinity(3)(torch.rand(64, 4))
    with pytest.raises(ValueError, match=message):
        plot.neighbors(IMAGE, graph, pixel, grid=grid)


LABELS = {"truth": [1, 1, 2, 255, 255, 0], "before": [1, 2, 2, 0, 0, 1], "after": [2, 1, 2, 0, 1, 2]}


def label_maps():
    return {name: torch.tensor(row).expand(2, 6) for name, row in LABELS.items()}


def test_each_outcome_has_its_color():
    labels = label_maps()
    axes = plot.corrections(None, labels["before"], labels["after"], labels["truth"])
    picture = axes.images[0].get_array()
    white = (255, 255, 255)
    colors = [tuple(int(channel) for channel in color) for color in picture[1]]
    assert colors == [plot.BROKEN, plot.FIXED, white, white, plot.CHANGED, plot.WRONG]
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["fixed (2 px)", "broken (2 px)", "left wrong (2 px)", "changed, truth unknown (2 px)"]


def test_broken_labels_carry_stripes_whatever_the_size():
    for side in (8, 1000):
        before = torch.zeros(side, side, dtype=torch.int64)
        picture = plot.corrections(None, before, before + 1, before, legend=False).images[0].get_array()
        is_red = (picture == plot.BROKEN).all(-1)
        assert 0.7 < is_red.mean() < 0.8
        assert ((picture == _STRIPE).all(-1) | is_red).all()


def test_without_truth_what_changed_is_blue_over_a_faint_image():
    labels = label_maps()
    image = torch.randint(256, (3, 2, 6), dtype=torch.uint8)
    axes = plot.corrections(image, labels["before"], labels["after"])
    picture = torch.as_tensor(np.array(axes.images[0].get_array()))
    is_blue = (picture == torch.tensor(plot.CHANGED)).all(-1)
    assert torch.equal(is_blue, labels["before"] != labels["after"])
    kept = picture[~is_blue]
    assert (kept >= 190).all()
    assert (kept == kept[:, :1]).all()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["changed, truth unknown (8 px)"]


def test_corrections_refuses_labels_of_another_size():
    labels = label_maps()
    with pytest.raises(ValueError, match=r"`truth` of shape \(2, 6\) \(that of `before`\), got \(2, 5\)"):
        plot.corrections(None, labels["before"], labels["after"], labels["truth"][:, :5])
    with pytest.raises(ValueError, match=r"`image` of the labels' size, \(2, 6\), got \(3, 12, 20\)"):
        plot.corrections(IMAGE, labels["before"], labels["after"])


def test_a_pictures_axes_may_be_the_callers():
    _, row = pyplot.subplots(1, 2)
    labels = label_maps()
    assert plot.corrections(None, labels["before"], labels["after"], ax=row[1]) is row[1]
    assert not row[0].images


def test_threshold_lines_are_what_the_threshold_said():
    threshold = DynamicThreshold(3, sigma=0.6)
    history = [threshold((t + torch.rand(1, 50, 3) * 3).softmax(-1)) for t in range(4)]
    axes = plot.threshold_history(history, steps=[0, 10, 20, 30], class_names=["sky", "road", "car"])
    lines = [line for line in axes.lines if line.get_label() in ("sky", "road", "car")]
    assert [line.get_label() for line in lines] == ["sky", "road", "car"]
    for number, line in enumerate(lines):
        assert list(line.get_xdata()) == [0, 10, 20, 30]
        torch.testing.assert_close(torch.as_tensor(line.get_ydata()), torch.stack(history)[:, number])
    assert {text.get_text() for text in axes.texts} == {"sky", "road", "car"}


def test_labels_at_the_ends_of_lines_keep_their_distance_and_order():
    values = torch.rand(21).tolist()
    places = _spread(values, 0.0, 1.0)
    order = np.argsort(values)
    assert (np.diff(np.array(places)[order]) >= 0.045 - 1e-9).all()
    assert min(places) >= 0
    assert max(places) <= 1 + 1e-9
    assert _spread([0.1, 0.9, 0.5], 0.0, 1.0) == pytest.approx([0.1, 0.9, 0.5])


def test_prototype_paths_keep_the_distances_of_a_plane_and_leave_out_what_was_not_seen():
    bank = PrototypeBank(3, 2, momentum=0.5)
    history = []
    for step in range(5):
        seen = 2 if step < 2 else 3
        bank.update(torch.randn(1, 30, 2), (torch.arange(30) % seen)[None])
        history.append(bank.prototypes[0].clone())
    left, right = plot.prototype_history(history)
    unit = torch.nn.functional.normalize(torch.stack(history), dim=-1)
    paths = torch.stack([torch.as_tensor(np.stack(line.get_data(), -1)) for line in left.lines])
    assert paths[2, :2].isnan().all()
    # A rotation keeps distances: two dimensions lose nothing.
    by_class = unit.transpose(0, 1)[:2]
    torch.testing.assert_close(torch.cdist(paths[:2], paths[:2]), torch.cdist(by_class, by_class), atol=1e-5, rtol=0)
    nearest = torch.as_tensor(right.lines[0].get_ydata())
    cosine = (unit[:, 0] * unit[:, 1]).sum(-1)
    torch.testing.assert_close(nearest[:2], cosine[:2])
    torch.testing.assert_close(nearest[2:], torch.maximum(cosine, (unit[:, 0] * unit[:, 2]).sum(-1))[2:])


def test_histories_refuse_what_is_empty_or_uneven():
    with pytest.raises(ValueError, match="`history` with at least one snapshot, got none"):
        plot.threshold_history([])
    with pytest.raises(ValueError, match=r"`history` of shape \(3,\) \(that of the first snapshot\), got \(4,\)"):
        plot.threshold_history([torch.rand(3), torch.rand(4)])
    with pytest.raises(ValueError, match="`steps` with one entry for each of 2 snapshots, got 3"):
        plot.threshold_history(torch.rand(2, 3), steps=[1, 2, 3])
    with pytest.raises(ValueError, match="`class_names` with 3 names, one for each class, got 1"):
        plot.threshold_history(torch.rand(2, 3), class_names=["sky"])
    with pytest.raises(ValueError, match="a class that has been seen, got zeros only"):
        plot.prototype_history(torch.zeros(2, 3, 4))


def clusters(spread):
    labels = torch.arange(90) % 3
    centers = 5 * torch.eye(3, 8)
    return centers[labels] + spread * torch.randn(90, 8), labels


def test_an_embedding_keeps_clusters_together_and_says_how_pure_they_are():
    pytest.importorskip("sklearn")
    features, labels = clusters(0.3)
    labels[4:6] = 255
    before, after = plot.embedding(torch.randn(90, 8), labels, features, class_names=["a", "b", "c"])
    assert after.get_title() == "after: 100.0 % of nearest neighbors share the label"
    assert before.get_title() != "before: 100.0 % of nearest neighbors share the label"
    groups = [torch.as_tensor(np.asarray(points.get_offsets())) for points in after.collections]
    assert [len(group) for group in groups] == [int((labels == label).sum()) for label in range(3)]
    for group, other in ((0, 1), (1, 2), (2, 0)):
        own = (groups[group] - groups[group].mean(0)).norm(dim=1).mean()
        assert (groups[group].mean(0) - groups[other].mean(0)).norm() > 2 * own
    assert [text.get_text() for text in after.texts] == ["a", "b", "c"]


def test_an_embedding_of_images_draws_a_sample_of_their_pixels():
    pytest.importorskip("sklearn")
    labels = torch.randint(2, (2, 8, 12))
    (axes,) = plot.embedding(torch.rand(2, 3, 4, 6), labels, max_nodes=20)
    assert sum(len(points.get_offsets()) for points in axes.collections) <= 20


@pytest.mark.parametrize(
    ("method", "module", "line"), [("tsne", "sklearn.manifold", "scikit-learn"), ("umap", "umap", "umap-learn")]
)
def test_a_missing_package_is_named_with_its_install_line(method, module, line, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=f"pip install {line}"):
        plot.embedding(*clusters(0.3), method=method)


def test_matplotlib_missing_is_named_with_its_install_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match="needs matplotlib here: pip install matplotlib"):
        plot.threshold_history(torch.rand(2, 3))


def test_umap_is_used_by_cosine_with_the_seed(monkeypatch):
    asked = {}

    class Recorder:
        def __init__(self, **settings):
            asked.update(settings)

        def fit_transform(self, rows):
            return rows[:, :2]

    monkeypatch.setitem(sys.modules, "umap", type(sys)("umap"))
    sys.modules["umap"].UMAP = Recorder
    features, labels = clusters(0.3)
    (axes,) = plot.embedding(features, labels, method="umap", seed=5)
    assert asked == {"metric": "cosine", "n_neighbors": 15, "random_state": 5, "n_jobs": 1}
    shown = torch.cat([torch.as_tensor(np.asarray(points.get_offsets())) for points in axes.collections])
    unit = torch.nn.functional.normalize(features, dim=-1)[:, :2].double()
    assert torch.cdist(shown.double(), unit).amin(1).max() < 1e-6


@pytest.mark.parametrize(
    ("labels", "options", "error", "message"),
    [
        (torch.full((90,), 255), {}, ValueError, "`labels` of at least 4 nodes to draw, got 0"),
        (torch.zeros(90), {}, TypeError, "`labels` to hold integer class labels"),
        (
            torch.zeros(90, dtype=torch.int64),
            {"method": "pca"},
            ValueError,
            "`method` to be one of 'tsne', 'umap', got 'pca'",
        ),
        (torch.ones(90, dtype=torch.int64), {"class_names": ["only"]}, ValueError, r"`labels` in \[0, 1\)"),
        (torch.ones(90, dtype=torch.int64), {"after": torch.rand(80, 3)}, ValueError, r"`labels` of shape \(80,\)"),
    ],
)
def test_embedding_refuses_what_does_not_fit(labels, options, error, message):
    with pytest.raises(error, match=message):
        plot.embedding(clusters(0.3)[0], labels, **options)


def test_labels_of_a_narrow_dtype_are_drawn_as_those_of_int64():
    for dtype in (torch.int64, torch.uint8):
        before, after = torch.full((4, 4), 3, dtype=dtype), torch.full((4, 4), 156, dtype=dtype)
        axes = plot.corrections(None, before, after, after, ignore_index=-100)
        assert axes.get_legend().texts[0].get_text() == "fixed (16 px)"
    features = torch.randn(30, 4)
    given = torch.tensor([0, 1, 255] * 10)
    drawn = [plot.embedding(features, given.to(dtype), ignore_index=-1) for dtype in (torch.int64, torch.uint8)]
    assert [len(axes[0].collections) for axes in drawn] == [3, 3]
