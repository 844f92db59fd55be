"""Draws docs/images/concepts.png and rounds.png: `python docs/figures/concepts.py`.

The scene is one of the embedded digits, its features are simple ones of pixels, and the errors are put in by hand; what
the graphs make of them is computed.
"""

import sys
import tempfile
from pathlib import Path

import matplotlib
import numpy as np
import torch
from torch import Tensor

matplotlib.use("Agg")
sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch
from segmentation.datasets import read_mask
from segmentation.digits import write_digit_scenes

from graphcorrect import ClassConsistencyGraph, DualGraphRefiner, KNNAffinity, nodes, plot
from graphcorrect.cli.digits import CLASS_NAMES
from graphcorrect.files.images import read_image
from graphcorrect.files.stored_masks import voc_colors
from graphcorrect.pixel_features import pixel_features

IMAGES = Path(__file__).parents[1] / "images"
GRID = (48, 48)
SCENE = "train_0001"
PIXEL = (52, 28)  # in the ring of the zero


def scene() -> tuple[Tensor, Tensor]:
    """An image (3, H, W) uint8 and its true labels (H, W)."""
    with tempfile.TemporaryDirectory() as folder:
        voc = write_digit_scenes(Path(folder) / "voc", num_train=2, num_val=1)
        labels = read_mask(voc / "SegmentationClass" / f"{SCENE}.png").long()
        return read_image(voc / "JPEGImages" / f"{SCENE}.jpg"), labels


def with_errors(labels: Tensor, share: float = 0.3) -> Tensor:
    """Probabilities (1, C, H, W) that take 2x2 blocks for another class, at random."""
    generator = torch.Generator().manual_seed(0)
    present = labels[labels != 255].unique()
    wrong = torch.rand(GRID, generator=generator) < share
    other = present[torch.randint(len(present), GRID, generator=generator)]
    wrong, other = (maps.repeat_interleave(2, 0).repeat_interleave(2, 1) for maps in (wrong, other))
    predicted = torch.where(wrong, other, torch.where(labels == 255, 0, labels))
    one_hot = torch.nn.functional.one_hot(predicted, len(CLASS_NAMES)).permute(2, 0, 1).float()
    return (0.02 + 0.78 * one_hot)[None]


def draw_concepts(path: Path) -> None:
    image, truth = scene()
    probabilities = with_errors(truth)
    features = nodes.pool_maps(pixel_features(image)[None], GRID)
    coarse = nodes.pool_maps(probabilities, GRID)
    refiner = DualGraphRefiner(len(CLASS_NAMES), features.shape[1])
    out = refiner(features, coarse.log())
    after = out.pseudo_labels[0].repeat_interleave(2, 0).repeat_interleave(2, 1)
    before = probabilities.argmax(1)[0]

    _, axes = plt.subplots(2, 3, figsize=(10, 7.6), layout="constrained")
    palette = np.array(voc_colors(), dtype=np.uint8)
    axes[0, 0].imshow(image.permute(1, 2, 0).numpy())
    axes[0, 0].set_title("1. an image nobody has labeled")
    axes[0, 1].imshow(palette[before.numpy()])
    axes[0, 1].set_title("2. what the network says: a color a class")
    semantic = KNNAffinity(num_neighbors=20)(nodes.image_to_nodes(features))
    plot.neighbors(image, semantic, PIXEL, legend=False, ax=axes[0, 2])
    axes[0, 2].set_title("3. semantic-level graph:\nthe 20 pixels most like the cross")
    # The second graph is built from what the first one corrected.
    by_class = ClassConsistencyGraph()(nodes.image_to_nodes(out.probabilities[1]))
    plot.neighbors(image, by_class, PIXEL, num_edges=100, legend=False, ax=axes[1, 0])
    axes[1, 0].set_title("4. class-level graph: 100 of the pixels\nnow taken for the same as the cross")
    axes[1, 1].imshow(palette[after.numpy()])
    axes[1, 1].set_title("5. corrected labels")
    plot.corrections(image, before, after, truth, legend=False, ax=axes[1, 2])
    axes[1, 2].set_title("6. fixed (green), broken (red)\nand changed where truth is void (blue)")
    for axis in axes.flat:
        axis.set_axis_off()
        axis.title.set_fontsize(10.5)
    save(path)


def draw_rounds(path: Path) -> None:
    _, axis = plt.subplots(figsize=(8.6, 3.4), layout="constrained")
    axis.set(xlim=(0, 8.6), ylim=(0, 3.4))
    axis.set_axis_off()
    blue, green = "#0072B2", "#007A5A"
    boxes = (
        ((0.1, 2.35), "features", "what a pixel looks like", blue),
        ((5.6, 2.35), "semantic-level graph", "joins pixels that look alike", blue),
        ((5.6, 0.15), "class probabilities", "what a pixel is taken for", green),
        ((0.1, 0.15), "class-level graph", "joins pixels taken for the same", green),
    )
    for (x, y), name, meaning, color in boxes:
        axis.add_patch(FancyBboxPatch((x, y), 2.8, 0.9, boxstyle="round,pad=0.05", fc="white", ec=color, lw=1.8))
        axis.text(x + 1.4, y + 0.62, name, ha="center", va="center", fontsize=11, fontweight="bold", color=color)
        axis.text(x + 1.4, y + 0.26, meaning, ha="center", va="center", fontsize=9.5)
    arrows = (
        ((3.0, 2.8), (5.5, 2.8), (4.25, 2.92), "1. nearest neighbors", "center"),
        ((7.0, 2.25), (7.0, 1.15), (6.9, 1.7), "2. averages the probabilities:\nlabels are corrected", "right"),
        ((5.5, 0.6), (3.0, 0.6), (4.25, 0.72), "3. same class", "center"),
        ((1.5, 1.15), (1.5, 2.25), (1.6, 1.7), "4. averages the features:\nclasses are tightened", "left"),
    )
    for start, end, place, text, side in arrows:
        arrow = {"arrowstyle": "-|>", "lw": 1.6, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 15, "color": "0.3"}
        axis.annotate("", end, start, arrowprops=arrow)
        axis.text(*place, text, ha=side, va="bottom" if side == "center" else "center", fontsize=9.5)
    save(path)


def save(path: Path) -> None:
    plt.savefig(path, dpi=110)
    plt.close()


if __name__ == "__main__":
    torch.manual_seed(0)
    draw_concepts(IMAGES / "concepts.png")
    draw_rounds(IMAGES / "rounds.png")
