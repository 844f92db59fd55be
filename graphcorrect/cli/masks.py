"""What commands share: names of classes as options give them, and masks as files."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from graphcorrect.files.class_names import read_class_names
from graphcorrect.files.faults import looks_like, reading
from graphcorrect.files.palette import voc_palette
from graphcorrect.labels import IGNORE_INDEX


def class_names(classes: str | None) -> list[str] | None:
    """Names of the classes: from a file, or numbers; None leaves it to the predictions."""
    if classes is None:
        return None
    if classes.isdecimal() and classes.isascii() and int(classes) > 0:
        return [str(number) for number in range(int(classes))]
    path = Path(classes)
    if not (path.exists() or path.is_symlink()):
        raise ValueError(f"expected --classes as a number or a file with a name a line, got {classes!r}")
    with reading(path, "a class name a line"):
        if fault := looks_like(path):
            raise ValueError(fault)
        names, notes = read_class_names(path)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    return names


def refuse_if_many(num_classes: int | None, faults: list[str]) -> None:
    """Adds a fault where masks of 8 bits could not hold the classes."""
    if num_classes is not None and num_classes > IGNORE_INDEX:
        faults.append(f"{num_classes} classes, expected at most {IGNORE_INDEX}, as masks hold 8 bits")


def png(labels: Tensor, *, palette: bool = True) -> bytes:
    """A mask (H, W) as a PNG, in VOC's colors or in grey."""
    mask = Image.fromarray(labels.to(torch.uint8).numpy())
    if palette:
        mask.putpalette(voc_palette())
    content = io.BytesIO()
    mask.save(content, "PNG")
    return content.getvalue()
