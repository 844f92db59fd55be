"""From a folder to a data set: PASCAL VOC (with SBD's masks), Cityscapes, CamVid, the embedded digits; split lists.

Split lists are read as the field publishes them: a name a line (`2007_000032`), an image (`leftImg8bit/train/...png`),
or image and mask (`JPEGImages/2007_000032.jpg SegmentationClass/2007_000032.png`), with or without a final newline.
"""

from __future__ import annotations

import math
import random
import re
from pathlib import Path

from segmentation import cityscapes
from segmentation.datasets import IGNORE_INDEX, IMAGE_ENDINGS, VOC_CLASSES, Sample, SegmentationData
from segmentation.digits import write_digit_scenes
from segmentation.recipe import Data

LISTS = Path("ImageSets/Segmentation")  # of VOC


def open_data(settings: Data, seed: int, out: Path, *, write: bool = True) -> SegmentationData:
    """The data set that a recipe names.

    Args:
        settings: the recipe's section.
        seed: draws the labeled images (and the embedded scenes); the split is saved as `labeled.txt` and
            `unlabeled.txt` in `out`, in the form in which it can be read again.
        out: the run's folder.
        write: whether to write the lists; of several processes, one does.
    """
    folder, layout = find_folder(settings, seed, out)
    train, test = LAYOUTS[layout](folder)
    if settings.test is not None:
        test = read_list(_list_file("data.test", settings.test))
    labeled, unlabeled, aside = _split(settings, train, seed, lambda line: sample_of(folder, line))
    for name, lines in (("labeled", labeled), ("unlabeled", unlabeled)) if write else ():
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))
    samples = ([sample_of(folder, line) for line in lines] for lines in (labeled, unlabeled, test, aside))
    return SegmentationData(*samples, _class_names(folder, layout, settings.classes), layout)


def find_folder(settings: Data, seed: int, out: Path) -> tuple[Path, str]:
    """Where the data is and in which layout; the embedded scenes are written first."""
    if settings.layout == "digits":
        folder = out / f"digits-{settings.scenes[0]}-{settings.scenes[1]}-seed{seed}"
        write_digit_scenes(folder, num_train=settings.scenes[0], num_val=settings.scenes[1], seed=seed)
        return folder, "digits"
    if settings.folder is None:
        raise ValueError("expected `data.folder` (--data), where the data set is; this recipe brings no images")
    folder = Path(settings.folder)
    if not folder.is_dir():
        raise ValueError(f"expected `data.folder` to be a folder, got {str(folder)!r}")
    marks = {"camvid": folder / "trainannot", "cityscapes": folder / "leftImg8bit", "voc": folder / LISTS / "train.txt"}
    found = [layout for layout, mark in marks.items() if mark.exists()]
    if settings.layout == "auto" and found:
        return folder, found[0]
    if settings.layout in found:
        return folder, settings.layout
    raise ValueError(
        "expected `data.folder` in the layout of VOC (JPEGImages, SegmentationClass, ImageSets/Segmentation), "
        "Cityscapes (leftImg8bit, gtFine) or CamVid (train, trainannot, test, testannot)"
        f"{'' if settings.layout == 'auto' else f', here {settings.layout}'}; found no such thing in {str(folder)!r}"
    )


def sample_of(folder: Path, line: str) -> Sample:
    """The two files that a line of a list stands for."""
    first, _, second = line.partition(" ")
    if second:
        return Sample(folder / first, _existing(_alternatives(folder, folder / second)))
    if first.startswith("leftImg8bit/"):
        mask = first.replace("leftImg8bit/", "gtFine/", 1).replace("_leftImg8bit.png", "_gtFine_labelIds.png")
        return Sample(folder / first, folder / mask)
    if "/" in first:  # CamVid: split/NAME
        split, name = first.split("/", 1)
        return Sample(_with_ending(folder / split / name), folder / f"{split}annot" / f"{name}.png")
    mask = folder / "SegmentationClass" / f"{first}.png"
    return Sample(_with_ending(folder / "JPEGImages" / first), _existing(_alternatives(folder, mask)))


def read_list(path: Path) -> list[str]:
    """Lines of a list without blanks; many published ones lack a final newline, some end lines in spaces."""
    return [line.strip() for line in path.read_text().splitlines() if line.strip()]


def _alternatives(folder: Path, mask: Path) -> list[Path]:
    """Where else the mask of a list may be: VOC's own mask goes before SBD's, train ids before label ids."""
    if mask.name.endswith("_labelTrainIds.png"):  # written by cityscapesScripts; the download has label ids only
        return [mask, mask.with_name(mask.name.replace("_labelTrainIds", "_labelIds"))]
    return [mask, folder / "SegmentationClassAug" / mask.name, folder / "cls" / f"{mask.stem}.mat"]


