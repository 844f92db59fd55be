"""The end of a round for labels: logarithms and a bounded residual, their softmax, and what a node takes of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphcorrect.ops._dispatch import Kernel, Operation, triton_refuses


def label_mix(values: Tensor, log: Tensor, residual: Tensor, share: Tensor | None, bound: float) -> Tensor:
    r""":math:`(1 - s)\, v + s\, \mathrm{softmax}(l + b \tanh(r / b))` for each row.

    Args:
        values: v, (..., C) float32 or float64.
        log: l, (..., C).
        residual: r, (..., C).
        share: s, (..., 1), with as many dimensions; None for a share of one.
        bound: b, above zero.
    """
    if share is None or share.requires_grad:  # autograd follows the definition
        return _definition(values, log, residual, share, bound)[0]
    mixed: Tensor = _label_mix(values, log, residual, share, bound)[0]
    return mixed


def _definition(
    values: Tensor, log: Tensor, residual: Tensor, share: Tensor | None, bound: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The mix, and what its gradient is made of: the softmax and the tanh."""
    bend = torch.tanh(residual / bound)
    corrected = torch.add(log, bend, alpha=bound).softmax(-1)
    return corrected if share is None else torch.lerp(values, corrected, share), corrected, bend


def _gradient_definition(share: Tensor, corrected: Tensor, bend: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of values, log and residual."""
    grad = grad.contiguous()
    of_corrected = share * grad
    of_log = torch._softmax_backward_data(of_corrected, corrected, -1, corrected.dtype)
    return grad - of_corrected, of_log, torch.ops.aten.tanh_backward(of_log, bend)


_CUDA = "graphcorrect.ops.kernels.cuda.labels"
OPERATION = Operation("label mix", _definition, Kernel("triton", triton_refuses, _CUDA, "mix"))
GRADIENT = Operation("gradient of label mix", _gradient_definition, Kernel("triton", triton_refuses, _CUDA, "gradient"))


@torch.library.custom_op("graphcorrect::label_mix", mutates_args=())
def _label_mix(
    values: Tensor, log: Tensor, residual: Tensor, share: Tensor, bound: float
) -> tuple[Tensor, Tensor, Tensor]:
    share = share.expand(*values.shape[:-1], 1)
    return OPERATION(*(rows.contiguous() for rows in (values, log, residual, share)), bound)


@_label_mix.register_fake
def _(values: Tensor, log: Tensor, residual: Tensor, share: Tensor, bound: float) -> tuple[Tensor, Tensor, Tensor]:
    mixed, corrected, bend = (values.new_empty(values.shape) for _ in range(3))
    return mixed, corrected, bend


@torch.library.custom_op("graphcorrect::label_mix_gradient", mutates_args=())
def _label_mix_gradient(share: Tensor, corrected: Tensor, bend: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    share = share.expand(*grad.shape[:-1], 1)
    return GRADIENT(*(rows.contiguous() for rows in (share, corrected, bend)), grad)


@_label_mix_gradient.register_fake
def _(share: Tensor, corrected: Tensor, bend: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    of_values, of_log, of_residual = (grad.new_empty(grad.shape) for _ in range(3))
    return of_values, of_log, of_residual


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.bound = inputs[4]
    ctx.save_for_backward(inputs[3], *output[1:])


def _backward(
    ctx: Any, grad: Tensor | None, grad_corrected: Tensor | None, grad_bend: Tensor | None
) -> tuple[Tensor | None, ...]:
    share, corrected, bend = ctx.saved_tensors
    grad = torch.zeros_like(corrected) if grad is None else grad
    if not torch.is_grad_enabled() and grad_corrected is None and grad_bend is None:
        return *_label_mix_gradient(share, corrected, bend, grad), None, None
    # Second derivatives follow the definition, and bring gradients of the softmax and of the tanh
    of_values, of_log, of_residual = _gradient_definition(share, corrected, bend, grad)
    if grad_corrected is not None:
        more = torch._softmax_backward_data(grad_corrected, corrected, -1, corrected.dtype)
        of_log, of_residual = of_log + more, of_residual + torch.ops.aten.tanh_backward(more, bend)
    if grad_bend is not None:
        of_residual = of_residual + torch.ops.aten.tanh_backward(grad_bend / ctx.bound, bend)
    return of_values, of_log, of_residual, None, None


_label_mix.register_autograd(_backward, setup_context=_keep)
