"""Colors of masks."""

from __future__ import annotations


def voc_colors() -> list[tuple[int, int, int]]:
    """The 256 colors of PASCAL VOC's masks: bits of the index dealt to red, green, blue in turn."""
    colors = []
    for index in range(256):
        color = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                color[channel] |= ((index >> (3 * bit + channel)) & 1) << (7 - bit)
        colors.append((color[0], color[1], color[2]))
    return colors


def voc_palette() -> list[int]:
    """The same flattened, as Pillow takes it."""
    return [part for color in voc_colors() for part in color]
