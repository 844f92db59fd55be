"""Saved predictions of three images, with images, features and true masks, and `refine_masks` on them."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from graphcorrect.pixel_features import pixel_features

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

refine_masks = pytest.importorskip("refine_masks")

NAMES = ["a", "b", "city/c"]
CLASSES = 3


def scene(number):
    """A picture of three areas with their own colors, its labels, and probabilities wrong in a sixth of the pixels."""
    generator = torch.Generator().manual_seed(number)
    rows, columns = torch.meshgrid(torch.arange(18), torch.arange(24), indexing="ij")
    labels = (columns > 8 + number).long() + ((rows > 9) & (columns > 14)).long()
    palette = torch.tensor([[200, 40, 40], [40, 160, 60], [50, 60, 220]])
    image = palette[labels] + torch.randint(-12, 13, (18, 24, 3), generator=generator)
    wrong = torch.rand(18, 24, generator=generator) < 1 / 6
    predicted = torch.where(wrong, (labels + 1) % CLASSES, labels)
    probabilities = 0.1 + 0.7 * F.one_hot(predicted, CLASSES).permute(2, 0, 1).float()
    return image.clamp(0, 255).to(torch.uint8).numpy(), labels, predicted, probabilities / probabilities.sum(0)


def folders_in(tmp_path):
    """Predictions, images, features, and true masks of three images, one of them in a folder of its own."""
    for number, name in enumerate(NAMES):
        image, labels, predicted, probabilities = scene(number)
        features = pixel_features(torch.from_numpy(image).permute(2, 0, 1))
        for kind in ("probabilities", "masks", "images", "features", "truth"):
            (tmp_path / kind / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "probabilities" / f"{name}.npy", probabilities.numpy().astype(np.float16))
        np.savez(tmp_path / "features" / f"{name}.npz", features=features.numpy())
        Image.fromarray(predicted.numpy().astype(np.uint8)).save(tmp_path / "masks" / f"{name}.png")
        Image.fromarray(labels.numpy().astype(np.uint8)).save(tmp_path / "truth" / f"{name}.png")
        Image.fromarray(image).save(tmp_path / "images" / f"{name}.png")
    return tmp_path


def command(folders, *, predicted="probabilities", keys="images", out="out", more=()):
    arguments = ["--predictions", folders / predicted, f"--{keys}", folders / keys, "--out", folders / out]
    return [str(argument) for argument in (*arguments, "--neighbors", "8", "--device", "cpu", *more)]


def files_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
