"""KNNAffinity is the semantic-level graph of Eqs. 4 and 5."""

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import features_strategy, identical_features, orthogonal_clusters, random_features

from graphcorrect.graphs import KNNAffinity


@pytest.mark.parametrize("k", [1, 3, 11])
@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("self_loops", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_the_graph_is_equations_4_and_5(k, gamma, self_loops, dtype, tolerance):
    features = random_features(2, 12, 4, dtype=dtype)
    graph = KNNAffinity(k, gamma=gamma, self_loops=self_loops)(features)
    expected = torch.stack([reference.eq5_semantic_graph(x.double(), k, gamma, self_loops) for x in features])
    assert graph.to_dense().dtype == dtype
    torch.testing.assert_close(graph.to_dense(), expected.to(dtype), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_weights_carry_a_gradient_when_asked(gamma):
    features = random_features(10, 4).requires_grad_()
    values, cotangent = random_features(10, 3, seed=1), random_features(10, 3, seed=2)
    lazy = torch.autograd.grad(KNNAffinity(3, gamma=gamma, differentiable=True)(features) @ values, features, cotangent)
    exact = torch.autograd.grad(reference.eq5_semantic_graph(features, 3, gamma) @ values, features, cotangent)
    torch.testing.assert_close(lazy, exact, rtol=1e-10, atol=1e-10)


def test_weights_carry_no_gradient_by_default():
    features = random_features(10, 4).requires_grad_()
    assert not (KNNAffinity(3)(features) @ random_features(10, 3)).requires_grad


def test_gradcheck_through_the_weights():
    features = random_features(6, 3).requires_grad_()
    values = random_features(6, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, v: KNNAffinity(2, differentiable=True)(x) @ v, (features, values))


@pytest.mark.parametrize("gamma", [0.5, 1.0])
def test_the_gradient_is_finite_where_rows_are_zero_opposite_or_equal(gamma):
    features = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    features.requires_grad_()
    (KNNAffinity(4, gamma=gamma, differentiable=True)(features) @ torch.ones(5, 1).double()).sum().backward()
    assert features.grad.isfinite().all()
    assert (features.grad[0] == 0).all()


def test_orthogonal_clusters_average_the_rest_of_their_cluster():
    features, labels = orthogonal_clusters(3, 5)
    expected = (labels[:, None] == labels[None]).double() / 4
    expected.fill_diagonal_(0.0)
    torch.testing.assert_close(KNNAffinity(4)(features).to_dense(), expected, rtol=1e-12, atol=1e-12)


def test_with_every_other_node_a_neighbor_identical_nodes_share_evenly():
    expected = (1 - torch.eye(6, dtype=torch.float64)) / 5
    torch.testing.assert_close(KNNAffinity(5)(identical_features(6)).to_dense(), expected, rtol=1e-12, atol=1e-12)


@given(features_strategy(min_nodes=3), st.integers(1, 2))
def test_the_square_root_of_the_degree_is_kept_and_no_norm_grows(features, k):
    graph = KNNAffinity(k)(features)
    root = graph.degree().sqrt()[:, None]
    torch.testing.assert_close(graph @ root, root, rtol=1e-10, atol=1e-10)
    dense = graph.to_dense()
    torch.testing.assert_close(dense, dense.mT)
    assert torch.linalg.eigvalsh(dense).abs().max() <= 1 + 1e-10


@given(st.integers(0, 1000))
def test_permuting_nodes_permutes_the_graph(seed):
    features = random_features(12, 4, seed=seed)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(
        KNNAffinity(3)(features[order]).to_dense(), KNNAffinity(3)(features).to_dense()[order][:, order]
    )


@given(st.floats(1e-6, 1e6))
def test_scaling_the_features_changes_nothing(scale):
    features = random_features(12, 4)
    lengths = scale * torch.linspace(1, 3, 12, dtype=torch.float64)[:, None]
    torch.testing.assert_close(KNNAffinity(3)(features * lengths).to_dense(), KNNAffinity(3)(features).to_dense())


def test_masked_nodes_get_no_edges_and_the_others_do_not_notice():
    features = random_features(2, 14, 4)
    mask = torch.rand(2, 14) < 0.7
    dense = KNNAffinity(3)(features, mask=mask).to_dense()
    for b in range(2):
        kept = mask[b]
        expected = torch.zeros(14, 14, dtype=torch.float64)
        expected[kept.nonzero(), kept.nonzero()[:, 0]] = reference.eq5_semantic_graph(features[b, kept], 3)
        torch.testing.assert_close(dense[b], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("differentiable", [False, True])
@pytest.mark.parametrize("kept", [0, 1, 2])
def test_fewer_unmasked_nodes_than_neighbors(kept, differentiable):
    features = random_features(8, 4).abs()
    dense = KNNAffinity(3, differentiable=differentiable)(features, mask=torch.arange(8) < kept).to_dense()
    expected = torch.zeros(8, 8, dtype=torch.float64)
    if kept == 2:
        expected[0, 1] = expected[1, 0] = 1.0
    torch.testing.assert_close(dense, expected)


def test_a_leading_one_joins_the_images_of_a_batch():
    features = random_features(2, 6, 4)
    dense = KNNAffinity(4)(features.reshape(1, 12, 4)).to_dense()[0]
    torch.testing.assert_close(dense, reference.eq5_semantic_graph(features.reshape(12, 4), 4), rtol=1e-10, atol=1e-10)
    assert (dense[:6, 6:] != 0).any()


@pytest.mark.parametrize("num_nodes", [0, 1])
def test_one_node_or_none_has_no_edges(num_nodes):
    graph = KNNAffinity(20)(torch.ones(2, num_nodes, 3))
    assert tuple(graph.shape) == (2, num_nodes, num_nodes)
    assert graph.to_edge_index()[0].shape == (2, 0)
    torch.testing.assert_close(graph @ torch.ones(2, num_nodes, 4), torch.zeros(2, num_nodes, 4))


def test_a_zero_row_has_no_edges():
    features = random_features(6, 3)
    features[2] = 0
    graph = KNNAffinity(5)(features)
    assert graph.degree()[2] == 0
    assert (graph.to_dense()[2] == 0).all()
    assert (graph.to_dense()[:, 2] == 0).all()


@pytest.mark.parametrize("num_nodes", [2, 20])
def test_more_neighbors_than_nodes_are_all_the_others(num_nodes):
    features = random_features(num_nodes, 3)
    graph, others = KNNAffinity(20)(features), KNNAffinity(num_nodes - 1)(features)
    assert graph.num_neighbors == num_nodes - 1
    assert f"num_neighbors={num_nodes - 1}" in repr(graph)
    torch.testing.assert_close(graph.to_dense(), others.to_dense())
    assert KNNAffinity(20, self_loops=True)(features).num_neighbors == min(20, num_nodes)


def test_every_backend_builds_the_same_graph():
    pytest.importorskip("faiss")
    features = random_features(2, 40, 8)
    torch.testing.assert_close(
        KNNAffinity(5, backend="faiss")(features).to_dense(), KNNAffinity(5)(features).to_dense(), rtol=1e-5, atol=1e-5
    )


def test_no_matrix_of_all_pairs_is_made(largest_tensor):
    num_nodes = 8000
    with largest_tensor() as seen:
        _ = KNNAffinity(5)(random_features(num_nodes, 4, dtype=torch.float32)) @ torch.ones(num_nodes, 3)
    assert seen.entries < num_nodes**2 / 3


def test_the_layer_prints_its_arguments():
    assert "num_neighbors=7" in repr(KNNAffinity(7, gamma=2.0))
    assert "gamma=2.0" in repr(KNNAffinity(7, gamma=2.0))


def test_rounding_that_makes_an_edge_of_a_right_angle_gives_no_infinite_slope():
    """Searched and differentiated cosines differ by rounding: 1e-9 and 0, whose root has no slope."""
    features = torch.cartesian_prod(*3 * [torch.tensor([-1.0, 0.0, 1.0])]).requires_grad_()
    graph = KNNAffinity(20, gamma=0.5, differentiable=True)(features)
    (graph @ torch.eye(27)).square().sum().backward()
    assert features.grad.isfinite().all()


def test_a_masked_node_that_is_not_finite_spoils_no_gradient():
    features, mask = random_features(14, 4), torch.arange(14) != 5
    features[5] = torch.nan
    features.requires_grad_()
    (KNNAffinity(3, differentiable=True)(features, mask=mask) @ random_features(14, 2, seed=2)).sum().backward()
    assert features.grad.isfinite().all()
    assert features.grad[5].count_nonzero() == 0
