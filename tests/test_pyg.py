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
