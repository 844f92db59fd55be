"""slg_loss and SLGLoss are Eq. 12, without forming a pair."""

import math

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from layer_checks import compiles
from strategies import labels_strategy, orthogonal_clusters, random_features, random_labels

from graphcorrect import SLGLoss, slg_loss

pytestmark = pytest.mark.usefixtures("loops")


def batch(images=3, num_nodes=10, ignored=0.3, seed=0, dtype=torch.float64):
    features = random_features(images, num_nodes, 4, seed=seed, dtype=dtype)
    return features, random_labels(images, num_nodes, num_classes=3, seed=seed + 1, ignored=ignored)


PROTOTYPES = random_features(3, 4, seed=77)
SOME_KNOWN = torch.tensor([True, False, True])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("known", [None, SOME_KNOWN, torch.zeros(3, dtype=torch.bool)])
@pytest.mark.parametrize("balance", [0.0, 0.3, 1.0])
def test_value_and_gradient_are_equation_12(dtype, tolerance, known, balance):
    features, labels = batch(dtype=dtype)
    mine, exact = features.clone().requires_grad_(), features.double().requires_grad_()
    loss = slg_loss(mine, labels, PROTOTYPES.to(dtype), known, balance=balance, temperature=0.2)
    expected = reference.eq12_slg(exact, labels, PROTOTYPES, known, balance, 0.2)
    assert loss.dtype == dtype
    torch.testing.assert_close(loss.double(), expected.detach(), rtol=tolerance, atol=tolerance)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(mine.grad.double(), exact.grad, rtol=tolerance, atol=tolerance)


@given(st.data())
def test_any_labels_also_absent_classes_and_images_without_a_label(data):
    features = random_features(3, 6, 4, seed=data.draw(st.integers(0, 100)))
    labels = torch.stack([data.draw(labels_strategy(6, 3)) for _ in range(3)])
    expected = reference.eq12_slg(features, labels, PROTOTYPES, SOME_KNOWN)
    torch.testing.assert_close(slg_loss(features, labels, PROTOTYPES, SOME_KNOWN), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_the_number_of_classes_is_read_from_labels_of_any_dtype(dtype):
    features, labels = random_features(1, 4, 4), torch.tensor([[0, 156, 2, 156]])
    found = slg_loss(features, labels.to(dtype), ignore_index=-100)
    assert found == slg_loss(features, labels, num_classes=157)


def test_defaults_are_the_papers():
    features, labels = batch()
    expected = reference.eq12_slg(features, labels, PROTOTYPES, balance=0.5, temperature=0.1)
    torch.testing.assert_close(slg_loss(features, labels, PROTOTYPES), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(SLGLoss()(features, labels, PROTOTYPES), expected, rtol=1e-10, atol=1e-10)


def test_each_image_has_its_own_value_unreduced():
    features, labels = batch()
    expected = [reference.eq12_slg([x], [y], PROTOTYPES, balance=0.3) for x, y in zip(features, labels, strict=True)]
    loss = slg_loss(features, labels, PROTOTYPES, balance=0.3, reduction="none")
    torch.testing.assert_close(loss, torch.stack(expected), rtol=1e-10, atol=1e-10)


def test_one_class_beside_ignored_nodes_has_nothing_to_tell_apart():
    features = random_features(2, 6, 4)
    labels = torch.tensor([[0, 255, 0, 255, 0, 0], [255] * 6])
    assert slg_loss(features, labels, PROTOTYPES[:1], balance=0.0) == 0


def test_without_prototypes_only_the_pairs_count_still_times_the_balance():
    features, labels = batch()
    expected = 0.3 * sum(reference.eq12_pair_term(x, y) for x, y in zip(features, labels, strict=True)) / 3
    torch.testing.assert_close(slg_loss(features, labels, balance=0.3), expected, rtol=1e-10, atol=1e-10)


def test_perfect_clusters_cost_nothing_and_collapse_costs_the_share_of_other_pairs():
    features, labels = orthogonal_clusters(3, 4)
    assert slg_loss(features, labels, balance=1.0).item() == pytest.approx(0.0, abs=1e-12)
    collapsed = torch.ones(12, 5, dtype=torch.float64)
    assert slg_loss(collapsed, labels, balance=1.0).item() == pytest.approx(2 / 3, abs=1e-12)


def test_the_class_id_is_compared_not_its_place_among_known_prototypes():
    # class 2's own prototype fits; by position among the known ones (0, 2) it would be looked up at 1
    features, labels = torch.tensor([[0.0, 0.0, 1.0]]).double(), torch.tensor([2])
    loss = slg_loss(features, labels, torch.eye(3).double(), SOME_KNOWN, balance=0.0, temperature=0.1)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-10)), rel=1e-9)


