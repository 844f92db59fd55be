"""Numbers of a command line: `argparse` types that refuse what makes no sense, and say what was expected."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable


def integer(least: int, most: int | None = None) -> Callable[[str], int]:
    """Whole numbers from `least` to `most`."""
    return _typed(int, least, most, open_low=False, kind="a whole number")


def number(low: float, high: float | None = None, *, above: bool = False) -> Callable[[str], float]:
    """Finite numbers from `low` (or, `above`, above it) to `high`."""
    return _typed(float, low, high, open_low=above, kind="a number")


def _typed(kind_of: type, low: float, high: float | None, *, open_low: bool, kind: str) -> Callable:
    if high is not None:
        wanted = f"{kind} in {'(' if open_low else '['}{low:g}, {high:g}]"
    else:
        wanted = f"{kind}, above {low:g}" if open_low else f"{kind}, at least {low:g}"

    def read(text: str):
        try:
            value = kind_of(text)
        except ValueError:
            value = math.nan
        is_within = math.isfinite(value) and (value > low if open_low else value >= low)
        if not is_within or (high is not None and value > high):
            raise argparse.ArgumentTypeError(f"expected {wanted}, got {text!r}")
        return value

    return read
