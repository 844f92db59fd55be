"""The operators as tracers and compilers see them: in a refiner, its loss, and unit rows."""

import pytest
import torch
from layer_checks import compiles
from strategies import random_features
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from graphcorrect import DualGraphRefiner, LabelCorrectionLoss
from graphcorrect.ops import unit_rows


def test_fake_tensors_pass_through_refiner_and_loss(loops):
    with FakeTensorMode() as mode:
        features, logits = (mode.from_tensor(torch.randn(2, c, 6, 7)).requires_grad_() for c in (5, 3))
        labels = mode.from_tensor(torch.randint(3, (2, 24, 28)))
        out = DualGraphRefiner(3, 5, num_neighbors=4)(features, logits)
        loss = LabelCorrectionLoss(validate_args=False)(out, labels)
        loss.backward()
    assert out.soft_labels.shape == (2, 3, 6, 7)
    assert features.grad.shape == features.shape


@compiles
def test_a_traced_refiner_computes_what_the_refiner_does(loops):
    refiner = DualGraphRefiner(3, 5, num_neighbors=4).requires_grad_(False)
    inputs = torch.randn(2, 5, 6, 7), torch.randn(2, 3, 6, 7)

    def labels_of(features, logits):
        return refiner(features, logits).soft_labels

    traced = make_fx(labels_of)(*inputs)
    others = torch.randn(2, 5, 6, 7), torch.randn(2, 3, 6, 7)
    torch.testing.assert_close(traced(*others), labels_of(*others), rtol=1e-5, atol=1e-6)


@compiles
def test_traced_unit_rows_are_unit_rows(loops):
    rows = random_features(50, 8)
    traced = make_fx(lambda given_rows: unit_rows.unit_rows(given_rows))(rows)
    torch.testing.assert_close(traced(2 * rows + 1), unit_rows.unit_rows(2 * rows + 1))


@compiles
def test_an_exported_refiner_computes_what_the_refiner_does(loops):
    class Labels(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.refiner = DualGraphRefiner(3, 5, num_neighbors=4)

        def forward(self, features, logits):
            return self.refiner(features, logits).soft_labels

    layer = Labels().eval()
    inputs = torch.randn(2, 5, 6, 7), torch.randn(2, 3, 6, 7)
    program = torch.export.export(layer, inputs)
    others = torch.randn(2, 5, 6, 7), torch.randn(2, 3, 6, 7)
    torch.testing.assert_close(program.module()(*others), layer(*others), rtol=1e-5, atol=1e-6)


@compiles
@pytest.mark.slow
def test_inductor_compiles_refiner_and_loss_in_one_graph(loops):
    torch._dynamo.reset()
    refiner, loss = DualGraphRefiner(3, 5, num_neighbors=4), LabelCorrectionLoss(validate_args=False)
    labels = torch.randint(3, (2, 6, 7))

    def total(features, logits):
        return loss(refiner(features, logits), labels).total

    found = []
    for function in (total, torch.compile(total, fullgraph=True)):
        leaves = [random_features(2, c, 6, 7, dtype=torch.float32).requires_grad_() for c in (5, 3)]
        result = function(*leaves)
        found.append((result, *torch.autograd.grad(result, leaves)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
