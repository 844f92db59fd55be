"""One step over a graph, and the learned maps f_C and f_S of Eqs. 8 and 11, which start out useful."""

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    draw,
    label_spreading_limit,
    orthogonal_clusters,
    probabilities_strategy,
    random_features,
    random_logits,
)

from graphcorrect.graphs import ClassConsistencyGraph, KNNAffinity
from graphcorrect.nodes import unit_rows
from graphcorrect.propagate import FeaturePropagation, GraphPropagation, LabelPropagation, propagate

pytestmark = pytest.mark.usefixtures("loops")


def random_probabilities(*shape, seed=1):
    return random_logits(*shape, seed=seed).softmax(-1)


@given(st.integers(0, 1000), st.floats(0, 1))
def test_a_step_mixes_own_and_neighbors_values(seed, alpha):
    features, values = random_features(9, 4, seed=seed), random_features(9, 3, seed=5)
    mixed = propagate(KNNAffinity(2)(features), values, alpha)
    expected = reference.propagate(reference.eq5_semantic_graph(features, 2), values, alpha)
    torch.testing.assert_close(mixed, expected, rtol=1e-10, atol=1e-10)


def test_alpha_may_differ_from_node_to_node():
    features, values = random_features(2, 9, 4), random_features(2, 9, 3, seed=5)
    alpha = torch.rand(2, 9, 1, dtype=torch.float64)
    dense = torch.stack([reference.eq5_semantic_graph(x, 3) for x in features])
    expected = (1 - alpha) * values + alpha * (dense @ values)
    torch.testing.assert_close(propagate(KNNAffinity(3)(features), values, alpha), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_a_node_without_edges_keeps_its_values(alpha):
    features = random_features(8, 3)
    features[[1, 4]] = 0.0
    values = random_features(8, 2, seed=5)
    mixed = propagate(KNNAffinity(5)(features), values, alpha)
    assert torch.equal(mixed[[1, 4]], values[[1, 4]])
    expected = reference.propagate(reference.eq5_semantic_graph(features, 5), values, alpha)
    torch.testing.assert_close(mixed, expected, rtol=1e-10, atol=1e-10)


def test_repeated_steps_settle_where_label_spreading_does():
    features, labels = orthogonal_clusters(3, 6)
    features = features + 0.05 * random_features(*features.shape)
    graph, start = KNNAffinity(4)(features), torch.eye(3, dtype=torch.float64)[labels]
    settled = start
    for _ in range(400):
        settled = 0.1 * start + 0.9 * (graph @ settled)
    limit = label_spreading_limit(reference.eq5_semantic_graph(features, 4), start, 0.9)
    torch.testing.assert_close(settled, limit, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("alpha", [-0.1, 1.1])
def test_a_share_outside_zero_to_one_is_refused(alpha):
    with pytest.raises(ValueError, match=rf"`alpha`.*\[0, 1\], got {alpha}"):
        propagate(KNNAffinity(2)(random_features(5, 3)), random_features(5, 2), alpha)


def test_untrained_label_propagation_is_the_normalized_average_of_equation_8():
    features, probabilities = random_features(2, 12, 4), random_probabilities(2, 12, 3)
    features[0, 3] = 0.0
    corrected = LabelPropagation(3)(KNNAffinity(5)(features), probabilities)
    for b in range(2):
        expected = reference.eq8_corrected(reference.eq5_semantic_graph(features[b], 5), probabilities[b])
        torch.testing.assert_close(corrected[b], expected, rtol=1e-10, atol=1e-10)


def test_untrained_feature_propagation_is_the_even_mix_of_equation_11():
    features, probabilities = random_features(2, 12, 4), random_probabilities(2, 12, 3)
    features[0, 3] = 0.0
    tightened = FeaturePropagation(4)(ClassConsistencyGraph()(probabilities), features)
    for b in range(2):
        expected = reference.eq11_features(reference.eq7_class_graph(probabilities[b]), features[b])
        torch.testing.assert_close(tightened[b], expected, rtol=1e-10, atol=1e-10)
    assert FeaturePropagation(4)(ClassConsistencyGraph()(probabilities), features).norm(dim=-1).min() > 1 - 1e-10


def shaken(layer, scale):
    """The layer in float64 with every weight moved at random, as training might."""
    layer = layer.double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return layer


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_trained_label_map_scales_the_average_by_a_bounded_exponential(depth):
    features, probabilities = random_features(10, 4), random_probabilities(10, 3)
    layer = shaken(LabelPropagation(3, depth=depth, hidden_dim=8), 1.0)
    average = reference.eq8_corrected(reference.eq5_semantic_graph(features, 3), probabilities)
    residual = layer.residual(probabilities, average)
    weight = average * (10 * torch.tanh(residual / 10)).exp()
    assert residual.abs().max() > 0.1
    torch.testing.assert_close(layer(KNNAffinity(3)(features), probabilities), weight / weight.sum(1, keepdim=True))


def test_a_trained_feature_map_adds_its_residual():
    features, probabilities = random_features(10, 4), random_probabilities(10, 3)
    layer = shaken(FeaturePropagation(4, hidden_dim=8), 1.0)
    graph = reference.eq7_class_graph(probabilities)
    own = reference.unit(features)
    residual = layer.residual(own, reference.unit(graph @ own))
    assert residual.abs().max() > 0.1
    expected = reference.eq11_features(graph, features) + residual
    torch.testing.assert_close(layer(ClassConsistencyGraph()(probabilities), features), expected)


@given(probabilities_strategy(min_nodes=4), st.sampled_from([0.1, 10.0, 1000.0]))
def test_corrected_labels_stay_on_the_simplex_whatever_was_learned(probabilities, scale):
    graph = KNNAffinity(3)(random_features(len(probabilities), 4))
    corrected = shaken(LabelPropagation(probabilities.shape[1]), scale)(graph, probabilities)
    assert (corrected >= 0).all()
    torch.testing.assert_close(corrected.sum(1), torch.ones(len(probabilities), dtype=torch.float64))


@pytest.mark.parametrize("layer", [LabelPropagation, FeaturePropagation])
def test_training_reaches_every_weight(layer):
    graph = KNNAffinity(3)(random_features(10, 4))
    layer = layer(3)
    values = random_probabilities(10, 3).float()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(2):  # the first step moves the last layer off zero, the second one sees past it
        optimizer.zero_grad()
        (layer(graph, values) ** 2)[:, 0].sum().backward()
        optimizer.step()
    assert all(parameter.grad.abs().max() > 0 for parameter in layer.parameters())


@pytest.mark.parametrize("layer", [LabelPropagation, FeaturePropagation])
def test_gradcheck_of_the_learned_maps(layer):
    graph = KNNAffinity(2)(random_features(5, 4))
    layer = shaken(layer(3, hidden_dim=4), 0.3)
    values = random_probabilities(5, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda v, *_: layer(graph, v), (values, *layer.parameters()))


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("layer", [LabelPropagation, FeaturePropagation])
@pytest.mark.parametrize("graph", [ClassConsistencyGraph(), KNNAffinity(2)], ids=["class", "neighbors"])
def test_second_derivatives_of_the_learned_maps(graph, layer, frozen):
    graph = graph(random_probabilities(5, 3))
    layer = shaken(layer(3, hidden_dim=4), 0.3)
    layer.residual.last.bias.requires_grad_(not frozen)
    trained = [each for each in layer.parameters() if each.requires_grad]
    values = random_probabilities(5, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda v, *_: layer(graph, v), (values, *trained))
    assert torch.autograd.gradgradcheck(lambda v, *_: layer(graph, v), (values, *trained))


@pytest.mark.parametrize("tile", [1, 28, 1000], ids=["a row", "some rows", "all graphs"])
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("hidden_dim", [2, 8], ids=["narrow", "wide"])
@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_the_map_of_features_in_tiles_is_that_in_one(layout, hidden_dim, parts, tile, loops, monkeypatch):
    mask = torch.rand(2, 3, 50, generator=draw(5)) < 0.8
    graph = ClassConsistencyGraph()(random_probabilities(2, 3, 50, 3), mask=mask)
    layer = shaken(FeaturePropagation(4, hidden_dim=hidden_dim), 0.5)
    values = random_features(2, 3, 50, 4) if layout == "rows" else random_features(2, 3, 4, 50).mT
    values.requires_grad_()
    cotangent = random_features(2, 3, 50, 4, seed=3)
    inputs = (values, *layer.parameters())
    own = unit_rows(values)
    expected = layer.tighten(own, graph @ own, layer.residual)
    slopes = torch.autograd.grad(expected, inputs, cotangent)
    monkeypatch.setattr("graphcorrect._row_maps.TILE", {"cpu": tile})
    if loops == "numba":
        monkeypatch.setattr("graphcorrect._numba_tighten.TILE", tile)
        monkeypatch.setattr("graphcorrect._numba_tighten.PART", tile / parts)
    moved = layer(graph, values)
    for one, other in zip((moved, *torch.autograd.grad(moved, inputs, cotangent)), (expected, *slopes), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("tile", [1, 28])
def test_the_map_of_labels_in_tiles_is_that_in_one(tile, monkeypatch):
    graph = KNNAffinity(3)(random_features(2, 50, 4))
    layer = shaken(LabelPropagation(3, hidden_dim=8), 0.5)
    values = random_probabilities(2, 50, 3).requires_grad_()
    inputs = (values, *layer.parameters())
    expected = layer.correct(values, graph @ values, layer.residual)
    slopes = torch.autograd.grad(expected.square().sum(), inputs)
    monkeypatch.setattr("graphcorrect._row_maps.TILE", {"cpu": tile})
    corrected = layer(graph, values)
    found = torch.autograd.grad(corrected.square().sum(), inputs)
    for one, other in zip((corrected, *found), (expected, *slopes), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_no_map_keeps_what_lies_between():
    num_nodes, dim = 4000, 32
    by_class = ClassConsistencyGraph()(random_probabilities(num_nodes, 5).float())
    values = random_probabilities(num_nodes, dim).float().requires_grad_()
    for layer in (FeaturePropagation(dim), LabelPropagation(dim)):
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda x: x):  # noqa: B023
            layer(by_class, values)
        assert sum(each.numel() for each in kept) < 2.5 * values.numel()


def test_a_map_says_what_a_subclass_has_to_define():
    with pytest.raises(NotImplementedError):
        GraphPropagation()(None, torch.ones(1, 2, 3))


def test_a_map_of_one_s_own_is_what_is_used():
    class Halved(LabelPropagation):
        def correct(self, own, propagated, learned):
            return super().correct(own, propagated, learned) / 2

    class Doubled(FeaturePropagation):
        def tighten(self, own, propagated, learned):
            return 2 * super().tighten(own, propagated, learned)

    features, probabilities = random_features(2, 12, 4), random_probabilities(2, 12, 3)
    graph, classes = KNNAffinity(5)(features), ClassConsistencyGraph()(probabilities)
    torch.testing.assert_close(Halved(3)(graph, probabilities), LabelPropagation(3)(graph, probabilities) / 2)
    torch.testing.assert_close(Doubled(4)(classes, features), 2 * FeaturePropagation(4)(classes, features))


def test_a_learned_map_of_the_users_own_gets_its_own_gradient():
    features, probabilities = random_features(30, 6).requires_grad_(), random_probabilities(30, 3)
    feature_map = FeaturePropagation(6, hidden_dim=5).double()
    feature_map.residual.hidden[2] = torch.nn.Tanh()
    for parameter in feature_map.parameters():
        torch.nn.init.normal_(parameter)
    graph = ClassConsistencyGraph()(probabilities)
    own = unit_rows(features)
    expected = feature_map.tighten(own, propagate(graph, own), feature_map.residual)
    wanted, probe = [features, *feature_map.parameters()], random_features(30, 6, seed=5)
    slopes = torch.autograd.grad(feature_map(graph, features), wanted, probe)
    for mine, theirs in zip(slopes, torch.autograd.grad(expected, wanted, probe), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-8)
