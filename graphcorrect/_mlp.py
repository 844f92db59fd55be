"""The small network of a learned map, and its gradient by hand: fewer steps than autograd's, and the same numbers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphcorrect import _checks


class ZeroStartMLP(nn.Module):
    """A small network on two sets of values (..., F), zero when it is built: a map starts as its fixed part.

    Args:
        num_channels: F.
        hidden_dim: width of the hidden layers.
        depth: number of hidden layers; 0 is one linear map.
        norm: True puts a LayerNorm before each activation. (Not a BatchNorm: nodes of one image are no sample.)

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(self, num_channels: int, *, hidden_dim: int = 64, depth: int = 1, norm: bool = True) -> None:
        super().__init__()
        _checks.integer_at_least("num_channels", num_channels, 1)
        _checks.integer_at_least("hidden_dim", hidden_dim, 1)
        _checks.integer_at_least("depth", depth, 0)
        layers: list[nn.Module] = []
        width = 2 * num_channels
        for _ in range(depth):
            layers += [nn.Linear(width, hidden_dim), nn.LayerNorm(hidden_dim) if norm else nn.Identity(), nn.GELU()]
            width = hidden_dim
        self.last = nn.Linear(width, num_channels)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        self.hidden = nn.Sequential(*layers)

    def forward(self, *values: Tensor) -> Tensor:
        """The residual (..., F) for both sets of values, or for one tensor of both, (..., 2 F).

        In the dtype of the values; the network itself may live in another one.
        """
        joined = values[0] if len(values) == 1 else torch.cat(values, -1)
        residual: Tensor = self.last(self.hidden(joined.to(self.last.weight.dtype))).to(joined.dtype)
        return residual


_ByParameter = dict[Tensor, Tensor]
_BUILT = ((nn.Linear,), (nn.LayerNorm, nn.Identity), (nn.GELU,))  # the layers in turn


def is_plain(network: nn.Module, parameters: Sequence[Tensor], values: Tensor) -> TypeGuard[ZeroStartMLP]:
    """Whether a network does to such values what it was built to do, in their dtype, and nothing hooks in."""
    return (
        type(network) is ZeroStartMLP
        and type(network.hidden) is nn.Sequential
        and type(network.last) is nn.Linear
        and all(type(layer) in kinds for layer, kinds in zip(network.hidden, itertools.cycle(_BUILT), strict=False))
        and all(each.dtype == values.dtype for each in parameters)
        and not any(_is_changed(module) for module in network.modules())
    )


def _is_changed(module: nn.Module) -> bool:
    hooks = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
    return any(hooks) or any(each is None for each in module._parameters.values())


def first_width(network: ZeroStartMLP) -> int:
    """Entries of a row after the first of several layers; 0 where there is but one."""
    return network.last.in_features if len(network.hidden) else 0


def forward(network: ZeroStartMLP, joined: Tensor) -> tuple[Tensor, Tensor | None]:
    """The residual (R, F) of rows (R, 2 F), and for `slopes` what the first of several layers makes of them."""
    values, first = joined, None
    for layer in network.hidden:
        values = layer(values)
        first = values if first is None else first
    residual: Tensor = network.last(values)
    return residual, first


def slopes(
    network: ZeroStartMLP,
    parameters: Sequence[Tensor],
    joined: Tensor,
    grad: Tensor | Callable[[Tensor], Tensor],
    first: Tensor | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """The gradients of rows (R, 2 F) and of those parameters that take one, in turn.

    Args:
        network: one that `is_plain`.
        parameters: what stands for its own ones.
        joined: the rows.
        grad: the gradient (R, F) of its result, or what makes it of that result.
        first: what `forward` says of it, if that is known.
    """
    own: Iterator[Tensor] = network.parameters()
    given = dict(zip(own, parameters, strict=True))
    found: _ByParameter = {}
    values, kept = joined, list[tuple[nn.Module, tuple[Any, ...]]]()
    for layer in network.hidden:
        values, what = (first, (joined,)) if first is not None and not kept else _forward(layer, given, values)
        kept.append((layer, what))
    kept.append((network.last, (values,)))
    slope = grad if isinstance(grad, Tensor) else grad(_forward(network.last, given, values)[0])
    for layer, what in reversed(kept):
        slope = _backward(layer, given, what, slope, found)
    return slope, [found[each] for each in given if given[each].requires_grad]


def _forward(layer: nn.Module, given: _ByParameter, values: Tensor) -> tuple[Tensor, tuple[Any, ...]]:
    """What a layer makes of rows, and what its gradient needs."""
    if isinstance(layer, nn.Linear):
        return F.linear(values, given[layer.weight], given[layer.bias]), (values,)
    if isinstance(layer, nn.LayerNorm):
        weight, bias = given[layer.weight], given[layer.bias]
        result, mean, inverse = torch.native_layer_norm(values, layer.normalized_shape, weight, bias, layer.eps)
        return result, (values, mean, inverse)
    if isinstance(layer, nn.GELU):
        return F.gelu(values, approximate=layer.approximate), (values,)
    return values, ()


def _backward(
    layer: nn.Module,
    given: _ByParameter,
    kept: tuple[Any, ...],
    grad: Tensor,
    found: _ByParameter,
) -> Tensor:
    """The gradient of the rows that a layer was given; those of its parameters go to `found`."""
    if isinstance(layer, nn.Linear):
        (values,) = kept
        found[layer.weight], found[layer.bias] = grad.mT @ values, grad.sum(0)
        return grad @ given[layer.weight]
    if isinstance(layer, nn.LayerNorm):
        values, mean, inverse = kept
        shape, weight, bias = layer.normalized_shape, given[layer.weight], given[layer.bias]
        grad, found[layer.weight], found[layer.bias] = torch.ops.aten.native_layer_norm_backward(
            grad, values, shape, mean, inverse, weight, bias, (True, True, True)
        )
    elif isinstance(layer, nn.GELU):
        grad = torch.ops.aten.gelu_backward(grad, *kept, approximate=layer.approximate)
    return grad
