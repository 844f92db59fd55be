"""The pair loss a tile of rows at a time: all but its products with V^T V in two compiled loops.

Importing this file imports numba; :mod:`graphcorrect.losses.slg` does so where :func:`graphcorrect._eager.may_loop`
allows.
"""

from __future__ import annotations

import numba
import torch
from torch import Tensor

from graphcorrect._numba_loops import loop
from graphcorrect._numba_rows import make_unit_slope, unit_row


class TiledRows:
    """Unit rows (R, D) of one tile after the other, in the same memory; zero outside a mask (R,), None for no mask."""

    def __init__(self, most: int, like: Tensor) -> None:
        self._rows = like.new_empty(most, like.shape[-1])
        self._inverse = like.new_empty(most)

    def unit(self, nodes: Tensor, mask: Tensor | None, slots: Tensor, sums: Tensor | None = None) -> Tensor:
        """Those of nodes (R, D); each is added to the row of `sums` (C + 1, D) that its slot (R,) says."""
        rows: Tensor = self._rows[: len(nodes)]
        parts = torch.get_num_threads()
        partial = nodes.new_zeros(parts, 0 if sums is None else len(sums), nodes.shape[1])
        mask = slots.new_zeros(0, dtype=torch.bool) if mask is None else mask.contiguous()
        _unit(nodes.contiguous(), mask, slots, rows, self._inverse, partial)
        if sums is not None:
            sums += partial.sum(0)
        return rows

    def slopes(
        self, nodes: Tensor, mask: Tensor | None, slots: Tensor, of_row: Tensor, of_class: Tensor, out: Tensor
    ) -> None:
        """Writes the gradient of nodes (R, D), that of unit rows v being `of_row` (D, D) v + `of_class`[slot]."""
        rows = self.unit(nodes, mask, slots)
        slope = torch.mm(rows, of_row, out=out if out.is_contiguous() else None)
        _slopes(rows, self._inverse, slots, of_class.contiguous(), slope)
        if slope is not out:
            out.copy_(slope)


@loop
def _unit(nodes, mask, slots, rows, inverse, partial):  # type: ignore[no-untyped-def]
    parts = len(partial)
    for part in numba.prange(parts):
        for row in range(part * len(nodes) // parts, (part + 1) * len(nodes) // parts):
            unit = rows[row]
            if len(mask) and not mask[row]:
                unit[:] = 0
                inverse[row] = 0
                continue
            inverse[row] = unit_row(nodes[row], unit)
            if partial.shape[1]:
                total = partial[part, slots[row]]
                for entry in range(len(unit)):
                    total[entry] += unit[entry]


@loop
def _slopes(rows, inverse, slots, of_class, slopes):  # type: ignore[no-untyped-def]
    for row in numba.prange(len(rows)):
        slope, more = slopes[row], of_class[slots[row]]
        for entry in range(len(slope)):
            slope[entry] += more[entry]
        make_unit_slope(rows[row], inverse[row], slope)
