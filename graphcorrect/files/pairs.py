"""Images and masks that belong together by name."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from graphcorrect.files.faults import read_lines, refuse
from graphcorrect.files.folders import Folder, without
from graphcorrect.files.images import IMAGE_ENDINGS
from graphcorrect.files.label_maps import LabelMap
from graphcorrect.files.stored_masks import MASK_ENDINGS

SPLITS = ("train", "val", "test")


class Pair(NamedTuple):
    """An image and its mask, one of which may be missing: an image without labels, a mask whose image is elsewhere.

    `name` is the path below the folder of masks or images, without the ending.

    Example:
        >>> Pair("a", Path("images/a.jpg"), None).mask is None
        True
    """

    name: str
    image: Path | None
    mask: Path | None


class Dataset(NamedTuple):
    """What a folder, an archive or a YAML names.

    Attributes:
        splits: the pairs of each, in order; one called "all" where there are none.
        label_map: what masks mean; None if nothing says so.
        left_out: files that belong to nothing, by their endings.

    Example:
        >>> Dataset({"train": [Pair("a", Path("a.jpg"), None)]}, None, []).pairs[0].name
        'a'
    """

    splits: dict[str, list[Pair]]
    label_map: LabelMap | None
    left_out: list[Path]

    @property
    def pairs(self) -> list[Pair]:
        """All of them, each once."""
        return list(dict.fromkeys(pair for pairs in self.splits.values() for pair in pairs))


class Collector:
    """Pairs of folders, and every fault on the way."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.left_out: list[Path] = []  # files with endings of neither images nor masks
        self._folders: dict[tuple[Path, tuple[str, ...]], Folder] = {}

    def folder(self, path: Path, endings: Sequence[str]) -> Folder:
        """The files of a folder, read once."""
        key = (path, tuple(endings))
        if key not in self._folders:
            self._folders[key] = Folder(path, endings)
            self.faults += self._folders[key].faults_of()
            self.left_out += self._folders[key].left_out
        return self._folders[key]

    def pair_up(self, images: Path | None, masks: Path) -> list[Pair]:
        """Every image and mask of two folders, by name."""
        pictures = {} if images is None or not images.is_dir() else self.folder(images, IMAGE_ENDINGS).files
        labels = self.folder(masks, MASK_ENDINGS).files if masks.is_dir() else {}
        return [Pair(name, pictures.get(name), labels.get(name)) for name in sorted({*pictures, *labels})]

    def listed(self, path: Path, pairs: Iterable[Pair]) -> list[Pair]:
        """The pairs that a list names, with or without folders and endings."""
        by_name = {pair.name: pair for pair in pairs}
        found = []
        for number, line in enumerate(read_lines(path), 1):
            name = without(re.split(r"[\t,;]", line)[0].strip().strip("\"'").replace("\\", "/"), IMAGE_ENDINGS)
            parts = [part for part in name.split("/") if part not in ("", ".")]
            tries = ("/".join(parts[start:]) for start in range(len(parts)))
            whole = unicodedata.normalize("NFC", line)  # a name may have commas, and an ending before its own
            pair = next((by_name[each] for each in (whole, *tries) if each in by_name), None)
            if pair is None:
                self.faults.append(f"{path}, line {number}: no image or mask is called {line!r}")
            else:
                found.append(pair)
        return found

    def finish(self, splits: dict[str, list[Pair]], label_map: LabelMap | None = None) -> Dataset:
        """The data set; a `ValueError` that lists every fault, if there are any."""
        if not any(splits.values()) and not self.faults:
            self.faults.append("no image and no mask")
        refuse(self.faults, "the data set has")
        return Dataset(splits, label_map, self.left_out)
