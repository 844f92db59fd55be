"""ClassConsistencyGraph is the class-level graph of Eqs. 6 and 7, without a matrix of all pairs."""

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import probabilities_strategy, random_features, random_labels, random_logits

from graphcorrect.graphs import ClassConsistencyGraph
from graphcorrect.ops._dispatch import without


def random_probabilities(*shape, seed=1, dtype=torch.float64):
    return random_logits(*shape, seed=seed).softmax(-1).to(dtype)


@given(probabilities_strategy())
def test_the_graph_is_equations_6_and_7(probabilities):
    graph = ClassConsistencyGraph()(probabilities)
    torch.testing.assert_close(graph.to_dense(), reference.eq7_class_graph(probabilities), rtol=1e-10, atol=1e-10)
    degree = reference.eq6_class_weights(probabilities).sum(1)
    torch.testing.assert_close(graph.degree(), degree, rtol=1e-10, atol=1e-10)


def test_in_float32_too():
    probabilities = random_probabilities(2, 60, 5, dtype=torch.float32)
    graph = ClassConsistencyGraph()(probabilities)
    expected = torch.stack([reference.eq7_class_graph(p.double()) for p in probabilities]).float()
    assert graph.dtype == torch.float32
    torch.testing.assert_close(graph.to_dense(), expected, rtol=1e-5, atol=1e-6)


def test_given_pseudo_labels_replace_the_most_probable_class():
    probabilities, labels = random_probabilities(12, 4), random_labels(12, num_classes=4)
    dense = ClassConsistencyGraph()(probabilities, labels).to_dense()
    torch.testing.assert_close(dense, reference.eq7_class_graph(probabilities, labels), rtol=1e-10, atol=1e-10)


def test_cosine_weights_divide_by_the_norms():
    probabilities = random_probabilities(12, 4)
    labels = probabilities.argmax(1)
    dense = ClassConsistencyGraph(similarity="cosine")(probabilities).to_dense()
    expected = reference.eq7_class_graph(reference.unit(probabilities), labels)
    torch.testing.assert_close(dense, expected, rtol=1e-10, atol=1e-10)


def test_weights_carry_a_gradient_when_asked():
    probabilities = random_probabilities(10, 3).requires_grad_()
    values, cotangent = random_features(10, 3, seed=1), random_features(10, 3, seed=2)
    lazy = torch.autograd.grad(
        ClassConsistencyGraph(differentiable=True)(probabilities) @ values, probabilities, cotangent
    )
    exact = torch.autograd.grad(reference.eq7_class_graph(probabilities) @ values, probabilities, cotangent)
    torch.testing.assert_close(lazy, exact, rtol=1e-10, atol=1e-10)


def test_weights_carry_no_gradient_by_default():
    probabilities = random_probabilities(10, 3).requires_grad_()
    assert not (ClassConsistencyGraph()(probabilities) @ random_features(10, 3)).requires_grad


def test_gradcheck_through_the_weights():
    probabilities, values = random_probabilities(6, 3).requires_grad_(), random_features(6, 2).requires_grad_()
    layer = ClassConsistencyGraph(differentiable=True)
    assert torch.autograd.gradcheck(lambda p, v: layer(p) @ v, (probabilities, values))


@given(probabilities_strategy(min_nodes=2))
def test_the_square_root_of_the_degree_is_kept_and_no_norm_grows(probabilities):
    graph = ClassConsistencyGraph()(probabilities)
    root = graph.degree().sqrt()[:, None]
    torch.testing.assert_close(graph @ root, root, rtol=1e-10, atol=1e-10)
    assert torch.linalg.eigvalsh(graph.to_dense()).abs().max() <= 1 + 1e-10


@given(probabilities_strategy(min_nodes=2), st.integers(0, 1000))
def test_permuting_nodes_permutes_and_renaming_classes_changes_nothing(probabilities, seed):
    draw = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(probabilities), generator=draw)
    names = torch.randperm(probabilities.shape[1], generator=draw)
    dense = ClassConsistencyGraph()(probabilities).to_dense()
    torch.testing.assert_close(ClassConsistencyGraph()(probabilities[order]).to_dense(), dense[order][:, order])
    torch.testing.assert_close(ClassConsistencyGraph()(probabilities[:, names]).to_dense(), dense)


