"""The normalized form of the class-level graph: its factors divided by the roots of the row sums."""

from __future__ import annotations

import torch
from torch import Tensor

from graphcorrect.ops._dispatch import Kernel, Operation, triton_refuses
from graphcorrect.ops.class_layout import ClassLayout
from graphcorrect.ops.class_product import class_product


def normalize_classes(layout: ClassLayout) -> tuple[Tensor, Tensor, ClassLayout]:
    """Row sums D (B, N) of the graph W, D^-1/2, and the layout of D^-1/2 W D^-1/2."""
    # Where there is a gradient, autograd follows the definition
    normalize = _normalize_definition if layout.factors.requires_grad else _normalize_classes
    degree, scale, factors, self_weight = normalize(*layout)
    return degree, scale, layout._replace(factors=factors, self_weight=self_weight)


def _normalize_definition(
    factors: Tensor, self_weight: Tensor, *places: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    layout = ClassLayout(factors, self_weight, *places)
    degree = class_product(layout, self_weight.new_ones(self_weight.shape))[..., 0]
    scale = degree.clamp_min(torch.finfo(degree.dtype).tiny).rsqrt()
    scaled = layout.scaled(scale)
    return degree, scale, scaled.factors, scaled.self_weight


def _triton_refuses(*tensors: Tensor) -> str | None:
    in_blocks = len(tensors) > 2 and len(tensors[2]) > 0
    return "it takes factors of low rank, not blocks" if in_blocks else triton_refuses(*tensors[:2])


OPERATION = Operation(
    "normalizing of classes",
    _normalize_definition,
    Kernel("triton", _triton_refuses, "graphcorrect.ops.kernels.cuda.class_blocks", "normalize"),
)


@torch.library.custom_op("graphcorrect::normalize_classes", mutates_args=())
def _normalize_classes(
    factors: Tensor, self_weight: Tensor, slot: Tensor, node: Tensor, segment: Tensor, used: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return OPERATION(factors.contiguous(), self_weight.contiguous(), slot, node, segment, used)


@_normalize_classes.register_fake
def _(factors: Tensor, self_weight: Tensor, *places: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    sizes = self_weight.shape[:2], self_weight.shape[:2], factors.shape, self_weight.shape
    degree, scale, factors, self_weight = (factors.new_empty(size) for size in sizes)
    return degree, scale, factors, self_weight
