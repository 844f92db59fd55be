"""The pair term of Eq. (12) over all ordered pairs of an image's nodes, without forming a pair."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphcorrect.ops._dispatch import Kernel, Operation


def pair_sum(unit: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    r""":math:`\sum_{ij} [Y_{ij} (v_i \cdot v_j - 1)^2 + (1 - Y_{ij}) (v_i \cdot v_j)^2]` of each image, (B,).

    Computed as :math:`\|V^\top V\|^2 + \sum_c (n_c^2 - 2 \|\sum_{i \in c} v_i\|^2)`: two products forward and two
    backward.

    Args:
        unit: (B, N, D), rows v of unit length, or zero where a node takes no part.
        labels: (B, N) int64; a label outside [0, C) takes no part.
        num_classes: C.
    """
    is_of_class = (labels[..., None] == torch.arange(num_classes, device=labels.device)).to(unit.dtype)
    pairs, _, _ = _pair_sum(unit, is_of_class)
    return pairs + is_of_class.sum(1).square().sum(1)


def _definition(unit: Tensor, is_of_class: Tensor) -> tuple[Tensor, Tensor]:
    """V^T V (B, D, D) and the sums of each class's rows (B, C, D)."""
    return unit.mT @ unit, is_of_class.mT @ unit


def _gradient_definition(unit: Tensor, is_of_class: Tensor, of_gram: Tensor, of_sums: Tensor) -> Tensor:
    """V G + Y S: the gradient of V for those of V^T V, symmetric and twice what it is, and of the sums."""
    return torch.baddbmm(is_of_class @ of_sums, unit, of_gram)


def _tiles_refuse(*tensors: Tensor) -> str | None:
    kind = tensors[0].device.type
    return None if kind == "cpu" else f"tiles fit the caches of a CPU, not of {kind}"


_CPU = "graphcorrect.ops.kernels.cpu.pairs"
OPERATION = Operation("pair sum", _definition, Kernel("tiles", _tiles_refuse, _CPU, "moments"))


@torch.library.custom_op("graphcorrect::pair_sum", mutates_args=())
def _pair_sum(unit: Tensor, is_of_class: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    gram, sums = OPERATION(unit, is_of_class)
    return gram.square().sum((1, 2)) - 2.0 * sums.square().sum((1, 2)), gram, sums


@_pair_sum.register_fake
def _(unit: Tensor, is_of_class: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    batch, _, width = unit.shape
    sizes = (batch,), (batch, width, width), (batch, is_of_class.shape[2], width)
    pairs, gram, sums = (unit.new_empty(size) for size in sizes)
    return pairs, gram, sums


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs, *output[1:])


def _backward(
    ctx: Any, grad: Tensor | None, grad_gram: Tensor | None, grad_sums: Tensor | None
) -> tuple[Tensor | None, None]:
    """That of v_i is 4 V^T V v_i - 4 sum_{j in c(i)} v_j; those of V^T V and of the sums come of second derivatives."""
    unit, is_of_class, gram, sums = ctx.saved_tensors
    of_gram, of_sums = 0.0, 0.0
    if grad is not None:
        factor = 4.0 * grad[:, None, None]
        of_gram, of_sums = factor * gram, -factor * sums
    if grad_gram is not None:
        of_gram = of_gram + grad_gram + grad_gram.mT
    if grad_sums is not None:
        of_sums = of_sums + grad_sums
    if not isinstance(of_gram, Tensor):
        of_gram = torch.zeros_like(gram)
    if not isinstance(of_sums, Tensor):
        of_sums = torch.zeros_like(sums)
    return _gradient_definition(unit, is_of_class, of_gram, of_sums), None


_pair_sum.register_autograd(_backward, setup_context=_keep)
