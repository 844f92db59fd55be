"""clg_loss and CLGLoss are Eqs. 15 and 16: cross entropy weighted by a node's own belief in its label."""

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import labels_strategy, random_labels, random_logits

from graphcorrect import CLGLoss, LabelCorrectionLoss, RefinedLabels, clg_loss, slg_loss


def batch(*shape, seed=1, ignored=0.3, dtype=torch.float64):
    p = random_logits(*shape, 3, seed=seed).softmax(-1).to(dtype)
    return p, random_labels(*shape, num_classes=3, seed=seed, ignored=ignored)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("self_weighted", [True, False])
def test_value_and_gradient_are_equations_15_and_16(dtype, tolerance, self_weighted):
    p, labels = batch(20, dtype=dtype)
    mine, exact = p.clone().requires_grad_(), p.double().requires_grad_()
    loss, expected = (
        clg_loss(mine, labels, self_weighted=self_weighted),
        reference.eq15_clg(exact, labels, self_weighted),
    )
    assert loss.dtype == dtype
    torch.testing.assert_close(loss.double(), expected, rtol=tolerance, atol=tolerance)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(mine.grad.double(), exact.grad, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("validate_args", [True, False])
@pytest.mark.parametrize("num_classes", [150, 256, 300])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.uint16])
def test_labels_of_every_dtype_give_the_loss_of_int64(dtype, num_classes, validate_args):
    """The number of classes wraps in a dtype that does not hold it."""
    p, features = random_logits(10, num_classes).softmax(-1), random_logits(10, 5, seed=3)
    labels = torch.tensor([0, 20, 44, 45, 60, 80, 100, 110, 127, 127])
    options = {"ignore_index": -100, "validate_args": validate_args}
    loss = clg_loss(p, labels.to(dtype), **options)
    torch.testing.assert_close(loss, reference.eq15_clg(p, labels), rtol=1e-10, atol=1e-10)
    options["num_classes"] = num_classes
    assert slg_loss(features, labels.to(dtype), **options) == slg_loss(features, labels, **options)


def test_all_losses_together_take_labels_of_16_bits():
    features, p, labels = random_logits(2, 10, 5), random_logits(2, 10, 300).softmax(-1), torch.arange(250, 270)
    out = RefinedLabels((p, p), (features, features), *[None] * (len(RefinedLabels._fields) - 2))
    loss = LabelCorrectionLoss(ignore_index=65535)
    found, expected = loss(out, labels.view(2, 10).to(torch.uint16)), loss(out, labels.view(2, 10))
    assert found == expected


@given(st.data())
def test_any_labels_also_none(data):
    p, _ = batch(8, seed=data.draw(st.integers(0, 100)))
    labels = data.draw(labels_strategy(8, 3))
    torch.testing.assert_close(clg_loss(p, labels), reference.eq15_clg(p, labels), rtol=1e-10, atol=1e-10)


def test_the_mean_is_over_all_labeled_nodes_of_the_batch():
    p, labels = batch(4, 10)
    labels[0, :8] = 255
    expected = reference.eq15_clg(p.reshape(-1, 3), labels.reshape(-1))
    torch.testing.assert_close(clg_loss(p, labels), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(CLGLoss()(p, labels), expected, rtol=1e-10, atol=1e-10)


def test_weights_carry_no_gradient():
    p = torch.tensor([[0.25, 0.75]], dtype=torch.float64, requires_grad=True)
    clg_loss(p, torch.tensor([0])).backward()
    assert p.grad.tolist() == [[-1.0, 0.0]]  # -w / p with w = p; with its own gradient it would be log(4) - 1


def test_certain_predictions_cost_nothing():
    assert clg_loss(torch.eye(3).double(), torch.arange(3)).item() == 0.0


def test_images_are_their_pixels_when_height_is_not_width():
    p, labels = batch(2, 15)
    images = p.mT.reshape(2, 3, 3, 5)
    torch.testing.assert_close(clg_loss(images, labels.reshape(2, 3, 5)), clg_loss(p, labels))


def test_labels_of_another_size_are_resized_to_the_probabilities():
    p, labels = batch(2, 15)
    images, large = p.mT.reshape(2, 3, 3, 5), labels.reshape(2, 3, 5).repeat_interleave(3, 1).repeat_interleave(3, 2)
    torch.testing.assert_close(clg_loss(images, large), clg_loss(p, labels))


def test_reductions():
    p, labels = batch(2, 10)
    each = clg_loss(p, labels, reduction="none")
    for b in range(2):
        for i in range(10):
            alone = reference.eq15_clg(p[b, i : i + 1], labels[b, i : i + 1])
            torch.testing.assert_close(each[b, i], alone, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(clg_loss(p, labels, reduction="sum"), each.sum(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("garbage", [5.0, 0.0, float("nan"), float("inf")])
def test_an_ignored_node_changes_neither_value_nor_gradient(garbage):
    p, labels = batch(2, 10)
    one = p.clone().requires_grad_()
    other = torch.where((labels == 255)[..., None], garbage, p).requires_grad_()
    losses = [clg_loss(x, labels) for x in (one, other)]
    torch.testing.assert_close(losses[1], losses[0], rtol=0, atol=0)
    sum(losses).backward()
    torch.testing.assert_close(other.grad, one.grad, rtol=0, atol=0)
    assert (one.grad[labels == 255] == 0).all()


@pytest.mark.parametrize("self_weighted", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("probabilities", "labels"),
    {
        "a label believed impossible": (torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([1])),
        "all ignored": (torch.full((2, 5, 3), 1 / 3), torch.full((2, 5), 255)),
        "no nodes": (torch.zeros(2, 0, 3), torch.zeros(2, 0).long()),
        "empty batch": (torch.zeros(0, 3, 4, 5), torch.zeros(0, 4, 5).long()),
        "one node": (torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([2])),
    }.values(),
)
def test_awkward_batches_give_finite_values_and_gradients(probabilities, labels, dtype, self_weighted):
    probabilities = probabilities.to(dtype, copy=True).requires_grad_()
    loss = clg_loss(probabilities, labels, self_weighted=self_weighted)
    assert loss.isfinite()
    if (labels == 255).all():
        assert loss.item() == 0.0
    loss.backward()
    assert probabilities.grad.isfinite().all()


def test_gradcheck_of_the_unweighted_loss():
    p, labels = random_logits(6, 3, scale=0.5).softmax(1), random_labels(6, num_classes=3)
    assert torch.autograd.gradcheck(lambda q: clg_loss(q, labels, self_weighted=False), p.requires_grad_())


def test_half_precision_is_averaged_in_float32():
    p = torch.full((70_000, 2), 0.5, dtype=torch.float16)
    assert clg_loss(p, torch.zeros(70_000).long()).item() == pytest.approx(
        0.5 * torch.tensor(2.0).log().item(), rel=1e-5
    )


def test_inputs_stay_as_they_were():
    p, labels = batch(10)
    before = p.clone(), labels.clone()
    clg_loss(p, labels)
    assert torch.equal(p, before[0])
    assert torch.equal(labels, before[1])
