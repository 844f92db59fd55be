"""Rows as a neighbor search compares them."""

from torch import Tensor

from graphcorrect._precision import widen
from graphcorrect.nodes import in_rows, unit_rows


def compared_rows(rows: Tensor, normalize: bool) -> Tensor:
    """Rows (..., N, D) in float32 or better, row by row in memory, and of unit length with `normalize`."""
    rows = in_rows(widen(rows))
    return unit_rows(rows) if normalize else rows
