"""One step over a graph, and the learned maps f_C and f_S of Eqs. 8 and 11, which start out useful."""

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    label_spreading_limit,
    orthogonal_clusters,
    probabilities_strategy,
    random_features,
    random_logits,
)

from graphcorrect import DualGraphRefiner
from graphcorrect.functional import propagate
from graphcorrect.graphs import ClassConsistencyGraph, KNNAffinity
from graphcorrect.maps import FeaturePropagation, GraphPropagation, LabelPropagation, ZeroStartMLP

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


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_network_of_version_0_1_is_loaded_and_says_the_same(depth):
    torch.manual_seed(0)
    layers = []
    for number in range(depth):
        layers += [torch.nn.Linear(5 if number else 6, 5), torch.nn.LayerNorm(5), torch.nn.GELU()]
    last = torch.nn.Linear(5 if depth else 6, 3)
    before = torch.nn.ModuleDict({"hidden": torch.nn.Sequential(*layers), "last": last})
    network = ZeroStartMLP(3, hidden_dim=5, depth=depth)
    network.load_state_dict(before.state_dict())
    own, propagated = torch.randn(2, 7, 3), torch.randn(2, 7, 3)
    expected = before["last"](before["hidden"](torch.cat([own, propagated], -1)))
    torch.testing.assert_close(network(own, propagated), expected)


def test_values_are_not_kept_side_by_side_for_the_gradient():
    graph, values = KNNAffinity(5)(random_features(30, 40)), random_features(30, 40).requires_grad_()
    layer, kept = FeaturePropagation(40, hidden_dim=4).double(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda each: kept.append(each) or each, lambda each: each):
        layer(graph, values)
    assert max(each.numel() for each in kept) == values.numel()


def test_a_map_says_what_a_subclass_has_to_define():
    with pytest.raises(NotImplementedError):
        GraphPropagation()(None, torch.ones(1, 2, 3))


@pytest.mark.parametrize("layer", [LabelPropagation, FeaturePropagation])
def test_a_network_of_the_users_own_gets_its_own_gradient(layer):
    graph, values = KNNAffinity(5)(random_features(30, 6)), random_probabilities(30, 6)
    layer = shaken(layer(6, hidden_dim=5), 0.5)
    layer.residual.hidden[2] = torch.nn.Tanh()
    direction, probe = random_features(30, 6, seed=3), random_features(30, 6, seed=5)

    def along(values):
        return (layer(graph, values) * probe).sum()

    leaf = values.clone().requires_grad_()
    (slope,) = torch.autograd.grad(along(leaf), leaf)
    expected = (along(values + 1e-5 * direction) - along(values - 1e-5 * direction)) / 2e-5
    torch.testing.assert_close((slope * direction).sum(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("recompute", [False, True])
def test_dropout_in_a_learned_map_has_the_gradient_of_its_draw(recompute):
    refiner = DualGraphRefiner(3, 6, num_neighbors=5, differentiable=True, recompute=recompute).double()
    for each in (*refiner.label_maps, *refiner.feature_maps):
        shaken(each, 0.5).residual.hidden.append(torch.nn.Dropout(0.5))
    features, logits = random_features(30, 6), random_logits(30, 3)
    direction = random_features(30, 6, seed=3), random_logits(30, 3, seed=4)

    def total(features, logits):
        torch.manual_seed(7)
        out = refiner(features, logits)
        return out.soft_labels.square().sum() + out.features[-1].sin().sum()

    leaves = features.clone().requires_grad_(), logits.clone().requires_grad_()
    slopes = torch.autograd.grad(total(*leaves), leaves)
    mine = sum((slope * along).sum() for slope, along in zip(slopes, direction, strict=True))
    step = 1e-6
    ends = [total(features + s * direction[0], logits + s * direction[1]) for s in (step, -step)]
    torch.testing.assert_close(mine, (ends[0] - ends[1]) / (2 * step), rtol=1e-5, atol=1e-7)


def test_recomputed_maps_keep_less_and_have_the_same_gradients():
    features, logits = random_features(2, 400, 8), random_logits(2, 400, 3)
    found, kept = [], []
    for recompute in (False, True):
        torch.manual_seed(1)
        refiner = DualGraphRefiner(3, 8, recompute=recompute).double()
        for each in (*refiner.label_maps, *refiner.feature_maps):
            shaken(each, 0.5)
        leaves = features.clone().requires_grad_(), logits.clone().requires_grad_()
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):  # noqa: B023
            out = refiner(*leaves)
        total = out.soft_labels.square().sum() + out.features[-1].sin().sum()
        found.append(torch.autograd.grad(total, [*leaves, *refiner.parameters()], allow_unused=True))
        kept.append(sum(sizes))
    assert kept[1] < 0.5 * kept[0]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_a_map_compiles_for_any_number_of_nodes(share):
    feature_map, p, x = FeaturePropagation(4, share=share), random_logits(2, 9, 3).softmax(-1), random_features(2, 9, 4)
    graph = ClassConsistencyGraph()
    compiled = torch.compile(lambda p, x: feature_map(graph(p), x), backend="eager", fullgraph=True, dynamic=True)
    torch.testing.assert_close(compiled(p, x), feature_map(graph(p), x))


def test_shares_of_another_shape_are_refused_and_the_dtype_stays():
    graph, values = KNNAffinity(1)(random_features(4, 2)), torch.eye(4)
    shares = torch.tensor([0.0, 1.0, 1.0, 1.0])
    assert propagate(graph, values.bfloat16(), shares[:, None]).dtype == torch.bfloat16
    torch.testing.assert_close(propagate(graph, values, torch.tensor(0.3)), propagate(graph, values, 0.3))
    for wrong in (shares, torch.rand(5, 4, 1), torch.rand(3, 1)):
        with pytest.raises(ValueError, match="expected `alpha` of shape"):
            propagate(graph, values, wrong)
    with pytest.raises(TypeError, match="expected `operator` to be a graph of this library, got Tensor"):
        propagate(values, values)
