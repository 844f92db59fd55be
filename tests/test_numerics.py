"""Bounds on rounding: sums over many nodes, forms that subtract, the range of float16, running means that run long."""

import pytest
import torch
from strategies import random_features, random_labels, random_logits
from torch import nn

from graphcorrect import ClassConsistencyGraph, DualGraphRefiner, EMATeacher, PrototypeBank, clg_loss, slg_loss

MANY = 160_000  # nodes of a 400 x 400 map


@pytest.mark.parametrize("spread", [1.0, 1e-2, 1e-4, 0.0])
def test_the_pair_loss_of_nearly_equal_features_is_right_to_a_ten_thousandth(spread):
    """|V'V|² + n² - 2 |sum v|² subtracts terms of size n²; what is left is of size spread⁴."""
    features = (1 + spread * random_features(MANY, 8)).float()
    labels = torch.zeros(MANY, dtype=torch.int64)
    loss = slg_loss(features, labels, balance=1.0, num_classes=2)
    exact = slg_loss(features.double(), labels, balance=1.0, num_classes=2)
    rows = nn.functional.normalize(features[::200].double(), dim=1)
    pairs = (torch.cdist(rows, rows).pow(4) / 4).mean()  # (v_i . v_j - 1)² with nothing subtracted
    assert abs(exact - pairs) < 0.1 * pairs + 1e-10
    assert abs(loss.double() - exact) < 1e-4


@pytest.mark.parametrize("sharpness", [1.0, 20.0, 1000.0])
def test_degrees_and_products_of_a_class_of_many_nodes_are_right(sharpness):
    """p · S - q + 1 subtracts what a node has in common with itself from the sum over its class."""
    probabilities = random_logits(MANY, 5, scale=sharpness, dtype=torch.float32).softmax(1)
    values = random_features(MANY, 2, dtype=torch.float32)
    graph, exact = ClassConsistencyGraph()(probabilities), ClassConsistencyGraph()(probabilities.double())
    torch.testing.assert_close(graph.degree().double(), exact.degree(), rtol=1e-5, atol=0)
    torch.testing.assert_close((graph @ values).double(), exact @ values.double(), rtol=0, atol=1e-5)


def test_sixteen_thousand_nodes_overflow_no_float16():
    """Sums over nodes pass 65504, their largest number; the usual loss scale of 2^16 leaves every gradient finite."""
    features = (50 * random_features(1, 16_384, 8)).half().requires_grad_()
    logits = random_logits(1, 16_384, 3).half().requires_grad_()
    labels = random_labels(1, 16_384, num_classes=3)
    losses = {
        "slg": lambda: slg_loss(features, labels),
        "clg": lambda: clg_loss(logits.softmax(-1), labels),
    }
    for loss in losses.values():
        (2.0**16 * loss()).backward()
    assert features.grad.isfinite().all()
    assert logits.grad.isfinite().all()
    assert (logits.grad != 0).double().mean() > 0.99
    bank = PrototypeBank(1, 8)
    bank.update((features.detach() + 100), torch.zeros_like(labels))
    assert (bank.prototypes[0] - 100).abs().max() < 2


def test_a_refiner_in_half_precision_changes_few_labels():
    features, logits = random_features(1, 400, 8), random_logits(1, 400, 3, scale=1.0)
    wide = DualGraphRefiner(3, 8)(features, logits).pseudo_labels
    for dtype, share in ((torch.float16, 0.99), (torch.bfloat16, 0.95)):
        narrow = DualGraphRefiner(3, 8)(features.to(dtype), logits.to(dtype)).pseudo_labels
        assert (narrow == wide).double().mean() >= share


def test_running_means_do_not_drift():
    """A value with 1 % noise around 100: after thirty times the memory of the mean the error is some roundings."""
    bank, student = PrototypeBank(1, 4, momentum=0.99), nn.Linear(4, 1, bias=False)
    teacher = EMATeacher(student, momentum=0.99)
    rows = 100 + random_features(500, 1, 4).float()
    labels = torch.zeros(1, dtype=torch.int64)
    prototype, weight = rows[0].double(), teacher.module.weight.double()
    for number in range(3000):
        row = rows[number % 500]
        bank.update(row, labels)
        student.weight.data = row
        teacher.update(student)
        prototype = 0.99 * prototype + 0.01 * row.double()
        weight = 0.99 * weight + 0.01 * row.double()
    for mine, wanted in ((bank.prototypes[0], prototype), (teacher.module.weight, weight)):
        torch.testing.assert_close(mine.double(), wanted, rtol=1e-5, atol=0)
