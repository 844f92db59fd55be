"""Folders of images and masks (PASCAL VOC's layout, CamVid's, the embedded digits), split lists, the check of it all.

`open_data` turns what the user typed into a `SegmentationData`: three lists of samples and the names of the classes.
`check` then reads every file once, before the first training step, and reports every fault together: a broken mask is
worth a line at the start and not a crash in the night.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from segmentation.digits import write_digit_scenes

IGNORE_INDEX = 255
IMAGE_ENDINGS = (".jpg", ".png", ".jpeg", ".bmp")
VOC_CLASSES = (
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person "
    "pottedplant sheep sofa train tvmonitor"
).split()


class Sample(NamedTuple):
    """Two files; `mask` is None where nobody has labeled the image."""

    image: Path
    mask: Path | None


class SegmentationData(NamedTuple):
    """A data set as the trainer sees it.

    Attributes:
        labeled, unlabeled: training samples. Masks of `unlabeled`, where there are any, are hidden from training and
            serve to measure pseudo-labels.
        test: samples to report on.
        held_out: training samples that no method sees, labeled or not: to choose settings on, never on `test`.
        class_names: C names, in the order of their ids.
        flip: whether a mirrored image is still of this world (a mirrored digit is not).
    """

    labeled: list[Sample]
    unlabeled: list[Sample]
    test: list[Sample]
    held_out: list[Sample]
    class_names: list[str]
    flip: bool


class SegmentationImages(Dataset):
    """Samples as tensors: image (3, H, W) uint8 and labels (H, W) uint8, after `view`, if one is given.

    With `hidden=True` true labels stay on disk: labels are 0, so that after a view 255 marks what it padded.
    """

    def __init__(self, samples: list[Sample], view=None, *, hidden: bool = False):
        self.samples, self.view, self.hidden = samples, view, hidden

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        sample = self.samples[index]
        image = read_image(sample.image)
        labels = torch.zeros(image.shape[-2:], dtype=torch.uint8) if self.hidden else read_mask(sample.mask)
        return (image, labels) if self.view is None else self.view(image, labels)


def read_image(path: Path) -> Tensor:
    """(3, H, W) uint8, RGB."""
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def read_mask(path: Path) -> Tensor:
    """(H, W) uint8 class ids: of a palette image the indices, never the colors."""
    with Image.open(path) as mask:
        if mask.mode not in ("P", "L"):
            raise ValueError(f"expected a mask of one 8-bit channel (palette or grey), got mode {mask.mode!r}")
        return torch.from_numpy(np.array(mask))


def open_data(
    data: str | None,
    labeled: str | None,
    seed: int,
    out: Path,
    class_file: str | None = None,
    scenes: tuple[int, int] | None = None,
    held_out: int = 0,
) -> SegmentationData:
    """The data set the user named.

    Args:
        data: a folder in VOC's or CamVid's layout, `camvid:FOLDER`, or None for the embedded digits, which are written
            below `out` once.
        labeled: a split list, or the number of labeled images to draw; None: a tenth of the training images.
        seed: draws the labeled images (and the embedded scenes); what it drew is saved as `out/labeled.txt`.
        out: the run's folder.
        class_file: names of the classes, one a line, where the folder has no `classes.txt`.
        scenes: numbers of embedded training and test scenes.
        held_out: number of training images, evenly spread over their list, that are set aside first.
    """
    embedded = data is None
    if embedded:
        scenes = scenes or (600, 100)
        folder = out / f"digits-{scenes[0]}-{scenes[1]}-seed{seed}"
        write_digit_scenes(folder, num_train=scenes[0], num_val=scenes[1], seed=seed)
    else:
        folder = Path(data.removeprefix("camvid:"))
    if not folder.is_dir():
        raise ValueError(f"expected `data` to be a folder, got {str(folder)!r}")
    if (folder / "trainannot").is_dir():
        train, test = _camvid_names(folder)
    elif (folder / "ImageSets" / "Segmentation" / "train.txt").is_file() and not str(data).startswith("camvid:"):
        train, test = _voc_names(folder)
    else:
        raise ValueError(
            f"expected `data` in VOC's layout (JPEGImages, SegmentationClass, ImageSets/Segmentation/train.txt) or "
            f"CamVid's (train, trainannot, test, testannot), found neither in {str(folder)!r}"
        )
    if not 0 <= held_out <= len(train) - 4:
        raise ValueError(f"expected `held_out` from 0 to {len(train) - 4} (of the training images), got {held_out}")
    aside = {train[number * len(train) // held_out] for number in range(held_out)}
    chosen, rest = _split([name for name in train if name not in aside], labeled, seed, out)
    return SegmentationData(
        [train_sample(folder, name) for name in chosen],
        [train_sample(folder, name) for name in rest],
        [train_sample(folder, name) for name in test],
        [train_sample(folder, name) for name in sorted(aside)],
        _class_names(folder, class_file),
        flip=not embedded,
    )


def train_sample(folder: Path, name: str) -> Sample:
    """The files of a line in a list: a VOC name, a CamVid name `split/NAME`, or a published `image mask` pair."""
    image, _, mask = name.partition(" ")
    if mask:
        return Sample(folder / image, folder / mask)
    if "/" in name:
        split, name = name.split("/", 1)
        image, mask = folder / split / name, folder / f"{split}annot" / f"{name}.png"
    else:
        image, mask = folder / "JPEGImages" / name, folder / "SegmentationClass" / f"{name}.png"
    endings = [ending for ending in IMAGE_ENDINGS if image.with_name(image.name + ending).exists()]
    return Sample(image.with_name(image.name + (endings or [".jpg"])[0]), mask)


def check(data: SegmentationData) -> None:
    """Read every file once and raise one `ValueError` that lists every fault; no faults, no return value."""
    num_classes = len(data.class_names)
    faults = []
    overlap = {sample.image for sample in data.labeled + data.unlabeled} & {sample.image for sample in data.test}
    faults += [f"{path}: is among the training images and the test images" for path in sorted(overlap)]
    seen = {sample.image for sample in data.labeled + data.unlabeled} & {sample.image for sample in data.held_out}
    faults += [f"{path}: is held out and among the training images" for path in sorted(seen)]
    for kind, samples in (
        ("labeled", data.labeled),
        ("unlabeled", data.unlabeled),
        ("test", data.test),
        ("held-out", data.held_out),
    ):
        if not samples and kind != "held-out":
            faults.append(f"no {kind} images")
        faults += [fault for sample in samples for fault in _faults_of(sample, num_classes, kind != "unlabeled")]
    if faults:
        shown = "\n  ".join(faults[:50])
        more = f"\n  ... and {len(faults) - 50} more" if len(faults) > 50 else ""
        raise ValueError(f"the data set has {len(faults)} fault(s):\n  {shown}{more}")


def usual_size(samples: list[Sample], most: int = 512, multiple: int = 16) -> tuple[int, int]:
    """A crop for these images: their median (height, width), at most `most`, in whole multiples of `multiple`."""
    sizes = np.median([read_image(sample.image).shape[-2:] for sample in samples], axis=0)
    height, width = (max(multiple, int(min(side, most)) // multiple * multiple) for side in sizes)
    return height, width


def with_masks(samples: list[Sample]) -> list[Sample]:
    """Those whose true labels exist."""
    return [sample for sample in samples if sample.mask is not None and sample.mask.exists()]


def _faults_of(sample: Sample, num_classes: int, needs_mask: bool) -> list[str]:
    faults, size = [], None
    try:
        size = tuple(read_image(sample.image).shape[-2:])
    except FileNotFoundError:
        faults.append(f"{sample.image}: missing")
    except OSError as error:  # PIL: UnidentifiedImageError and truncated files
        faults.append(f"{sample.image}: unreadable ({error})")
    if sample.mask is None or not sample.mask.exists():
        return [*faults, f"{sample.mask}: missing"] if needs_mask else faults
    try:
        mask = read_mask(sample.mask)
    except (OSError, ValueError) as error:
        return [*faults, f"{sample.mask}: unreadable ({error})"]
    if size is not None and tuple(mask.shape) != size:
        faults.append(f"{sample.mask}: is {tuple(mask.shape)}, its image is {size} (height, width)")
    strange = [int(label) for label in mask.unique() if label >= num_classes and label != IGNORE_INDEX]
    if strange:
        faults.append(f"{sample.mask}: ids {strange}, expected 0 to {num_classes - 1} or {IGNORE_INDEX}")
    return faults


def _read_list(path: Path) -> list[str]:
    """Lines of a list without blanks; many published ones lack a final newline, some end lines in spaces."""
    return [line.strip() for line in path.read_text().splitlines() if line.strip()]


def _voc_names(folder: Path) -> tuple[list[str], list[str]]:
    lists = folder / "ImageSets" / "Segmentation"
    if not (lists / "val.txt").is_file():
        raise ValueError(f"expected `data` to hold {lists / 'val.txt'}, which is missing")
    return _read_list(lists / "train.txt"), _read_list(lists / "val.txt")


def _camvid_names(folder: Path) -> tuple[list[str], list[str]]:
    """CamVid's train and test. Its val is one short clip of near-duplicates and its frames are left alone."""
    names = []
    for split in ("train", "test"):
        listed = folder / f"{split}.txt"
        stems = _read_list(listed) if listed.is_file() else sorted(path.stem for path in (folder / split).glob("*.*"))
        names.append([f"{split}/{stem}" for stem in stems])
    return names[0], names[1]


