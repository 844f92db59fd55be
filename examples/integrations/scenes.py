"""What the integrations train on: handwritten digits from scikit-learn on patterned ground, made in memory at once.

Three classes: ground, the digit 0 and the digit 1. Ten scenes are labeled for training and thirty for looking up, since
pixels that a network has trained on give its own opinion back. Forty have no label; their truth is for measuring.
"""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import interpolate

from graphcorrect import metrics

NUM_CLASSES = 3
SIZE = 48
DIGIT = 20  # pixels; an 8x8 digit enlarged
TRAIN, LOOK_UP, UNLABELED = slice(0, 10), slice(10, 40), slice(40, 80)


def scenes(count: int = 80, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images (count, 3, 48, 48) float32 about zero, and labels (count, 48, 48) int64; no digit is in two scenes."""
    rng = np.random.default_rng(seed)
    digits = load_digits()
    drawn = rng.permutation(np.flatnonzero(digits.target < NUM_CLASSES - 1))
    images = np.empty((count, 3, SIZE, SIZE), dtype=np.float32)
    labels = np.zeros((count, SIZE, SIZE), dtype=np.int64)
    wave = np.sin(np.linspace(0, 4 * np.pi, SIZE))
    enlarged = np.linspace(0, 7, DIGIT).round().astype(int)
    for number in range(count):
        ground = 0.3 * np.outer(np.roll(wave, rng.integers(SIZE)), np.roll(wave, rng.integers(SIZE)))
        images[number] = rng.uniform(-0.3, 0.3, (3, 1, 1)) + ground + rng.normal(0, 0.25, (3, SIZE, SIZE))
        corners = rng.permutation([(0, 0), (0, 24), (24, 0), (24, 24)])[: rng.integers(2, 5)]
        for corner, index in zip(corners, drawn[4 * number :], strict=False):
            row, column = corner + rng.integers(0, SIZE // 2 - DIGIT, 2, endpoint=True)
            rows, columns = slice(row, row + DIGIT), slice(column, column + DIGIT)
            ink = digits.images[index][np.ix_(enlarged, enlarged)] / 16  # (20, 20) in [0, 1]
            images[number, :, rows, columns] += ink * rng.uniform(0.6, 1.4, (3, 1, 1))
            labels[number, rows, columns][ink > 0.3] = digits.target[index] + 1
    return torch.from_numpy(images), torch.from_numpy(labels)


class SmallNetwork(nn.Module):
    """Stands for your network: `backbone` (B, 3, H, W) -> (B, 32, H/2, W/2), and `classify` -> (B, C, H, W)."""

    def __init__(self, width: int = 32):
        super().__init__()
        layers: list[nn.Module] = []
        for dilation in (1, 1, 2, 4, 4):
            channels, stride = (width, 1) if layers else (3, 2)
            conv = nn.Conv2d(channels, width, 3, stride, padding=dilation, dilation=dilation, bias=False)
            layers += [conv, nn.BatchNorm2d(width), nn.ReLU()]
        self.backbone = nn.Sequential(*layers)
        self.head = nn.Conv2d(width, NUM_CLASSES, 1)

    def classify(self, features: Tensor) -> Tensor:
        return interpolate(self.head(features), scale_factor=2.0, mode="bilinear")

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(self.backbone(images))


def strong_view(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) in other colors and with more noise; every pixel stays in its place."""
    scale = torch.empty(len(images), 3, 1, 1).uniform_(0.6, 1.4)
    return images * scale + 0.2 * torch.randn(len(images), 3, 1, 1) + 0.15 * torch.randn_like(images)


def quality(name: str, before: Tensor, after: Tensor, truth: Tensor) -> metrics.CorrectionCounts:
    """Prints what a correction did to labels, and returns the counts."""
    counts = metrics.correction_counts(before, after, truth)
    iou = [metrics.mean_iou(metrics.confusion_matrix(labels, truth, NUM_CLASSES)) for labels in (before, after)]
    print(f"{name}: mIoU {iou[0]:.1%} -> {iou[1]:.1%}; {counts.fixed} labels fixed, {counts.broken} broken")
    return counts
