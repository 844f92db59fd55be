"""`graphcorrect demo`: a small network, a few labeled scenes, and what they make of its masks."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from graphcorrect import metrics
from graphcorrect.cli.console import in_words
from graphcorrect.cli.devices import find_device
from graphcorrect.cli.digits import CLASS_NAMES, SCENE_SIZE, scenes
from graphcorrect.corrector import SegmentationCorrector
from graphcorrect.files.faults import check_writable
from graphcorrect.files.stored_masks import voc_colors
from graphcorrect.labels import IGNORE_INDEX
from graphcorrect.plot.outcomes import corrections

BATCH, RATE, SHIFT, SHOWN = 8, 3e-3, 12, 4


class SmallNetwork(nn.Module):
    """An encoder of three levels and a decoder, 0.6 M parameters; logits at a quarter of the image."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.quarter = nn.Sequential(_convolution(3, 24, 2), _convolution(24, 48, 2), _convolution(48, 48))
        self.eighth = nn.Sequential(_convolution(48, 96, 2), _convolution(96, 96))
        self.sixteenth = nn.Sequential(_convolution(96, 128, 2), _convolution(128, 128))
        self.at_eighth = _convolution(128 + 96, 96)
        self.at_quarter = _convolution(96 + 48, 64)
        self.head = nn.Conv2d(64, num_classes, 1)

    def levels(self, images: Tensor) -> list[Tensor]:
        """Maps at 1/4, 1/8 and 1/16 of images (B, 3, H, W) in [0, 1]."""
        quarter = self.quarter(images - 0.5)
        eighth = self.eighth(quarter)
        return [quarter, eighth, self.sixteenth(eighth)]

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C, H / 4, W / 4)."""
        quarter, eighth, sixteenth = self.levels(images)
        decoded = self.at_eighth(torch.cat([_enlarged(sixteenth), eighth], 1))
        decoded = self.at_quarter(torch.cat([_enlarged(decoded), quarter], 1))
        logits: Tensor = self.head(decoded)
        return logits


class Levels(nn.Module):
    """The network's encoder alone: what pixels are looked up by."""

    def __init__(self, network: SmallNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> list[Tensor]:
        """The levels at 1/8 and 1/16."""
        return self.network.levels(images)[1:]


@in_words()
def run(args: argparse.Namespace) -> None:
    """The command."""
    args.device = find_device(args.device)
    check_writable(args.out)
    torch.manual_seed(args.seed)
    print(f"drawing {args.labeled} labeled scenes of handwritten digits, and {args.scenes} by other writers")
    labeled = [each.to(args.device) for each in scenes(args.labeled, "train", args.seed)]
    images, truth = (each.to(args.device) for each in scenes(args.scenes, "val", args.seed))
    network = trained(labeled[0], labeled[1], args.steps, args.seed)
    with torch.no_grad():
        logits = network(images)
    before = F.interpolate(logits.softmax(1), size=SCENE_SIZE, mode="bilinear").argmax(1)
    print("filling the corrector with the labeled scenes, and correcting the others")
    corrector = SegmentationCorrector(len(CLASS_NAMES), Levels(network), magnifications=(1.0, 2.0))
    corrector.to(args.device).fit(labeled[0], labeled[1])
    chunks = [
        corrector(images[n : n + 1], logits=logits[n : n + 1]).labels
        for n in tqdm(range(len(images)), "correcting", unit="scene", ncols=79)
    ]
    after = torch.cat(chunks)
    path = args.out / "demo.png"
    line = summary(before, after, truth)
    draw(path, line, *(each[:SHOWN].cpu() for each in (images, before, after, truth)))
    print(line)
    print(f"open {path}")


def trained(images: Tensor, labels: Tensor, steps: int, seed: int) -> SmallNetwork:
    """A network after so many steps on a few labeled scenes: good, and far from perfect."""
    network = SmallNetwork(len(CLASS_NAMES)).to(images.device).train()
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=max(2, steps))
    generator = torch.Generator().manual_seed(seed)
    for _ in tqdm(range(steps), "training a small network", unit="step", ncols=79):
        chosen = torch.randint(len(images), (BATCH,), generator=generator).to(images.device)
        down, right = torch.randint(-SHIFT, SHIFT + 1, (2,), generator=generator).tolist()
        gains = (0.8 + 0.4 * torch.rand(BATCH, 3, 1, 1, generator=generator)).to(images.device)
        batch = (images[chosen].roll((down, right), (2, 3)) * gains).clamp(0, 1)
        wanted = labels[chosen].roll((down, right), (1, 2))
        logits = F.interpolate(network(batch), size=batch.shape[-2:], mode="bilinear")
        loss = F.cross_entropy(logits, wanted, ignore_index=IGNORE_INDEX)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return network.eval()


def summary(before: Tensor, after: Tensor, truth: Tensor) -> str:
    """What was gained, in one line."""
    counts = metrics.correction_counts(before, after, truth)
    ious = [
        100 * metrics.mean_iou(metrics.confusion_matrix(labels, truth, len(CLASS_NAMES))) for labels in (before, after)
    ]
    return (
        f"{len(truth)} scenes: mIoU {ious[0]:.1f} -> {ious[1]:.1f}; {counts.fixed:,} labels fixed, "
        f"{counts.broken:,} broken"
    )


def draw(path: Path, title: str, images: Tensor, before: Tensor, after: Tensor, truth: Tensor) -> None:
    """A row a scene: the image, the network's mask, the corrected one, the truth, and what the correction did."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 2.1 * len(images) + 0.7), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    colors = torch.tensor(voc_colors(), dtype=torch.uint8)
    names = ("image", "network", "corrected", "truth", "green: fixed, red: broken")
    for row, (image, *masks) in enumerate(zip(images, before, after, truth, strict=True)):
        axes = [figure.add_subplot(len(images), len(names), len(names) * row + place + 1) for place in range(5)]
        axes[0].imshow(image.permute(1, 2, 0).numpy())
        for ax, mask in zip(axes[1:], masks, strict=False):
            ax.imshow(colors[mask].numpy(), interpolation="nearest")
        corrections(image, *masks, legend=False, ax=axes[4])
        for ax, name in zip(axes, names, strict=True):
            ax.set_axis_off()
            if row == 0:
                ax.set_title(name, fontsize=10)
    figure.savefig(path, dpi=110)


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def _enlarged(maps: Tensor) -> Tensor:
    return F.interpolate(maps, scale_factor=2.0, mode="bilinear")
