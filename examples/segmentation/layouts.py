"""From a folder to a data set: PASCAL VOC (with SBD's masks), Cityscapes, CamVid, pairs, the embedded digits."""

from __future__ import annotations

from pathlib import Path

from graphcorrect.files.class_names import read_class_names
from graphcorrect.files.folders import without
from graphcorrect.files.images import IMAGE_ENDINGS
from graphcorrect.files.label_maps import LabelMap, find_label_map, read_label_map
from segmentation import cityscapes
from segmentation.datasets import VOC_CLASSES, SegmentationData
from segmentation.digits import write_digit_scenes
from segmentation.lists import Listed, Samples, read_list
from segmentation.recipe import Data
from segmentation.recipe_files import is_list
from segmentation.spelling import is_there, pictures_in
from segmentation.split import Split, draw_split, list_file, write_split

LISTS = Path("ImageSets/Segmentation")  # of VOC


def open_data(
    settings: Data, seed: int, out: Path, *, write: bool = True, goes_on: bool = False, only_test: bool = False
) -> SegmentationData:
    """The data set that a recipe names.

    Args:
        settings: the recipe's section.
        seed: draws the labeled images (and the embedded scenes); the split is saved as `labeled.txt` and
            `unlabeled.txt` in `out`, in the form in which it can be read again.
        out: the run's folder.
        write: whether to write the lists; of several processes, one does.
        goes_on: the lists of a run that goes on are never written anew, and must say the same.
        only_test: leave out all other images, of which an evaluation needs none; nothing is written.
    """
    folder, layout = find_folder(settings, seed, out)
    samples = Samples(folder, layout)
    named = [] if settings.test is None else samples.read(list_file("data.test", settings.test, folder))
    train, test = _pairs(folder, samples, named) if layout == "pairs" else LAYOUTS[layout](folder, samples)
    test = named or test
    if not (train or only_test or is_list(settings.labeled)):
        raise ValueError(f"expected images to train on in {folder}, found none but those of other lists")
    split = Split([], [], [], []) if only_test else draw_split(settings, train, seed, samples)
    if samples.faults:
        raise ValueError("\n  ".join(["a name may stand for several images:", *samples.faults]))
    if write and not only_test:
        write_split(split, out, goes_on=goes_on)
    label_map, names_from, notes = _classes(folder, layout, settings.classes)
    means = label_map if label_map.colors or label_map.ids else None
    parts = [
        [listed.sample._replace(label_map=means) for listed in part]
        for part in (split.labeled, split.unlabeled, test, split.held_out)
    ]
    return SegmentationData(
        *parts, list(label_map.names), layout, folder, names_from, samples.origin, split.notes + notes
    )


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
    marks = {"camvid": folder / "trainannot", "cityscapes": folder / "leftImg8bit", "voc": folder / LISTS,
             "pairs": folder / "images"}  # fmt: skip
    found = [layout for layout, mark in marks.items() if is_there(mark)]
    if settings.layout == "auto" and found:
        return folder, found[0]
    if settings.layout in found:
        return folder, settings.layout
    raise ValueError(
        "expected `data.folder` in the layout of VOC (JPEGImages, SegmentationClass, ImageSets/Segmentation/train.txt)"
        ", Cityscapes (leftImg8bit, gtFine), CamVid (train, trainannot, test, testannot) or pairs (images, masks)"
        f"{'' if settings.layout == 'auto' else f', here {settings.layout}'}; found no such thing in {str(folder)!r}"
    )


def _voc(folder: Path, samples: Samples) -> tuple[list[Listed], list[Listed]]:
    """VOC's train and val; with SBD's masks there, all that have one and are not in val: 10582 of them."""
    lists = folder / LISTS
    if not (lists / "val.txt").is_file():
        raise ValueError(f"expected `data.folder` to hold {lists / 'val.txt'}, which is missing")
    test = samples.read(lists / "val.txt")
    for name in ("train_aug.txt", "trainaug.txt"):
        if is_there(lists / name):
            return samples.read(lists / name), test
    train = samples.read(lists / "train.txt") if is_there(lists / "train.txt") else []  # evaluations need none
    masks = [(folder / "SegmentationClassAug", (".png",)), (folder / "cls", (".mat",))]
    more = {without(name, endings) for place, endings in masks for name in pictures_in(place, endings)}
    if not more:
        return train, test
    held = {listed.sample.image for listed in train + test}
    others = [listed for listed in samples.of(sorted(more), "SBD's masks") if listed.sample.image not in held]
    in_test = {listed.sample.image for listed in test}
    return sorted(listed for listed in train + others if listed.sample.image not in in_test), test


