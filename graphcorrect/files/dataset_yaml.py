"""The YAML that names a data set's folders and classes: Ultralytics' and LightlyTrain's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from graphcorrect.files.faults import read_lines, reading
from graphcorrect.files.images import IMAGE_ENDINGS
from graphcorrect.files.label_maps import LabelMap, label_map_of
from graphcorrect.files.pairs import SPLITS, Collector, Dataset, Pair
from graphcorrect.files.saving import write_atomically
from graphcorrect.files.text import dump_yaml, load_yaml
from graphcorrect.labels import IGNORE_INDEX

TEMPLATE = re.compile(r"\{image_path(?:\.(stem|name|parent|suffix))?\}")  # LightlyTrain's, in the path of a mask


def read_dataset_yaml(path: Path) -> Dataset:
    """The data set that a YAML names; relative folders begin at its `path`, or where it lies itself."""
    with reading(path, "a data set's YAML"):
        content = load_yaml(path)
        label_map = label_map_of(content)
        root = path.parent / str(content.get("path") or ".")
        named = {split: content[split] for split in SPLITS if content.get(split)}
        if not named:
            raise ValueError(f"names none of {', '.join(SPLITS)}")
    collector = Collector()
    root = root if root.is_dir() else path.parent
    splits = {}
    for split, value in named.items():
        if isinstance(value, Mapping):  # LightlyTrain
            splits[split] = _of_lightly(value, root, collector, f"{path}: `{split}`")
        else:
            places = value if isinstance(value, list) else [value]
            masks = str(content.get("masks_dir") or "masks")
            splits[split] = [
                pair for place in places for pair in _of_ultralytics(root, str(place), masks, collector, str(path))
            ]
    return collector.finish(splits, label_map)


def _of_ultralytics(root: Path, place: str, masks: str, collector: Collector, source: str) -> list[Pair]:
    """A folder of images or a list of them; the masks lie where `images` is replaced by the folder of masks."""
    path = root / place
    if path.is_dir():
        return collector.pair_up(path, _with_masks(path, masks))
    if path.is_file() and path.suffix.lower() == ".txt":
        folders = sorted({(path.parent / line).parent for line in read_lines(path)})
        pairs = [pair for folder in folders for pair in collector.pair_up(folder, _with_masks(folder, masks))]
        return collector.listed(path, pairs)
    collector.faults.append(f"{source}: names {place!r}, which is not there: {path}")
    return []


def _with_masks(folder: Path, masks: str) -> Path:
    parts = list(folder.parts)
    place = len(parts) - 1 - parts[::-1].index("images") if "images" in parts else None
    return folder.parent / masks if place is None else Path(*parts[:place], masks, *parts[place + 1 :])


def _of_lightly(split: Mapping[str, Any], root: Path, collector: Collector, source: str) -> list[Pair]:
    """`images` and `masks`, a folder each, or masks by a template of the image's path."""
    images, masks = root / str(split.get("images", "images")), str(split.get("masks", "masks"))
    if not images.is_dir():
        collector.faults.append(f"{source} names images in {images}, which is no folder")
        return []
    if "{" not in masks:
        return collector.pair_up(images, root / masks)
    pairs = []
    for name, path in sorted(collector.folder(images, IMAGE_ENDINGS).files.items()):
        mask = root / TEMPLATE.sub(lambda found: str(getattr(path, found[1]) if found[1] else path), masks)  # noqa: B023
        pairs.append(Pair(name, path, mask if mask.is_file() else None))
    return pairs


def write_dataset_yaml(
    path: Path,
    label_map: LabelMap,
    splits: Mapping[str, str],
    *,
    masks: str = "masks",
    form: Literal["ultralytics", "lightly"] = "ultralytics",
) -> None:
    """Writes what :func:`read_dataset_yaml` reads: a YAML for folders that lie beside it.

    Args:
        path: of the YAML.
        label_map: names, ids and colors.
        splits: the folder of images of each split, such as {"train": "images/train"}.
        masks: the folder that stands in the place of `images` in those paths.
        form: "ultralytics" has no place for colors, and a lone class is one beside a background there; "lightly" counts
            labels from 0 in the order of the names.

    Raises:
        ValueError: the form has no place for what the map holds.
        OSError: it cannot be written.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_dataset_yaml(folder / "data.yaml", LabelMap(("road", "car")), {"train": "images/train"})
        >>> print((folder / "data.yaml").read_text().split("names")[0].strip())
        path: .
        train: images/train
        masks_dir: masks
    """
    names = dict(enumerate(label_map.names))
    if form == "ultralytics":
        if label_map.colors:
            raise ValueError("expected a label map without colors, which Ultralytics' masks cannot have; write ids")
        if len(names) < 2:
            raise ValueError(
                f"expected a label map of two classes or more, as Ultralytics takes a lone name for 1 and 0 for a "
                f"background, got {names[0]!r}; name both, or write form='lightly'"
            )
        content: dict[str, Any] = {"path": ".", **splits, "masks_dir": masks, "names": names}
        if label_map.ids:
            content["label_mapping"] = {
                number: "ignore_label" if label == IGNORE_INDEX else label for number, label in label_map.ids.items()
            }
    else:
        if label_map.colors and label_map.ids:
            raise ValueError("expected a label map of colors or of ids, got both, for which the form has no place")
        values: dict[int, list[Any]] = {}
        listed = label_map.colors or label_map.ids or {number: number for number in names}
        for value, label in listed.items():
            values.setdefault(label, []).append(list(value) if isinstance(value, tuple) else value)
        content = {split: {"images": place, "masks": _with_masks(Path(place), masks).as_posix()}
                   for split, place in splits.items()}  # fmt: skip
        classes = {number: {"name": name, "labels": values.get(number, [])} for number, name in names.items()}
        content["classes"] = classes
        if IGNORE_INDEX in values:
            classes[len(names)] = {"name": "ignored", "labels": values[IGNORE_INDEX]}
            content["ignore_classes"] = [len(names)]
    write_atomically(path, dump_yaml(content))
