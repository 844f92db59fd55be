"""The class-level graph in Triton: factors of low rank, and their normalized form."""

import torch
import triton  # type: ignore[import-untyped,import-not-found,unused-ignore]
import triton.language as tl  # type: ignore[import-untyped,import-not-found,unused-ignore]
from torch import Tensor

from graphcorrect.ops.kernels.cuda.launching import launch_rows


@triton.jit  # type: ignore[untyped-decorator]
def _factor_kernel(  # type: ignore[no-untyped-def]
    vectors, labels, factors, self_weight, num_rows, width, rank, WIDTH: tl.constexpr, ROWS: tl.constexpr
):
    """Writes factors (M, W) and self_weight (M,) of vectors (M, rank) and labels (M,) int64."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    is_row = row < num_rows
    column = tl.arange(0, WIDTH)
    inside = is_row[:, None] & (column < width)[None, :]
    label = tl.load(labels + row, mask=is_row, other=-1)
    is_of_class = inside & ((column // rank)[None, :] == label[:, None])
    value = tl.load(vectors + row[:, None] * rank + (column % rank)[None, :], mask=is_of_class, other=0.0)
    tl.store(factors + row[:, None] * width + column[None, :], value, mask=inside)
    tl.store(self_weight + row, 1.0 - tl.sum(value * value, 1), mask=is_row)


def factors(vectors: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """The rows onehot(label) ⊗ u (B, N, C m) for vectors u (B, N, m), and 1 - |u|² (B, N, 1)."""
    rank = vectors.shape[-1]
    rows = vectors.new_empty(*labels.shape, num_classes * rank)
    self_weight = vectors.new_empty(*labels.shape, 1)
    launch_rows(_factor_kernel, rows, vectors.contiguous(), labels.contiguous(), rows, self_weight, rank=rank)
    return rows, self_weight


@triton.jit  # type: ignore[untyped-decorator]
def _normalize_kernel(  # type: ignore[no-untyped-def]
    factors,
    self_weight,
    sums,
    degree,
    scale,
    scaled,
    scaled_self_weight,
    num_rows,
    width,
    num_nodes,
    TINY: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Writes `degree` and the three behind it; factors (M, W), their sums (B, W) of each graph, others (M,)."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    is_row = row < num_rows
    column = tl.arange(0, WIDTH)[None, :]
    inside = is_row[:, None] & (column < width)
    value = tl.load(factors + row[:, None] * width + column, mask=inside, other=0.0)
    of_graph = tl.load(sums + (row // num_nodes)[:, None] * width + column, mask=inside, other=0.0)
    own = tl.load(self_weight + row, mask=is_row, other=0.0)
    total = tl.sum(value * of_graph, 1) + own
    factor = 1.0 / tl.sqrt(tl.maximum(total, TINY))
    tl.store(degree + row, total, mask=is_row)
    tl.store(scale + row, factor, mask=is_row)
    tl.store(scaled + row[:, None] * width + column, value * factor[:, None], mask=inside)
    tl.store(scaled_self_weight + row, own * (factor * factor), mask=is_row)


def normalize(factors: Tensor, self_weight: Tensor, *places: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Row sums D and D^-1/2 (B, N), and the factors (B, N, W) and self weights (B, N, 1) of D^-1/2 W D^-1/2."""
    degree, scale = factors.new_empty(factors.shape[:2]), factors.new_empty(factors.shape[:2])
    results = degree, scale, torch.empty_like(factors), torch.empty_like(self_weight)
    tensors, tiny = (factors, self_weight, factors.sum(1), *results), torch.finfo(factors.dtype).tiny
    launch_rows(_normalize_kernel, factors, *tensors, num_nodes=factors.shape[1], TINY=tiny)
    return results
