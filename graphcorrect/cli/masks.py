"""What commands share: names of classes as options give them, and masks as files."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from graphcorrect.cli.console import say_notes
from graphcorrect.files.class_names import read_class_names
from graphcorrect.files.faults import reading
from graphcorrect.files.items import MASK_ENDINGS
from graphcorrect.files.label_maps import LabelMap, read_label_map
from graphcorrect.files.masks import encode_like, encode_mask, read_mask
from graphcorrect.files.stored_masks import mask_bytes, read_stored_mask
from graphcorrect.labels import IGNORE_INDEX

MAP_ENDINGS = (".yaml", ".yml", ".json")


def classes_of(given: str | None) -> tuple[list[str] | None, LabelMap | None]:
    """What `--classes` says: names, and which ids and colors stand for them.

    The names are None where the predictions are to tell; the label map is None where labels are ids.
    """
    if given is None:
        return None, None
    if given.isdecimal() and given.isascii() and int(given) > 0:
        return [str(number) for number in range(int(given))], None
    path = Path(given)
    if not (path.exists() or path.is_symlink()):
        raise ValueError(f"expected --classes as a number or a file with a name a line, got {given!r}")
    if path.suffix.lower() not in MAP_ENDINGS:
        with reading(path, "a class name a line"):
            _, notes = read_class_names(path)
        say_notes(notes)
    found = read_label_map(path)
    return list(found.names), found if found.colors or found.ids else None


def refuse_if_many(num_classes: int | None, faults: list[str]) -> None:
    """Adds a fault where masks of 8 bits could not hold the classes."""
    if num_classes is not None and num_classes > IGNORE_INDEX:
        faults.append(f"{num_classes} classes, expected at most {IGNORE_INDEX}, as masks hold 8 bits")


def png(labels: Tensor, *, palette: bool = True) -> bytes:
    """A mask (H, W) as a PNG, in VOC's colors or in grey."""
    return mask_bytes(encode_mask(labels, 255, "palette" if palette else "grey"))


def corrected_png(labels: Tensor, label_map: LabelMap | None, given: Path) -> bytes:
    """A corrected mask (H, W) as a PNG: by a label map in the form of the mask that was given, else VOC's palette."""
    if label_map is None:
        return png(labels)
    if given.suffix.lower() in MASK_ENDINGS and (like := read_stored_mask(given)).values.shape[:2] == labels.shape:
        return mask_bytes(encode_like(labels, label_map, like))
    return mask_bytes(encode_mask(labels, label_map, "palette"))


def read_written(path: Path, label_map: LabelMap | None) -> Tensor:
    """The labels (H, W) of a mask, one that was written here or the one that it corrects."""
    return read_mask(path, label_map or IGNORE_INDEX)
