"""Masks: class labels out of ids, palettes and colors, and back into a file of the same form.

A picture that cannot be read ends in `UnreadableFile`, whose message begins with the file's name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphcorrect import _checks
from graphcorrect.files.label_maps import LabelMap, numbered
from graphcorrect.files.palette import voc_colors
from graphcorrect.files.stored_masks import Form, StoredMask, read_stored_mask, write_stored_mask
from graphcorrect.labels import IGNORE_INDEX


def read_mask(path: Path, classes: LabelMap | int) -> Tensor:
    """Class labels (H, W) int64 of a mask, 255 where it has none.

    Args:
        path: ids in grey (8 or 16 bits) or a palette, or colors (RGB or RGBA), in a format that keeps them; SBD's .mat.
        classes: what ids and colors stand for; a number C: ids from 0 to C - 1 stand for themselves.

    A palette image and a grey one are read by colors if the label map has every color in it, else by ids.

    Raises:
        UnreadableFile: it cannot be read; the message names it.
        ValueError: an id or a color stands for nothing; the message names what, not the file.
    """
    return decode_mask(read_stored_mask(path), classes)


def decode_mask(stored: StoredMask, classes: LabelMap | int) -> Tensor:
    """Labels (H, W) int64 of a mask as it stands in its file; see :func:`read_mask`."""
    label_map = numbered(classes) if isinstance(classes, int) else classes
    colors = _colors_of(stored, label_map)
    return torch.from_numpy(_of_ids(stored, label_map) if colors is None else _of_colors(colors, label_map))


def write_mask(
    path: Path,
    labels: Tensor,
    classes: LabelMap | int,
    *,
    form: Form = "palette",
    like: StoredMask | None = None,
) -> None:
    """Writes labels (H, W) in a form, or in that of another mask: the one that they are a correction of.

    Args:
        path: `.png`, `.tif` or `.bmp`.
        labels: integers in [0, C), 255 where there is none.
        classes: as in :func:`read_mask`, which reads the same labels from the file.
        form: "palette" has ids in the colors of the label map, or in VOC's; "grey" and "grey16" ids; "rgb" and "rgba"
            colors.
        like: gives the form instead. Pixels whose label is the one it has keep the value that it has, and others get
            the value that it has for their label, where it has one.

    Raises:
        ValueError: the form has nothing for a label, or labels and `like` differ in size.
        TypeError: labels are not integers.
        OSError: it cannot be written.
    """
    write_stored_mask(path, encode_mask(labels, classes, form) if like is None else encode_like(labels, classes, like))


def encode_mask(labels: Tensor, classes: LabelMap | int, form: Form) -> StoredMask:
    """A mask as it stands in a file of that form; see :func:`write_mask`."""
    label_map = numbered(classes) if isinstance(classes, int) else classes
    array = _checked(labels, label_map)
    table = {label: _value_of(label, label_map, form) for label in np.unique(array).tolist()}
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
    by_color = palette is not None and _colors_of(like, label_map) is not None
    for label in np.unique(array).tolist():
        same = np.argwhere(before == label)
        if len(same):
            table[label] = tuple(np.atleast_1d(like.values[tuple(same[0])]).tolist())
        elif by_color and palette is not None:
            color = _value_of(label, label_map, "rgb")
            palette = palette if color in palette else (*palette, (color[0], color[1], color[2]))
            table[label] = (palette.index((color[0], color[1], color[2])),)
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


def _of_ids(stored: StoredMask, label_map: LabelMap) -> NDArray[np.int64]:
    if stored.values.ndim == 3:
        raise ValueError("expected a mask of one channel (ids), got colors: give a label map that says what they mean")
    counts = np.bincount(stored.values.ravel())
    table = np.full(len(counts), IGNORE_INDEX, np.int64)
    known = label_map.ids or {number: number for number in range(label_map.num_classes)}
    strange = []
    for number in np.flatnonzero(counts).tolist():
        if number in known:
            table[number] = known[number]
        elif number not in (IGNORE_INDEX, 65535) and not label_map.ignore_others:
            strange.append(number)
    if strange:
        shown = strange if len(strange) <= 10 else f"{len(strange)} others such as {strange[:3]}"
        listed = f"0 to {label_map.num_classes - 1}" if not label_map.ids else f"among {len(known)} of the label map"
        raise ValueError(f"expected ids {listed} or {IGNORE_INDEX}, got {shown}")
    labels: NDArray[np.int64] = table[stored.values]
    return labels


def _colors_of(stored: StoredMask, label_map: LabelMap) -> NDArray[np.int64] | None:
    """Colors (H, W) as one number each, if the mask is to be read by them."""
    if stored.values.ndim == 3:
        if not label_map.colors:
            return None
        return _packed(stored.values[..., :3])
    used = np.flatnonzero(np.bincount(stored.values.ravel())).tolist()
    if not label_map.colors or max(used) > 255:
        return None
    palette = stored.palette if stored.palette is not None else tuple((value, value, value) for value in range(256))
    shown = {number: palette[number] for number in used if number < len(palette)}
    told = {number: label_map.colors[color] for number, color in shown.items() if color in label_map.colors}
    if len(told) < len(used) or stored.palette is None and used == [0]:  # black alone: the id 0
        ids = {IGNORE_INDEX: IGNORE_INDEX, **(label_map.ids or {n: n for n in range(label_map.num_classes)})}
        if stored.palette is not None and any(shown[n] != (0, 0, 0) and ids.get(n) != told[n] for n in told):
            lacking = [color for number, color in shown.items() if number not in told and number != IGNORE_INDEX]
            raise ValueError(f"expected palette colors of the label map, got {lacking[:4]} beside some of them")
        return None
    packed = np.zeros(256, np.int64)
    packed[: len(palette)] = _packed(np.array(palette, np.uint8))
    found: NDArray[np.int64] = packed[stored.values]
    return found


def _packed(colors: NDArray[Any]) -> NDArray[np.int64]:
    wide: NDArray[np.int64] = colors.astype(np.int64)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]


def _of_colors(packed: NDArray[np.int64], label_map: LabelMap) -> NDArray[np.int64]:
    keys = _packed(np.array(list(label_map.colors), np.uint8))
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