def _existing(paths: list[Path]) -> Path:
    return next((path for path in paths if path.exists()), paths[0])


def _with_ending(image: Path) -> Path:
    endings = [ending for ending in IMAGE_ENDINGS if image.with_name(image.name + ending).exists()]
    return image.with_name(image.name + (endings or [".jpg"])[0])


def _voc(folder: Path) -> tuple[list[str], list[str]]:
    """VOC's train and val; with SBD's masks there, all that have one and are not in val: 10582 of them."""
    if not (folder / LISTS / "val.txt").is_file():
        raise ValueError(f"expected `data.folder` to hold {folder / LISTS / 'val.txt'}, which is missing")
    train, test = read_list(folder / LISTS / "train.txt"), read_list(folder / LISTS / "val.txt")
    for name in ("train_aug.txt", "trainaug.txt"):
        if (folder / LISTS / name).is_file():
            return read_list(folder / LISTS / name), test
    more = {path.stem for kind in ("SegmentationClassAug/*.png", "cls/*.mat") for path in folder.glob(kind)}
    return (sorted((more | set(train)) - set(test)) if more else train), test


def _cityscapes(folder: Path) -> tuple[list[str], list[str]]:
    """Cityscapes' fine train (2975) and val (500); its test labels are not public."""
    images = [sorted((folder / "leftImg8bit" / split).glob("*/*_leftImg8bit.png")) for split in ("train", "val")]
    train, test = ([path.relative_to(folder).as_posix() for path in paths] for paths in images)
    return train, test


def _camvid(folder: Path) -> tuple[list[str], list[str]]:
    """CamVid's train and test. Its val is one short clip of near-duplicates and its frames are left alone."""
    names = []
    for split in ("train", "test"):
        listed = folder / f"{split}.txt"
        stems = read_list(listed) if listed.is_file() else sorted(path.stem for path in (folder / split).glob("*.*"))
        names.append([f"{split}/{stem}" for stem in stems])
    return names[0], names[1]


LAYOUTS = {"digits": _voc, "voc": _voc, "cityscapes": _cityscapes, "camvid": _camvid}


def _split(settings: Data, train: list[str], seed: int, sample_of) -> tuple[list[str], list[str], list[str]]:
    """Lines labeled, unlabeled and held out: read from published lists, or drawn from `train`."""
    published = settings.labeled is not None and not re.fullmatch(r"\d+|\d+/\d+", settings.labeled)
    chosen: list[str] = []
    rest = train
    if published:
        path = _list_file("data.labeled", settings.labeled)
        chosen = read_list(path)
        beside = path.with_name("unlabeled.txt")  # the field publishes the two together
        if settings.unlabeled is None and beside.is_file() and beside != path:
            rest = read_list(beside)
    if settings.unlabeled is not None:
        rest = read_list(_list_file("data.unlabeled", settings.unlabeled))
    taken = {sample_of(line).image for line in chosen}
    free = [line for line in train if sample_of(line).image not in taken]
    if not 0 <= settings.held_out <= max(0, len(free) - 4):
        raise ValueError(f"expected `data.held_out` from 0 to {len(free) - 4} (of the images), got {settings.held_out}")
    aside = sorted({free[number * len(free) // settings.held_out] for number in range(settings.held_out)})
    taken |= {sample_of(line).image for line in aside}
    if not published:
        candidates = [line for line in free if sample_of(line).image not in taken]
        count = number_labeled(settings.labeled, len(candidates))
        chosen = sorted(random.Random(seed).sample(candidates, count))
        taken |= {sample_of(line).image for line in chosen}
    return chosen, [line for line in rest if sample_of(line).image not in taken], aside


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


def _list_file(key: str, name: str) -> Path:
    if not Path(name).is_file():
        also = ", a number or a share such as 1/8" if key == "data.labeled" else ""
        raise ValueError(f"expected `{key}` to be a list of images{also}, got {name!r}, which is no file")
    return Path(name)


def _class_names(folder: Path, layout: str, class_file: str | None) -> list[str]:
    """From `class_file`, else the folder's `classes.txt` ("name" or "id name" a line, no 255), else the layout's."""
    path = folder / "classes.txt" if class_file is None else Path(class_file)
    if class_file is not None and not path.is_file():
        raise ValueError(f"expected `data.classes` to be a file with a class name a line, got {class_file!r}")
    if not path.is_file():
        return [entry.name for entry in cityscapes.CLASSES] if layout == "cityscapes" else list(VOC_CLASSES)
    lines = read_list(path)
    if all(line.split()[0].isdigit() for line in lines):
        lines = [line.split(maxsplit=1)[-1] for line in lines if int(line.split()[0]) != IGNORE_INDEX]
    return lines