def _cityscapes(folder: Path, samples: Samples) -> tuple[list[Listed], list[Listed]]:
    """Cityscapes' fine train (2975) and val (500); its test labels are not public."""
    found = []
    for split in ("train", "val"):
        root = folder / "leftImg8bit" / split
        cities = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
        lines = [
            f"leftImg8bit/{split}/{city.name}/{name}"
            for city in cities
            for name in pictures_in(city, ("_leftimg8bit.png",))
        ]
        found.append(samples.of(lines, str(root)))
    return found[0], found[1]


def _camvid(folder: Path, samples: Samples) -> tuple[list[Listed], list[Listed]]:
    """CamVid's train and test. Its val is one short clip of near-duplicates and its frames are left alone."""
    found = []
    for split in ("train", "test"):
        listed = folder / f"{split}.txt"
        names = read_list(listed) if is_there(listed) else pictures_in(folder / split, IMAGE_ENDINGS)
        lines = [
            name if "/" in name or name.startswith("#") else f"{split}/{without(name, IMAGE_ENDINGS)}" for name in names
        ]
        found.append(samples.of(lines, str(listed if is_there(listed) else folder / split), first=split))
    return found[0], found[1]


def _pairs(folder: Path, samples: Samples, named: list[Listed]) -> tuple[list[Listed], list[Listed]]:
    """`train.txt` and `test.txt` (else `val.txt`), or folders of these names in `images`.

    Without a list of training images these are all that no other list names, nor the one in the settings (`named`).
    """
    found: dict[str, list[Listed]] = {}
    for split in ("train", "val", "test"):
        listed, inside = folder / f"{split}.txt", folder / "images" / split
        if is_there(listed):
            found[split] = samples.read(listed)
        elif inside.is_dir():
            lines = [f"images/{split}/{name}" for name in pictures_in(inside, IMAGE_ENDINGS)]
            found[split] = samples.of(lines, str(inside), first=split)
    if "train" not in found:
        lines = [f"images/{name}" for name in pictures_in(folder / "images", IMAGE_ENDINGS)]
        taken = {listed.sample.image for part in (*found.values(), named) for listed in part}
        every = samples.of(lines, str(folder / "images"))
        found["train"] = [listed for listed in every if listed.sample.image not in taken]
    return found["train"], found.get("test", found.get("val", []))


LAYOUTS = {"digits": _voc, "voc": _voc, "cityscapes": _cityscapes, "camvid": _camvid}


def _classes(folder: Path, layout: str, class_file: str | None) -> tuple[LabelMap, str, list[str]]:
    """From `class_file`, else the folder's `classes.txt`, else the layout's; whose they are; notes on how they read.

    In `pairs` the file says also which colors or ids stand for the classes in masks.
    """
    usual = find_label_map(folder) if layout == "pairs" else None
    path = usual or folder / "classes.txt" if class_file is None else Path(class_file)
    if class_file is not None and not path.is_file():
        raise ValueError(f"expected `data.classes` to be a file with a class name a line, got {class_file!r}")
    if is_there(path) and layout == "pairs" and path.suffix.lower() in (".yaml", ".yml", ".json"):
        return read_label_map(path), str(path), []
    if is_there(path):
        names, notes = read_class_names(path)
        return read_label_map(path) if layout == "pairs" else LabelMap(tuple(names)), str(path), notes
    if layout == "cityscapes":
        return LabelMap(tuple(entry.name for entry in cityscapes.CLASSES)), "Cityscapes", []
    if layout == "pairs":
        raise ValueError(
            f"expected the names of the classes in {folder} (classes.txt, a name a line; labelmap.txt), found none; "
            "`data.classes` (--classes) names another file"
        )
    return LabelMap(tuple(VOC_CLASSES)), "VOC (there is no classes.txt)", []