def test_masked_and_ignored_nodes_keep_only_their_loop():
    probabilities = random_probabilities(2, 12, 3)
    mask = torch.rand(2, 12) < 0.6
    expected = torch.eye(12, dtype=torch.float64).repeat(2, 1, 1)
    for b in range(2):
        kept = mask[b]
        expected[b, kept.nonzero(), kept.nonzero()[:, 0]] = reference.eq7_class_graph(probabilities[b, kept])
    layer = ClassConsistencyGraph()
    torch.testing.assert_close(layer(probabilities, mask=mask).to_dense(), expected, rtol=1e-10, atol=1e-10)
    ignored = torch.where(mask, probabilities.argmax(-1), 255)
    torch.testing.assert_close(layer(probabilities, ignored).to_dense(), expected, rtol=1e-10, atol=1e-10)


def test_one_hot_predictions_average_over_their_class():
    labels = torch.tensor([0, 2, 0, 2, 2])
    dense = ClassConsistencyGraph()(torch.eye(3, dtype=torch.float64)[labels]).to_dense()
    same = (labels[:, None] == labels[None]).double()
    torch.testing.assert_close(dense, same / same.sum(1, keepdim=True), rtol=1e-12, atol=1e-12)


def test_a_node_alone_in_its_class_keeps_its_features():
    probabilities = torch.tensor([[0.6, 0.4], [0.3, 0.7]], dtype=torch.float64)
    values = random_features(2, 3)
    torch.testing.assert_close(ClassConsistencyGraph()(probabilities) @ values, values)


@pytest.mark.parametrize("shape", [(0, 4, 3), (2, 0, 3), (2, 1, 3), (2, 4, 1)])
def test_empty_and_single(shape):
    probabilities = torch.full(shape, 1.0 / shape[-1])
    product = ClassConsistencyGraph()(probabilities) @ torch.ones(*shape[:2], 2)
    assert product.shape == (*shape[:2], 2)
    torch.testing.assert_close(product, torch.ones(*shape[:2], 2))


def test_a_nan_stays_in_its_image():
    probabilities, values = random_probabilities(3, 8, 3), random_features(3, 8, 2)
    whole = ClassConsistencyGraph()(probabilities) @ values
    probabilities[1, 4, 0] = torch.nan
    torch.testing.assert_close((ClassConsistencyGraph()(probabilities) @ values)[[0, 2]], whole[[0, 2]])


def test_no_matrix_of_all_pairs_is_made(largest_tensor):
    num_nodes = 8000
    probabilities = random_probabilities(num_nodes, 4, dtype=torch.float32).requires_grad_()
    with largest_tensor() as seen:
        values = torch.ones(num_nodes, 3, requires_grad=True)
        (ClassConsistencyGraph(differentiable=True)(probabilities) @ values).sum().backward()
    assert seen.entries < 60 * num_nodes


def assert_large_product_is_dense(num_classes):
    """Of two images whose classes fill several blocks, with nodes outside every class."""
    probabilities, values = random_probabilities(2, 150, num_classes), random_features(2, 150, 5).requires_grad_()
    mask = random_features(2, 150, seed=2) < 1.2
    alone = num_classes + torch.arange(150)  # a class of one's own
    labels = torch.where(mask, probabilities.argmax(-1), alone)
    dense = torch.stack([reference.eq7_class_graph(*image) for image in zip(probabilities, labels, strict=True)])
    product, expected = ClassConsistencyGraph()(probabilities, mask=mask) @ values, dense @ values
    torch.testing.assert_close(product, expected)
    slope, expected = (torch.autograd.grad(each.sin().sum(), values)[0] for each in (product, expected))
    torch.testing.assert_close(slope, expected)


@pytest.mark.parametrize("num_classes", [1, 4, 40])
def test_large_products_are_those_of_dense_matrices(loops, num_classes):
    assert_large_product_is_dense(num_classes)


