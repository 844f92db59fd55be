"""Pictures of a run: labels pixel by pixel (Figs. 7, 8), their quality over training (Fig. 4), features (Fig. 5)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from torch import Tensor

matplotlib.use("Agg")  # a trainer has no screen

import matplotlib.pyplot as plt

from graphcorrect import plot
from graphcorrect.files.class_tables import Color
from graphcorrect.files.stored_masks import voc_colors
from segmentation import cityscapes
from segmentation.report import read_log


class CorrectionExample(NamedTuple):
    """One image: (3, H, W) uint8; truth, before, after (H, W) class ids."""

    image: Tensor
    truth: Tensor
    before: Tensor
    after: Tensor


def palette(layout: str) -> tuple[Color, ...]:
    """256 colors: Cityscapes' own for its train ids, VOC's for all others."""
    if layout != "cityscapes":
        return voc_colors()
    known = tuple(entry.color for entry in cityscapes.CLASSES)
    return known + ((0, 0, 0),) * (256 - len(known))


def draw_corrections(examples: list[CorrectionExample], path: Path, title: str, colors: Sequence[Color]) -> None:
    """A row an image: image, truth, pseudo-label before, after, and what the correction did."""
    if not examples:  # no unlabeled image has a hidden mask to compare with
        return
    columns = ("image", "truth (hidden)", "pseudo-label", "corrected", "fixed, broken, still wrong")
    height, width = examples[0].truth.shape
    size = (2.1 * len(columns), 2.1 * height / width * len(examples) + 0.8)
    figure, axes = plt.subplots(len(examples), len(columns), figsize=size, squeeze=False)
    for row, example in zip(axes, examples, strict=True):
        pictures = (
            example.image.permute(1, 2, 0).numpy(),
            colored(example.truth, colors),
            colored(example.before, colors),
            colored(example.after, colors),
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


def draw_grid(rows: list[list[Tensor]], names: list[str], path: Path, colors: Sequence[Color]) -> None:
    """Figs. 7, 8: a row an image, (3, H, W) uint8 first, then labels (H, W): truth and predictions; void is white."""
    height, width = rows[0][1].shape
    size = (2.4 * len(names), 2.4 * height / width * len(rows) + 0.4)
    figure, axes = plt.subplots(len(rows), len(names), figsize=size, squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        axis.set_title(name, fontsize=9, parse_math=False)  # a folder may be called $a_b$
    for row, (image, truth, *predictions) in zip(axes, rows, strict=True):
        row[0].imshow(image.permute(1, 2, 0).numpy())
        for axis, labels in zip(row[1:], (truth, *predictions), strict=True):
            picture = colored(labels, colors)
            picture[(truth == 255).numpy()] = 255  # where nothing is scored
            axis.imshow(picture, interpolation="nearest")
        for axis in row:
            axis.set_axis_off()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def colored(labels: Tensor, colors: Sequence[Color]) -> np.ndarray:
    """Class ids (H, W) in a palette's colors, (H, W, 3) uint8."""
    return np.array(colors, dtype=np.uint8)[labels.numpy().astype(np.uint8)]


def draw_curves(log: Path, path: Path, warmup: int) -> None:
    """Test score of student (dotted) and teacher (line) of every method over the steps, from the log alone.

    Dice where the log has it, else mIoU.
    """
    figure, axis = plt.subplots(figsize=(6.4, 4))
    key, name = _score_of(log, "teacher")
    for number, (method, points) in enumerate(_by_method(log, f"teacher_{key}").items()):
        steps = [entry["step"] for entry in points]
        axis.plot(steps, [100 * entry[f"teacher_{key}"] for entry in points], f"C{number}-o", ms=3, label=method)
        axis.plot(steps, [100 * entry[f"student_{key}"] for entry in points], f"C{number}:", lw=1)
    axis.axvline(warmup, color="0.7", lw=1)
    axis.set(xlabel="step (the grey line ends the shared warm-up)", ylabel=f"test {name}, teacher (dotted: student)")
    _finish(figure, axis, path)


def draw_quality(log: Path, path: Path) -> None:
    """Fig. 4: score of the teacher's pseudo-labels over training, and (dashed) of what the correction makes of them."""
    figure, axis = plt.subplots(figsize=(6.4, 4))
    score, name = _score_of(log, "pseudo_before")
    for number, (method, points) in enumerate(_by_method(log, f"pseudo_before_{score}").items()):
        for key, style, note in (("before", "-o", ""), ("after", "--s", ", corrected")):
            held = [entry for entry in points if entry.get(f"pseudo_{key}_{score}") is not None]
            if held:
                values = [100 * entry[f"pseudo_{key}_{score}"] for entry in held]
                axis.plot([entry["step"] for entry in held], values, f"C{number}{style}", ms=3, label=method + note)
    axis.set(xlabel="step", ylabel=f"{name} of pseudo-labels, against hidden true labels")
    _finish(figure, axis, path)


def draw_features(
    before: Tensor, after: Tensor, labels: Tensor, class_names: list[str], path: Path, seed: int = 0
) -> None:
    """Fig. 5: features in the plane by t-SNE, from the network and after the class-level graph; images (B, D, h, w)."""
    axes = plot.embedding(before, labels, after, class_names=class_names, seed=seed)
    axes[0].figure.savefig(path, dpi=110)
    plt.close(axes[0].figure)


Points = list[tuple[float, float]]  # of a setting, and the mIoU that it gave


def draw_sensitivity(ours: dict[str, Points], published: dict[str, Points], path: Path) -> None:
    """Figs. 3, 6: mIoU over one setting at a time, a panel each; the paper's points are hollow."""
    figure, axes = plt.subplots(1, len(ours), figsize=(3.4 * len(ours), 3), squeeze=False)
    for axis, (name, found) in zip(axes[0], ours.items(), strict=True):
        if name in published:
            axis.plot(*zip(*sorted(published[name]), strict=True), "-o", color="0.5", mfc="none", label="paper")
        axis.plot(*zip(*sorted(found), strict=True), "C0-o", label="ours")
        axis.set(xlabel=name, ylabel="test mIoU")
        axis.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _score_of(log: Path, what: str) -> tuple[str, str]:
    """Key and name of the score that a log has: Dice if it was asked for."""
    return ("dice", "Dice") if _by_method(log, f"{what}_dice") else ("miou", "mIoU")


def _by_method(log: Path, key: str) -> dict[str, list[dict]]:
    """The log's entries that have a key, by method."""
    found: dict[str, list[dict]] = {}
    for entry in read_log(log):
        if key in entry:
            found.setdefault(entry["method"], []).append(entry)
    return found


def _finish(figure, axis, path: Path) -> None:
    if axis.get_legend_handles_labels()[0]:
        axis.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
