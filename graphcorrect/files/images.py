"""Images as a viewer shows them, whatever wrote the file.

A file that cannot be read ends in `UnreadableFile`, whose message begins with the file's name.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from graphcorrect.files._pictures import DEEP, Image, named, refuse_frames, upright

DARK = 2**14  # images of 16 bits of which all values are below: 12 or 14 bits, as a camera has them
IMAGE_ENDINGS = (".jpg", ".png", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


class Picture(NamedTuple):
    """An image as a viewer shows it."""

    rgb: Image.Image  # of 8 bits a channel
    stored: tuple[int, int]  # (height, width) in the file, which EXIF may say is to be turned
    turned: bool  # whether it was
    brightest: int | None  # of a file of 16 bits, the largest value


def read_image(path: Path, size: tuple[int, int] | None = None) -> Tensor:
    """(3, H, W) uint8, RGB, as a viewer shows it; brought to (height, width), bilinear, if a `size` is given.

    Raises:
        UnreadableFile: it cannot be read; the message names it.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_mask(folder / "a.png", torch.zeros(4, 6, dtype=torch.int64), 2)
        >>> read_image(folder / "a.png").shape
        torch.Size([3, 4, 6])
    """
    rgb = read_picture(path).rgb
    if size is not None and (rgb.height, rgb.width) != size:
        rgb = rgb.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1).contiguous()


def read_picture(path: Path) -> Picture:
    """An image: turned as EXIF says, 16 bits scaled to 8, transparency dropped."""
    with named(path), Image.open(path) as file:
        file.load()
        refuse_frames(file)
        picture, turned = upright(file)
        brightest = int(np.asarray(picture).max()) if picture.mode in DEEP else None
        return Picture(_as_rgb(picture), (file.height, file.width), turned, brightest)


def dark_images(brightest: Iterable[int | None]) -> list[str]:
    """A note where all images of 16 bits are nearly black, of the `brightest` values of images as they were read."""
    deep = [value for value in brightest if value is not None]
    if not deep or max(deep) >= DARK:
        return []
    return [
        f"{len(deep)} image(s) of 16 bits hold no value above {max(deep)} of 65535 and are nearly black: "
        "scale them to 16 bits"
    ]


def _as_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode in DEEP:  # PIL would cut at 255: all white
        values = np.asarray(picture).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"expected 8 or 16 bits a channel, got values from {values.min()} to {values.max()}")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    if picture.mode == "F":
        raise ValueError("expected 8 or 16 bits a channel, got floating point: save it as PNG")
    if picture.mode in ("P", "PA") and "transparency" in picture.info:
        picture = picture.convert("RGBA")
    return picture.convert("RGB")
