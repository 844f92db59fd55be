"""f_C of Eq. (8), row by row: all but its network in a few compiled loops.

Importing this file imports numba; :mod:`graphcorrect.propagate` does so where :func:`graphcorrect._eager.may_loop`
allows. What the loops compute is `LabelPropagation.correct`, and its gradient by hand.
"""

from __future__ import annotations

import numba
import torch
from torch import Tensor

from graphcorrect.ops.kernels.cpu._compile import inner, loop
from graphcorrect.ops.kernels.cpu.rows import dot
from graphcorrect._row_maps import Learned, ParameterSlopes


class LoopedCorrect:
    """Propagated probabilities times the bounded exponential of what a network says, back on the simplex."""

    def __init__(self, bound: float) -> None:
        self.bound = bound

    def map(self, own: Tensor, propagated: Tensor, network: Learned) -> Tensor:
        """The rows (R, C) that become of a tile's own and its propagated probabilities."""
        joined, _ = _joined(own, propagated)
        _, factor = self._bounded(network(joined))
        result = torch.empty_like(own)
        _correct(joined, factor, result, own.new_empty(len(own)))
        return result

    def slopes(self, own: Tensor, propagated: Tensor, grad: Tensor, network: ParameterSlopes) -> tuple[Tensor, Tensor]:
        """The gradients of both for that of the result."""
        joined, totals = _joined(own, propagated)
        of_own, of_propagated = torch.empty_like(own), torch.empty_like(own)

        def of_residual(residual: Tensor) -> Tensor:
            tanh, factor = self._bounded(residual)
            result, sums, slope = torch.empty_like(own), own.new_empty(len(own)), torch.empty_like(own)
            _correct(joined, factor, result, sums)
            _slopes_of_correct(result, factor, sums, tanh, grad.contiguous(), slope, of_own, of_propagated)
            return slope

        slope = network.of_network(joined, of_residual)
        _slopes_of_joined(joined, totals, slope, of_own, of_propagated)
        return of_own, of_propagated

    def _bounded(self, residual: Tensor) -> tuple[Tensor, Tensor]:
        """tanh(r / bound) = t, and exp(bound * t), the largest of a row taken to 1; by torch, which vectorizes them."""
        tanh = (residual / self.bound).tanh_()
        return tanh, (tanh - tanh.amax(-1, keepdim=True)).mul_(self.bound).exp_()


def _joined(own: Tensor, propagated: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities and, scaled to sum to one, the propagated ones (R, 2 C); the latter's sums (R,)."""
    joined, totals = own.new_empty(len(own), 2 * own.shape[1]), own.new_empty(len(own))
    _join(own.contiguous(), propagated.contiguous(), joined, totals)
    return joined, totals


@inner
def _sum(row):  # type: ignore[no-untyped-def]
    total = row.dtype.type(0)
    for entry in range(len(row)):
        total += row[entry]
    return total


@loop
def _join(own, propagated, joined, totals):  # type: ignore[no-untyped-def]
    width = own.shape[1]
    for row in numba.prange(len(own)):
        left, right, source = joined[row, :width], joined[row, width:], propagated[row]
        total = _sum(source)
        totals[row] = total
        for entry in range(width):
            left[entry] = own[row, entry]
        for entry in range(width):
            right[entry] = source[entry] / total if total > 0 else left[entry]


@loop
def _correct(joined, factor, result, sums):  # type: ignore[no-untyped-def]
    width = result.shape[1]
    for row in numba.prange(len(result)):
        own, propagated, raised, target = joined[row, :width], joined[row, width:], factor[row], result[row]
        for entry in range(width):
            target[entry] = propagated[entry] * raised[entry]
        total = _sum(target)
        sums[row] = total
        for entry in range(width):
            target[entry] = target[entry] / total if total > 0 else own[entry]


@loop
def _slopes_of_correct(  # type: ignore[no-untyped-def]
    result, factor, sums, tanh, grad, slope, of_own, of_propagated
):
    width, one, zero = result.shape[1], result.dtype.type(1), result.dtype.type(0)
    for row in numba.prange(len(result)):
        total = sums[row]
        along = dot(result[row], grad[row])
        for entry in range(width):
            rest = grad[row, entry] - along
            of_own[row, entry] = zero if total > 0 else grad[row, entry]
            of_propagated[row, entry] = rest * factor[row, entry] / total if total > 0 else zero
            slope[row, entry] = (
                result[row, entry] * rest * (one - tanh[row, entry] * tanh[row, entry]) if total > 0 else zero
            )


@loop
def _slopes_of_joined(joined, totals, slope, of_own, of_propagated):  # type: ignore[no-untyped-def]
    width, zero = of_own.shape[1], joined.dtype.type(0)
    for row in numba.prange(len(of_own)):
        own, target, total = of_own[row], of_propagated[row], totals[row]
        for entry in range(width):
            own[entry] += slope[row, entry]
        for entry in range(width):
            target[entry] += slope[row, width + entry]
        if total > 0:
            along = dot(target, joined[row, width:])
            for entry in range(width):
                target[entry] = (target[entry] - along) / total
        else:
            for entry in range(width):
                own[entry] += target[entry]
                target[entry] = zero
