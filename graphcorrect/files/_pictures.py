"""Pillow, opened so that every fault names the file: what images and masks have in common."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

try:
    from PIL import Image as Image
except ImportError as error:
    raise ImportError("pictures need Pillow: pip install pillow") from error

from graphcorrect.files.faults import UnreadableFile, looks_like, words

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


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Turns whatever a library raises for a file into one error with the file's name."""
    try:
        yield
    except ImportError:  # of scipy, which is not the file's fault
        raise
    except (FileNotFoundError, UnicodeEncodeError) as error:  # a name that the system cannot even spell is not there
        raise UnreadableFile(f"{path}: missing") from error
    except Image.DecompressionBombError as error:
        raise UnreadableFile(
            f"{path}: unreadable (it says that it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels: "
            "cut it into tiles, or scale it down)"
        ) from error
    except NotImplementedError as error:
        raise UnreadableFile(f"{path}: unreadable (MATLAB 7.3: save it with -v7, or as PNG)") from error
    except Exception as error:  # Pillow and SciPy have a type for every way in which a file can be wrong
        said = words(error).replace(f" {str(path)!r}", "")
        seen = looks_like(Path(path)) if os.path.isfile(path) else None
        why = f"{seen}: {said}" if seen == "is empty" else seen or said
        raise UnreadableFile(f"{path}: unreadable ({why})") from error


def refuse_frames(picture: Image.Image) -> None:
    if getattr(picture, "is_animated", False) and picture.format != "MPO":  # a camera's preview beside its picture
        raise ValueError(
            f"expected one picture, got {getattr(picture, 'n_frames', 'several')} frames or pages: save each as a file"
        )


def upright(picture: Image.Image) -> tuple[Image.Image, bool]:
    """The picture as its EXIF orientation has it shown, and whether that changed it."""
    try:
        turn = UPRIGHT.get(int(picture.getexif().get(ORIENTATION, 1)))
    except Exception:  # broken EXIF says nothing
        turn = None
    return (picture, False) if turn is None else (picture.transpose(turn), True)
