"""Rows as a neighbor search compares them."""

from torch import Tensor

from graphcorrect.ops.precision import widen
from graphcorrect.ops.unit_rows import unit_rows


def compared_rows(rows: Tensor, normalize: bool) -> Tensor:
    """Rows (..., N, D) in float32 or better, row by row in memory, and of unit length with `normalize`."""
    rows = widen(rows).contiguous()
    return unit_rows(rows) if normalize else rows