def test_images_are_their_pixels_when_height_is_not_width():
    features, labels = random_features(2, 4, 3, 5), random_labels(2, 3, 5, num_classes=3, ignored=0.2)
    as_nodes = torch.stack([features[:, :, h, w] for h in range(3) for w in range(5)], 1)
    expected = slg_loss(as_nodes, labels.reshape(2, 15), PROTOTYPES)
    torch.testing.assert_close(slg_loss(features, labels, PROTOTYPES), expected)


def test_full_size_labels_are_pooled_by_majority():
    features, small = random_features(2, 4, 3, 5), random_labels(2, 3, 5, num_classes=3, ignored=0.2)
    large = small.repeat_interleave(3, 1).repeat_interleave(3, 2)
    large[:, ::3, ::3] = 0  # a minority of each cell
    torch.testing.assert_close(slg_loss(features, large, PROTOTYPES), slg_loss(features, small, PROTOTYPES))


@given(st.integers(0, 1000))
def test_permuting_nodes_renaming_classes_and_scaling_features_change_nothing(seed):
    features, labels = batch(seed=seed)
    draw = torch.Generator().manual_seed(seed)
    order, names = torch.randperm(10, generator=draw), torch.randperm(3, generator=draw)
    loss = slg_loss(features, labels, PROTOTYPES)
    torch.testing.assert_close(slg_loss(features[:, order], labels[:, order], PROTOTYPES), loss)
    renamed = torch.where(labels == 255, 255, names.argsort()[labels.clamp_max(2)])
    torch.testing.assert_close(slg_loss(features, renamed, PROTOTYPES[names]), loss)
    torch.testing.assert_close(slg_loss(features * 1e-3, labels, PROTOTYPES * 1e4), loss)


@pytest.mark.parametrize("powers", [(-3, 3), (-25, 25), (-40, 0)])
def test_each_node_may_have_a_scale_of_its_own(powers):
    features, labels = batch(images=2, num_nodes=40, dtype=torch.float32)
    scale = 10.0 ** torch.linspace(*powers, 40)[torch.randperm(40)][:, None]
    one, other = features.clone().requires_grad_(), (features * scale).requires_grad_()
    for nodes in (one, other):
        slg_loss(nodes, labels, balance=1.0, num_classes=3).backward()
    is_normal = scale > torch.finfo(torch.float32).tiny * 1e8  # and divided by it does not overflow
    expected, slope = (torch.where(is_normal, each, 0.0) for each in (one.grad, other.grad * scale))
    torch.testing.assert_close(slope, expected, rtol=1e-4, atol=1e-6)


def test_what_is_not_finite_is_not_hidden():
    features, labels = batch(ignored=0.0, dtype=torch.float32)
    features[0, 2, 1] = torch.nan
    features.requires_grad_()
    loss = slg_loss(features, labels, balance=1.0, num_classes=3)
    loss.backward()
    assert loss.isnan()
    assert features.grad[0].isnan().all()


@pytest.mark.parametrize("garbage", [5.0, float("nan"), float("inf")])
def test_an_ignored_node_changes_neither_value_nor_gradient(garbage):
    features, labels = batch()
    one = features.clone().requires_grad_()
    other = torch.where((labels == 255)[..., None], garbage, features).requires_grad_()
    losses = [slg_loss(x, labels, PROTOTYPES) for x in (one, other)]
    torch.testing.assert_close(losses[1], losses[0], rtol=0, atol=0)
    sum(losses).backward()
    torch.testing.assert_close(other.grad, one.grad, rtol=0, atol=0)
    assert (one.grad[labels == 255] == 0).all()


@pytest.mark.parametrize("prototypes", [None, PROTOTYPES])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("features", "labels"),
    {
        "zero features": (torch.zeros(2, 5, 4), torch.ones(2, 5).long()),
        "one class only": (torch.randn(2, 5, 4), torch.ones(2, 5).long()),
        "all ignored": (torch.randn(2, 5, 4), torch.full((2, 5), 255)),
        "one node": (torch.randn(2, 1, 4), torch.tensor([[0], [2]])),
        "no nodes": (torch.randn(2, 0, 4), torch.zeros(2, 0).long()),
        "empty batch": (torch.randn(0, 5, 4), torch.zeros(0, 5).long()),
        "half-precision overflow": (torch.full((1, 5, 4), 6e4), torch.tensor([[0, 1, 2, 1, 0]])),
    }.values(),
)
def test_awkward_batches_give_finite_values_and_gradients(features, labels, dtype, prototypes):
    features = features.to(dtype, copy=True).requires_grad_()
    loss = slg_loss(features, labels, prototypes if prototypes is None else prototypes.to(dtype))
    assert loss.isfinite()
    if (labels == 255).all():
        assert loss.item() == 0.0
    loss.backward()
    assert features.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_not_narrow_the_sums(dtype):
    features, labels = batch(num_nodes=300, dtype=torch.float32)
    expected = slg_loss(features, labels, PROTOTYPES.float())
    with torch.autocast("cpu", dtype):
        torch.testing.assert_close(slg_loss(features, labels, PROTOTYPES.float()), expected, rtol=1e-6, atol=1e-6)


