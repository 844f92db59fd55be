"""Data sets of images and masks on disk, as people's tools lay them out: which files belong together."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from graphcorrect.files.archives import unpack
from graphcorrect.files.dataset_yaml import read_dataset_yaml
from graphcorrect.files.faults import FileFault, reading, refuse
from graphcorrect.files.images import read_picture
from graphcorrect.files.label_maps import LabelMap, find_label_map, read_label_map
from graphcorrect.files.masks import read_mask
from graphcorrect.files.pairs import SPLITS, Collector, Dataset, Pair

MASK_FOLDERS = ("masks", "annotations")
YAML_ENDINGS = (".yaml", ".yml")


def open_dataset(path: Path, *, unpack_to: Path | None = None) -> Dataset:
    """The data set of a folder, a zip archive or a YAML.

    Args:
        path: a folder of `images/` and `masks/` (flat, with lists such as `train.txt`, or with `train/`, `val/`,
            `test/` in each or around both), one of CVAT or VOC (`SegmentationClass/`), such a folder as a zip, or the
            YAML of Ultralytics or LightlyTrain.
        unpack_to: folder for the files of a zip.

    Raises:
        ValueError: it is none of these; or files that are missing, stand twice or cannot be opened, all of them listed.
        FileFault: the YAML, the label map or the archive cannot be read; the message names it.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_cvat_zip(folder / "export.zip", [("a", torch.tensor([[0, 1]]))], LabelMap(("background", "car")))
        >>> data = open_dataset(folder / "export.zip", unpack_to=folder / "export")
        >>> data.label_map.names, list(data.splits)
        (('background', 'car'), ['default'])
    """
    path = Path(path)
    if path.is_file() and path.suffix.lower() in YAML_ENDINGS:
        return read_dataset_yaml(path)
    if path.is_file():
        if unpack_to is None:
            raise ValueError(f"expected `unpack_to`, a folder for the files of {path}, got none")
        path = _lone_folder(unpack(path, unpack_to))
    if not path.is_dir():
        raise ValueError(f"expected `path` to be a folder, a zip archive or a YAML, got {str(path)!r}")
    found = _of_cvat(path) if (path / "SegmentationClass").is_dir() else _of_folders(path)
    listed = find_label_map(path)
    return found._replace(label_map=None if listed is None else read_label_map(listed))


def _lone_folder(folder: Path) -> Path:
    """Where an archive holds one folder, that one."""
    inside = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    return inside[0] if len(inside) == 1 and inside[0].is_dir() and inside[0].name != "SegmentationClass" else folder


def _of_cvat(folder: Path) -> Dataset:
    """CVAT's and VOC's folders; an export without images has masks alone."""
    collector = Collector()
    images = next((folder / name for name in ("JPEGImages", "images") if (folder / name).is_dir()), None)
    pairs = collector.pair_up(images, folder / "SegmentationClass")
    lists = sorted((folder / "ImageSets" / "Segmentation").glob("*.txt"))
    splits = {path.stem: collector.listed(path, pairs) for path in lists}
    return collector.finish(splits or {"all": pairs})


def _of_folders(folder: Path) -> Dataset:
    """`images/` and `masks/`, with or without splits."""
    collector, images = Collector(), folder / "images"
    masks = next((folder / name for name in MASK_FOLDERS if (folder / name).is_dir()), None)
    if not images.is_dir() or masks is None:
        around = {split: folder / split for split in SPLITS if (folder / split / "images").is_dir()}
        if not around:
            raise ValueError(
                f"expected a data set of images/ and masks/, or of SegmentationClass/, in {str(folder)!r}, found none"
            )
        splits = {split: collector.pair_up(place / "images", place / "masks") for split, place in around.items()}
        return collector.finish(splits)
    splits = {split: collector.pair_up(images / split, masks / split) for split in SPLITS if (images / split).is_dir()}
    if not splits:
        pairs = collector.pair_up(images, masks)
        lists = {split: folder / f"{split}.txt" for split in SPLITS}
        splits = {split: collector.listed(path, pairs) for split, path in lists.items() if path.is_file()}
        splits = splits or {"all": pairs}
    return collector.finish(splits)


def check_pairs(pairs: Iterable[Pair], label_map: LabelMap | int) -> None:
    """Reads every image and mask once.

    Raises:
        ValueError: files that cannot be read, values that stand for nothing, masks of another size than their image;
            every one of them listed.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_mask(folder / "a.png", torch.tensor([[0, 7]]), 8)
        >>> try:
        ...     check_pairs([Pair("a", None, folder / "a.png")], 2)
        ... except ValueError as error:
        ...     print(str(error).split(": ")[-1])
        expected ids 0 to 1 or 255, got [7]
    """
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:  # decoding holds no lock
        found = list(pool.map(lambda pair: _faults_of(pair, label_map), pairs))
    refuse([fault for faults in found for fault in faults], "the data set has")


def _faults_of(pair: Pair, label_map: LabelMap | int) -> list[str]:
    faults, sizes = [], {}
    for path in (pair.image, pair.mask):
        if path is None:
            continue
        try:
            with reading(path):
                if path == pair.mask:
                    sizes[path] = tuple(read_mask(path, label_map).shape)
                else:
                    rgb = read_picture(path).rgb
                    sizes[path] = (rgb.height, rgb.width)
        except FileFault as error:
            faults.append(str(error))
    if len(set(sizes.values())) > 1:
        image, mask = sizes.values()
        faults.append(f"{pair.mask}: is {mask}, its image is {image} (height, width)")
    return faults
