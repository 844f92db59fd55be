"""Split lists as the field publishes them, line by line to samples.

A line is a name (`2007_000032`), an image (`JPEGImages/2007_000032.jpg`, `leftImg8bit/train/...png`), or an image and
its mask, with or without a slash before them, split by blanks, a tab or a comma. An image named twice has no mask.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from graphcorrect.files.folders import is_junk, without
from graphcorrect.files.images import IMAGE_ENDINGS
from graphcorrect.files.text import read_lines
from segmentation.datasets import Sample
from segmentation.spelling import AmbiguousName, Folder, clean, identity

MASK_ENDINGS = (".png", ".bmp", ".tif", ".tiff", ".gif", ".mat", ".jpg", ".jpeg", ".webp")
CITYSCAPES_MASKS = ("_gtFine_labelIds.png", "_gtFine_labelTrainIds.png")
VOC_MASKS = ("SegmentationClass", "SegmentationClassAug", "cls")  # VOC's own mask goes before SBD's
PAIRS_MASKS = ("masks", "annotations")
IMAGE_FOLDERS = {
    "voc": "JPEGImages",
    "digits": "JPEGImages",
    "cityscapes": "leftImg8bit",
    "camvid": "",
    "pairs": "images",
}
OF_CLASSES = re.compile(r"\s-?[01]$")  # a line of VOC's ImageSets/Main/CLASS_train.txt


class Listed(NamedTuple):
    """A line of a list and what it stands for."""

    line: str
    sample: Sample


def read_list(path: Path) -> list[str]:
    """The lines of a list; what file managers leave among the images is left out.

    `#` and a blank begin a comment. A name may begin with `#` too, and `Samples` knows whether there is such an image.

    Raises:
        ValueError: there are none.
    """
    read = read_lines(path, comment="# ")
    lines = [line for line in read if not is_junk(re.split(r"[/\\]", line.split("\t")[0])[-1])]
    if not lines:
        raise ValueError(f"expected {path} to name images, one a line, got an empty list")
    return lines


class Samples:
    """The samples of one data set by lines of lists.

    Attributes:
        faults: lines that may stand for several files.
        origin: by images that are not there, the list and line that name them.
    """

    def __init__(self, folder: Path, layout: str):
        self.folder, self.layout, self.files = folder, layout, Folder(folder)
        self.faults: list[str] = []
        self.origin: dict[Path, str] = {}

    def read(self, path: Path) -> list[Listed]:
        """All samples of a list.

        Raises:
            ValueError: it names no image, or says of images which classes they show, as VOC's ImageSets/Main does.
        """
        lines = read_list(path)
        if all(OF_CLASSES.search(line) for line in lines):
            raise ValueError(
                f"expected {path} to name images, and masks if any, got a list that says of images whether they show a "
                f"class ({lines[0]!r}), as VOC's ImageSets/Main has them; those of ImageSets/Segmentation are for masks"
            )
        found = self.of(lines, str(path), first=path.stem)
        if not found and not self.faults:
            raise ValueError(f"expected {path} to name images, one a line, got comments alone")
        return found

    def of(self, lines: list[str], source: str, first: str = "train") -> list[Listed]:
        """All samples of lines; of splits in which a name is found twice, that of `first` is meant."""
        found = []
        for number, line in enumerate(lines, 1):
            try:
                sample = self._sample(line, first)
            except AmbiguousName as error:
                self.faults.append(f"{source}, line {number}: {error}")
                continue
            if sample is None and line.startswith("#"):
                continue
            if sample is None:
                sample = self._missing(line)
                self.origin[sample.image] = f"line {number} of {source}"
            found.append(Listed(line, sample))
        return found

    def _sample(self, line: str, first: str) -> Sample | None:
        """The two files of a line, in that reading of it in which there are both, else the image.

        Paths that begin above the data set's folder come last, and with them the line as one name with blanks.
        """
        readings = list(_readings(line))
        for is_above in (False, True):
            fallback = None
            for image_name, mask_name in sorted(readings, key=lambda reading: is_above and reading[1] is None):
                image = self._image(
                    image_name, self._above(image_name) if is_above else self._places(image_name, first)
                )
                if image is None:
                    continue
                if mask_name is None:
                    return Sample(image, self._mask_of(image))
                mask = self._mask(mask_name, image)
                if mask is not None:
                    return Sample(image, None if identity(mask) == identity(image) else mask)
                fallback = fallback or Sample(image, self.folder / clean(mask_name))
            if fallback is not None:
                return fallback
        return None

    def _image(self, name: str, places: Iterator[str]) -> Path | None:
        for place in places:
            found = self.files.find(place, IMAGE_ENDINGS)
            if found is not None:
                return found
        outside = Path(name)
        return outside if outside.is_absolute() and len(name) < 4096 and outside.is_file() else None

    def _places(self, name: str, first: str) -> Iterator[str]:
        """Where an image of that name may be, in order."""
        parts = clean(name).split("/")
        if len(parts) > 1:
            yield "/".join(parts)
            yield f"{IMAGE_FOLDERS[self.layout]}/{'/'.join(parts)}"
        elif self.layout == "camvid":
            yield from (f"{split}/{parts[0]}" for split in dict.fromkeys((first, "train", "val", "test")))
        elif self.layout == "cityscapes":
            stem = without(without(parts[0], IMAGE_ENDINGS), ("_leftimg8bit",))
            city = stem.split("_")[0]
            yield from (f"leftImg8bit/{split}/{city}/{stem}_leftImg8bit.png" for split in ("train", "val", "test"))
        else:
            yield f"{IMAGE_FOLDERS[self.layout]}/{parts[0]}"
            if self.layout == "pairs":
                yield from (f"images/{split}/{parts[0]}" for split in dict.fromkeys((first, "train", "val", "test")))

    def _above(self, name: str) -> Iterator[str]:
        """The same for a path that begins above the data set's folder, such as `VOC2012/JPEGImages/a.jpg`."""
        parts = clean(name).split("/")
        yield from ("/".join(parts[start:]) for start in range(1, len(parts) - 1))

    def _mask(self, name: str, image: Path) -> Path | None:
        """The mask that a line names; where one of the layout's own is not there, the layout's other one."""
        parts = clean(name).split("/")
        for start in range(max(1, len(parts) - 1)):
            found = self.files.find("/".join(parts[start:]), MASK_ENDINGS)
            if found is not None:
                return found
        if len(parts) == 1:
            places = (f"{directory}/{parts[0]}" for directory in self._mask_folders())
            found = next((path for place in places if (path := self.files.find(place, MASK_ENDINGS))), None)
            return found or self.files.find(f"{IMAGE_FOLDERS[self.layout]}/{parts[0]}", IMAGE_ENDINGS)
        if Path(name).is_absolute() and len(name) < 4096 and Path(name).is_file():
            return Path(name)
        own = self._mask_of(image)
        is_usual = any(part in (*self._mask_folders(), "gtFine") for part in parts)
        return own if is_usual and own is not None and own.exists() else None

    def _mask_of(self, image: Path) -> Path | None:
        """Where the layout has the mask of an image; where it should be if there is none."""
        try:
            inside = image.relative_to(self.folder).parts
        except ValueError:
            return None
        stem = without(image.name, IMAGE_ENDINGS)
        if self.layout == "cityscapes":
            stem = without(stem, ("_leftimg8bit",))
            places = ["/".join(("gtFine", *inside[1:-1], stem + ending)) for ending in CITYSCAPES_MASKS]
        elif self.layout == "camvid":
            places = ["/".join((f"{inside[0]}annot", *inside[1:-1], f"{stem}.png"))]
        else:
            places = ["/".join((directory, *inside[1:-1], f"{stem}.png")) for directory in self._mask_folders()]
        if len(inside) < 2:
            return None
        endings = () if self.layout == "cityscapes" else MASK_ENDINGS
        found = (self.files.find(place, endings) for place in places)
        return next((path for path in found if path is not None), self.folder / places[0])

    def _mask_folders(self) -> tuple[str, ...]:
        return PAIRS_MASKS if self.layout == "pairs" else VOC_MASKS

    def _missing(self, line: str) -> Sample:
        """What a line names that is nowhere, for the message that says so."""
        image, mask = next(iter(_readings(line, guess=True)))
        path = self.folder / next(self._places(image, "train"))
        if not path.name.lower().endswith(IMAGE_ENDINGS):
            path = path.with_name(f"{path.name[:200]}.jpg")
        return Sample(path, None if mask is None else self.folder / clean(mask))


def _readings(line: str, *, guess: bool = False) -> Iterator[tuple[str, str | None]]:
    """Ways to read a line as image and mask: names may have blanks. `guess` begins with the likeliest by its looks."""
    quote = "\"'"
    for separator in ("\t", ";", ","):
        parts = [part.strip().strip(quote) for part in line.split(separator) if part.strip()]
        if len(parts) > 1:
            yield parts[0], parts[1]
    blanks = [
        (line[: blank.start()].strip(quote), line[blank.end() :].strip(quote)) for blank in re.finditer(r"\s+", line)
    ]
    if guess:
        yield from ((image, mask) for image, mask in blanks if image.lower().endswith(IMAGE_ENDINGS))
    yield line.strip(quote), None
    yield from blanks
    comment = re.search(r"\s#", line)
    if comment:
        yield from _readings(line[: comment.start()].strip())
