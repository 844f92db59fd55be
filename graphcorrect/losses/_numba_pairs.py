"""The pair loss a tile of rows at a time: all but its products with V^T V in two compiled loops.

Importing this file imports numba; :mod:`graphcorrect.losses.slg` does so where :func:`graphcorrect._eager.may_loop`
allows.
"""

from __future__ import annotations

import numba
import torch
from torch import Tensor

from graphcorrect.ops.kernels.cpu._compile import loop
from graphcorrect.ops.kernels.cpu.rows import unit_row
from graphcorrect.nodes import SAFE_NORMS

_LEAST, _MOST = SAFE_NORMS  # inverse norms, too, by which a product with the node itself may be multiplied


class TiledRows:
    """What is done with one tile of nodes (R, D) after the other, in the same memory.

    Attributes:
        are_plain: whether all nodes so far were zero or of a norm between 1e-15 and 1e15: `slopes` serves no others.
    """

    def __init__(self, most: int, like: Tensor) -> None:
        self._rows = like.new_empty(most, like.shape[-1])
        self._odd = torch.zeros(1, dtype=torch.bool)

    @property
    def are_plain(self) -> bool:
        return not self._odd

    def unit(self, nodes: Tensor, mask: Tensor | None, slots: Tensor, sums: Tensor, inverse: Tensor) -> Tensor:
        """Unit rows, each added to the one of `sums` (C + 1, D) that its slot (R,) says; zero outside a mask (R,).

        Their inverse norms are written to `inverse` (R,): 0 for a row that gets no gradient.
        """
        rows: Tensor = self._rows[: len(nodes)]
        mask = slots.new_empty(0, dtype=torch.bool) if mask is None else mask.contiguous()
        partial = sums.new_zeros(torch.get_num_threads(), *sums.shape)
        _unit(nodes.contiguous(), mask, slots, rows, inverse, partial, sums, self._odd)
        return rows

    def slopes(
        self, nodes: Tensor, inverse: Tensor, slots: Tensor, of_row: Tensor, of_class: Tensor, out: Tensor
    ) -> None:
        """Writes the gradient of plain nodes, that of unit rows v being `of_row` (D, D) v + `of_class`[slot].

        The nodes are multiplied as they are, and each product by its inverse norm.
        """
        nodes = nodes.contiguous()
        slope = torch.mm(nodes, of_row, out=out if out.is_contiguous() else None)
        _slopes(nodes, inverse, slots, of_class.contiguous(), slope)
        if slope is not out:
            out.copy_(slope)


@loop
def _unit(nodes, mask, slots, rows, inverse, partial, sums, odd):  # type: ignore[no-untyped-def]
    parts = len(partial)
    for part in numba.prange(parts):
        for row in range(part * len(nodes) // parts, (part + 1) * len(nodes) // parts):
            unit = rows[row]
            if len(mask) and not mask[row]:
                for entry in range(len(unit)):
                    unit[entry] = 0
                inverse[row] = 0
                continue
            inverse[row] = unit_row(nodes[row], unit)
            if not _LEAST < inverse[row] < _MOST and (inverse[row] != 0 or unit[0] != 0):  # a NaN is not 0 either
                odd[0] = True
            slot = slots[row]
            for entry in range(len(unit)):
                partial[part, slot, entry] += unit[entry]
    for part in range(parts):
        for slot in range(len(sums)):
            for entry in range(sums.shape[1]):
                sums[slot, entry] += partial[part, slot, entry]


@loop
def _slopes(nodes, inverse, slots, of_class, slopes):  # type: ignore[no-untyped-def]
    for row in numba.prange(len(nodes)):
        factor, slot, along = inverse[row], slots[row], nodes.dtype.type(0)
        if factor == 0:  # no gradient, whatever the node holds
            for entry in range(nodes.shape[1]):
                slopes[row, entry] = 0
            continue
        for entry in range(nodes.shape[1]):
            slopes[row, entry] = factor * slopes[row, entry] + of_class[slot, entry]
            along += nodes[row, entry] * slopes[row, entry]
        along *= factor * factor
        for entry in range(nodes.shape[1]):
            slopes[row, entry] = (slopes[row, entry] - nodes[row, entry] * along) * factor
