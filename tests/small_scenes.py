"""Scenes and an encoder to try the one call with."""

import torch
import torch.nn.functional as F
from torch import nn

from graphcorrect import SegmentationCorrector

CLASSES, SIZE = 3, (34, 46)  # no multiple of anything


class Levels(nn.Module):
    """Maps at 1/2, 1/8 and 1/16, as encoders give them."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 2, stride=2)
        self.middle = nn.Conv2d(4, 6, 4, stride=4)
        self.last = nn.Conv2d(6, 5, 2, stride=2)

    def forward(self, images):
        first = self.stem(images)
        second = self.middle(first).relu()
        return [first, second, self.last(second)]


def scenes(count, size=SIZE):
    """Images of areas with a color of their own, and their labels."""
    generator = torch.Generator().manual_seed(count)
    labels = torch.randint(CLASSES, (count, 1, 3, 4), generator=generator).float()
    labels = F.interpolate(labels, size=size, mode="nearest")[:, 0].long()
    palette = torch.rand(CLASSES, 3, generator=generator)
    noise = 0.1 * torch.rand(count, 3, *size, generator=generator)
    return (0.8 * palette[labels].permute(0, 3, 1, 2) + noise).contiguous(), labels


def fitted_corrector(**options):
    torch.manual_seed(0)
    images, masks = scenes(4)
    masks[0, :8] = 255
    return SegmentationCorrector(CLASSES, Levels(), **options).fit(images, masks)
