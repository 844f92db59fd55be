"""Pictures of a run: pseudo-labels before and after correction, pixel by pixel, and how the methods went."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from torch import Tensor

matplotlib.use("Agg")  # a trainer has no screen

import matplotlib.pyplot as plt

from graphcorrect import plot
from segmentation.digits import voc_palette


class CorrectionExample(NamedTuple):
    """One image: (3, H, W) uint8; truth, before, after (H, W) class ids."""

    image: Tensor
    truth: Tensor
    before: Tensor
    after: Tensor


def draw_corrections(examples: list[CorrectionExample], path: Path, title: str) -> None:
    """A row an image: image, truth, pseudo-label before, after, and what the correction did."""
    columns = ("image", "truth (hidden)", "pseudo-label", "corrected", "fixed, broken, still wrong")
    height, width = examples[0].truth.shape
    size = (2.1 * len(columns), 2.1 * height / width * len(examples) + 0.8)
    figure, axes = plt.subplots(len(examples), len(columns), figsize=size, squeeze=False)
    for row, example in zip(axes, examples, strict=True):
        pictures = (
            example.image.permute(1, 2, 0).numpy(),
            colored(example.truth),
            colored(example.before),
            colored(example.after),
        )
        for axis, picture in zip(row, pictures, strict=False):  # the last axis is left for the outcome
            axis.imshow(picture, interpolation="nearest")
            axis.set_axis_off()
        plot.corrections(example.image, example.before, example.after, example.truth, legend=False, ax=row[-1])
    for axis, name in zip(axes[0], columns, strict=True):
        axis.set_title(name, fontsize=9)
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def colored(labels: Tensor) -> np.ndarray:
    """Class ids (H, W) in VOC's colors, (H, W, 3) uint8."""
    return np.array(voc_palette(), dtype=np.uint8).reshape(256, 3)[labels.numpy().astype(np.uint8)]


def draw_curves(log: Path, path: Path, warmup: int) -> None:
    """Test mIoU of student (thin) and teacher (thick) of every method over the steps, from the log alone."""
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    figure, axis = plt.subplots(figsize=(6.4, 4))
    for number, method in enumerate(dict.fromkeys(entry["method"] for entry in entries if "teacher_miou" in entry)):
        points = [entry for entry in entries if entry["method"] == method and "teacher_miou" in entry]
        steps = [entry["step"] for entry in points]
        axis.plot(steps, [100 * entry["teacher_miou"] for entry in points], f"C{number}-o", ms=3, label=method)
        axis.plot(steps, [100 * entry["student_miou"] for entry in points], f"C{number}:", lw=1)
    axis.axvline(warmup, color="0.7", lw=1)
    axis.set(xlabel="step (the grey line ends the shared warm-up)", ylabel="test mIoU, teacher (dotted: student)")
    axis.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
