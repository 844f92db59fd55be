"""Masks as they stand in their files: ids, palettes, colors.

A picture that cannot be read ends in `UnreadableFile`, whose message begins with the file's name.
"""

from __future__ import annotations

import functools
import io
import re
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from graphcorrect.files._pictures import DEEP, Image, named, refuse_frames, upright
from graphcorrect.files.class_tables import Color
from graphcorrect.files.saving import write_atomically

MASK_ENDINGS = (".png", ".bmp", ".tif", ".tiff", ".gif", ".mat")
FORMATS = {".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP"}  # to write: what keeps every value
Form = Literal["palette", "grey", "grey16", "rgb", "rgba"]
FORMS: tuple[Form, ...] = get_args(Form)


class StoredMask(NamedTuple):
    """A mask as it stands in its file.

    Attributes:
        values: ids (H, W) uint8 or uint16, of a palette image its indices; or colors (H, W, 3 or 4) uint8.
        palette: the colors of a palette image, by index.

    Example:
        >>> stored = StoredMask(torch.tensor([[0, 1]], dtype=torch.uint8).numpy(), ((0, 0, 0), (128, 64, 128)))
        >>> stored.form
        'palette'
    """

    values: NDArray[Any]
    palette: tuple[Color, ...] | None = None

    @property
    def form(self) -> Form:
        """What is to be written to have the same form."""
        if self.values.ndim == 3:
            return "rgb" if self.values.shape[2] == 3 else "rgba"
        if self.palette is not None:
            return "palette"
        return "grey16" if self.values.dtype == np.uint16 else "grey"


def read_stored_mask(path: Path | str) -> StoredMask:
    """A mask as it stands in its file, in any form that :func:`read_mask` reads.

    Raises:
        UnreadableFile: it cannot be read; the message names it.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_mask(folder / "a.png", torch.tensor([[0, 2, 255]]), 3, form="grey")
        >>> read_stored_mask(folder / "a.png").values.tolist()
        [[0, 2, 255]]
    """
    path = Path(path)
    with named(path):
        return _read(path)


def _read(path: Path) -> StoredMask:
    if path.suffix.lower() == ".mat":
        return StoredMask(_read_mat(path))
    with Image.open(path) as file:
        if file.format in ("JPEG", "MPO"):
            raise ValueError("expected a format that keeps ids as they are, such as PNG; JPEG changes them")
        step = _step_of_grey(file)
        file.load()
        refuse_frames(file)
        picture, _ = upright(file)
        if picture.mode not in ("1", "L", "P", "RGB", "RGBA", *DEEP):
            raise ValueError(f"expected a mask of one 8-bit channel (palette or grey) or of colors, got {picture.mode}")
        values = np.asarray(picture)
        if picture.mode in DEEP:
            if values.min() < 0 or values.max() > 65535:
                raise ValueError(f"expected ids from 0 to 65535, got {values.min()} to {values.max()}")
            return StoredMask(values.astype(np.uint16))
        palette = None
        if picture.mode == "P":
            flat = picture.getpalette("RGB") or []
            palette = tuple(zip(flat[::3], flat[1::3], flat[2::3], strict=False))
        return StoredMask(values.astype(np.uint8) // step, palette)


def _read_mat(path: Path) -> NDArray[np.uint8]:
    """Class ids (H, W) uint8 of a mask of SBD, the variable GTcls."""
    from scipy.io import loadmat

    found = loadmat(path)
    if "GTcls" not in found:
        names = ", ".join(name for name in found if not name.startswith("_"))
        raise ValueError(f"expected the variable GTcls, as SBD has it, got {names or 'none'}")
    ids = np.asarray(found["GTcls"]["Segmentation"][0, 0])
    if ids.ndim != 2 or ids.dtype.kind not in "uif" or ids.size == 0:
        raise ValueError(f"expected GTcls.Segmentation as a matrix of ids, got {ids.dtype} of shape {ids.shape}")
    if ids.min() < 0 or ids.max() > 255 or (ids != np.floor(ids)).any():
        raise ValueError(f"expected ids from 0 to 255, got {ids.min()} to {ids.max()}")
    return ids.astype(np.uint8)


def _step_of_grey(picture: Image.Image) -> int:
    """What PIL multiplies the values of a grey file of 2 or 4 bits by, to fill 8; 1 for all others."""
    arguments = tile[0][3] if (tile := getattr(picture, "tile", [])) else ""
    raw = arguments if isinstance(arguments, str) else next(iter(arguments or ("",)))
    found = re.match(r"L;([24])", str(raw))
    return {None: 1, "2": 85, "4": 17}[found and found[1]]


def write_stored_mask(path: Path | str, stored: StoredMask) -> None:
    """Writes values as they are, into `.png`, `.tif` or `.bmp`."""
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{path}: expected a name that ends in {', '.join(FORMATS)}")
    with named(path):
        content = mask_bytes(stored, FORMATS[path.suffix.lower()])
    write_atomically(path, content)


def mask_bytes(stored: StoredMask, kind: str = "PNG") -> bytes:
    """The bytes of a file; `kind` as Pillow names it."""
    picture = Image.fromarray(stored.values)
    if stored.palette is not None:
        picture.putpalette([part for color in stored.palette for part in color])
    content = io.BytesIO()
    picture.save(content, kind)
    return content.getvalue()


@functools.cache
def voc_colors() -> tuple[Color, ...]:
    """The 256 colors of PASCAL VOC's masks: bits of the index dealt to red, green, blue in turn."""

    def shade(index: int, channel: int) -> int:
        return sum((index >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(3))

    return tuple((shade(index, 0), shade(index, 1), shade(index, 2)) for index in range(256))
