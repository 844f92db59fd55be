"""Small data sets in the true layouts of VOC, SBD, Cityscapes and CamVid, and what the trainer's tests share."""

import multiprocessing
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from graphcorrect.files.stored_masks import voc_colors

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

digits = pytest.importorskip("graphcorrect.cli.digits")
cityscapes = pytest.importorskip("segmentation.cityscapes")
recipes = pytest.importorskip("segmentation.recipe")

# The smallest network that runs, whatever a recipe asks for; a few steps of tiny batches.
TINY = {
    "network.weights": "none",
    "network.feature_dim": 8,
    "network.decoder_channels": 16,
    "views.crop": (32, 32),
    "schedule.warmup": 2,
    "schedule.steps": 2,
    "schedule.labeled_batch": 2,
    "schedule.unlabeled_batch": 2,
    "refiner.neighbors": 4,
    "refiner.max_nodes": 64,
    "anchors.capacity": 50,
    "evaluation.times": 1,
    "evaluation.judged": 2,
    "evaluation.deployed": False,
    "running.log_every": 1,
    "running.device": "cpu",
}


def tiny(name="digits", **more):
    """A recipe cut down to seconds; keys with `__` for the dot."""
    return recipes.load(name, TINY | {key.replace("__", "."): value for key, value in more.items()})


def small(folder, **more):
    """A recipe of one supervised step after one of warm-up, on a folder in VOC's layout."""
    settings = {"data__folder": str(folder), "data__layout": "voc", "data__labeled": "4", "methods": ("supervised",)}
    return tiny(**settings | {"schedule__warmup": 1, "running__checkpoint_every": 1} | more)


def process(target, *arguments):
    """A started process that has the trainer imported: forked from a server that did so once, and has run nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["segmentation.command"])
    started = context.Process(target=target, args=arguments)
    started.start()
    return started


def same(first, second):
    """Whether two checkpoints are equal to the bit, whatever nests in them."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(same(a, b) for a, b in zip(first, second, strict=True))
    return first == second


def pictures(count, size, num_ids, seed=0):
    """Images (H, W, 3) and masks (H, W): blocks of ids, each in a color of its own, so that there is much to see."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        blocks = rng.integers(num_ids, size=(4, 4))
        mask = np.kron(blocks, np.ones((size[0] // 4, size[1] // 4), int)).astype(np.uint8)
        image = mask[..., None].astype(int) * (9, 31, 57) % 230 + rng.integers(0, 25, (*mask.shape, 3))
        yield image.astype(np.uint8), mask


def write_voc(folder, train=8, val=3, augmented=0, size=(40, 48)):
    """VOC 2012: JPEG images, palette masks with 255 along borders, lists; `augmented` images have SBD's masks only."""
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    names = [f"2007_{number:06d}" for number in range(train + val)]
    more = [f"2008_{number:06d}" for number in range(augmented)]
    for name, (image, mask) in zip(names + more, pictures(train + val + augmented, size, 21), strict=True):
        Image.fromarray(image).save(folder / "JPEGImages" / f"{name}.jpg")
        mask[::10] = 255
        picture = Image.fromarray(mask, mode="P")
        picture.putpalette(np.array(voc_colors(), np.uint8).tobytes())
        if name in more:
            (folder / "SegmentationClassAug").mkdir(exist_ok=True)
            Image.fromarray(mask).save(folder / "SegmentationClassAug" / f"{name}.png")  # grey, as it is published
        else:
            picture.save(folder / "SegmentationClass" / f"{name}.png")
    lists = folder / "ImageSets/Segmentation"
    (lists / "train.txt").write_text("\n".join(names[:train]))  # no final newline
    (lists / "val.txt").write_text("\n".join(names[train:]) + "\n")
    return folder


def write_cityscapes(folder, train=8, val=3, size=(48, 96)):
    """Cityscapes fine: cities, 8-bit label ids (0 to 33), no train ids, as it is downloaded."""
    for number, (image, mask) in enumerate(pictures(train + val, size, 34)):
        split, city = ("train", ("aachen", "bremen")[number % 2]) if number < train else ("val", "lindau")
        name = f"{city}_{number:06d}_000019"
        for kind in ("leftImg8bit", "gtFine"):
            (folder / kind / split / city).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png")
        Image.fromarray(mask).save(folder / "gtFine" / split / city / f"{name}_gtFine_labelIds.png")
    return folder


def write_camvid(folder, train=8, test=3, size=(48, 64)):
    """CamVid as it is passed around: split folders, masks of ids beside them, names of the classes."""
    for split, count in (("train", train), ("test", test)):
        for kind in (split, f"{split}annot"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
        for number, (image, mask) in enumerate(pictures(count, size, 11)):
            Image.fromarray(image).save(folder / split / f"{number:04d}.jpg")
            Image.fromarray(mask).save(folder / f"{split}annot" / f"{number:04d}.png")
    (folder / "classes.txt").write_text("\n".join(f"{number} class {number}" for number in range(11)) + "\n255 void\n")
    return folder


def write_volumes(folder, sizes=((40, 48), (40, 48), (48, 36))):
    """Grey slices of volumes in the layout `pairs`, as ACDC's are: lists of patients, names of four classes."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    lists = {"train": range(5), "val": range(5, 7), "test": range(7, 9)}
    for split, patients in lists.items():
        names = [f"patient{patient:03d}_frame01_slice{number:02d}" for patient in patients for number in range(2)]
        for number, name in enumerate(names):
            size = sizes[number // 2 % len(sizes)]
            image, mask = next(pictures(1, size, 4, seed=hash_of(name)))
            Image.fromarray(image).convert("L").save(folder / "images" / f"{name}.png")
            Image.fromarray(mask).save(folder / "masks" / f"{name}.png")
        (folder / f"{split}.txt").write_text("\n".join(names))
        if split == "train":
            (folder / "labeled_3cases.txt").write_text("\n".join(names[:4]))
    (folder / "classes.txt").write_text("0 background\n1 right ventricle\n2 myocardium\n3 left ventricle\n")
    return folder


def hash_of(name):
    """A seed that is the same in every process."""
    return sum(name.encode())
