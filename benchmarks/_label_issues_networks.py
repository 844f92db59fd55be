"""Out-of-sample predictions for labels that are partly wrong: two networks, each trained on half of the images.

The halves are contiguous, since neighboring frames of a video look alike, and each network is trained on the labels as
they are given, wrong ones included, as whoever has wrong labels must do.
"""

from __future__ import annotations

import functools
import hashlib
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from segmentation.networks import SegmentationNetwork
from segmentation.recipe import load
from torch import Tensor, nn

STEPS, BATCH, RATE, WIDTH = 250, 6, 3e-3, 64


class Decoder(nn.Module):
    """Levels of an encoder, each projected and normalized where it is coarse, summed at a quarter of the size."""

    def __init__(self, channels: list[int], num_classes: int):
        super().__init__()
        self.projections = nn.ModuleList(
            nn.Sequential(nn.Conv2d(entries, WIDTH, 1, bias=False), nn.BatchNorm2d(WIDTH)) for entries in channels
        )
        self.classifier = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(WIDTH, WIDTH, 1, bias=False),
            nn.BatchNorm2d(WIDTH),
            nn.ReLU(),
            nn.Conv2d(WIDTH, num_classes, 1),
        )

    def forward(self, levels: list[Tensor]) -> Tensor:
        projected = [project(level) for project, level in zip(self.projections, levels, strict=True)]
        size = projected[0].shape[-2:]
        return self.classifier(sum(F.interpolate(each, size, mode="bilinear") for each in projected))


class Networks:
    """What is common to all that are trained: the encoder's levels of every image and of its mirror image, once.

    Args:
        images: (n, 3, H, W) uint8.
        folder: where predictions are kept, by the checksum of the labels that they were learned from.
    """

    def __init__(self, images: Tensor, num_classes: int, folder: Path, steps: int = STEPS):
        self.images, self.num_classes, self.folder, self.steps = images, num_classes, folder, steps

    @functools.cached_property
    def levels(self) -> list[Tensor]:
        """Of each level (2, n, channels, h, w), the mirror images second."""
        encoder = SegmentationNetwork(self.num_classes, load("camvid_small", {}).network).eval()
        with torch.no_grad():
            sides = [
                [encoder.encode(image[None].float() / 255)[2:] for image in side]
                for side in (self.images, self.images.flip(-1))
            ]
        return [
            torch.stack([torch.cat(level).contiguous() for level in pair])
            for pair in zip(*[zip(*side, strict=True) for side in sides], strict=True)
        ]

    def predictions(self, labels: Tensor) -> Tensor:
        """Probabilities (n, C, H / 4, W / 4) float16, each image's by the network of the other half.

        Args:
            labels: (n, H, W) uint8, as given; 255 void.
        """
        digest = hashlib.sha256(labels.numpy().tobytes() + f"{self.steps} {RATE} {BATCH}".encode()).hexdigest()[:16]
        path = self.folder / f"{digest}.pt"
        if not path.is_file():
            first, second = halves(len(labels))
            by_second = self._answers(self._trained(labels, second, seed=0), first)
            by_first = self._answers(self._trained(labels, first, seed=1), second)
            self.folder.mkdir(parents=True, exist_ok=True)
            torch.save(torch.cat([by_second, by_first]), path)
        return torch.load(path, weights_only=True)

    def _trained(self, labels: Tensor, seen: range, seed: int) -> Decoder:
        """A decoder over the frozen encoder, with cross entropy at a quarter of the size."""
        torch.manual_seed(seed)
        network = Decoder([level.shape[2] for level in self.levels], self.num_classes)
        optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
        marks = torch.stack([labels, labels.flip(-1)])[..., 1::4, 1::4].long()
        for step in range(self.steps):
            for group in optimizer.param_groups:
                group["lr"] = RATE * min(1, (step + 1) / 20) * (0.5 + 0.5 * math.cos(math.pi * step / self.steps))
            numbers, mirrored = torch.randint(seen.start, seen.stop, (BATCH,)), torch.randint(2, (BATCH,))
            loss = F.cross_entropy(self._logits(network, numbers, mirrored), marks[mirrored, numbers], ignore_index=255)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return network.eval()

    @torch.no_grad()
    def _answers(self, network: Decoder, numbers: range) -> Tensor:
        plain = torch.zeros(1, dtype=torch.int64)
        return torch.cat([self._logits(network, plain + number, plain).softmax(1).half() for number in numbers])

    def _logits(self, network: Decoder, numbers: Tensor, mirrored: Tensor) -> Tensor:
        rows, columns = (-(-side // 4) for side in self.images.shape[2:])
        return network([level[mirrored, numbers] for level in self.levels])[..., :rows, :columns]


def halves(count: int) -> tuple[range, range]:
    """The first and the second half of the images."""
    return range(count // 2), range(count // 2, count)
