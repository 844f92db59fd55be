"""The fused unit rows against torch's own steps. Functions `interpreted_*` run as in triton_interpreter.py."""

import pytest
import torch
from strategies import random_features
from triton_interpreter import run_interpreted

from graphcorrect.ops import unit_rows as ops
from graphcorrect.ops.unit_rows import unit_rows


@pytest.fixture
def fused():
    pytest.importorskip("triton")
    from graphcorrect.ops.kernels.cuda import rows

    return rows


def rows_of(*shape, seed=0):
    rows = random_features(*shape, seed=seed, dtype=torch.float32)
    rows[..., 0, :] = 0.0
    rows[..., 1, :] *= 1e30
    rows[..., 2, :] *= 1e-30
    return rows


def test_under_the_interpreter():
    run_interpreted(__file__)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", [(3, 1), (70, 5), (2, 40, 33), (5, 300)])
def interpreted_values_and_gradients_are_those_of_the_definition(fused, shape, masked):
    rows, grad = rows_of(*shape), random_features(*shape, seed=1, dtype=torch.float32)
    mask = torch.rand(shape[:-1]) < 0.7 if masked else None
    (unit, norm), (expected, length) = (each(rows, mask, True) for each in (fused.unit, ops._definition))
    torch.testing.assert_close(unit, expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(norm, length, rtol=1e-6, atol=0)
    slopes = fused.gradient(unit, norm, grad), ops._gradient_definition(expected, length, grad)
    torch.testing.assert_close(*slopes, rtol=2e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy's, of inf / inf
def interpreted_what_is_not_finite_stays_in_its_row(fused):
    rows = rows_of(8, 6)
    rows[3, 2], rows[4, 5] = torch.nan, torch.inf
    unit, _ = fused.unit(rows, None, True)
    assert unit[3].isnan().any()
    assert unit[4].isnan().any()
    assert unit[[0, 1, 2, 5, 6, 7]].isfinite().all()
    mask = torch.ones(8, dtype=torch.bool)
    mask[3] = False
    unit, norm = fused.unit(rows, mask, True)
    assert (unit[3] == 0).all()
    assert (fused.gradient(unit, norm, torch.ones(8, 6))[3] == 0).all()


def interpreted_empty_rows(fused):
    assert fused.unit(torch.zeros(0, 4), None, True)[0].shape == (0, 4)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(70, 5), (2, 4000, 256), (30, 4096), (30, 5000)])
def test_unit_rows_on_a_gpu_are_those_of_the_cpu(shape):
    rows, grad = rows_of(*shape), random_features(*shape, seed=1, dtype=torch.float32)
    results = []
    for device in ("cpu", "cuda"):
        leaf = rows.to(device).requires_grad_()
        unit = unit_rows(leaf)
        (slope,) = torch.autograd.grad(unit, leaf, grad.to(device))
        results.append((unit.detach().cpu(), slope.cpu()))
    torch.testing.assert_close(results[1][0], results[0][0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(results[1][1], results[0][1], rtol=1e-4, atol=1e-6)


@pytest.mark.gpu
def test_unit_rows_have_second_derivatives_on_a_gpu():
    rows = random_features(6, 5).float().cuda().requires_grad_()
    (slope,) = torch.autograd.grad(unit_rows(rows)[:, 0].sum(), rows, create_graph=True)
    (second,) = torch.autograd.grad(slope.square().sum(), rows)
    exact = rows.detach().double().cpu().requires_grad_()
    (slope,) = torch.autograd.grad(unit_rows(exact)[:, 0].sum(), exact, create_graph=True)
    (expected,) = torch.autograd.grad(slope.square().sum(), exact)
    torch.testing.assert_close(second.cpu().double(), expected, rtol=1e-4, atol=1e-5)
