"""The end of a round for labels, and its gradient, in one Triton kernel each."""

import torch
import triton  # type: ignore[import-untyped,import-not-found,unused-ignore]
import triton.language as tl  # type: ignore[import-untyped,import-not-found,unused-ignore]
from torch import Tensor

from graphcorrect.ops.kernels.cuda.launching import launch_rows

_TILE = 1024  # entries of a program


@triton.jit  # type: ignore[untyped-decorator]
def _mix_kernel(  # type: ignore[no-untyped-def]
    values,
    log,
    residual,
    share,
    mixed,
    corrected,
    bend,
    num_rows,
    width,
    bound,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Writes `mixed`, `corrected` and `bend`; rows (M, C), share (M,)."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    inside = (row < num_rows)[:, None] & (column < width)[None, :]
    place = row[:, None] * width + column[None, :]
    logit = tl.load(residual + place, mask=inside, other=0.0) / bound
    shrunk = tl.exp(-2.0 * tl.abs(logit))
    tanh = tl.where(logit < 0, shrunk - 1.0, 1.0 - shrunk) / (1.0 + shrunk)
    logit = tl.load(log + place, mask=inside, other=float("-inf")) + bound * tanh
    logit = tl.where((row < num_rows)[:, None], logit, 0.0)
    exp = tl.exp(logit - tl.max(logit, 1)[:, None])
    own = tl.load(values + place, mask=inside, other=0.0)
    other = exp / tl.sum(exp, 1)[:, None]
    part = tl.load(share + row, mask=row < num_rows, other=0.0)[:, None]
    result = tl.where(part < 0.5, own + part * (other - own), other - (other - own) * (1.0 - part))
    tl.store(mixed + place, result, mask=inside)
    tl.store(corrected + place, other, mask=inside)
    tl.store(bend + place, tanh, mask=inside)


def mix(values: Tensor, log: Tensor, residual: Tensor, share: Tensor, bound: float) -> tuple[Tensor, Tensor, Tensor]:
    """(1 - s) v + s softmax(l + b tanh(r / b)) for rows (..., C) and shares (..., 1), the softmax, and the tanh."""
    results = torch.empty_like(values), torch.empty_like(values), torch.empty_like(values)
    launch_rows(_mix_kernel, values, values, log, residual, share, *results, bound=bound, tile=_TILE)
    return results


@triton.jit  # type: ignore[untyped-decorator]
def _gradient_kernel(  # type: ignore[no-untyped-def]
    bend,
    grad,
    corrected,
    share,
    of_values,
    of_log,
    of_residual,
    num_nodes,
    graph_stride,
    node_stride,
    class_stride,
    num_rows,
    width,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Writes the gradients of values, log and residual; rows (M, C) but `grad` (B, N, C) of any layout, share (M,)."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    inside = (row < num_rows)[:, None] & (column < width)[None, :]
    place = row[:, None] * width + column[None, :]
    of_row = row // num_nodes * graph_stride + row % num_nodes * node_stride
    whole = tl.load(grad + of_row[:, None] + (column * class_stride)[None, :], mask=inside, other=0.0)
    part = tl.load(share + row, mask=row < num_rows, other=0.0)[:, None] * whole
    other = tl.load(corrected + place, mask=inside, other=0.0)
    tanh = tl.load(bend + place, mask=inside, other=0.0)
    value = other * (part - tl.sum(other * part, 1)[:, None])
    tl.store(of_values + place, whole - part, mask=inside)
    tl.store(of_log + place, value, mask=inside)
    tl.store(of_residual + place, value * (1.0 - tanh * tanh), mask=inside)


def gradient(share: Tensor, corrected: Tensor, bend: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of values, log and residual (..., C)."""
    results = torch.empty_like(bend), torch.empty_like(bend), torch.empty_like(bend)
    # As pixels of an image, whose gradient comes in the layout of the image, without a copy
    by_graph = grad[None] if grad.ndim == 2 else grad.flatten(0, -3)
    tensors, layout = (bend, by_graph, corrected, share, *results), (by_graph.shape[1], *by_graph.stride())
    launch_rows(_gradient_kernel, bend, *tensors, *layout, tile=_TILE)
    return results
