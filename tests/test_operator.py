"""Each lazy graph against its dense twin: products, degrees, transpose, edges and gradients."""

import pytest
import reference
import torch
from strategies import draw, random_features, random_labels, random_logits

from graphcorrect.graphs import ClassBlockOperator, ClassConsistencyGraph, GraphOperator, KNNAffinity, NeighborOperator


def neighbor_graph(leading=(), num_nodes=9, k=3, normalized=True, requires_grad=False):
    """Edges drawn at random, with loops, repeats and zero weights among them."""
    index = torch.randint(num_nodes, (*leading, num_nodes, k), generator=draw(5))
    weight = torch.rand(*leading, num_nodes, k, generator=draw(6), dtype=torch.float64)
    weight = torch.where(torch.rand(weight.shape, generator=draw(7)) < 0.2, 0.0, weight).requires_grad_(requires_grad)

    def dense(index, weight):
        directed = weight @ torch.zeros(k, num_nodes, dtype=weight.dtype)
        for j in range(k):
            directed = directed + weight[:, j : j + 1] * torch.eye(num_nodes, dtype=weight.dtype)[index[:, j]]
        return directed + directed.T

    graph = NeighborOperator(index, weight)
    flat = zip(index.reshape(-1, num_nodes, k), weight.reshape(-1, num_nodes, k), strict=True)
    return graph.normalized() if normalized else graph, [dense(i, w) for i, w in flat], weight


def class_graph(leading=(), num_nodes=9, num_classes=4, normalized=True, requires_grad=False):
    """Classes drawn at random, some nodes in none of them, class 1 always empty."""
    vectors = random_logits(*leading, num_nodes, num_classes).softmax(-1).requires_grad_(requires_grad)
    labels = random_labels(*leading, num_nodes, num_classes=num_classes + 1)
    labels = torch.where(labels == 1, num_classes, labels)
    flat = zip(vectors.reshape(-1, num_nodes, num_classes), labels.reshape(-1, num_nodes).clone(), strict=True)
    dense = []
    for p, y in flat:
        alone = y == num_classes
        y[alone] = num_classes + torch.arange(int(alone.sum()))  # a class of one's own
        dense.append(reference.eq6_class_weights(p, y))
    graph = ClassBlockOperator(vectors, labels, num_classes)
    return graph.normalized() if normalized else graph, dense, vectors


def knn_graph(leading=(), normalized=True, requires_grad=False, **_):
    features = random_features(*leading, 9, 4).requires_grad_(requires_grad)
    graph = KNNAffinity(3, differentiable=requires_grad)(features)
    directed = [reference.eq4_affinity(x, 3) for x in features.reshape(-1, 9, 4)]
    return graph, [a + a.T for a in directed], features


def consistency_graph(leading=(), normalized=True, requires_grad=False, **_):
    p = random_logits(*leading, 9, 4).softmax(-1).requires_grad_(requires_grad)
    graph = ClassConsistencyGraph(differentiable=requires_grad)(p)
    return graph, [reference.eq6_class_weights(q) for q in p.reshape(-1, 9, 4)], p


MAKERS = {
    "neighbors": neighbor_graph,
    "classes": class_graph,
    "KNNAffinity": knn_graph,
    "ClassConsistencyGraph": consistency_graph,
}
LEADING = [(), (1,), (2,), (2, 1, 3)]


CASES = [(name, True) for name in MAKERS] + [("neighbors", False), ("classes", False)]


@pytest.fixture(params=MAKERS)
def make(request):
    return MAKERS[request.param]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}, {'normalized' if case[1] else 'as given'}")
def case(request):
    name, normalized = request.param
    return MAKERS[name], normalized


def twin(dense, normalized, leading):
    """The dense matrices of a batch, (..., N, N)."""
    matrices = torch.stack([reference.normalize_both_sides(w) if normalized else w for w in dense])
    return matrices.reshape(*leading, *matrices.shape[1:])


