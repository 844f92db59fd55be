"""Which images are labeled, unlabeled and held out: read from published lists, or drawn by the seed."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import NamedTuple

from graphcorrect.files.saving import write_atomically
from graphcorrect.files.text import few, read_lines
from segmentation.lists import Listed, Samples
from segmentation.recipe import Data
from segmentation.recipe_files import is_list
from segmentation.spelling import identity, is_there


class Split(NamedTuple):
    """The three parts, and what a person should know of how the lists were read."""

    labeled: list[Listed]
    unlabeled: list[Listed]
    held_out: list[Listed]
    notes: list[str]


def draw_split(settings: Data, train: list[Listed], seed: int, samples: Samples) -> Split:
    """The split that the settings ask for, of the images `train` and those that lists name."""
    published, notes = is_list(settings.labeled), []

    def once(listed: list[Listed], source: str) -> list[Listed]:
        """Each image once, however it is spelled."""
        kept: dict[str, Listed] = {}
        for entry in listed:
            first = kept.setdefault(identity(entry.sample.image), entry)
            if first.sample.mask != entry.sample.mask:
                raise ValueError(f"{source}: names {entry.sample.image} with two masks: {first.line!r}, {entry.line!r}")
        if len(kept) < len(listed):
            notes.append(f"{source}: {len(listed) - len(kept)} line(s) name an image again; each is taken once")
        return list(kept.values())

    def without(listed: list[Listed], taken: set[str]) -> list[Listed]:
        return [entry for entry in listed if identity(entry.sample.image) not in taken]

    rest = train = once(train, "the training images")
    chosen: list[Listed] = []
    if published:
        path = list_file("data.labeled", settings.labeled, samples.folder)
        chosen = once(samples.read(path), str(path))
        beside = path.with_name("unlabeled.txt")  # the field publishes the two together
        if settings.unlabeled is None and is_there(beside) and beside != path:
            rest = once(samples.read(beside), str(beside))
    if settings.unlabeled is not None:
        path = list_file("data.unlabeled", settings.unlabeled, samples.folder)
        rest = once(samples.read(path), str(path))
    taken = {identity(entry.sample.image) for entry in chosen}
    free = without(train, taken)
    if not 0 <= settings.held_out <= max(0, len(free) - 4):
        raise ValueError(f"expected `data.held_out` from 0 to {len(free) - 4} (of the images), got {settings.held_out}")
    places = sorted({number * len(free) // settings.held_out for number in range(settings.held_out)})
    aside = sorted(free[place] for place in places)
    if settings.val is not None:
        path = list_file("data.val", settings.val, samples.folder)
        aside += once(samples.read(path), str(path))
    taken |= {identity(entry.sample.image) for entry in aside}
    if not published:
        candidates = without(free, taken)
        try:
            count = number_labeled(settings.labeled, len(candidates))
        except ValueError as error:
            lacking = few([f"{path} ({named})" for path, named in samples.origin.items()], 3)
            raise ValueError(f"{error}" + (f"; not there: {lacking}" if samples.origin else "")) from error
        masked: list[Listed] = []
        bare: list[str] = []
        for entry in candidates:
            mask = entry.sample.mask
            if mask is not None and is_there(mask):
                masked.append(entry)
            else:
                bare.append(str(mask or entry.sample.image))
        if masked and bare:
            notes.append(f"{len(bare)} training image(s) have no mask and stay unlabeled: {few(bare, 4)}")
        if masked and count > len(masked):
            raise ValueError(
                f"expected `data.labeled` of at most {len(masked)}, the training images that have a mask, got {count}"
            )
        chosen = sorted(random.Random(seed).sample(masked or candidates, count))
        taken |= {identity(entry.sample.image) for entry in chosen}
    return Split(chosen, without(rest, taken), aside, notes)


def number_labeled(labeled: str | None, available: int) -> int:
    """How many images to draw; a share is rounded up, as the published splits of Cityscapes are (1/16: 186 of 2975)."""
    if labeled is None:
        count = max(2, available // 10)
    elif "/" in labeled:
        over, under = map(int, labeled.split("/"))
        count = math.ceil(available * over / max(1, under))
    else:
        count = int(labeled)
    if not 2 <= count < available:
        raise ValueError(f"expected `data.labeled` from 2 to {available - 1} (of the training images), got {labeled}")
    return count


def list_file(key: str, name: str, folder: Path) -> Path:
    """The file that a key names, from here or in the folder of the data set."""
    if not Path(name).is_file() and (folder / name).is_file():
        return folder / name
    if not Path(name).is_file():
        also = ", a number or a share such as 1/8" if key == "data.labeled" else ""
        raise ValueError(f"expected `{key}` to be a list of images{also}, got {name!r}, which is no file")
    return Path(name)


def write_split(split: Split, out: Path, *, goes_on: bool) -> None:
    """Write `labeled.txt` and `unlabeled.txt`; those of a run that goes on are compared and left as they are.

    Raises:
        ValueError: the run began with other images.
    """
    for name in ("labeled", "unlabeled"):
        path, lines = out / f"{name}.txt", [entry.line for entry in getattr(split, name)]
        if goes_on and path.is_file():
            began = set(read_lines(path, comment=None))
            if began != set(lines):
                added, gone = sorted(set(lines) - began), sorted(began - set(lines))
                raise ValueError(
                    f"expected the images that the run began with ({path}); now {few(added)} would be {name} "
                    f"and {few(gone)} would not: restore lists and images, or begin anew with --overwrite"
                )
        else:
            content = "".join(f"{line}\n" for line in lines)
            write_atomically(path, content.encode("utf-8", "surrogateescape"))
