"""Cityscapes' classes: the table of cityscapesScripts that joins names, label ids, train ids and colors."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

IGNORED = 255
NUM_LABEL_IDS = 34  # 0 (unlabeled) to 33 (bicycle); the license plate, -1, is 255 in an 8-bit file


class CityscapesClass(NamedTuple):
    """One of the 19 classes that are trained and scored; its train id is its place in the table."""

    name: str
    label_id: int
    color: tuple[int, int, int]


CLASSES = (
    CityscapesClass("road", 7, (128, 64, 128)),
    CityscapesClass("sidewalk", 8, (244, 35, 232)),
    CityscapesClass("building", 11, (70, 70, 70)),
    CityscapesClass("wall", 12, (102, 102, 156)),
    CityscapesClass("fence", 13, (190, 153, 153)),
    CityscapesClass("pole", 17, (153, 153, 153)),
    CityscapesClass("traffic light", 19, (250, 170, 30)),
    CityscapesClass("traffic sign", 20, (220, 220, 0)),
    CityscapesClass("vegetation", 21, (107, 142, 35)),
    CityscapesClass("terrain", 22, (152, 251, 152)),
    CityscapesClass("sky", 23, (70, 130, 180)),
    CityscapesClass("person", 24, (220, 20, 60)),
    CityscapesClass("rider", 25, (255, 0, 0)),
    CityscapesClass("car", 26, (0, 0, 142)),
    CityscapesClass("truck", 27, (0, 0, 70)),
    CityscapesClass("bus", 28, (0, 60, 100)),
    CityscapesClass("train", 31, (0, 80, 100)),
    CityscapesClass("motorcycle", 32, (0, 0, 230)),
    CityscapesClass("bicycle", 33, (119, 11, 32)),
)


def has_label_ids(mask: Path) -> bool:
    """Whether a mask file holds the 34 label ids, which its name says, rather than the 19 train ids."""
    return mask.name.endswith("_labelIds.png")


def to_train_ids(label_ids: Tensor) -> Tensor:
    """Label ids (..., uint8) as train ids 0 to 18; all others, also ids that do not exist, become 255."""
    table = torch.full((256,), IGNORED, dtype=torch.uint8)
    for train_id, entry in enumerate(CLASSES):
        table[entry.label_id] = train_id
    return table[label_ids.long()]


def to_label_ids(train_ids: Tensor) -> Tensor:
    """Train ids (...) as the label ids that the benchmark's server takes, uint8; 255 becomes 0, unlabeled."""
    table = torch.zeros(256, dtype=torch.uint8)
    for train_id, entry in enumerate(CLASSES):
        table[train_id] = entry.label_id
    return table[train_ids.long()]
