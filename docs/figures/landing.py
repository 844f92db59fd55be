"""Draws docs/images/landing.png: `python docs/figures/landing.py`.

The network, its training and the correction are those of `examples/integrations/smp_loop.py`. Of the forty unlabeled
scenes the one is drawn in which most labels are fixed; the numbers below the picture are those of all forty.
"""

import sys
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F

matplotlib.use("Agg")
sys.path.insert(0, str(Path(__file__).parents[2] / "examples/integrations"))

import matplotlib.pyplot as plt
import segmentation_models_pytorch as smp
from scenes import LOOK_UP, NUM_CLASSES, TRAIN, UNLABELED, quality, scenes
from smp_loop import features_and_logits

from graphcorrect import AnchorBank, ClassConsistencyGraph, DualGraphRefiner, KNNAffinity, nodes, plot

COLORS = np.array([(0.13, 0.13, 0.16), (0.90, 0.62, 0.0), (0.34, 0.71, 0.91)])  # ground, zero, one
GRID = (24, 24)


def trained_network(images: torch.Tensor, labels: torch.Tensor) -> smp.Unet:
    torch.manual_seed(0)
    model = smp.Unet(
        "resnet18", encoder_weights=None, encoder_depth=3, decoder_channels=(64, 32, 32), classes=NUM_CLASSES
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(40):
        batch = torch.randint(len(labels[TRAIN]), (8,))
        loss = F.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@torch.no_grad()
def draw(path: Path) -> None:
    images, labels = scenes()
    with torch.enable_grad():
        model = trained_network(images, labels)
    anchors = AnchorBank(NUM_CLASSES, feature_dim=32)
    anchors.update(F.avg_pool2d(features_and_logits(model, images[LOOK_UP])[0], 2), labels[LOOK_UP])
    features, logits = features_and_logits(model, images[UNLABELED])
    out = DualGraphRefiner(NUM_CLASSES, 32, max_nodes=GRID[0] * GRID[1])(features, logits, anchors=anchors)
    before, after, truth = logits.argmax(1), out.pseudo_labels, labels[UNLABELED]
    quality("all forty scenes", before, after, truth)

    was_fixed = (before != truth) & (after == truth)
    chosen = int(was_fixed.flatten(1).sum(1).argmax())
    image = ((images[UNLABELED][chosen] + 1) / 2.6).clamp(0, 1)
    # The fixed pixel farthest from one that was not: a neighborhood to look at, and not a speck.
    depth = was_fixed[chosen][None, None].float()
    for _ in range(8):
        depth = depth + F.avg_pool2d(depth, 3, 1, 1)
    row, column = divmod(int((depth[0, 0] * was_fixed[chosen]).argmax()), truth.shape[-1])
    semantic = KNNAffinity(num_neighbors=20)(nodes.image_to_nodes(out.features[0][chosen][None]))
    coarse = nodes.pool_maps(out.probabilities[1][chosen][None], GRID)
    by_class = ClassConsistencyGraph()(nodes.image_to_nodes(coarse))

    _, axes = plt.subplots(2, 3, figsize=(9, 6.5), layout="constrained")
    axes[0, 0].imshow(COLORS[before[chosen]])
    axes[0, 0].plot(column, row, "P", ms=13, mfc="#D55E00", mec="white", mew=1.5)
    plot.neighbors(image, semantic, (row, column), legend=False, ax=axes[0, 1])
    plot.neighbors(image, by_class, (row, column), num_edges=60, legend=False, ax=axes[0, 2])
    axes[1, 0].imshow(COLORS[after[chosen]])
    plot.corrections(image, before[chosen], after[chosen], truth[chosen], legend=False, ax=axes[1, 1])
    axes[1, 2].imshow(COLORS[truth[chosen]])
    titles = (
        "1. what the network says",
        "2. pixels that look like the cross",
        "3. pixels now taken for its class",
        "4. corrected",
        "5. fixed (green), broken (red)",
        "6. the truth",
    )
    for axis, title in zip(axes.flat, titles, strict=True):
        axis.set_title(title, fontsize=13)
        axis.set_axis_off()
    plt.savefig(path, dpi=90)


if __name__ == "__main__":
    draw(Path(__file__).parents[1] / "images/landing.png")
