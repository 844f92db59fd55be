"""Rows divided by their Euclidean norms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphcorrect import _checks
from graphcorrect.ops._dispatch import Kernel, Operation, numba_refuses, triton_refuses
from graphcorrect.ops.values import widen

MAX_FUSED_ENTRIES = 4096  # of a row, which a Triton program holds whole


def unit_rows(rows: Tensor, mask: Tensor | None = None, *, any_scale: bool = True) -> Tensor:
    """Divides each row (..., D) by its Euclidean norm; a zero row stays zero and gets no gradient.

    Args:
        rows: (..., D) floating point; half precision is float32 inside.
        mask: (...) bool; rows outside it become zero and get no gradient, whatever they hold.
        any_scale: True divides rows by their largest entry before anything is squared; False is for rows of which it is
            known that squares neither overflow nor vanish, such as mixes of unit rows.

    Raises:
        TypeError: `rows` is not a dense floating point tensor, or `mask` is not bool.
        ValueError: `mask` is not of the shape of the rows.

    Example:
        >>> unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    _checks.floating("rows", rows)
    _checks.mask("mask", mask, rows.shape[:-1], "(one entry for each row)", "`rows`", rows)
    if rows.shape[-1] == 0:
        return rows
    unit: Tensor = _unit_rows(widen(rows), mask, any_scale)[0]
    return unit.to(rows.dtype)


def compared_rows(rows: Tensor, normalize: bool) -> Tensor:
    """Rows (..., N, D) as a search compares them: float32 or better, one by one in memory, unit with `normalize`."""
    rows = widen(rows).contiguous()
    return unit_rows(rows) if normalize else rows


def _definition(rows: Tensor, mask: Tensor | None, any_scale: bool) -> tuple[Tensor, Tensor]:
    """Unit rows (..., D), and the norms (..., 1) that their gradient is divided by: infinite where there is none."""
    if mask is not None:
        rows = torch.where(mask[..., None], rows, 0.0)
    if any_scale:
        unit = rows.abs()  # a norm of order inf would take seven times as long
        largest = unit.amax(-1, keepdim=True).clamp_min_(torch.finfo(rows.dtype).tiny)
        torch.div(rows, largest, out=unit)
        norm = _zero_to_inf(torch.linalg.vector_norm(unit, dim=-1, keepdim=True))
        unit, norm = unit.div_(norm), norm * largest
    else:
        norm = _zero_to_inf(torch.linalg.vector_norm(rows, dim=-1, keepdim=True))
        unit = rows / norm
    return unit, norm


def _zero_to_inf(norm: Tensor) -> Tensor:
    """Norms of 0 as infinity, in place, so that what is divided by them is zero; NaN stays."""
    return torch.threshold_(norm, 0.0, torch.inf)


def _gradient_definition(unit: Tensor, norm: Tensor, grad: Tensor) -> Tensor:
    """(g - u (u · g)) / |x|."""
    result = unit * grad
    along = result.sum(-1, keepdim=True)
    return torch.addcmul(grad, unit, along, value=-1, out=result).div_(norm)


def _triton_refuses(*tensors: Tensor) -> str | None:
    if tensors[0].shape[-1] > MAX_FUSED_ENTRIES:
        return f"Triton's kernel holds a row whole, of at most {MAX_FUSED_ENTRIES} entries, not {tensors[0].shape[-1]}"
    return triton_refuses(*tensors)


_CPU, _CUDA = "graphcorrect.ops.kernels.cpu.rows", "graphcorrect.ops.kernels.cuda.rows"
OPERATION = Operation(
    "unit rows",
    _definition,
    Kernel("triton", _triton_refuses, _CUDA, "unit"),
    Kernel("numba", numba_refuses, _CPU, "unit"),
)
GRADIENT = Operation(
    "gradient of unit rows",
    _gradient_definition,
    Kernel("triton", _triton_refuses, _CUDA, "gradient"),
    Kernel("numba", numba_refuses, _CPU, "gradient"),
)


@torch.library.custom_op("graphcorrect::unit_rows", mutates_args=())
def _unit_rows(rows: Tensor, mask: Tensor | None, any_scale: bool) -> tuple[Tensor, Tensor]:
    return OPERATION(rows.contiguous(), None if mask is None else mask.contiguous(), any_scale)


@_unit_rows.register_fake
def _(rows: Tensor, mask: Tensor | None, any_scale: bool) -> tuple[Tensor, Tensor]:
    return rows.new_empty(rows.shape), rows.new_empty((*rows.shape[:-1], 1))


@torch.library.custom_op("graphcorrect::unit_rows_gradient", mutates_args=())
def _unit_rows_gradient(unit: Tensor, norm: Tensor, grad: Tensor) -> Tensor:
    return GRADIENT(unit.contiguous(), norm.contiguous(), grad.contiguous())


@_unit_rows_gradient.register_fake
def _(unit: Tensor, norm: Tensor, grad: Tensor) -> Tensor:
    return grad.new_empty(grad.shape)


def _keep_results(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*output)


def _backward(ctx: Any, grad: Tensor | None, grad_norm: Tensor | None) -> tuple[Tensor | None, None, None]:
    unit, norm = ctx.saved_tensors
    result = None if grad is None else _unit_rows_gradient(unit, norm, grad)
    if grad_norm is not None:  # of second derivatives: the gradient of |x| is u
        of_norm = torch.where(norm.isinf(), 0.0, grad_norm) * unit
        result = of_norm if result is None else result + of_norm
    return result, None, None


def _keep_inputs(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward_of_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """By torch's own operations, which have all further derivatives."""
    unit, norm, first = ctx.saved_tensors
    along, across = (unit * first).sum(-1, keepdim=True), (unit * grad).sum(-1, keepdim=True)
    of_unit = -(along * grad + across * first) / norm
    of_norm = -(grad * (first - unit * along)).sum(-1, keepdim=True) / norm.square()
    return of_unit, of_norm, _unit_rows_gradient(unit, norm, grad)


_unit_rows.register_autograd(_backward, setup_context=_keep_results)
_unit_rows_gradient.register_autograd(_backward_of_gradient, setup_context=_keep_inputs)
