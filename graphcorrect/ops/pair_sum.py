"""The pair term of Eq. (12) over all ordered pairs of an image's nodes, without forming a pair."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphcorrect.ops._dispatch import Kernel, Operation

MIN_TILED_NODES = 2048  # of an image, up to which it is multiplied as a whole


def pair_sum(unit: Tensor, labels: Tensor, is_of_class: Tensor) -> Tensor:
    r""":math:`\sum_{ij} [(v_i \cdot v_j)^2 - 2 Y_{ij} v_i \cdot v_j]` over the ordered pairs of each image, (B,).

    Computed as :math:`\|V^\top V\|^2 - 2 \sum_c \|\sum_{i \in c} v_i\|^2`: two products forward and two backward. With
    the number of pairs of one class, which is no matter of v, it is the sum of Eq. (12)'s first term.

    Args:
        unit: (B, N, D), rows v of unit length, or zero where a node takes no part.
        labels: (B, N) int64 in [0, C); any of them, or -1, where a node takes no part.
        is_of_class: (B, N, C), the one-hot rows of the labels in the dtype of `unit`, or zero.
    """
    pairs: Tensor = _pair_sum(unit, labels, is_of_class)[0]
    return pairs


def _definition(unit: Tensor, labels: Tensor, is_of_class: Tensor) -> tuple[Tensor, Tensor]:
    """V^T V (B, D, D) and the sums of each class's rows (B, C, D)."""
    return unit.mT @ unit, is_of_class.mT @ unit


def _gradient_definition(unit: Tensor, labels: Tensor, is_of_class: Tensor, of_gram: Tensor, of_sums: Tensor) -> Tensor:
    """V G - Y S for the gradients G of V^T V, both sides of it, and -S of the sums."""
    return torch.baddbmm(is_of_class @ of_sums, unit, of_gram, beta=-1.0)


def _tiles_refuse(*tensors: Tensor) -> str | None:
    if tensors[0].device.type != "cpu":
        return f"tiles fit the caches of a CPU, not of {tensors[0].device.type}"
    return None if tensors[0].shape[1] > MIN_TILED_NODES else f"images of up to {MIN_TILED_NODES} nodes are one tile"


_CPU = "graphcorrect.ops.kernels.cpu.pairs"
OPERATION = Operation("pair sum", _definition, Kernel("tiles", _tiles_refuse, _CPU, "moments"))
GRADIENT = Operation("gradient of pair sum", _gradient_definition, Kernel("tiles", _tiles_refuse, _CPU, "gradient"))


@torch.library.custom_op("graphcorrect::pair_sum", mutates_args=())
def _pair_sum(unit: Tensor, labels: Tensor, is_of_class: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    gram, sums = OPERATION(unit, labels, is_of_class)
    return torch.sub(gram.square().sum((1, 2)), sums.square().sum((1, 2)), alpha=2), gram, sums


@_pair_sum.register_fake
def _(unit: Tensor, labels: Tensor, is_of_class: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    batch, _, width = unit.shape
    sizes = (batch,), (batch, width, width), (batch, is_of_class.shape[2], width)
    pairs, gram, sums = (unit.new_empty(size) for size in sizes)
    return pairs, gram, sums


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs, *output[1:])


def _backward(
    ctx: Any, grad: Tensor | None, grad_gram: Tensor | None, grad_sums: Tensor | None
) -> tuple[Tensor | None, None, None]:
    """That of v_i is 4 V^T V v_i - 4 sum_{j in c(i)} v_j; those of V^T V and of the sums come of second derivatives."""
    unit, labels, is_of_class, gram, sums = ctx.saved_tensors
    factor = torch.zeros_like(gram[:, :1, :1]) if grad is None else 4.0 * grad[:, None, None]
    of_gram, of_sums = factor * gram, factor * sums  # of the sums the negative one
    if grad_gram is not None:
        of_gram = of_gram + grad_gram + grad_gram.mT
    if grad_sums is not None:
        of_sums = of_sums - grad_sums
    # Second derivatives follow the definition
    gradient = _gradient_definition if torch.is_grad_enabled() else GRADIENT
    return gradient(unit, labels, is_of_class, of_gram, of_sums), None, None


_pair_sum.register_autograd(_backward, setup_context=_keep)
