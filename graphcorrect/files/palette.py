"""Colors of masks."""

from __future__ import annotations


def voc_palette() -> list[int]:
    """The 256 colors of PASCAL VOC's masks, flattened: bits of the index dealt to red, green, blue in turn."""
    colors = []
    for index in range(256):
        color = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                color[channel] |= ((index >> (3 * bit + channel)) & 1) << (7 - bit)
        colors.extend(color)
    return colors
