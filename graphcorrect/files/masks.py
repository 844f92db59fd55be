"""Masks: class labels out of ids, palettes and colors, and back into a file of the same form.

A picture that cannot be read ends in `UnreadableFile`, whose message begins with the file's name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphcorrect import _checks
from graphcorrect.files.faults import reading
from graphcorrect.files.label_maps import LabelMap, numbered
from graphcorrect.files.stored_masks import FORMS, Form, StoredMask, read_stored_mask, voc_colors, write_stored_mask
from graphcorrect.labels import IGNORE_INDEX

BLACK = (0, 0, 0)


def read_mask(path: Path | str, classes: LabelMap | int) -> Tensor:
    """Class labels (H, W) int64 of a mask, 255 where it has none.

    Args:
        path: ids in grey (8 or 16 bits) or a palette, or colors (RGB or RGBA), in a format that keeps them; SBD's .mat.
        classes: what ids and colors stand for; a number C: ids from 0 to C - 1 stand for themselves.

    A palette image and a grey one are read by colors if the label map has every color in it, else by ids.

    Raises:
        UnreadableFile: it cannot be read; the message names it.
        FileFault: an id or a color stands for nothing; the message names the file, and what.
        TypeError: `classes` is neither a label map nor a number.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_mask(folder / "a.png", torch.tensor([[0, 2, 255]]), 3)
        >>> read_mask(folder / "a.png", 3)
        tensor([[  0,   2, 255]])
    """
    label_map = numbered(classes) if isinstance(classes, int) else classes
    if not isinstance(label_map, LabelMap):  # no fault of the file
        raise TypeError(f"expected `classes` to be a LabelMap or an int, got {type(classes).__name__}")
    stored = read_stored_mask(path)
    with reading(path):
        return decode_mask(stored, label_map)


def decode_mask(stored: StoredMask, classes: LabelMap | int) -> Tensor:
    """Labels (H, W) int64 of a mask as it stands in its file; see :func:`read_mask`."""
    label_map = numbered(classes) if isinstance(classes, int) else classes
    if stored.values.ndim == 3:
        return torch.from_numpy(_of_colors(stored.values, label_map))
    by_color, strange = _by_color(stored, label_map), []
    known = _by_id(label_map) if by_color is None else by_color
    table = np.full(65536 if stored.values.dtype == np.uint16 else 256, IGNORE_INDEX, np.int64)
    for number in _used(stored.values):
        table[number] = known.get(number, IGNORE_INDEX)
        if number not in known and not label_map.ignore_others:
            strange.append(number)
    if strange:
        shown = strange if len(strange) <= 10 else f"{len(strange)} others such as {strange[:3]}"
        listed = (
            f"among {len(label_map.ids)} of the label map" if label_map.ids else f"0 to {label_map.num_classes - 1}"
        )
        raise ValueError(f"expected ids {listed} or {IGNORE_INDEX}, got {shown}")
    return torch.from_numpy(table[stored.values])


def write_mask(
    path: Path | str,
    labels: Tensor,
    classes: LabelMap | int,
    *,
    form: Form | None = None,
    like: StoredMask | None = None,
) -> None:
    """Writes labels (H, W) in a form, or in that of another mask: the one that they are a correction of.

    Args:
        path: `.png`, `.tif` or `.bmp`.
        labels: integers in [0, C), 255 where there is none.
        classes: as in :func:`read_mask`, which reads the same labels from the file.
        form: "palette" has ids in the colors of the label map, or in VOC's; "grey" and "grey16" ids; "rgb" and "rgba"
            colors. None: "palette", or the form of `like`, beside which it may not be given.
        like: gives the form instead. Pixels whose label is the one it has keep the value that it has, and others get
            the value that it has for their label, where it has one.

    Raises:
        ValueError: `form` is another or has nothing for a label, or labels and `like` differ in size.
        TypeError: labels are not integers.
        OSError: it cannot be written.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> label_map = LabelMap(("road", "car"), {(128, 64, 128): 0, (0, 0, 142): 1})
        >>> write_mask(folder / "before.png", torch.tensor([[0, 1]]), label_map, form="rgb")
        >>> before = read_stored_mask(folder / "before.png")
        >>> write_mask(folder / "after.png", torch.tensor([[1, 1]]), label_map, like=before)
        >>> read_stored_mask(folder / "after.png").form
        'rgb'
    """
    if like is None:
        write_stored_mask(path, encode_mask(labels, classes, "palette" if form is None else form))
    else:
        _checks.without_effect("`like`, which gives the form", form=form)
        write_stored_mask(path, encode_like(labels, classes, like))


def encode_mask(labels: Tensor, classes: LabelMap | int, form: Form) -> StoredMask:
    """A mask as it stands in a file of that form; see :func:`write_mask`."""
    _checks.one_of("form", form, FORMS)
    label_map = numbered(classes) if isinstance(classes, int) else classes
    array = _checked(labels, label_map)
    table = {label: _value_of(label, label_map, form) for label in _used(array)}
    palette = None
    if form == "palette":
        known = {label_map.id_of(label): label_map.color_of(label) for label in set(label_map.colors.values())}
        palette = tuple(known.get(number) or color for number, color in enumerate(voc_colors()))
    return StoredMask(_paint(array, table, form), palette)


def encode_like(labels: Tensor, classes: LabelMap | int, like: StoredMask) -> StoredMask:
    """A mask as it stands in a file of the form of `like`; see :func:`write_mask`."""
    label_map = numbered(classes) if isinstance(classes, int) else classes
    array, before = _checked(labels, label_map), decode_mask(like, label_map).numpy()
    if before.shape != array.shape:
        raise ValueError(f"expected `labels` of the size of `like`, {before.shape}, got {array.shape}")
    form, palette = like.form, like.palette
    table: dict[int, tuple[int, ...]] = {}
    by_color = palette is not None and _by_color(like, label_map) is not None
    first = np.full(IGNORE_INDEX + 1, -1)
    first[before.ravel()[::-1]] = np.arange(before.size)[::-1]  # of a label that stands several times, the last wins
    for label in _used(array):
        if first[label] >= 0:
            table[label] = tuple(np.atleast_1d(like.values[divmod(int(first[label]), before.shape[1])]).tolist())
        elif by_color and palette is not None:
            red, green, blue = _value_of(label, label_map, "rgb")
            palette = palette if (red, green, blue) in palette else (*palette, (red, green, blue))
            table[label] = (palette.index((red, green, blue)),)
        else:
            table[label] = _value_of(label, label_map, form)
    painted = _paint(array, table, form)
    if palette is not None:
        palette = (*palette, *voc_colors()[len(palette) : int(painted.max()) + 1])
    kept = array == before
    return StoredMask(np.where(kept[..., None] if like.values.ndim == 3 else kept, like.values, painted), palette)


def _checked(labels: Tensor, label_map: LabelMap) -> NDArray[np.int64]:
    _checks.integral("labels", labels)
    _checks.ndim("labels", labels, (2,), "(H, W)")
    _checks.labels_in_range("labels", labels, label_map.num_classes, IGNORE_INDEX)
    array: NDArray[np.int64] = labels.cpu().numpy().astype(np.int64)
    return array


def _value_of(label: int, label_map: LabelMap, form: Form) -> tuple[int, ...]:
    name = "ignored pixels" if label == IGNORE_INDEX else repr(label_map.names[label])
    if form in ("rgb", "rgba"):
        color = label_map.color_of(label)
        if color is None:
            raise ValueError(f"expected a label map with a color for {name}, got none")
        return color if form == "rgb" else (*color, 255)
    number = label_map.id_of(label)
    if number is None or number > (65535 if form == "grey16" else 255):
        raise ValueError(f"expected a label map with an id for {name} that {form!r} can hold, got {number}")
    return (number,)


def _paint(labels: NDArray[np.int64], table: dict[int, tuple[int, ...]], form: Form) -> NDArray[Any]:
    depth = {"rgb": 3, "rgba": 4}.get(form, 1)
    values = np.zeros((IGNORE_INDEX + 1, depth), np.uint16 if form == "grey16" else np.uint8)
    for label, value in table.items():
        if max(value) > np.iinfo(values.dtype).max:
            raise ValueError(f"expected values that {form!r} can hold, got {value}")
        values[label] = value
    return values[labels] if depth > 1 else values[labels, 0]


def _used(values: NDArray[Any]) -> list[int]:
    """The numbers that occur, in order."""
    used: list[int] = np.flatnonzero(np.bincount(values.ravel())).tolist()
    return used


def _by_id(label_map: LabelMap) -> dict[int, int]:
    """Labels by ids, those of ignored pixels included."""
    own = label_map.ids or {number: number for number in range(label_map.num_classes)}
    return {IGNORE_INDEX: IGNORE_INDEX, 65535: IGNORE_INDEX, **own}


def _by_color(stored: StoredMask, label_map: LabelMap) -> dict[int, int] | None:
    """Labels by ids of one channel, if these are to be read by their colors: the map has the color of every one."""
    used = _used(stored.values)
    if not label_map.colors or used[-1] > 255:
        return None
    palette = stored.palette if stored.palette is not None else tuple((value, value, value) for value in range(256))
    shown = {number: palette[number] for number in used if number < len(palette)}
    told = {number: label_map.colors[color] for number, color in shown.items() if color in label_map.colors}
    is_black = set(shown.values()) == {BLACK}
    if len(told) == len(used) and not (is_black and _is_foreign(stored.palette, label_map)):
        return told
    by_id = _by_id(label_map)
    if stored.palette is not None and any(shown[n] != BLACK and by_id.get(n) != told[n] for n in told):
        lacking = [color for number, color in shown.items() if number not in told and number != IGNORE_INDEX]
        raise ValueError(f"expected palette colors of the label map, got {lacking[:4]} beside some of them")
    return None


def _is_foreign(palette: Sequence[tuple[int, int, int]] | None, label_map: LabelMap) -> bool:
    """Whether a palette shares no color with the map but black, which all have: black alone is then the id 0."""
    others = set(palette or ()) - {BLACK}
    return palette is None or (bool(others) and others.isdisjoint(label_map.colors))


def _packed(colors: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Colors (..., 3 or more) as one number each."""
    red, green, blue = (colors[..., channel].astype(np.int32) for channel in range(3))
    return red << 16 | green << 8 | blue


def _of_colors(colors: NDArray[np.uint8], label_map: LabelMap) -> NDArray[np.int64]:
    if not label_map.colors:
        raise ValueError("expected a mask of one channel (ids), got colors: give a label map that says what they mean")
    packed, keys = _packed(colors), _packed(np.array(list(label_map.colors), np.uint8))
    order = np.argsort(keys)
    keys, labels = keys[order], np.array(list(label_map.colors.values()), np.int64)[order]
    place = np.searchsorted(keys, packed).clip(max=len(keys) - 1)
    is_known = keys[place] == packed
    if not is_known.all() and not label_map.ignore_others:
        strange = np.unique(packed[~is_known]).tolist()
        shown = [(color >> 16, color >> 8 & 255, color & 255) for color in strange[:4]]
        many = "; so many come from smoothing or from JPEG" if len(strange) > 64 else ""
        raise ValueError(
            f"expected the {len(keys)} colors of the label map, got {len(strange)} other(s) in "
            f"{int((~is_known).sum())} pixel(s) such as {shown}{many}"
        )
    return np.where(is_known, labels[place], IGNORE_INDEX)
