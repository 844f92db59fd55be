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
        >>> write_cvat_zip(folder / "export.zip", [("a", torch.tensor([[0, 1]]))], LabelMap(("road", "car")))
        >>> data = open_dataset(folder / "export.zip", unpack_to=folder / "export")
        >>> data.label_map.names, list(data.splits)
        (('road', 'car'), ['default'])
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
    if found is None:
        raise ValueError(
            f"expected a data set of images/ and masks/, or of SegmentationClass/, in {str(path)!r}, found none"
        )
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


def _of_folders(folder: Path) -> Dataset | None:
    """`images/` and `masks/`, with or without splits."""
    collector = Collector()
    masks = next((folder / name for name in MASK_FOLDERS if (folder / name).is_dir()), None)
    if (folder / "images").is_dir() and masks is not None:
        inside = [split for split in SPLITS if (folder / "images" / split).is_dir()]
        if inside:
            pairs_of = {split: collector.pair_up(folder / "images" / split, masks / split) for split in inside}
            return collector.finish(pairs_of)
        pairs = collector.pair_up(folder / "images", masks)
        lists = [split for split in SPLITS if (folder / f"{split}.txt").is_file()]
        listed = {split: collector.listed(folder / f"{split}.txt", pairs) for split in lists}
        return collector.finish(listed or {"all": pairs})
    around = {split: folder / split for split in SPLITS if (folder / split / "images").is_dir()}
    if not around:
        return None
    return collector.finish(
        {split: collector.pair_up(place / "images", place / "masks") for split, place in around.items()}
    )


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
