"""Label Studio's brush: run lengths of bits, as its editor stores the pixels of a region.

The layout, most significant bit first: the number of values (32 bits), their width minus 1 (5 bits), four widths of
run lengths minus 1 (4 bits each). Then runs until there are as many values: one bit (1: a value that repeats, 0: values
one by one), the number of the width (2 bits), the length minus 1, and the value or values. The values are those of an
RGBA image row by row, of which the alpha says what is painted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphcorrect import _checks

LENGTH_BITS = (3, 4, 8, 16)  # as Label Studio's own tools write them
CHANNELS = 4
MOST_PIXELS = 2**27  # of an image: a number that somebody has made up takes no memory


class _Bits:
    """Reads numbers of any width from bytes."""

    def __init__(self, content: bytes) -> None:
        self.content, self.place = content, 0

    def read(self, width: int) -> int:
        first, last = self.place // 8, (self.place + width + 7) // 8
        if last > len(self.content):
            raise ValueError("ends within a run: it is cut off")
        held = int.from_bytes(self.content[first:last], "big") >> (8 * last - self.place - width)
        self.place += width
        return held & ((1 << width) - 1)


def decode_brush(rle: Sequence[int], height: int, width: int) -> Tensor:
    """Where a region is painted, (H, W) bool.

    Args:
        rle: `value.rle` of a result, bytes as integers.
        height: `original_height` of the result.
        width: `original_width`.

    Raises:
        ValueError: these are no such bytes, or they are of an image of another size.
    """
    _checks.image_size("(height, width)", (height, width))
    if height * width > MOST_PIXELS:
        raise ValueError(f"expected an image of at most {MOST_PIXELS:,} pixels, got {(height, width)}")
    try:
        bits = _Bits(bytes(rle))
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected `rle` as integers from 0 to 255, got others ({error})") from error
    total = bits.read(32)
    if total != height * width * CHANNELS:
        raise ValueError(f"expected {height * width * CHANNELS} values, 4 a pixel of {(height, width)}, got {total}")
    value_bits = bits.read(5) + 1
    length_bits = [bits.read(4) + 1 for _ in range(4)]
    values: NDArray[Any] = np.zeros(total, np.uint8 if value_bits <= 8 else np.uint32)
    place = 0
    while place < total:
        repeats = bits.read(1)
        end = place + 1 + bits.read(length_bits[bits.read(2)])
        if end > total:
            raise ValueError(f"holds more than its {total} values")
        if repeats:
            values[place:end] = bits.read(value_bits)
        else:
            values[place:end] = [bits.read(value_bits) for _ in range(place, end)]
        place = end
    return torch.from_numpy(values.reshape(height, width, CHANNELS)[..., 3] > 0)


def encode_brush(painted: Tensor) -> list[int]:
    """The bytes of a region, as integers: `value.rle` of a result; :func:`decode_brush` reads them.

    Args:
        painted: (H, W) bool.

    Raises:
        TypeError: `painted` is not bool.
        ValueError: it is no image.
    """
    _checks.boolean("painted", painted)
    _checks.ndim("painted", painted, (2,), "(H, W)")
    values = np.repeat(painted.cpu().numpy().ravel(), CHANNELS)
    words = [(len(values), 32), (7, 5), *((width - 1, 4) for width in LENGTH_BITS)]
    for length, value in _runs(values):
        number = next(n for n, width in enumerate(LENGTH_BITS) if length <= 1 << width)
        words += [(1, 1), (number, 2), (length - 1, LENGTH_BITS[number]), (255 if value else 0, 8)]
    text = "".join(f"{value:0{width}b}" for value, width in words)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))


def _runs(values: NDArray[np.bool_]) -> list[tuple[int, bool]]:
    """Lengths of at most 2**16 and what repeats."""
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    longest = 1 << LENGTH_BITS[-1]
    runs = []
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(values)], strict=True):
        runs += [(min(longest, end - place), bool(values[start])) for place in range(start, end, longest)]
    return runs