@pytest.mark.parametrize(("num_classes", "parts"), [(4, 1), (4, 5), (4, 16), (4, 500), (1, 16), (7, 16), (16, 16)])
def test_narrow_values_in_any_number_of_parts_too(monkeypatch, num_classes, parts):
    pytest.importorskip("numba")
    monkeypatch.setattr("graphcorrect.ops.class_layout.MAX_ENTRIES_ON_CPU", 0)
    monkeypatch.setattr("graphcorrect.ops.class_product.MIN_NUMBA_COLUMNS", 0)
    monkeypatch.setattr("graphcorrect.ops.kernels.cpu.class_blocks.PARTS", parts)
    assert_large_product_is_dense(num_classes)


@pytest.mark.parametrize("limit", [0, 2**20], ids=["blocks", "low rank"])
def test_what_is_not_finite_stays_in_its_image(loops, limit, monkeypatch):
    monkeypatch.setattr("graphcorrect.ops.class_layout.MAX_ENTRIES_ON_CPU", limit)
    values = random_features(2, 80, 64, dtype=torch.float32)
    graph = ClassConsistencyGraph()(random_probabilities(2, 80, 3, dtype=torch.float32))
    expected = graph @ values
    values[0, 4] = torch.inf
    torch.testing.assert_close((graph @ values)[1], expected[1], rtol=0, atol=0)


def test_torch_alone_multiplies_small_graphs_as_a_gpu_does_and_numba_their_blocks():
    pytest.importorskip("numba")
    probabilities = random_probabilities(2, 576, 21, dtype=torch.float32)
    values = random_features(2, 576, 64, dtype=torch.float32)
    in_blocks = ClassConsistencyGraph()(probabilities)
    with without("numba"):
        of_low_rank = ClassConsistencyGraph()(probabilities)
    assert len(in_blocks._layout.slot) == 2 * 576
    assert len(of_low_rank._layout.slot) == 0
    torch.testing.assert_close(of_low_rank @ values, in_blocks @ values)


def test_what_is_not_finite_stays_in_its_class_in_blocks(loops, monkeypatch):
    monkeypatch.setattr("graphcorrect.ops.class_layout.MAX_ENTRIES_ON_CPU", 0)
    labels = torch.arange(80) % 3
    probabilities = (4.0 * torch.eye(3)[labels] + random_logits(80, 3).float()).softmax(-1)
    graph, values = ClassConsistencyGraph()(probabilities, labels), random_features(80, 64, dtype=torch.float32)
    expected = graph @ values
    values[4] = torch.inf
    product = graph @ values
    assert not product[labels == 1].isfinite().any()
    torch.testing.assert_close(product[labels != 1], expected[labels != 1], rtol=0, atol=0)


@pytest.mark.parametrize("num_nodes", [12, 4000])
@pytest.mark.parametrize("left_out", ["mask", "label"])
def test_what_a_node_of_no_class_holds_reaches_nobody(num_nodes, left_out):
    p, values = random_logits(num_nodes, 3).softmax(-1), random_features(num_nodes, 2)
    chosen = {"mask": torch.arange(num_nodes) != 4, "pseudo_labels": p.argmax(-1)}
    chosen["pseudo_labels"][4] = 255
    graph = ClassConsistencyGraph()(p, **{name: each for name, each in chosen.items() if left_out in name})
    expected = graph @ values
    torch.testing.assert_close(expected[4], values[4])
    values[4] = torch.nan
    values.requires_grad_()
    found = graph @ values
    others = torch.arange(num_nodes) != 4
    torch.testing.assert_close(found[others], expected[others])
    found[others].sum().backward()
    assert values.grad.isfinite().all()


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("left_out", ["mask", "pseudo_labels"])
def test_a_node_left_out_that_is_not_finite_spoils_no_gradient(similarity, left_out):
    p, mask = random_probabilities(14, 3), torch.arange(14) != 5
    chosen = {"mask": mask} if left_out == "mask" else {"pseudo_labels": p.argmax(-1).masked_fill(~mask, 255)}
    p[5] = torch.nan
    p.requires_grad_()
    graph = ClassConsistencyGraph(similarity=similarity, differentiable=True)(p, **chosen)
    (graph @ random_features(14, 2)).sum().backward()
    assert p.grad.isfinite().all()
    assert p.grad[5].count_nonzero() == 0
