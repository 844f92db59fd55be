"""PyG's Data and Batch through a refiner, and our edges in PyG's own label propagation."""

import pytest
import reference
import torch
from strategies import random_features, random_labels, random_logits

from graphcorrect import DualGraphRefiner, KNNAffinity, pyg

pytest.importorskip("torch_geometric")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def data(num_nodes, seed=0):
    from torch_geometric.data import Data

    return Data(
        x=random_features(num_nodes, 4, seed=seed), logits=random_logits(num_nodes, 3, seed=seed + 1, scale=1.2)
    )


def refiner():
    return DualGraphRefiner(3, 4, num_neighbors=4, sigma=0.8).double()


def test_a_graph_is_refined_as_its_tensors_are():
    one = data(12)
    refined = pyg.refine(refiner(), one)
    p, x = reference.algorithm1([one.x], [one.logits], num_neighbors=4, sigma=0.8)
    torch.testing.assert_close(refined.soft_labels, (p[1][0] + p[2][0]) / 2, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(refined.refined_features, x[2][0], rtol=1e-10, atol=1e-10)
    assert torch.equal(refined.pseudo_labels, (p[1][0] + p[2][0]).argmax(1))
    torch.testing.assert_close(refined.confidence, refined.soft_labels.amax(1))
    assert "soft_labels" not in one


def test_graphs_of_unequal_size_are_refined_each_by_itself():
    from torch_geometric.data import Batch

    graphs = [data(12), data(7, seed=10), data(1, seed=20), data(9, seed=30)]
    refined = pyg.refine(refiner(), Batch.from_data_list(graphs))
    p, x = reference.algorithm1([g.x for g in graphs], [g.logits for g in graphs], num_neighbors=4, sigma=0.8)
    expected = (torch.cat(p[1]) + torch.cat(p[2])) / 2
    torch.testing.assert_close(refined.soft_labels, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(refined.refined_features, torch.cat(x[2]), rtol=1e-10, atol=1e-10)


def test_a_named_mask_leaves_nodes_out():
    one = data(12)
    one.labelable = torch.arange(12) % 4 != 0
    refined = pyg.refine(refiner(), one, mask="labelable")
    kept = one.labelable
    p, _ = reference.algorithm1([one.x[kept]], [one.logits[kept]], num_neighbors=4, sigma=0.8)
    torch.testing.assert_close(refined.soft_labels[kept], (p[1][0] + p[2][0]) / 2, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(refined.soft_labels[~kept], one.logits.softmax(1)[~kept])


def test_a_missing_entry_is_named():
    with pytest.raises(ValueError, match=r"`features`.*'embedding'"):
        pyg.refine(refiner(), data(12), features="embedding")


def test_a_batch_of_graphs_becomes_one_graph_with_offsets():
    features = random_features(2, 8, 4)
    graph = KNNAffinity(3)(features)
    joined = pyg.to_data(graph, x=features.flatten(0, 1))
    dense = torch.zeros(16, 16, dtype=torch.float64)
    dense[joined.edge_index[1], joined.edge_index[0]] = joined.edge_weight
    expected = torch.block_diag(*(reference.eq5_semantic_graph(x, 3) for x in features))
    torch.testing.assert_close(dense, expected, rtol=1e-10, atol=1e-10)
    assert joined.num_nodes == 16


def test_pygs_label_propagation_walks_our_edges():
    from torch_geometric.nn import LabelPropagation

    features, labels = random_features(20, 4, dtype=torch.float32), random_labels(20, num_classes=3)
    known = torch.arange(20) < 8
    edge_index, edge_weight = KNNAffinity(4)(features).to_edge_index()
    out = LabelPropagation(num_layers=3, alpha=0.8)(labels, edge_index, known, edge_weight)
    dense = reference.eq5_semantic_graph(features.double(), 4)
    start = torch.eye(3).double()[labels] * known[:, None]
    expected = start
    for _ in range(3):
        expected = (0.8 * dense @ expected + 0.2 * start).clamp(0, 1)
    torch.testing.assert_close(out, expected.float(), rtol=1e-4, atol=1e-5)


def test_pygs_correct_and_smooth_takes_our_edges():
    from torch_geometric.nn import CorrectAndSmooth

    features, labels = random_features(20, 4, dtype=torch.float32), random_labels(20, num_classes=3)
    soft, known = random_logits(20, 3, dtype=torch.float32).softmax(1), torch.arange(20) < 8
    edge_index, edge_weight = KNNAffinity(4)(features).to_edge_index()
    layer = CorrectAndSmooth(2, 0.8, 2, 0.8, autoscale=False)
    smoothed = layer.smooth(soft, labels[known], known, edge_index, edge_weight)
    dense = reference.eq5_semantic_graph(features.double(), 4)
    start = torch.where(known[:, None], torch.eye(3)[labels], soft).double()
    expected = start
    for _ in range(2):
        expected = (0.8 * dense @ expected + 0.2 * start).clamp(0, 1)
    torch.testing.assert_close(smoothed, expected.float(), rtol=1e-4, atol=1e-5)


def batch_of(*sizes):
    from torch_geometric.data import Batch

    return Batch.from_data_list([data(size, seed=10 * number) for number, size in enumerate(sizes)])


@pytest.mark.parametrize("ids", [[0, 1, 2], [2, 0, 1], [7, 3, 40], [-1, 0, 5]])
def test_no_row_is_lost_whatever_the_order_and_the_numbers_of_the_graphs(ids):
    whole = batch_of(12, 7, 9)
    right = pyg.refine(refiner(), whole)
    order = torch.randperm(28)
    mixed = data(28)
    mixed.x, mixed.logits = whole.x[order], whole.logits[order]
    mixed.batch = torch.tensor(ids)[whole.batch][order]
    refined = pyg.refine(refiner(), mixed)
    for name in ("soft_labels", "refined_features", "confidence"):
        torch.testing.assert_close(refined[name], right[name][order], rtol=1e-10, atol=1e-10)
    assert torch.equal(refined.pseudo_labels, right.pseudo_labels[order])


def test_gradients_pass_the_door_in_order():
    whole = batch_of(6, 9)
    whole.logits.requires_grad_()
    pyg.refine(refiner(), whole).soft_labels[3, 0].backward()
    assert whole.logits.grad[:6].abs().sum() > 0
    assert whole.logits.grad[6:].abs().sum() == 0


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda d: d.update({"x": d.x.to_sparse_csr()}), TypeError, "`x` to be dense, got the layout torch.sparse_csr"),
        (lambda d: d.update({"logits": d.logits.to_sparse()}), TypeError, "`logits` to be dense"),
        (lambda d: d.x[3:5].fill_(torch.nan), ValueError, "`x` finite .* in 2 of 12 rows; leave them out with `mask`"),
        (lambda d: d.logits[0, 0].fill_(torch.inf), ValueError, "`logits` finite .* in 1 of 12 rows"),
        (lambda d: d.update({"logits": d.logits.long()}), TypeError, "`logits` to be floating point"),
        (lambda d: d.update({"batch": torch.zeros(5, dtype=torch.int64)}), ValueError, "`batch` of shape"),
        (lambda d: d.update({"batch": torch.zeros(12)}), TypeError, "`batch` to hold integer"),
        (lambda d: d.update({"x": None}), ValueError, "to name an entry of `data`, got 'x'"),
        (lambda d: d.update({"x": [1.0] * 12}), TypeError, "`x` to be a torch.Tensor, got list"),
    ],
)
def test_entries_that_are_sparse_missing_or_of_another_size_are_named(spoil, error, message):
    one = data(12)
    spoil(one)
    with pytest.raises(error, match=message):
        pyg.refine(refiner(), one)


def test_a_node_without_features_may_be_left_out_by_the_mask():
    one = data(12)
    one.x[4] = torch.nan
    one.known = torch.isfinite(one.x).all(1)
    refined = pyg.refine(refiner(), one, mask="known")
    assert torch.isfinite(refined.soft_labels).all()
    one.known = one.known[:, None].repeat(1, 3)  # as data sets with several splits have it
    with pytest.raises(ValueError, match="`known` of shape"):
        pyg.refine(refiner(), one, mask="known")


def test_a_graph_without_nodes_stays_one():
    refined = pyg.refine(refiner(), data(0))
    assert refined.soft_labels.shape == (0, 3)
    assert refined.refined_features.shape == (0, 4)
