"""The learned network's gradient by hand against autograd's."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphcorrect import _mlp
from graphcorrect._mlp import ZeroStartMLP


def network_of(depth=1, norm=True, dtype=torch.float64, approximate="none"):
    torch.manual_seed(0)
    network = ZeroStartMLP(3, hidden_dim=4, depth=depth, norm=norm).to(dtype)
    for layer in network.hidden[2::3]:
        layer.approximate = approximate
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    return network


@given(
    depth=st.integers(0, 3),
    norm=st.booleans(),
    approximate=st.sampled_from(["none", "tanh"]),
    rows=st.integers(1, 9),
    frozen=st.sets(st.integers(0, 13)),
)
def test_the_gradient_by_hand_is_autograds(depth, norm, approximate, rows, frozen):
    network = network_of(depth, norm, approximate=approximate)
    parameters = list(network.parameters())
    for number, parameter in enumerate(parameters):
        parameter.requires_grad_(number not in frozen)
    joined = torch.randn(rows, 6, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(rows, 3, dtype=torch.float64)
    trained = [each for each in parameters if each.requires_grad]
    result = network(joined)
    expected = torch.autograd.grad(result, [joined, *trained], grad)

    def asked(values):
        torch.testing.assert_close(values, result.detach())
        return grad

    assert _mlp.is_plain(network, parameters, joined)
    again, first = _mlp.forward(network, joined.detach())
    torch.testing.assert_close(again, result)
    assert (first is None) == (depth == 0)
    for of_result, known in itertools.product((grad, asked), (None, first)):
        slope, found = _mlp.slopes(network, parameters, joined.detach(), of_result, known)
        assert len(found) == len(trained)
        for mine, theirs in zip((slope, *found), expected, strict=True):
            torch.testing.assert_close(mine, theirs)


def test_parameters_lent_to_a_network_stand_for_its_own():
    network, joined, grad = network_of(), torch.randn(5, 6).double(), torch.randn(5, 3).double()
    lent = [torch.randn_like(each).requires_grad_() for each in network.parameters()]
    names = [name for name, _ in network.named_parameters()]
    result = torch.func.functional_call(network, dict(zip(names, lent, strict=True)), joined)
    _, found = _mlp.slopes(network, lent, joined, grad)
    for mine, theirs in zip(found, torch.autograd.grad(result, lent, grad), strict=True):
        torch.testing.assert_close(mine, theirs)


def hooked(network):
    network.last.register_forward_hook(lambda module, values, result: 2 * result)


def exchanged(network):
    network.hidden[2] = torch.nn.ReLU()


def nested(network):
    network.hidden[0] = torch.nn.Sequential(network.hidden[0])


def parametrized(network):
    torch.nn.utils.parametrizations.spectral_norm(network.last)


def without_bias(network):
    network.hidden[0] = torch.nn.Linear(6, 4, bias=False).double()


@pytest.mark.parametrize("changed", [hooked, exchanged, nested, parametrized, without_bias])
def test_a_network_that_does_something_else_is_not_plain(changed):
    network = network_of()
    changed(network)
    assert not _mlp.is_plain(network, list(network.parameters()), torch.zeros(1, 6).double())


def test_neither_is_one_in_another_precision_nor_one_of_another_class():
    network = network_of(dtype=torch.float32)

    class Other(ZeroStartMLP):
        """A user's own."""

    assert _mlp.is_plain(network, list(network.parameters()), torch.zeros(1, 6))
    assert not _mlp.is_plain(network, list(network.parameters()), torch.zeros(1, 6).double())
    other = Other(3)
    assert not _mlp.is_plain(other, list(other.parameters()), torch.zeros(1, 6))