def _split(train: list[str], labeled: str | None, seed: int, out: Path) -> tuple[list[str], list[str]]:
    """Labeled and unlabeled names: read from a published list, or drawn from `train` and written down."""
    if labeled is not None and not labeled.isdigit():
        path = Path(labeled)
        if not path.is_file():
            raise ValueError(f"expected `labeled` to be a number or a list of image names, got {labeled!r}")
        chosen = _read_list(path)
        beside = path.with_name("unlabeled.txt")  # the field publishes the two together
        rest = _read_list(beside) if beside.is_file() and beside != path else train
    else:
        count = max(2, len(train) // 10) if labeled is None else int(labeled)
        if not 2 <= count < len(train):
            raise ValueError(f"expected `labeled` from 2 to {len(train) - 1} (of the training images), got {count}")
        chosen, rest = sorted(random.Random(seed).sample(train, count)), train
    taken = set(chosen)
    rest = [name for name in rest if name not in taken]
    out.mkdir(parents=True, exist_ok=True)
    (out / "labeled.txt").write_text("\n".join(chosen) + "\n")
    (out / "unlabeled.txt").write_text("\n".join(rest) + "\n")
    return chosen, rest


def _class_names(folder: Path, class_file: str | None) -> list[str]:
    """From `class_file`, else the folder's `classes.txt` ("name" or "id name" a line, 255 left out), else VOC's 21."""
    path = folder / "classes.txt" if class_file is None else Path(class_file)
    if class_file is not None and not path.is_file():
        raise ValueError(f"expected `classes` to be a file with a class name a line, got {class_file!r}")
    if not path.is_file():
        return list(VOC_CLASSES)
    lines = _read_list(path)
    if all(line.split()[0].isdigit() for line in lines):
        lines = [line.split(maxsplit=1)[-1] for line in lines if int(line.split()[0]) != IGNORE_INDEX]
    return lines