@pytest.mark.parametrize("leading", LEADING)
def test_the_graph_multiplies_like_its_matrix(case, leading):
    make, normalized = case
    graph, dense, _ = make(leading, normalized=normalized)
    matrix = twin(dense, normalized, leading)
    values = random_features(*leading, 9, 5, seed=9)
    assert isinstance(graph, GraphOperator)
    assert tuple(graph.shape) == (*leading, 9, 9)
    torch.testing.assert_close(graph @ values, matrix @ values, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(graph.to_dense(), matrix, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(graph.transpose() @ values, matrix.mT @ values, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("leading", LEADING)
def test_degrees_are_the_row_sums_before_normalization(case, leading):
    make, normalized = case
    graph, dense, _ = make(leading, normalized=normalized)
    expected = torch.stack([w.sum(1) for w in dense]).reshape(*leading, 9)
    torch.testing.assert_close(graph.degree(), expected, rtol=1e-10, atol=1e-10)


def test_normalizing_twice_is_normalizing_once(make):
    graph, dense, _ = make((2,))
    torch.testing.assert_close(graph.normalized().to_dense(), twin(dense, True, (2,)), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("leading", LEADING)
def test_edges_are_the_nonzero_entries_of_the_joined_batch(case, leading):
    make, normalized = case
    graph, dense, _ = make(leading, normalized=normalized)
    edge_index, edge_weight = graph.to_edge_index()
    expected = torch.block_diag(*twin(dense, normalized, (-1,)))
    source, target = edge_index
    assert edge_index.dtype == torch.int64
    assert edge_index.shape[1] == int((expected != 0).sum())  # each pair once, none of weight zero
    torch.testing.assert_close(edge_weight, expected[target, source], rtol=1e-10, atol=1e-10)
    assert (target.diff() >= 0).all()


@pytest.mark.parametrize("leading", LEADING)
def test_gradients_of_values_and_weights_are_those_of_the_matrix(case, leading):
    make, normalized = case
    graph, dense, leaf = make(leading, normalized=normalized, requires_grad=True)
    values = random_features(*leading, 9, 5, seed=9).requires_grad_()
    cotangent = random_features(*leading, 9, 5, seed=10)
    lazy = torch.autograd.grad(graph @ values, (values, leaf), cotangent, retain_graph=True)
    exact = torch.autograd.grad(twin(dense, normalized, leading) @ values, (values, leaf), cotangent)
    for one, other in zip(lazy, exact, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("num_nodes", [1, 2, 30, 200])
def test_class_blocks_of_any_length(num_nodes):
    graph, dense, _ = class_graph((2,), num_nodes=num_nodes)
    values = random_features(2, num_nodes, 3)
    torch.testing.assert_close(graph @ values, twin(dense, True, (2,)) @ values, rtol=1e-10, atol=1e-10)


def test_vectors_without_entries_leave_each_node_to_itself():
    graph = ClassBlockOperator(torch.zeros(7, 0), torch.zeros(7, dtype=torch.int64), 2)
    values = random_features(7, 70, dtype=torch.float32)
    torch.testing.assert_close(graph @ values, values, rtol=0, atol=0)


def test_one_class_that_fills_several_blocks():
    p = random_logits(400, 2).softmax(1)
    graph = ClassBlockOperator(p, torch.zeros(400, dtype=torch.int64), 2)
    matrix = p @ p.T
    matrix.fill_diagonal_(1.0)
    values = random_features(400, 3)
    torch.testing.assert_close(graph @ values, matrix @ values, rtol=1e-10, atol=1e-10)


def test_gradcheck_of_neighbors():
    index = torch.randint(5, (5, 2), generator=draw(1))
    weight = (0.5 + torch.rand(5, 2, dtype=torch.float64)).requires_grad_()
    values = random_features(5, 2).requires_grad_()

    def product(w, v):
        return NeighborOperator(index, w).normalized() @ v

    assert torch.autograd.gradcheck(product, (weight, values))
    assert torch.autograd.gradgradcheck(product, (weight, values))


@pytest.mark.parametrize("limit", [0, 2**20], ids=["blocks", "low rank"])
def test_gradcheck_of_class_blocks(limit, monkeypatch):
    monkeypatch.setattr("graphcorrect.ops.class_layout.MAX_ENTRIES_ON_CPU", limit)
    vectors = random_logits(5, 3).softmax(1).requires_grad_()
    values = random_features(5, 2).requires_grad_()
    labels = torch.tensor([0, 0, 2, 0, 2])

    def product(p, v):
        return ClassBlockOperator(p, labels, 3).normalized() @ v

    assert torch.autograd.gradcheck(product, (vectors, values))
    assert torch.autograd.gradgradcheck(product, (vectors, values))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_results_come_back_in_the_dtype_of_the_values(make, dtype):
    graph, dense, _ = make((2,))
    values = random_features(2, 9, 5).to(dtype)
    product = graph @ values
    assert product.dtype == dtype
    expected = (twin(dense, True, (2,)) @ values.double()).to(dtype)
    torch.testing.assert_close(product, expected)


def test_autocast_does_not_narrow_the_product(make):
    graph, dense, _ = make((2,))
    values = random_features(2, 9, 5, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        product = graph @ values
    expected = (twin(dense, True, (2,)) @ values.double()).float()
    torch.testing.assert_close(product, expected, rtol=1e-5, atol=1e-6)


def test_a_graph_leaves_the_values_alone(make):
    graph, _, _ = make((2,))
    values = random_features(2, 9, 5)
    before = values.clone()
    _ = graph @ values
    assert torch.equal(values, before)


@pytest.mark.parametrize("shape", [(2, 8, 5), (9, 5), (3, 9, 5), (2, 9), (9,)])
def test_values_that_do_not_fit_the_graph_are_refused(make, shape):
    graph, _, _ = make((2,))
    with pytest.raises(ValueError, match=r"`values`.*got"):
        graph @ torch.zeros(shape)


def test_integer_values_are_refused(make):
    graph, _, _ = make((2,))
    with pytest.raises(TypeError, match="`values`.*floating point.*int64"):
        graph @ torch.zeros(2, 9, 5, dtype=torch.int64)


def test_a_graph_has_the_dimensions_of_its_matrix():
    graph = KNNAffinity(2)(torch.randn(2, 5, 3))
    assert (graph.ndim, graph.transpose() is graph) == (3, True)