def test_reductions():
    features, labels = batch()
    pairs = torch.stack([reference.eq12_pair_term(x, y) for x, y in zip(features, labels, strict=True)])
    nodes = [reference.eq12_prototype_term(x, y, PROTOTYPES) for x, y in zip(features, labels, strict=True)]
    counts = (labels != 255).sum(1)
    each = slg_loss(features, labels, PROTOTYPES, reduction="none")
    torch.testing.assert_close(each, 0.5 * pairs + 0.5 * torch.stack(nodes), rtol=1e-10, atol=1e-10)
    total = 0.5 * pairs.sum() + 0.5 * (torch.stack(nodes) * counts).sum()
    torch.testing.assert_close(slg_loss(features, labels, PROTOTYPES, reduction="sum"), total, rtol=1e-10, atol=1e-10)


def test_gradcheck():
    features, labels = batch(images=2, num_nodes=5)
    assert torch.autograd.gradcheck(lambda x: slg_loss(x, labels, PROTOTYPES, SOME_KNOWN), features.requires_grad_())


def test_prototypes_are_constants():
    features, labels = batch()
    prototypes = PROTOTYPES.clone().requires_grad_()
    slg_loss(features.requires_grad_(), labels, prototypes).backward()
    assert prototypes.grad is None


def test_no_matrix_of_all_pairs_is_made(largest_tensor):
    features = random_features(1, 5000, 8, dtype=torch.float32).requires_grad_()
    with largest_tensor() as seen:
        slg_loss(features, random_labels(1, 5000, num_classes=3), num_classes=3).backward()
    assert seen.entries < 10 * 5000 * 8


def test_second_derivatives():
    features, labels = batch(images=2, num_nodes=5)
    features.requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: slg_loss(x, labels, PROTOTYPES, SOME_KNOWN), features)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_more_nodes_than_a_tile_holds(dtype, tolerance):
    features, labels = batch(images=2, num_nodes=1500, dtype=dtype)
    mine, exact = features.clone().requires_grad_(), features.double().requires_grad_()
    loss = slg_loss(mine, labels, balance=1.0, num_classes=3)
    expected = 0.0
    for x, y in zip(exact, labels, strict=True):
        rows = torch.nn.functional.normalize(x[y != 255], dim=1)
        same = (y[y != 255, None] == y[None, y != 255]).double()
        expected = expected + (rows @ rows.T - same).square().mean() / 2
    torch.testing.assert_close(loss.double(), expected.detach(), rtol=tolerance, atol=tolerance)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(mine.grad.double(), exact.grad, rtol=10 * tolerance, atol=1e-3 * tolerance)


@compiles
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # the compiler of torch 2.13
def test_a_compiler_sees_one_graph_and_gives_the_same():
    features, labels = batch(dtype=torch.float32)
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda x: slg_loss(x, labels, PROTOTYPES.float(), num_classes=3, validate_args=False),
        backend="aot_eager",
        fullgraph=True,
    )
    one, other = features.clone().requires_grad_(), features.clone().requires_grad_()
    losses = [compiled(one), slg_loss(other, labels, PROTOTYPES.float())]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-6, atol=1e-6)
    sum(losses).backward()
    torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-7)


def test_the_ignored_label_may_be_the_number_of_a_class():
    features, labels = random_features(2, 9, 4), random_labels(2, 9, num_classes=3)
    prototypes = random_features(3, 4, seed=7)
    wanted = slg_loss(features, labels.where(labels != 2, 255), prototypes)
    torch.testing.assert_close(slg_loss(features, labels, prototypes, ignore_index=2), wanted)


def test_prototypes_of_another_precision_are_scaled_before_they_are_cast():
    features, labels, prototypes = random_features(1, 9, 4), random_labels(1, 9, num_classes=3), random_features(3, 4)
    wanted = slg_loss(features.float(), labels, prototypes)
    torch.testing.assert_close(slg_loss(features.float(), labels, prototypes * 1e300), wanted)
