"""Networks of a few lines, as users name them to the command line: `small_models:colors`."""

import torch
from torch import nn


class Colors(nn.Module):
    """Logits at a quarter of the size, from colors alone: right but for a third of the cells."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        small = nn.functional.avg_pool2d(images, 4)
        rows = torch.arange(small.shape[-2], device=images.device)[:, None]
        columns = torch.arange(small.shape[-1], device=images.device)
        is_wrong = ((7 * rows + 5 * columns) % 11 < 3).to(images.dtype)
        return 2 * small * (1 - is_wrong) + 2 * small.roll(1, 1) * is_wrong


class Pooled(nn.Module):
    """An encoder that knows colors."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.avg_pool2d(images, 4) - 0.4


def colors():
    return Colors()


def whole(images):
    """A function of images, which returns probabilities at full size in a mapping."""
    return {"out": nn.functional.interpolate(Colors()(images).softmax(1), scale_factor=4.0)}


def object_only(images):
    """One channel of a sigmoid."""
    return Colors()(images)[:, :1] - 1.0


def failing(images):
    raise RuntimeError("expected 4 channels")


def strange(images):
    return "masks"


nothing = 3
