"""Pixels out of a file, whatever wrote it: images as a viewer shows them, masks as the ids that stand in the file.

Every file that cannot be read ends in `UnreadableFile`, whose message begins with the file's name.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N")  # PIL's modes of 16 bits
ORIENTATION = 0x0112  # the entry of EXIF
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableFile(ValueError):
    """A file that is not what it should be; the message begins with its name."""

    def __init__(self, message: str):
        # A loading process hands on its whole trace as the message; a person needs its last line.
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())

    @property
    def reason(self) -> str:
        """What is wrong with the file, without its name, for whoever names it himself."""
        said = str(self).partition(": ")[2]
        return said.removeprefix("unreadable (").removesuffix(")") if said.startswith("unreadable (") else said


class Picture(NamedTuple):
    """An image as a viewer shows it.

    Attributes:
        rgb: of 8 bits a channel.
        stored: (height, width) in the file, which EXIF may say is to be turned.
        turned: whether it was.
        brightest: of a file of 16 bits, the largest value; else None.
    """

    rgb: Image.Image
    stored: tuple[int, int]
    turned: bool
    brightest: int | None


class Mask(NamedTuple):
    """Ids (H, W) uint8, and of a palette image the color of every id that occurs, 255 left out."""

    ids: np.ndarray
    colors: dict[int, tuple[int, ...]]


def read_picture(path: Path) -> Picture:
    """An image: turned as EXIF says, 16 bits scaled to 8, transparency dropped."""
    with _named(path), Image.open(path) as file:
        file.load()
        _refuse_frames(file)
        picture, turned = _upright(file)
        brightest = int(np.asarray(picture).max()) if picture.mode in DEEP else None
        return Picture(_as_rgb(picture), (file.height, file.width), turned, brightest)


def read_mask(path: Path) -> Mask:
    """A mask of ids: grey or palette image of up to 8 bits (or 16, if all ids fit in 8), or SBD's .mat."""
    with _named(path):
        if path.suffix.lower() == ".mat":
            return Mask(_read_mat(path), {})
        with Image.open(path) as file:
            if file.format in ("JPEG", "MPO"):
                raise ValueError("expected a format that keeps ids as they are, such as PNG; JPEG changes them")
            step = _step_of_grey(file)
            file.load()
            _refuse_frames(file)
            picture, _ = _upright(file)
            return Mask(_ids(picture, step), _colors(picture))


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turns whatever a library raises for a file into one error with the file's name."""
    try:
        yield
    except ImportError:  # of scipy, which is not the file's fault
        raise
    except (FileNotFoundError, UnicodeEncodeError) as error:  # a name that the system cannot even spell is not there
        raise UnreadableFile(f"{path}: missing") from error
    except Image.DecompressionBombError as error:
        raise UnreadableFile(
            f"{path}: unreadable (it says that it has more than {2 * Image.MAX_IMAGE_PIXELS:,} pixels: "
            "cut it into tiles, or scale it down)"
        ) from error
    except NotImplementedError as error:
        raise UnreadableFile(f"{path}: unreadable (MATLAB 7.3: save it with -v7, or as PNG)") from error
    except Exception as error:  # Pillow and SciPy have a type for every way in which a file can be wrong
        words = " ".join(str(error).replace(repr(str(path)), "the file").split()) or type(error).__name__
        raise UnreadableFile(f"{path}: unreadable ({words})") from error


def _refuse_frames(picture: Image.Image) -> None:
    if getattr(picture, "is_animated", False) and picture.format != "MPO":  # a camera's preview beside its picture
        raise ValueError(f"expected one picture, got {picture.n_frames} frames or pages: save each as a file")


def _upright(picture: Image.Image) -> tuple[Image.Image, bool]:
    """The picture as its EXIF orientation has it shown, and whether that changed it."""
    try:
        turn = UPRIGHT.get(picture.getexif().get(ORIENTATION))
    except Exception:  # broken EXIF says nothing
        turn = None
    return (picture, False) if turn is None else (picture.transpose(turn), True)


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


def _step_of_grey(picture: Image.Image) -> int:
    """What PIL multiplies the values of a grey file of 2 or 4 bits by, to fill 8; 1 for all others."""
    arguments = picture.tile[0][3] if picture.tile else ""
    raw = arguments if isinstance(arguments, str) else next(iter(arguments or ("",)))
    found = re.match(r"L;([24])", str(raw))
    return {None: 1, "2": 85, "4": 17}[found and found[1]]


def _ids(picture: Image.Image, step: int) -> np.ndarray:
    if picture.mode not in ("1", "L", "P", *DEEP):
        raise ValueError(
            f"expected a mask of one 8-bit channel (palette or grey), got mode {picture.mode!r}: "
            "save the ids of the classes, not their colors"
        )
    values = np.asarray(picture)
    if picture.mode in DEEP and (values.min() < 0 or values.max() > 255):
        raise ValueError(f"expected ids from 0 to 255, got {values.min()} to {values.max()} in 16 bits")
    return np.ascontiguousarray(values.astype(np.uint8) // step)


def _colors(picture: Image.Image) -> dict[int, tuple[int, ...]]:
    if picture.mode != "P" or picture.palette is None:
        return {}
    palette = picture.getpalette("RGB")
    used = [number for number, count in enumerate(picture.histogram()) if count and number != 255]
    return {number: tuple(palette[3 * number : 3 * number + 3]) for number in used if 3 * number < len(palette)}


def _read_mat(path: Path) -> np.ndarray:
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
