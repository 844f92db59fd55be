"""DualGraphRefiner is Algorithm 1: values, gradients, symmetries."""

import pytest
import reference
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from small_refiner import ORDERS, build, nodes
from strategies import random_features, random_labels, random_logits

from graphcorrect import AnchorBank, DualGraphRefiner


def assert_rounds(out, expected, tolerance=1e-10):
    """All rounds of probabilities and features against the reference's lists of images."""
    for name, rounds in zip(("probabilities", "features"), expected, strict=True):
        assert len(getattr(out, name)) == len(rounds)
        for mine, wanted in zip(getattr(out, name), rounds, strict=True):
            wanted = torch.stack(wanted).to(mine.dtype)
            torch.testing.assert_close(mine, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_the_rounds_are_algorithm_1(order, dtype, tolerance):
    features, logits = nodes(dtype=dtype)
    out = build(order=order, num_rounds=3)(features, logits)
    expected = reference.algorithm1(features.double(), logits.double(), 3, 4, sigma=0.8, order=order)
    assert out.probabilities[0].dtype == dtype
    assert_rounds(out, expected, tolerance)


@pytest.mark.parametrize(
    "options", [{"alpha": 0.0}, {"alpha": 1.0}, {"alpha": 0.7}, {"sigma": 0.5}, {"gamma": 2.0}, {"num_rounds": 1}]
)
def test_every_option_means_what_the_equations_say(options):
    features, logits = nodes()
    out = build(**options)(features, logits)
    assert_rounds(out, reference.algorithm1(features, logits, num_neighbors=4, **{"sigma": 0.8, **options}))


def test_defaults_are_the_papers():
    features, logits = nodes(1, 30)
    assert_rounds(DualGraphRefiner(3, 4)(features, logits), reference.algorithm1(features, logits))
    assert_rounds(DualGraphRefiner.from_preset("paper", 3, 4)(features, logits), reference.algorithm1(features, logits))


def test_the_test_input_has_confident_and_unconfident_nodes():
    _, logits = nodes()
    p = logits.softmax(-1)
    confident = reference.eq10_confident(p.reshape(-1, 3), reference.eq9_thresholds(p, 0.8))
    assert 8 <= int(confident.sum()) <= 20


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("differentiable", [False, True])
def test_gradients_are_those_of_algorithm_1(order, differentiable):
    features, logits = (tensor.requires_grad_() for tensor in nodes(seed=3))
    out = build(order=order, differentiable=differentiable)(features, logits)
    expected = reference.algorithm1(
        features, logits, num_neighbors=4, sigma=0.8, order=order, differentiable=differentiable
    )

    def scalar(probabilities, rounds_of_features):
        """Some function of every output, different for each."""
        total = 0.0
        for k, (p, x) in enumerate(zip(probabilities, rounds_of_features, strict=True)):
            total = total + (p * random_features(*p.shape, seed=20 + k)).sum()
            total = total + (x * random_features(*x.shape, seed=30 + k)).sum()
        return total

    mine = torch.autograd.grad(scalar(out.probabilities, out.features), (features, logits))
    stacked = [[torch.stack(images) for images in rounds] for rounds in expected]
    wanted = torch.autograd.grad(scalar(*stacked), (features, logits))
    for one, other in zip(mine, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_pseudo_labels_and_soft_labels_are_of_the_refined_rounds():
    features, logits = nodes()
    out = build()(features, logits)
    p, _ = reference.algorithm1(features, logits, num_neighbors=4, sigma=0.8)
    rounds = [torch.stack(images) for images in p]
    expected = torch.stack([reference.eq16_pseudo_labels([r[b] for r in rounds]) for b in range(2)])
    assert torch.equal(out.pseudo_labels, expected)
    torch.testing.assert_close(out.soft_labels, (rounds[1] + rounds[2]) / 2)
    torch.testing.assert_close(out.confidence, ((rounds[1] + rounds[2]) / 2).amax(-1))
    assert out.pseudo_labels.dtype == torch.int64


@pytest.mark.parametrize("order", ORDERS)
def test_images_are_their_pixels_when_height_is_not_width(order):
    features, logits = random_features(2, 4, 3, 5), random_logits(2, 3, 3, 5)
    images = build(order=order)(features, logits)
    as_nodes = build(order=order)(features.flatten(2).mT, logits.flatten(2).mT)
    for name, width in (("probabilities", 3), ("features", 4)):
        for image, rows in zip(getattr(images, name), getattr(as_nodes, name), strict=True):
            for pixel in range(15):
                torch.testing.assert_close(image[:, :, pixel // 5, pixel % 5], rows[:, pixel, :width])
    assert torch.equal(images.pseudo_labels, as_nodes.pseudo_labels.reshape(2, 3, 5))
    torch.testing.assert_close(images.confidence, as_nodes.confidence.reshape(2, 3, 5))


def test_anchors_correct_the_probabilities_before_round_1():
    bank = AnchorBank(3, 6).double()
    keys, key_labels = random_features(30, 6, seed=8), random_labels(30, num_classes=3)
    bank.update(keys, key_labels)
    features, logits = nodes()
    lookup = random_features(2, 14, 6, seed=9)
    out = build()(features, logits, anchors=bank, anchor_features=lookup)
    posterior = [reference.anchor_posterior(x, keys, key_labels, 3) for x in lookup]
    assert_rounds(out, reference.algorithm1(features, logits, num_neighbors=4, sigma=0.8, posterior=posterior))


def test_without_their_own_keys_anchors_are_looked_up_by_the_features():
    bank = AnchorBank(3, 4).double()
    bank.update(random_features(30, 4, seed=8), random_labels(30, num_classes=3))
    features, logits = nodes()
    implicit, explicit = (
        build()(features, logits, anchors=bank, anchor_features=keys).soft_labels for keys in (None, features)
    )
    torch.testing.assert_close(implicit, explicit, rtol=0, atol=0)
    assert (implicit - build()(features, logits).soft_labels).abs().max() > 0.01


def test_anchor_keys_of_an_image_may_have_another_resolution():
    bank = AnchorBank(3, 6).double()
    bank.update(random_features(30, 6, seed=8), random_labels(30, num_classes=3))
    features, logits, keys = random_features(2, 4, 4, 6), random_logits(2, 3, 4, 6), random_features(2, 6, 2, 3)
    coarse = build()(features, logits, anchors=bank, anchor_features=keys)
    assert coarse.soft_labels.shape == logits.shape
    # Constant keys are the same constant at any resolution
    constant = keys[:, :, :1, :1]
    small, large = (
        build()(features, logits, anchors=bank, anchor_features=constant.expand(2, 6, *size)).soft_labels
        for size in ((2, 3), (4, 6))
    )
    torch.testing.assert_close(small, large)


def budget_reference(features, logits, size, **options):
    """Both maps averaged over cells, corrected there; the correction resized, added, clamped and renormalized."""
    (rows, columns), (_, channels, height, width) = size, logits.shape
    head = logits.softmax(1)

    def pool(maps):
        return maps.reshape(*maps.shape[:2], rows, height // rows, columns, width // columns).mean((3, 5))

    coarse = pool(head)
    # The log of probabilities is a set of logits with this softmax
    p, x = reference.algorithm1(pool(features).flatten(2).mT, coarse.flatten(2).mT.log(), **options)
    results = []
    for images in p[1:]:
        correction = torch.stack(images).mT.reshape(-1, channels, rows, columns) - coarse
        total = (head + F.interpolate(correction, (height, width), mode="bilinear", align_corners=False)).clamp(min=0)
        results.append(total / total.sum(1, keepdim=True))
    return results, [torch.stack(images).mT.reshape(len(images), -1, rows, columns) for images in x]


@pytest.mark.parametrize("size", [(4, 8), (2, 4)])
def test_above_the_node_budget_the_correction_is_made_on_a_grid(size):
    features, logits = random_features(2, 4, 8, 16), random_logits(2, 3, 8, 16)
    out = build(max_nodes=size[0] * size[1])(features, logits)
    expected, expected_features = budget_reference(features, logits, size, num_neighbors=4, sigma=0.8)
    for mine, wanted in zip(out.probabilities[1:], expected, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-10, atol=1e-10)
    for mine, wanted in zip(out.features, expected_features, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(out.probabilities[0], logits.softmax(1))


def test_a_grid_result_is_on_the_simplex_and_keeps_fine_detail():
    features, logits = random_features(1, 4, 32, 48), 8 * random_logits(1, 3, 32, 48)
    out = build(max_nodes=60)(features, logits)
    for p in out.probabilities:
        assert (p >= 0).all()
        torch.testing.assert_close(p.sum(1), torch.ones(1, 32, 48, dtype=torch.float64))
    # Noise from pixel to pixel survives: an upsampled grid alone would correlate at under 0.3
    detail = torch.corrcoef(torch.stack([out.soft_labels.flatten(), logits.softmax(1).flatten()]))[0, 1]
    assert detail > 0.6


def test_features_and_logits_may_differ_in_resolution():
    features, logits = random_features(2, 4, 4, 6), random_logits(2, 3, 8, 12)
    out = build()(features, logits)
    expected, expected_features = budget_reference(
        features.repeat_interleave(2, 2).repeat_interleave(2, 3), logits, (4, 6), num_neighbors=4, sigma=0.8
    )
    assert out.pseudo_labels.shape == (2, 8, 12)
    for mine, wanted in zip(out.probabilities[1:], expected, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-10, atol=1e-10)
    for mine, wanted in zip(out.features, expected_features, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("order", ORDERS)
@given(seed=st.integers(0, 1000))
def test_permuting_nodes_permutes_results(order, seed):
    features, logits = nodes(seed=seed)
    shuffle = torch.randperm(14, generator=torch.Generator().manual_seed(seed))
    one = build(order=order)(features, logits)
    other = build(order=order)(features[:, shuffle], logits[:, shuffle])
    for name in ("probabilities", "features"):
        torch.testing.assert_close(getattr(other, name)[-1], getattr(one, name)[-1][:, shuffle])


@given(seed=st.integers(0, 1000))
def test_renaming_classes_renames_results(seed):
    features, logits = nodes(seed=seed)
    names = torch.tensor([2, 0, 1])
    one, other = build()(features, logits), build()(features, logits[..., names])
    torch.testing.assert_close(other.soft_labels, one.soft_labels[..., names])
    torch.testing.assert_close(other.features[-1], one.features[-1])


def test_scaling_features_changes_no_label():
    features, logits = nodes()
    lengths = torch.logspace(-3, 3, 14, dtype=torch.float64)[:, None]
    torch.testing.assert_close(build()(features * lengths, logits).soft_labels, build()(features, logits).soft_labels)


def test_no_rounds_return_the_input():
    features, logits = nodes()
    out = build(num_rounds=0)(features, logits)
    assert len(out.probabilities) == len(out.features) == 1
    torch.testing.assert_close(out.soft_labels, logits.softmax(-1))


@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
def test_without_rounds_anchors_alone_correct(masked):
    features, logits = nodes()
    anchors = AnchorBank(3, 4, strength=0.7)
    anchors.update(torch.randn(60, 4), torch.randint(3, (60,)))
    mask = torch.arange(14) < 9 if masked else torch.ones(14, dtype=torch.bool)
    out = build(num_rounds=0)(features, logits, anchors=anchors, mask=mask.expand(logits.shape[:-1]))
    expected = torch.where(mask[:, None], anchors.correct(logits.softmax(-1), features), logits.softmax(-1))
    torch.testing.assert_close(out.soft_labels, expected)
    assert len(out.probabilities) == len(out.features) == 2


@pytest.mark.parametrize("num_rounds", [0, 2])
def test_a_cell_that_a_mask_leaves_empty_spoils_no_pixel_and_no_gradient(num_rounds):
    """Its mean is of nothing: a row of zeros, which the anchors' weights cannot make a probability of."""
    features, logits = torch.randn(2, 4, 8, 12), torch.randn(2, 3, 8, 12, requires_grad=True)
    anchors = AnchorBank(3, 4)
    anchors.update(torch.randn(60, 4), torch.randint(3, (60,)))
    mask = torch.ones(2, 8, 12, dtype=torch.bool)
    mask[0, :, 5:] = False
    out = build(num_rounds=num_rounds, max_nodes=24)(features, logits, anchors=anchors, mask=mask)
    torch.testing.assert_close(out.soft_labels.sum(1), torch.ones(2, 8, 12))
    (out.soft_labels * torch.arange(3.0)[:, None, None])[mask[:, None].expand_as(logits)].sum().backward()
    assert logits.grad.isfinite().all()
    whole = build(num_rounds=num_rounds, max_nodes=24)(features[1:], logits[1:], anchors=anchors)
    torch.testing.assert_close(out.soft_labels[1:], whole.soft_labels)


def test_the_authors_code_keeps_self_loops_cosine_weights_and_the_last_rounds_labels():
    features, logits = nodes(1, 30)
    refiner = DualGraphRefiner.from_preset("released", 3, 4, num_neighbors=5, sigma=0.8).eval()
    out = refiner(features, logits)
    p, x = reference.algorithm1_released(features[0], logits[0], num_neighbors=5, sigma=0.8)
    assert_rounds(out, ([[each] for each in p], [[each] for each in x]))
    assert torch.equal(out.pseudo_labels[0], p[-1].argmax(1))


def test_the_authors_thresholds_count_over_all_of_training():
    refiner = DualGraphRefiner.from_preset("released", 3, 4, num_neighbors=5, sigma=0.8)
    features, logits = nodes()
    counted = refiner.threshold.count(logits.softmax(-1))
    assert counted.sum() > 0
    refiner(features, logits)
    refiner(features, logits)
    assert torch.equal(refiner.threshold.counts, 2 * counted)
    refiner.eval()(features, logits)
    assert torch.equal(refiner.threshold.counts, 2 * counted)


def test_training_reaches_every_weight_of_every_round():
    features, logits = nodes(dtype=torch.float32)
    refiner = build()
    optimizer = torch.optim.SGD(refiner.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        out = refiner(features, logits)
        sum(p[..., 0].square().sum() for p in out.probabilities).backward(retain_graph=True)
        sum(x[..., 0].square().sum() for x in out.features).backward()
        optimizer.step()
    # The last round's features feed nothing but themselves, so no map is without a use
    assert [name for name, parameter in refiner.named_parameters() if not parameter.grad.abs().max() > 0] == []
    assert len({id(parameter) for parameter in refiner.parameters()}) == 2 * len(list(build(num_rounds=1).parameters()))


def test_no_matrix_of_all_pairs_is_made(largest_tensor):
    num_nodes = 6000
    features, logits = nodes(1, num_nodes, dtype=torch.float32)
    with largest_tensor() as seen:
        out = build()(features.requires_grad_(), logits.requires_grad_())
        (out.soft_labels.square().sum() + out.features[-1].sum()).backward()
    assert seen.entries < num_nodes**2 / 3


def test_a_refiner_resumes_from_its_state_dict():
    one, other = build(), build()
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    features, logits = nodes(dtype=torch.float32)
    assert not torch.allclose(one(features, logits).soft_labels, other(features, logits).soft_labels)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(features, logits).soft_labels, other(features, logits).soft_labels)


@pytest.mark.parametrize("is_image", [True, False])
def test_probabilities_in_the_place_of_logits_are_refused(is_image):
    logits = torch.randn(2, 3, 5, 6) if is_image else torch.randn(2, 30, 3)
    features = torch.randn(2, 4, 5, 6) if is_image else torch.randn(2, 30, 4)
    refiner = DualGraphRefiner(3, 4, num_neighbors=5)
    with pytest.raises(ValueError, match="`logits`, the scores before the softmax, got rows .* take their logarithm"):
        refiner(features, logits.softmax(1 if is_image else -1))
    refiner(features, logits.log_softmax(1 if is_image else -1))
    refiner(features, logits.abs())
    alone = DualGraphRefiner(1, 4, num_neighbors=5)  # of one class every probability is 1, and so may a score be
    alone(torch.randn(9, 4), torch.ones(9, 1))
