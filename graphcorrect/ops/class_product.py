"""Products with the class-level graph: exact, and linear in the number of nodes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphcorrect.ops._dispatch import Kernel, Operation, numba_refuses
from graphcorrect.ops.class_layout import ClassLayout

MIN_NUMBA_COLUMNS = 64  # of values, below which torch's batched products are faster than numba's loops


def class_product(layout: ClassLayout, values: Tensor) -> Tensor:
    r"""(W y)_i = u_i^T M_c(i) + (1 - q_i) y_i with :math:`M_c = \sum_{j \in c} u_j y_j^\top`, for values y (B, N, F).

    The values have the dtype of the layout.
    """
    product: Tensor = _class_product(*layout, values)
    return product


def _low_rank(factors: Tensor, self_weight: Tensor, values: Tensor) -> Tensor:
    """The definition: Z (Z^T y) + diagonal."""
    return torch.addcmul(factors @ (factors.mT @ values), self_weight, values)


def _blocks(
    factors: Tensor, self_weight: Tensor, slot: Tensor, node: Tensor, segment: Tensor, used: Tensor, values: Tensor
) -> Tensor:
    """The same by batched products over blocks of one class each, whatever the number of classes."""
    moments = _moments(factors, node, segment, values)
    product = (factors @ moments).flatten(0, 1).index_select(0, slot).view(values.shape)
    return torch.addcmul(product, self_weight, values)


def _moments(factors: Tensor, node: Tensor, segment: Tensor, values: Tensor) -> Tensor:
    """M_c of each block's class, (blocks, m, F)."""
    # A row that is no node's meets a zero, and holds values of the same class: what is not finite stays in its class
    rows = values.flatten(0, 1).index_select(0, node).view(*factors.shape[:2], -1)
    by_block = factors.mT @ rows
    num_segments = len(segment) - values.shape[:2].numel() // factors.shape[1]  # as `block_shape` has it
    sums = by_block.new_zeros(num_segments, *by_block.shape[1:]).index_add_(0, segment, by_block)
    return sums.index_select(0, segment)


def _numba_refuses(*tensors: Tensor) -> str | None:
    if tensors[-1].shape[-1] < MIN_NUMBA_COLUMNS:
        return f"batched products are faster than numba's loops below {MIN_NUMBA_COLUMNS} columns of values"
    return numba_refuses(*tensors)


OPERATION = Operation(
    "class product", _blocks, Kernel("numba", _numba_refuses, "graphcorrect.ops.kernels.cpu.class_blocks", "product")
)


@torch.library.custom_op("graphcorrect::class_product", mutates_args=())
def _class_product(
    factors: Tensor,
    self_weight: Tensor,
    slot: Tensor,
    node: Tensor,
    segment: Tensor,
    used: Tensor,
    values: Tensor,
) -> Tensor:
    if len(slot) == 0:
        return _low_rank(factors, self_weight, values)
    return OPERATION(factors, self_weight, slot, node, segment, used, values)


@_class_product.register_fake
def _(factors: Tensor, self_weight: Tensor, slot: Tensor, *rest: Tensor) -> Tensor:
    return rest[-1].new_empty(rest[-1].shape)


def _keep_inputs(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    *layout, values = inputs
    # Values are kept only for the gradient of weights, which by default nobody asks for
    kept = values if ctx.needs_input_grad[0] or ctx.needs_input_grad[1] else None
    ctx.save_for_backward(*layout, kept)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """The gradient of values is the same product, W being symmetric; that of u_i is M_c g_i + G_c y_i."""
    *layout, values = ctx.saved_tensors
    of_factors = of_self_weight = of_values = None
    if ctx.needs_input_grad[0]:
        of_factors = _meeting(ClassLayout(*layout), values, grad) + _meeting(ClassLayout(*layout), grad, values)
    if ctx.needs_input_grad[1]:
        of_self_weight = (grad * values).sum(-1, keepdim=True)
    if ctx.needs_input_grad[-1]:
        of_values = _class_product(*layout, grad)
    return of_factors, of_self_weight, None, None, None, None, of_values


def _meeting(layout: ClassLayout, left: Tensor, right: Tensor) -> Tensor:
    """sum_j u_j (left_j · right_i) over the class of each i, laid out as the factors are."""
    factors = layout.factors
    if len(layout.slot) == 0:
        return right @ (factors.mT @ left).mT
    by_block = right.flatten(0, 1).index_select(0, layout.node).view(*factors.shape[:2], -1)
    return by_block @ _moments(factors, layout.node, layout.segment, left).mT


_class_product.register_autograd(_backward, setup_context=_keep_inputs)
