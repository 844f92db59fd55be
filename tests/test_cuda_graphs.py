"""The recipe for CUDA graphs: it runs without a GPU, and a captured step computes what the same kernels launched do."""

import copy
import importlib
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def recipe(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("cuda_graphs")


def inputs(recipe, device, seed=0):
    """Features, logits, labels, prototypes and their mask; the first two want gradients."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, recipe.DIM, 12, 12, generator=generator).to(device).requires_grad_()
    logits = 4 * torch.randn(2, recipe.NUM_CLASSES, 12, 12, generator=generator)
    labels = torch.randint(recipe.NUM_CLASSES, (2, 12, 12), generator=generator).to(device)
    prototypes = torch.randn(2, recipe.NUM_CLASSES, recipe.DIM, generator=generator).to(device)
    mask = torch.rand(2, recipe.NUM_CLASSES, generator=generator) > 0.2
    return features, logits.to(device).requires_grad_(), labels, prototypes, mask.to(device)


def test_without_a_gpu_the_same_steps_run_launched_one_by_one(recipe, capsys):
    losses = recipe.main(steps=4, side=8, device="cpu")
    assert len(losses) == 4
    assert losses[-1] < losses[0]
    assert "launched one by one" in capsys.readouterr().out
    given = inputs(recipe, "cpu")
    correction = recipe.Correction(recipe.DualGraphRefiner(recipe.NUM_CLASSES, recipe.DIM))
    assert recipe.graphed(correction, *given) is correction


def test_the_loss_that_is_captured_is_that_of_refiner_and_criterion(recipe):
    features, logits, labels, prototypes, mask = inputs(recipe, "cpu")
    refiner = recipe.DualGraphRefiner(recipe.NUM_CLASSES, recipe.DIM)
    loss, *rounds = recipe.Correction(refiner)(features, logits, labels, prototypes, mask)
    out = refiner(features, logits)
    expected = recipe.LabelCorrectionLoss()(out, labels, prototypes=prototypes, prototype_mask=mask)
    torch.testing.assert_close(loss, expected.total)
    for found, values in zip(rounds, out.features[1:], strict=True):
        torch.testing.assert_close(found, values.detach())


@pytest.mark.gpu
def test_a_captured_step_has_the_values_and_gradients_of_one_that_is_not(recipe):
    refiner = recipe.DualGraphRefiner(recipe.NUM_CLASSES, recipe.DIM).cuda()
    plain = recipe.Correction(refiner)
    captured = recipe.graphed(copy.deepcopy(plain), *inputs(recipe, "cuda"))
    for seed in (1, 2):  # the graph is replayed on other values
        found = []
        for correction in (plain, captured):
            given = inputs(recipe, "cuda", seed)
            correction.zero_grad()
            loss, *rounds = correction(*given)
            loss.backward()
            slopes = [parameter.grad for parameter in correction.parameters()]
            found.append([loss.detach().clone(), *(values.clone() for values in rounds), given[0].grad, given[1].grad])
            found[-1] += [slope.clone() for slope in slopes]
        for mine, theirs in zip(*found, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
def test_the_recipe_trains_on_a_gpu(recipe, capsys):
    losses = recipe.main(steps=10)
    assert losses[-1] < losses[0]
    assert "one CUDA graph" in capsys.readouterr().out
