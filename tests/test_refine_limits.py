"""DualGraphRefiner: what must not reach what. Images, masked nodes, NaN and Inf; awkward inputs and autocast."""

import pytest
import reference
import torch
from small_refiner import ORDERS, build, nodes
from strategies import awkward_nodes, random_features, random_logits


def test_images_of_a_batch_share_nothing_but_the_thresholds():
    features, logits = nodes(3)
    changed = features.clone()
    changed[1] = random_features(14, 4, seed=50)
    one, other = build()(features, logits), build()(changed, logits)
    torch.testing.assert_close(other.soft_labels[[0, 2]], one.soft_labels[[0, 2]], rtol=0, atol=0)
    assert not torch.equal(other.soft_labels[1], one.soft_labels[1])


MASKED_GARBAGE = {"other numbers": 5.0, "nan": float("nan"), "inf": float("inf")}


@pytest.mark.parametrize("garbage", MASKED_GARBAGE)
@pytest.mark.parametrize("order", ORDERS)
def test_masked_nodes_keep_their_input_and_reach_nobody(order, garbage):
    features, logits = nodes()
    mask = torch.rand(2, 14) < 0.7
    mask[:, 0] = False  # the node that empty slots of a neighbor list point to
    spoiled = [torch.where(mask[..., None], t, MASKED_GARBAGE[garbage]).requires_grad_() for t in (features, logits)]
    out = build(order=order)(*spoiled, mask=mask)
    whole = [t.clone().requires_grad_() for t in (features, logits)]
    clean = build(order=order)(*whole, mask=mask)
    for name, source in (("probabilities", clean.probabilities[0]), ("features", features)):
        for mine, wanted in zip(getattr(out, name), getattr(clean, name), strict=True):
            torch.testing.assert_close(mine[mask], wanted[mask], rtol=0, atol=0)
            torch.testing.assert_close(wanted[~mask], source[~mask])
    sum(t[mask].square().sum() for t in (*out.probabilities, *out.features)).backward()
    sum(t[mask].square().sum() for t in (*clean.probabilities, *clean.features)).backward()
    for mine, wanted in zip(spoiled, whole, strict=True):
        torch.testing.assert_close(mine.grad[mask], wanted.grad[mask], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("order", ORDERS)
def test_masked_nodes_might_as_well_not_exist(order):
    features, logits = nodes(1)
    mask = torch.rand(1, 14) < 0.7
    out = build(order=order)(features, logits, mask=mask)
    kept = [features[0, mask[0]]], [logits[0, mask[0]]]
    p, x = reference.algorithm1(*kept, num_neighbors=4, sigma=0.8, order=order)
    for k in range(3):
        torch.testing.assert_close(out.probabilities[k][mask], p[k][0], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(out.features[k][mask], x[k][0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("max_nodes", [32, 4096])
def test_masked_pixels_keep_their_input(max_nodes):
    features, logits = random_features(2, 4, 8, 16), random_logits(2, 3, 8, 16)
    mask = torch.rand(2, 8, 16) < 0.6
    mask[:, :4, :8] = False
    refiner = build(max_nodes=max_nodes)
    out = refiner(features, logits, mask=mask)
    outside = (~mask)[:, None].expand_as(logits)
    torch.testing.assert_close(out.soft_labels[outside], logits.softmax(1)[outside])
    spoiled = torch.where(mask[:, None], logits, torch.nan)
    torch.testing.assert_close(
        refiner(features, spoiled, mask=mask).soft_labels[~outside], out.soft_labels[~outside], rtol=0, atol=0
    )
    assert (out.soft_labels[~outside] - logits.softmax(1)[~outside]).abs().max() > 0.05


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("which", ["features", "logits"])
def test_a_bad_value_stays_in_its_image(which, value):
    features, logits = nodes(3)
    logits[1, 4] = 0.0  # far from sigma: what befalls this node moves no threshold
    clean = build()(features, logits)
    spoiled = {"features": features.clone(), "logits": logits.clone()}
    spoiled[which][1, 4, 1] = value
    out = build()(**spoiled)
    for mine, wanted in zip((*out.probabilities, *out.features), (*clean.probabilities, *clean.features), strict=True):
        torch.testing.assert_close(mine[[0, 2]], wanted[[0, 2]], rtol=0, atol=0)
    with pytest.raises(ValueError, match=rf"`{which}`.*finite"):
        build(validate_args=True)(**spoiled)


def test_a_bad_pixel_stays_in_its_image_also_on_a_grid():
    features, logits = random_features(2, 4, 8, 16), random_logits(2, 3, 8, 16)
    clean = build(max_nodes=32)(features, logits).soft_labels
    features[1, 0, 3, 3] = torch.nan
    torch.testing.assert_close(build(max_nodes=32)(features, logits).soft_labels[0], clean[0], rtol=0, atol=0)


@pytest.mark.parametrize("name", awkward_nodes())
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_awkward_inputs_give_finite_values_and_gradients(name, dtype):
    features, logits = (tensor.to(dtype).requires_grad_() for tensor in awkward_nodes()[name])
    out = build(differentiable=True)(features, logits)
    for k in range(3):
        assert out.probabilities[k].shape == logits.shape
        assert out.features[k].shape == features.shape
        assert out.features[k].dtype == dtype
        assert out.features[k].isfinite().all()
        ones = torch.ones(logits.shape[:-1])
        torch.testing.assert_close(out.probabilities[k].float().sum(-1), ones, rtol=0, atol=2e-2)
    sum(t.float().square().sum() for t in (*out.probabilities, *out.features)).backward()
    assert features.grad.isfinite().all()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_results_are_those_of_float32(dtype):
    features, logits = nodes(dtype=torch.float32)
    with torch.autocast("cpu", dtype):
        out = build()(features, logits)
    clean = build()(features, logits)
    for mine, wanted in zip((*out.probabilities, *out.features), (*clean.probabilities, *clean.features), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-6, atol=1e-6)


def test_everything_masked_returns_the_input():
    features, logits = nodes()
    out = build()(features, logits, mask=torch.zeros(2, 14, dtype=torch.bool))
    for k in range(3):
        torch.testing.assert_close(out.probabilities[k], logits.softmax(-1))
        torch.testing.assert_close(out.features[k], features)
