"""torch.export for inference, at the shapes of the export, and the transforms of torch.func where they make sense."""

import io

import pytest
import torch
from layer_checks import compiles
from strategies import random_features, random_labels, random_logits

from graphcorrect import DualGraphRefiner, clg_loss, slg_loss

pytestmark = compiles

X = random_features(3, 12, 4, dtype=torch.float32)
Z = random_logits(3, 12, 3, dtype=torch.float32)
Y = random_labels(3, 12, num_classes=3, ignored=0.2)


class Labels(torch.nn.Module):
    """What inference wants of a refiner: labels and confidence."""

    def __init__(self, **options):
        super().__init__()
        self.refiner = DualGraphRefiner(3, 4, num_neighbors=4, **options)

    def forward(self, features, logits):
        out = self.refiner(features, logits)
        return out.pseudo_labels, out.confidence


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["nodes", "images"])
def test_an_exported_refiner_answers_the_same_also_after_saving(kind):
    model = Labels(max_nodes=8).eval()
    inputs = (X, Z) if kind == "nodes" else (X.mT.reshape(3, 4, 3, 4), Z.mT.reshape(3, 3, 3, 4))
    file = io.BytesIO()
    exported = torch.export.export(model, inputs)
    if hasattr(torch.compiler, "is_exporting"):
        assert "graphcorrect" not in str(exported.graph)  # which a program without this library could not load
    torch.export.save(exported, file)
    file.seek(0)
    program = torch.export.load(file).module()
    for seed in range(2):
        fresh = [t + random_features(*t.shape, seed=seed, dtype=t.dtype) for t in inputs]
        for mine, wanted in zip(program(*fresh), model(*fresh), strict=True):
            torch.testing.assert_close(mine, wanted)


def test_func_grad_and_vmap_of_clg_loss_are_autograds():
    def loss(probabilities, labels):
        return clg_loss(probabilities, labels, validate_args=False)  # reading labels is what vmap cannot do

    p = Z.softmax(-1)
    gradients, values = torch.func.vmap(torch.func.grad_and_value(loss))(p, Y)
    for number in range(len(p)):
        leaf = p[number].clone().requires_grad_()
        wanted = loss(leaf, Y[number])
        wanted.backward()
        torch.testing.assert_close(values[number], wanted.detach())
        torch.testing.assert_close(gradients[number], leaf.grad)
    jacobian = torch.func.jacrev(lambda p: clg_loss(p, Y, reduction="none", validate_args=False))(p)
    torch.testing.assert_close(jacobian.sum((0, 1)), torch.func.grad(lambda p: len(Y[Y != 255]) * loss(p, Y))(p))


def test_slg_loss_refuses_func_grad():
    """Its backward is its own; torch says so rather than give another answer."""
    with pytest.raises(RuntimeError, match="setup_context"):
        torch.func.grad(lambda x: slg_loss(x, Y, num_classes=3, validate_args=False))(X)


def test_functional_call_reaches_a_refiners_weights():
    """By autograd: torch.func.grad does not see through a graph, and says so."""
    model = DualGraphRefiner(3, 4, num_neighbors=4)
    model.requires_grad_(False)
    weights = {name: torch.randn_like(p).requires_grad_() for name, p in model.named_parameters()}

    def mean_square(weights):
        out = torch.func.functional_call(model, weights, (X, Z))
        return out.soft_labels.square().mean() + out.features[-1].square().mean()

    found = torch.autograd.grad(mean_square(weights), list(weights.values()), allow_unused=True)
    model.load_state_dict({**model.state_dict(), **weights})
    model.requires_grad_()
    out = model(X, Z)
    (out.soft_labels.square().mean() + out.features[-1].square().mean()).backward()
    for mine, (name, parameter) in zip(found, model.named_parameters(), strict=True):
        assert (mine is None) == (parameter.grad is None), name
        if mine is not None:
            torch.testing.assert_close(mine, parameter.grad)
    with pytest.raises(RuntimeError, match="setup_context"):
        torch.func.grad(mean_square)({name: p.detach() for name, p in weights.items()})
