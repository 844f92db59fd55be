"""One small data set in every layout that people's tools have: three images in two splits, masks of three classes."""

import numpy as np
import torch
from PIL import Image

from graphcorrect.files import LabelMap, write_dataset_yaml, write_label_map, write_mask

MAP = LabelMap(("background", "road", "car"))
COLORED = LabelMap(MAP.names, {(0, 0, 0): 0, (128, 64, 128): 1, (0, 0, 142): 2})
NAMES = {"train": ["a", "b"], "val": ["c"]}


def labels_of(name):
    return torch.tensor([[ord(name) % 3, 1, 2], [2, 0, 255]])


def write_pair(image, mask, form="grey", label_map=MAP):
    """An image and, unless None, its mask."""
    image.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(image)
    if mask is not None:
        mask.parent.mkdir(parents=True, exist_ok=True)
        write_mask(mask, labels_of(mask.stem), label_map, form=form)


def flat(root):
    for name in "abc":
        write_pair(root / f"images/{name}.jpg", root / f"masks/{name}.png")
    for split, names in NAMES.items():
        (root / f"{split}.txt").write_text("\n".join(names))
    (root / "classes.txt").write_text("\n".join(MAP.names))
    return root


def splits_inside(root):
    for split, names in NAMES.items():
        for name in names:
            write_pair(root / f"images/{split}/{name}.jpg", root / f"masks/{split}/{name}.png", "palette")
    (root / "classes.txt").write_text("0 background\n1 road\n2 car\n255 void\n")
    return root


def splits_around(root):
    for split, names in NAMES.items():
        for name in names:
            write_pair(root / f"{split}/images/{name}.png", root / f"{split}/masks/{name}.png", "grey16")
    write_label_map(root / "classes.txt", MAP)
    return root


def ultralytics(root):
    for split, names in NAMES.items():
        for name in names:
            write_pair(root / f"data/images/{split}/{name}.jpg", root / f"data/masks/{split}/{name}.png")
    (root / "data.yaml").write_text(
        "path: data\ntrain: images/train\nval: images/val\nmasks_dir: masks\nnames: {0: background, 1: road, 2: car}\n"
    )
    return root / "data.yaml"


def ultralytics_lists(root):
    ultralytics(root)
    for split, names in NAMES.items():
        (root / f"data/{split}.txt").write_text("".join(f"./images/{split}/{name}.jpg\n" for name in names))
    (root / "data.yaml").write_text("path: data\ntrain: train.txt\nval: [val.txt]\nnames: [background, road, car]\n")
    return root / "data.yaml"


def lightly(root):
    splits_around(root)
    write_dataset_yaml(
        root / "data.yaml", MAP, {split: f"{split}/images" for split in NAMES}, masks="masks", form="lightly"
    )
    return root / "data.yaml"


def voc(root):
    for name in "abc":
        write_pair(root / f"JPEGImages/{name}.jpg", root / f"SegmentationClass/{name}.png", "palette", COLORED)
    lists = root / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    for split, names in NAMES.items():
        (lists / f"{split}.txt").write_text("\n".join(names))
    write_label_map(root / "labelmap.txt", COLORED)
    return root


LAYOUTS = [flat, splits_inside, splits_around, ultralytics, ultralytics_lists, lightly, voc]
